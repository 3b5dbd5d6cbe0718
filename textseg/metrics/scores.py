"""Scores, defined once: each is a quotient of two sums over cases.

Adding a score takes one entry of `SCORES`: what is summed above and below the line. The numbers of
a test set are made of them in `textseg.metrics.summary`. Tests,
comparisons, tables, loggers and reports loop over it; those of `MAIN` are also scored after each
epoch, by stratum and on dashboards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textseg.metrics.bootstrap import Floats, Ints

Protocol = Literal["standard", "lvit"]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)  # of precision_at_<t>
TOLERANCE = 2.0  # of nsd, in the unit of the distances, unless a network is told otherwise
UNITS = ("", "px", "mm")  # by their code in a row; "" where distances were not asked for
MIXED = "mixed"  # where some distances are in pixels, others in millimetres


class CaseTableRows(NamedTuple):
    """What is known of N cases, sorted by index, one row per index.

    | field | shape | meaning |
    |---|---|---|
    | index | [N] int64 | position in the split |
    | intersection | [N] int64 | pixels in prediction and truth |
    | predicted, true | [N] int64 | pixels in the prediction, in the truth |
    | pixels | [N] int64 | of the whole image |
    | unit | [N] int64 | of the distances: 1 pixels, 2 millimetres; 0 where nothing below is known |
    | lesions, predicted_lesions | [N] int64 | components of the truth, of the prediction |
    | matched, matched_half | [N] int64 | pairs of them with IoU > 0, with IoU > 0.5 |
    | hd95 | [N] float64 | NaN where a mask is empty |
    | nsd | [N] float64 | 0 where one mask is empty, 1 where both are |
    | diagonal | [N] float64 | of the image, in the unit of the distances |
    """

    index: Ints  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    intersection: Ints
    predicted: Ints
    true: Ints
    pixels: Ints
    unit: Ints
    lesions: Ints
    predicted_lesions: Ints
    matched: Ints
    matched_half: Ints
    hd95: Floats
    nsd: Floats
    diagonal: Floats

    def counts(self) -> tuple[Ints, Ints, Ints]:
        """Intersection, predicted and true: [N] each."""
        return self.intersection, self.predicted, self.true


def select(rows: CaseTableRows, keep: NDArray[Any]) -> CaseTableRows:
    """Rows that a bool mask or an array of positions keeps: a stratum, a patient."""
    return CaseTableRows(*(column[keep] for column in rows))


def dice_from_counts(
    intersection: Any, predicted: Any, true: Any, *, protocol: Protocol = "standard"
) -> Floats:
    """Foreground Dice from pixel counts, 2 |P and T| / (|P| + |T|), elementwise.

    Both masks empty: 1, or 0 with `protocol="lvit"`. Only the truth empty: 0.
    """
    return _ratio(2 * np.asarray(intersection), np.add(predicted, true), protocol)


def iou_from_counts(
    intersection: Any, predicted: Any, true: Any, *, protocol: Protocol = "standard"
) -> Floats:
    """Foreground IoU from pixel counts, |P and T| / |P or T|; empty masks as in Dice."""
    return _ratio(intersection, np.add(predicted, true) - intersection, protocol)


def _ratio(above: Any, below: Any, protocol: Protocol) -> Floats:
    """above / below elementwise; where below is 0 the score of two empty masks."""
    out = np.full(np.shape(below), 0.0 if protocol == "lvit" else 1.0)
    return np.divide(above, below, out=out, where=np.asarray(below) != 0)


def dice(rows: CaseTableRows, protocol: Protocol = "standard") -> Floats:
    """Dice of each case, see `dice_from_counts`: [N]."""
    return dice_from_counts(*rows.counts(), protocol=protocol)


def iou(rows: CaseTableRows, protocol: Protocol = "standard") -> Floats:
    """IoU of each case, see `iou_from_counts`: [N]."""
    return iou_from_counts(*rows.counts(), protocol=protocol)


Summand = Callable[[CaseTableRows, Protocol], Any]  # of each case: [N]
Counted = Callable[[CaseTableRows], Ints]  # likewise


class Score(NamedTuple):
    """A quotient of two sums over cases.

    Args:
        title: what it is, for tables.
        above, below: what is summed above and below the line.
        nothing: the score where nothing is summed below.
        highest: what it can be at most; at least it is 0.
        less_is_better: whether the lower of two is the better.
        masks: it needs the masks themselves, which are looked at in tests alone.
        of_patients: instead of the sums' quotient the mean over patients of each patient's own.
        form: how its number is written.
    """

    title: str
    above: Summand
    below: Summand
    nothing: float = np.nan
    highest: float = 1.0
    less_is_better: bool = False
    masks: bool = False
    of_patients: bool = False
    form: str = ".3f"


def _mean(title: str, value: Summand, where: Summand | None = None, **settings: Any) -> Score:
    """Make the score that is a mean of values over the cases `where`, by default over all."""

    def keep(rows: CaseTableRows, protocol: Protocol) -> Any:
        return np.ones(len(rows.index), bool) if where is None else where(rows, protocol)

    def above(rows: CaseTableRows, protocol: Protocol) -> Any:
        return np.where(keep(rows, protocol), value(rows, protocol), 0.0)

    return Score(title, above, keep, **settings)


def _pooled(title: str, above: Counted, below: Counted) -> Score:
    """Make a score of pixels summed over a set; there is none of a set without a lesion."""

    def below_of_lesions(rows: CaseTableRows, protocol: Protocol) -> Any:
        return below(rows) if rows.true.any() else np.zeros(len(rows.index))

    return Score(title, lambda rows, protocol: above(rows), below_of_lesions)


def _above_iou(threshold: float) -> Summand:
    return lambda rows, protocol: iou(rows, protocol) > threshold  # equal to it is not enough


def _quotient(above: Ints, below: Ints) -> Floats:
    """Where nothing is below, 0: such a case is left out by its score."""
    return np.divide(above, below, out=np.zeros(len(below)), where=below > 0)


def in_one_unit(rows: CaseTableRows) -> NDArray[np.bool_]:
    """Cases [N] whose distances may be averaged: none where pixels and millimetres are mixed."""
    known = rows.unit > 0
    return known & (len(np.unique(rows.unit[known])) == 1)


def has_hd95(rows: CaseTableRows, protocol: Protocol) -> NDArray[np.bool_]:
    """Whether each case has a distance: neither mask is empty, and units are not mixed."""
    return in_one_unit(rows) & ~np.isnan(rows.hd95)


def _penalized(rows: CaseTableRows, protocol: Protocol) -> Floats:
    """hd95; where one mask is empty the image's diagonal, where both are 0."""
    missing = np.where((rows.predicted > 0) | (rows.true > 0), rows.diagonal, 0.0)
    return np.where(np.isnan(rows.hd95), missing, rows.hd95)


