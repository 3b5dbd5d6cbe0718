"""The scores of a test set: sums over cases and patients, their quotients and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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
from textseg.metrics.scores import (
    MAIN,
    MIXED,
    SCORES,
    UNITS,
    CaseTableRows,
    Protocol,
    has_hd95,
)


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
    reach = _reach(sums)
    shares = np.array([SCORES[name].highest == 1 for name in names])
    alike = shares & np.isclose(low, high, rtol=0, atol=1e-12)
    low = np.where(alike & np.isclose(estimate, 1, rtol=0, atol=1e-12), 1 - reach, low)
    high = np.where(alike & np.isclose(estimate, 0, rtol=0, atol=1e-12), reach, high)
    return low, high


def _reach(sums: Floats) -> Floats:
    """How far from 0 or 1 the true score may lie, that is 0 or 1 in every patient: [K]."""
    patients = np.maximum((sums[:, 1::2] > 0).sum(axis=0), 1)
    return np.asarray(1 - (ALPHA / 2) ** (1 / patients))


def difference_of_bounds(
    difference: Floats, low: Floats, high: Floats, sums: tuple[Floats, Floats], names: Sequence[str]
) -> tuple[Floats, Floats]:
    """Give an interval to K differences of scores that are 0 or 1 in every patient of both methods.

    Both have the limits of `ends_at_a_bound`, and from the difference an end is as far as the two
    together, their distances added in squares (Newcombe, Interval estimation for the difference
    between independent proportions, 1998). Other intervals stay.

    Args:
        difference, low, high: [K].
        sums: of the `patient_columns` of the one and of the other, [G, 2 K] each.
        names: of the scores.
    """
    one, other = (scores_of_sums(part.sum(axis=0), names) for part in sums)
    shares = np.array([SCORES[name].highest == 1 for name in names])
    alike = shares & np.isclose(low, high, rtol=0, atol=1e-12)
    for score in (one, other):
        alike &= np.isclose(score * (1 - score), 0, rtol=0, atol=1e-12)
    reach, its = (_reach(part) for part in sums)
    below = np.hypot(np.where(one > 0.5, reach, 0), np.where(other > 0.5, 0, its))
    above = np.hypot(np.where(one > 0.5, 0, reach), np.where(other > 0.5, its, 0))
    low = np.where(alike, np.maximum(difference - below, -1), low)
    return low, np.where(alike, np.minimum(difference + above, 1), high)


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
    values = rows.hd95[has_hd95(rows, "standard")]
    quartiles = np.quantile(values, [0.25, 0.5, 0.75]) if len(values) else np.full(3, np.nan)
    return {
        **dict(zip(("hd95_q1", "hd95_median", "hd95_q3"), quartiles.tolist(), strict=True)),
        "surface_undefined": int((known & np.isnan(rows.hd95)).sum()),
        "surface_unit": units[0] if len(units) == 1 else MIXED,
    }
