"""Scores, defined once: each is a quotient of two sums over cases.

Adding a score takes one entry of `SCORES`: what is summed above and below the line. Tests,
comparisons, tables, loggers and reports loop over it; those of `MAIN` are also scored after each
epoch, by stratum and on dashboards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textseg.metrics.bootstrap import (
    ALPHA,
    RESAMPLES,
    Floats,
    Groups,
    Ints,
    count_patients,
    patient_ids,
    sums_interval,
)

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


def _has_hd95(rows: CaseTableRows, protocol: Protocol) -> NDArray[np.bool_]:
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
        _has_hd95,
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


def case_columns(
    rows: CaseTableRows, *, protocol: Protocol = "standard", names: Sequence[str] = MAIN
) -> Floats:
    """What K scores of a set of cases are made of, summable over cases: [N, 2 K].

    Above and below the line for each score; see `patient_columns` and `scores_of_sums`.
    """
    parts = [part for name in names for part in (SCORES[name].above, SCORES[name].below)]
    columns = [np.asarray(part(rows, protocol), dtype=np.float64) for part in parts]
    return np.stack(columns, axis=1)


def patient_columns(sums: Floats, names: Sequence[str] = MAIN) -> Floats:
    """Sums of `case_columns` over each patient's cases [..., 2 K] -> summable over patients.

    Scores of patients become each patient's quotient over 1; all others stay.
    """
    sums = sums.copy()
    for number, name in enumerate(names):
        if SCORES[name].of_patients:
            pair = sums[..., 2 * number : 2 * number + 2]
            sums[..., 2 * number] = _divided(pair[..., 0], pair[..., 1], SCORES[name].nothing)
            sums[..., 2 * number + 1] = 1
    return sums


def scores_of_sums(sums: Floats, names: Sequence[str] = MAIN) -> Floats:
    """Scores of any sets of patients, from the sums of their `patient_columns`.

    Args:
        sums: [..., 2 K].
        names: of the K scores.

    Returns:
        [..., K]; NaN where a score has no case.
    """
    nothing = np.array([SCORES[name].nothing for name in names])
    return _divided(sums[..., ::2], sums[..., 1::2], nothing)


def _divided(above: Floats, below: Floats, nothing: Any) -> Floats:
    out = np.broadcast_to(np.asarray(nothing, dtype=np.float64), below.shape).copy()
    return np.divide(above, below, out=out, where=below != 0)


def sum_by_patient(columns: Floats, patient: Ints) -> Floats:
    """Sum over each patient's cases: [N, C] and the patients' numbers [N] -> [G, C]."""
    sums = np.zeros((int(patient.max(initial=-1)) + 1, columns.shape[1]))
    np.add.at(sums, patient, columns)
    return sums


def score_bounds(names: Sequence[str]) -> tuple[Floats, Floats]:
    """The least and the greatest that K scores can be: [K], [K]."""
    return np.zeros(len(names)), np.array([SCORES[name].highest for name in names])


def ends_at_a_bound(
    estimate: Floats, low: Floats, high: Floats, sums: Floats, names: Sequence[str]
) -> tuple[Floats, Floats]:
    """Give an interval to K scores that are 0 or 1 in every patient, of which all draws are alike.

    It reaches 1 - 0.025^(1/n) from the bound, as that of 0 or n of n patients does (Clopper and
    Pearson, The use of confidence or fiducial limits, 1934). Other intervals stay.

    Args:
        estimate, low, high: [K].
        sums: of `patient_columns`, [G, 2 K]; n are the patients that a score sums.
        names: of the scores.
    """
    patients = np.maximum((sums[:, 1::2] > 0).sum(axis=0), 1)
    reach = 1 - (ALPHA / 2) ** (1 / patients)
    shares = np.array([SCORES[name].highest == 1 for name in names])
    alike = shares & np.isclose(low, high, rtol=0, atol=1e-12)
    low = np.where(alike & np.isclose(estimate, 1, rtol=0, atol=1e-12), 1 - reach, low)
    high = np.where(alike & np.isclose(estimate, 0, rtol=0, atol=1e-12), reach, high)
    return low, high


def mean_scores(
    rows: CaseTableRows,
    groups: Groups = None,
    *,
    protocol: Protocol = "standard",
    names: Sequence[str] = MAIN,
) -> dict[str, float]:
    """Scores by name, NaN without cases; `groups` are patients, as in `score_intervals`."""
    sums = _patient_sums(rows, groups, protocol, names)
    return dict(zip(names, scores_of_sums(sums.sum(axis=0), names).tolist(), strict=True))


def _patient_sums(
    rows: CaseTableRows, groups: Groups, protocol: Protocol, names: Sequence[str]
) -> Floats:
    columns = case_columns(rows, protocol=protocol, names=names)
    return patient_columns(sum_by_patient(columns, patient_ids(groups, len(columns))), names)


def score_intervals(
    rows: CaseTableRows,
    groups: Groups = None,
    *,
    protocol: Protocol = "standard",
    names: Sequence[str] = MAIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Intervals of scores by a bootstrap over patients, as in `textseg.metrics.bootstrap`.

    A patient brings all of its cases: slices of one patient are alike, and drawing them singly
    makes the interval too narrow.

    Returns:
        name -> (low, high); NaN with fewer than two units to draw from.
    """
    sums = _patient_sums(rows, groups, protocol, names)
    estimate = scores_of_sums(sums.sum(axis=0), names)
    ends = sums_interval(
        sums,
        lambda drawn: scores_of_sums(drawn, names),
        estimate=estimate,
        resamples=resamples,
        seed=seed,
        bounds=score_bounds(names),
    )
    low, high = ends_at_a_bound(estimate, *ends, sums, names)
    return dict(zip(names, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def reported(rows: CaseTableRows, groups: Groups = None) -> list[str]:
    """Names of the scores that a test of these cases can have."""
    patients = any(groups or ())
    masks = bool((rows.unit > 0).any())
    return [
        name
        for name, score in SCORES.items()
        if (masks or not score.masks) and (patients or not score.of_patients)
    ]


def summary(
    rows: CaseTableRows, groups: Groups = None, *, protocol: Protocol = "standard"
) -> dict[str, float | int | str]:
    """Everything a test reports, by the names that are logged.

    `SCORES` with their 95% intervals over patients (`<name>_ci_low`, `<name>_ci_high`; see
    `score_intervals`), `cases`, `cases_without_lesion`, `empty_cases` (truth and prediction both
    empty) and `bootstrap_units` (patients, and cases without one). `dice_patient` is there where
    patients are known. If masks were looked at: `hd95_q1`, `hd95_median`, `hd95_q3`,
    `surface_undefined` (the cases without an hd95, as a mask is empty) and `surface_unit` ("px",
    "mm", or "mixed", where no mean over both is taken).
    """
    names = reported(rows, groups)
    result: dict[str, float | int | str] = {
        **mean_scores(rows, groups, protocol=protocol, names=names)
    }
    result |= _surface_summary(rows)
    result["cases"] = len(rows.index)
    result["cases_without_lesion"] = int((rows.true == 0).sum())
    result["empty_cases"] = int(((rows.true == 0) & (rows.predicted == 0)).sum())
    result["bootstrap_units"] = count_patients(groups, len(rows.index))
    intervals = score_intervals(rows, groups, protocol=protocol, names=names)
    for name, (low, high) in intervals.items():
        result[f"{name}_ci_low"], result[f"{name}_ci_high"] = low, high
    return result


def _surface_summary(rows: CaseTableRows) -> dict[str, float | int | str]:
    """Quartiles of hd95, the count of cases that have none, and the unit."""
    known = rows.unit > 0
    units = [UNITS[code] for code in np.unique(rows.unit[known])]
    if not units:
        return {}
    values = rows.hd95[_has_hd95(rows, "standard")]
    quartiles = np.quantile(values, [0.25, 0.5, 0.75]) if len(values) else np.full(3, np.nan)
    return {
        **dict(zip(("hd95_q1", "hd95_median", "hd95_q3"), quartiles.tolist(), strict=True)),
        "surface_undefined": int((known & np.isnan(rows.hd95)).sum()),
        "surface_unit": units[0] if len(units) == 1 else MIXED,
    }
