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

from textseg.metrics.bootstrap import Floats, Ints, count_patients, patient_interval

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


# --- the definitions ---------------------------------------------------------------------------


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
SCORE_TITLES = {
    "dice": "Dice per image",
    "miou": "IoU per image",
    "dice_global": "Dice of pooled pixels",
    "iou_global": "IoU of pooled pixels",
}


# --- of a table --------------------------------------------------------------------------------


def dice(rows: CaseTableRows, *, protocol: Protocol = "standard") -> Floats:
    """Dice of each case, see `dice_from_counts`: [N]."""
    return dice_from_counts(*rows.counts(), protocol=protocol)


def iou(rows: CaseTableRows, *, protocol: Protocol = "standard") -> Floats:
    """IoU of each case, see `iou_from_counts`: [N]."""
    return iou_from_counts(*rows.counts(), protocol=protocol)


def pooled_scores(sums: NDArray[Any]) -> dict[str, Floats]:
    """Global scores from sums [..., 3] of intersection, predicted and true pixels: name -> [...].

    iou_global is the "overall IoU" of referring segmentation.
    """
    counts = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    return {name: formula(*counts) for name, formula in POOLED.items()}


def precision_at(
    rows: CaseTableRows, threshold: float, *, protocol: Protocol = "standard"
) -> float:
    """Share of cases whose IoU exceeds the threshold (equal is not enough)."""
    return _mean((iou(rows, protocol=protocol) > threshold).astype(np.float64))


def mean_scores(rows: CaseTableRows, *, protocol: Protocol = "standard") -> dict[str, float]:
    """All of `SCORES`; those per image are NaN without cases."""
    per_case = {
        name: _mean(formula(*rows.counts(), protocol=protocol))
        for name, formula in PER_CASE.items()
    }
    pooled = pooled_scores(_total_counts(rows))
    return per_case | {name: float(value) for name, value in pooled.items()}


def case_columns(counts: Sequence[Ints], *, protocol: Protocol = "standard") -> Floats:
    """What scores of a set of cases are made of, summable over cases: [N, C].

    Args:
        counts: intersection, predicted and true pixels, [N] each.
        protocol: of the scores.

    Returns:
        The scores of `PER_CASE` of each case, then its counts; see `scores_of_sums`.
    """
    per_case = [formula(*counts, protocol=protocol) for formula in PER_CASE.values()]
    return np.stack([*per_case, *counts], axis=1).astype(np.float64)


def scores_of_sums(sums: Floats, cases: NDArray[Any]) -> Floats:
    """Scores of any set of cases, from its sums of `case_columns` and its number of cases.

    Args:
        sums: [..., C].
        cases: [...].

    Returns:
        [..., K] in the order of `SCORES`.
    """
    means = sums[..., : len(PER_CASE)] / np.asarray(cases)[..., None]
    pooled = pooled_scores(sums[..., len(PER_CASE) :])
    return np.concatenate([means, np.stack(list(pooled.values()), axis=-1)], axis=-1)


def score_intervals(
    rows: CaseTableRows,
    groups: Sequence[str | None] | None = None,
    *,
    protocol: Protocol = "standard",
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Intervals of `SCORES` by a bootstrap over patients, as in `textseg.metrics.bootstrap`.

    A patient brings all of its cases: slices of one patient are alike, and drawing them singly
    makes the interval too narrow.

    Args:
        rows: the table, N cases.
        groups: N patients or studies; "" or None for a case that is alone. None: every case is.
        protocol: as in `dice_from_counts`.
        resamples: number of draws.
        level: coverage.
        seed: of the draws; equal seeds give equal intervals.

    Returns:
        name -> (low, high); NaN with fewer than two units to draw from.
    """
    columns = case_columns(rows.counts(), protocol=protocol)
    ones = np.ones((len(columns), 1))
    split = len(PER_CASE)
    own = mean_scores(rows, protocol=protocol)
    low, high = patient_interval(
        np.concatenate([columns[:, :split], ones, columns[:, split:]], axis=1),
        groups,
        lambda sums: scores_of_sums(np.delete(sums, split, axis=1), sums[:, split]),
        estimate=np.array(list(own.values())),
        resamples=resamples,
        level=level,
        seed=seed,
    )
    return dict(zip(own, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def summary(
    rows: CaseTableRows,
    groups: Sequence[str | None] | None = None,
    *,
    protocol: Protocol = "standard",
    seed: int = 0,
) -> dict[str, float | int | str]:
    """Everything a test reports, by the names that are logged.

    `SCORES` with their 95% intervals over patients (`<name>_ci_low`, `<name>_ci_high`; see
    `score_intervals`), `precision_at_<t>`, `cases`, `empty_cases` (truth and prediction both
    empty) and `bootstrap_units` (patients, and cases without one). If distances were asked for:
    `hd95` and `nsd`, means over the cases where both masks have foreground, `surface_undefined`
    (the cases left out: a missed lesion is among them, so read hd95 beside the Dice) and
    `surface_unit` ("px", "mm", or "mixed" where the means mix both).

    Args:
        rows: the table, N cases.
        groups: N patients or studies; "" or None for a case that is alone.
        protocol: as in `dice_from_counts`.
        seed: of the bootstrap.
    """
    result: dict[str, float | int | str] = {**mean_scores(rows, protocol=protocol)}
    for threshold in THRESHOLDS:
        result[f"precision_at_{threshold}"] = precision_at(rows, threshold, protocol=protocol)
    result |= _surface_summary(rows)
    result["cases"] = len(rows.index)
    result["empty_cases"] = int(((rows.true == 0) & (rows.predicted == 0)).sum())
    result["bootstrap_units"] = count_patients(groups, len(rows.index))
    intervals = score_intervals(rows, groups, protocol=protocol, seed=seed)
    for name, (low, high) in intervals.items():
        result[f"{name}_ci_low"], result[f"{name}_ci_high"] = low, high
    return result


def _surface_summary(rows: CaseTableRows) -> dict[str, float | int | str]:
    """Means of hd95 and nsd over the cases that have them, with the count of those that do not."""
    asked = rows.unit > 0
    if not asked.any():
        return {}
    units = {UNITS[code] for code in rows.unit[asked]}
    defined = asked & ~np.isnan(rows.hd95)
    return {
        "hd95": _mean(rows.hd95[defined]),
        "nsd": _mean(rows.nsd[defined]),
        "surface_undefined": int((asked & ~defined).sum()),
        "surface_unit": units.pop() if len(units) == 1 else "mixed",
    }


def _total_counts(rows: CaseTableRows) -> Ints:
    return np.stack(rows.counts(), axis=1).sum(axis=0)  # [3]


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")