def _of_lesions(count: Counted) -> Summand:
    """Counts of lesions, 0 where they were not looked at."""
    return lambda rows, protocol: np.where(rows.unit > 0, count(rows), 0)


def _lesion_scores(found: Counted, suffix: str, iou: str) -> dict[str, Score]:
    """Sensitivity, precision and F1 of lesions pooled over cases, for one criterion of a match."""
    hits, twice = _of_lesions(found), _of_lesions(lambda rows: 2 * found(rows))
    true = _of_lesions(lambda rows: rows.lesions)
    predicted = _of_lesions(lambda rows: rows.predicted_lesions)
    both = _of_lesions(lambda rows: rows.lesions + rows.predicted_lesions)
    return {
        f"lesion_sensitivity{suffix}": Score(f"Lesions found, {iou}", hits, true, masks=True),
        f"lesion_precision{suffix}": Score(
            f"Outlined lesions that are true, {iou}", hits, predicted, masks=True
        ),
        f"lesion_f1{suffix}": Score(f"F1 of lesions, {iou}", twice, both, masks=True),
    }


def _with_lesion(rows: CaseTableRows, protocol: Protocol) -> Any:
    return rows.true > 0


def _without_lesion(rows: CaseTableRows, protocol: Protocol) -> Any:
    return rows.true == 0


SCORES: Mapping[str, Score] = {
    "dice": _mean("Dice per image", dice),
    "miou": _mean("IoU per image", iou),
    "dice_global": _pooled(
        "Dice of pooled pixels",
        lambda rows: 2 * rows.intersection,
        lambda rows: rows.predicted + rows.true,
    ),
    "iou_global": _pooled(
        "IoU of pooled pixels",
        lambda rows: rows.intersection,
        lambda rows: rows.predicted + rows.true - rows.intersection,
    ),
    "dice_patient": Score(
        "Dice per patient, pixels pooled within each",
        lambda rows, protocol: 2 * rows.intersection,
        lambda rows, protocol: rows.predicted + rows.true,
        nothing=1.0,
        of_patients=True,
    ),
    "dice_with_lesion": _mean("Dice per image with a lesion", dice, _with_lesion),
    "missed_rate": _mean(
        "Images with a lesion and nothing outlined",
        lambda rows, protocol: rows.predicted == 0,
        _with_lesion,
        less_is_better=True,
    ),
    "false_alarm_rate": _mean(
        "Images without a lesion and something outlined",
        lambda rows, protocol: rows.predicted > 0,
        _without_lesion,
        less_is_better=True,
    ),
    "false_area": _mean(
        "Share outlined of images without a lesion",
        lambda rows, protocol: _quotient(rows.predicted, rows.pixels),
        _without_lesion,
        less_is_better=True,
    ),
    **{f"precision_at_{t}": _mean(f"Images with IoU above {t}", _above_iou(t)) for t in THRESHOLDS},
    "pixel_precision": _mean(
        "Precision of pixels, per image with a prediction",
        lambda rows, protocol: _quotient(rows.intersection, rows.predicted),
        lambda rows, protocol: rows.predicted > 0,
    ),
    "pixel_recall": _mean(
        "Recall of pixels, per image with a lesion",
        lambda rows, protocol: _quotient(rows.intersection, rows.true),
        _with_lesion,
    ),
    "area_error": _mean(
        "Area error over true area, per image with a lesion",
        lambda rows, protocol: _quotient(np.abs(rows.predicted - rows.true), rows.true),
        _with_lesion,
        highest=np.inf,
        less_is_better=True,
    ),
    "hd95": _mean(
        "95th percentile of boundary distances, where defined",
        lambda rows, protocol: np.nan_to_num(rows.hd95),
        has_hd95,
        highest=np.inf,
        less_is_better=True,
        masks=True,
        form=".1f",
    ),
    "hd95_penalized": _mean(
        "The same, a miss or false alarm costing the image's diagonal",
        _penalized,
        lambda rows, protocol: in_one_unit(rows),
        highest=np.inf,
        less_is_better=True,
        masks=True,
        form=".1f",
    ),
    "nsd": _mean(
        "Share of boundaries that agree within the tolerance",
        lambda rows, protocol: np.nan_to_num(rows.nsd),
        lambda rows, protocol: in_one_unit(rows),
        masks=True,
    ),
    **_lesion_scores(lambda rows: rows.matched, "", "IoU > 0"),
    **_lesion_scores(lambda rows: rows.matched_half, "_iou_0.5", "IoU > 0.5"),
}
MAIN = ("dice", "miou", "dice_global", "iou_global")  # also by epoch, stratum and on dashboards
PRIMARY = "dice"  # the one score that methods are judged by
