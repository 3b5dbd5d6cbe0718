"""Dice and IoU, defined once: every score is a function of pixel counts.

Adding a score takes one line here: `PER_CASE` holds those that are averaged over cases, `POOLED`
those of pixels summed over all cases, both as functions of counts. Tests, comparisons, tables,
loggers, reports and dashboards loop over `SCORES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textseg.metrics.bootstrap import (
    RESAMPLES,
    Floats,
    Groups,
    Ints,
    count_patients,
    patient_interval,
)

Protocol = Literal["standard", "lvit"]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)  # of precision_at_<t>
TOLERANCE = 2.0  # of nsd, in the unit of the distances
UNITS = ("", "px", "mm")  # by their code in a row; "" where distances were not asked for


class CaseTableRows(NamedTuple):
    """What is known of N cases, sorted by index, one row per index.

    | field | shape | meaning |
    |---|---|---|
    | index | [N] int64 | position in the split |
    | intersection | [N] int64 | pixels in prediction and truth |
    | predicted, true | [N] int64 | pixels in the prediction, in the truth |
    | unit | [N] int64 | of the distances: 0 not asked for, 1 pixels, 2 millimetres |
    | hd95, nsd | [N] float64 | NaN where a mask is empty, or where not asked for |
    """

    index: Ints  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    intersection: Ints
    predicted: Ints
    true: Ints
    unit: Ints
    hd95: Floats
    nsd: Floats

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


# What is reported -> its formula. Of each case, then averaged over cases:
PER_CASE: Mapping[str, Callable[..., Floats]] = {
    "dice": dice_from_counts,
    "miou": iou_from_counts,
}
# Of pixels summed over all cases; 1 without any foreground, whatever the protocol:
POOLED: Mapping[str, Callable[..., Floats]] = {
    "dice_global": dice_from_counts,
    "iou_global": iou_from_counts,
}
SCORES = (*PER_CASE, *POOLED)
PRIMARY = "dice"  # the one score that methods are judged by
SCORE_TITLES = {
    "dice": "Dice per image",
    "miou": "IoU per image",
    "dice_global": "Dice of pooled pixels",
    "iou_global": "IoU of pooled pixels",
}


def dice(rows: CaseTableRows, *, protocol: Protocol = "standard") -> Floats:
    """Dice of each case, see `dice_from_counts`: [N]."""
    return dice_from_counts(*rows.counts(), protocol=protocol)


def iou(rows: CaseTableRows, *, protocol: Protocol = "standard") -> Floats:
    """IoU of each case, see `iou_from_counts`: [N]."""
    return iou_from_counts(*rows.counts(), protocol=protocol)


def mean_scores(rows: CaseTableRows, *, protocol: Protocol = "standard") -> dict[str, float]:
    """All of `SCORES`; those per image are NaN without cases."""
    counts = rows.counts()
    means = [_mean(formula(*counts, protocol=protocol)) for formula in PER_CASE.values()]
    pooled = [float(formula(*(count.sum() for count in counts))) for formula in POOLED.values()]
    return dict(zip(SCORES, [*means, *pooled], strict=True))


def case_columns(counts: Sequence[Ints], *, protocol: Protocol = "standard") -> Floats:
    """What scores of a set of cases are made of, summable over cases: [N, C].

    Each case's scores of `PER_CASE`, 1 for the case itself, and its `counts`, which are
    intersection, predicted and true pixels, [N] each; see `scores_of_sums`.
    """
    per_case = [formula(*counts, protocol=protocol) for formula in PER_CASE.values()]
    ones = np.ones(len(counts[0]))
    return np.stack([*per_case, ones, *counts], axis=1).astype(np.float64)


def scores_of_sums(sums: Floats) -> Floats:
    """Scores of any sets of cases, from the sums of their `case_columns`.

    Args:
        sums: [..., C].

    Returns:
        [..., K] in the order of `SCORES`.
    """
    *per_case, cases, intersection, predicted, true = np.moveaxis(sums, -1, 0)
    means = [column / cases for column in per_case]
    pooled = [formula(intersection, predicted, true) for formula in POOLED.values()]
    return np.stack([*means, *pooled], axis=-1)


def score_intervals(
    rows: CaseTableRows,
    groups: Groups = None,
    *,
    protocol: Protocol = "standard",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Intervals of `SCORES` by a bootstrap over patients, as in `textseg.metrics.bootstrap`.

    A patient brings all of its cases: slices of one patient are alike, and drawing them singly
    makes the interval too narrow.

    Returns:
        name -> (low, high); NaN with fewer than two units to draw from.
    """
    own = mean_scores(rows, protocol=protocol)
    low, high = patient_interval(
        case_columns(rows.counts(), protocol=protocol),
        groups,
        scores_of_sums,
        estimate=np.array(list(own.values())),
        resamples=resamples,
        seed=seed,
    )
    return dict(zip(own, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def summary(
    rows: CaseTableRows, groups: Groups = None, *, protocol: Protocol = "standard"
) -> dict[str, float | int | str]:
    """Everything a test reports, by the names that are logged.

    `SCORES` with their 95% intervals over patients (`<name>_ci_low`, `<name>_ci_high`; see
    `score_intervals`), `precision_at_<t>`, `cases`, `empty_cases` (truth and prediction both
    empty) and `bootstrap_units` (patients, and cases without one). If distances were asked for:
    `hd95` and `nsd`, means over the cases where both masks have foreground, `surface_undefined`
    (the cases left out: a missed lesion is among them, so read hd95 beside the Dice) and
    `surface_unit` ("px", "mm", or "mixed" where the means mix both).
    """
    result: dict[str, float | int | str] = {**mean_scores(rows, protocol=protocol)}
    ious = iou(rows, protocol=protocol)
    for threshold in THRESHOLDS:  # an IoU equal to it is not enough
        result[f"precision_at_{threshold}"] = _mean((ious > threshold).astype(np.float64))
    result |= _surface_summary(rows)
    result["cases"] = len(rows.index)
    result["empty_cases"] = int(((rows.true == 0) & (rows.predicted == 0)).sum())
    result["bootstrap_units"] = count_patients(groups, len(rows.index))
    intervals = score_intervals(rows, groups, protocol=protocol)
    for name, (low, high) in intervals.items():
        result[f"{name}_ci_low"], result[f"{name}_ci_high"] = low, high
    return result


def _surface_summary(rows: CaseTableRows) -> dict[str, float | int | str]:
    """Means of hd95 and nsd over the cases that have them, with the count of those that do not."""
    rows = select(rows, rows.unit > 0)
    if not len(rows.index):
        return {}
    units = {UNITS[code] for code in rows.unit}
    defined = ~np.isnan(rows.hd95)
    return {
        "hd95": _mean(rows.hd95[defined]),
        "nsd": _mean(rows.nsd[defined]),
        "surface_undefined": int((~defined).sum()),
        "surface_unit": units.pop() if len(units) == 1 else "mixed",
    }


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")
