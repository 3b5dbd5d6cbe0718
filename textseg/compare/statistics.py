"""Statistics of differences: bootstrap intervals, a paired permutation test, Holm's correction.

All of it works on sums over patients. A run's patient is C sums over its cases, those of
`textseg.metrics.summary.patient_columns`. Each of K scores of a set of patients is a function of
the sums over the set (`scores_of_sums`), so a resample is one matrix product.

Patients are the unit that is drawn, each with all of its cases, and intervals are made as in a
test: see `textseg.metrics.bootstrap`. What seeds add to the spread is computed, not drawn: two or
three runs have too few ways to be drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from textseg.metrics.bootstrap import (
    ALPHA,
    Bounds,
    Floats,
    Ints,
    SeedVariance,
    Shape,
    effective_degrees_of_freedom,
    interval_p_values,
    patient_draws,
    shape_of,
    t_adjusted_interval,
)
from textseg.metrics.scores import MAIN
from textseg.metrics.summary import (
    difference_of_bounds,
    ends_at_a_bound,
    patient_columns,
    score_bounds,
    scores_of_sums,
    sum_by_patient,
)

# Exchanges at once, and signs in them: what bounds the memory.
_CHUNK, _MOST_SIGNS = 256, 4_000_000


class Resampled(NamedTuple):
    """M methods over the same G patients, as they are and resampled.

    | field | shape | meaning |
    |---|---|---|
    | sums | M of [S, G, C] | sums over each patient's cases, for each of a method's S runs |
    | runs | M of [S, K] | scores of each run |
    | draws | M of [R, S, K] | scores of each run over resampled patients |
    | left_out | M of [S, G, K] | scores of each run without each patient in turn |
    | names | K | of the scores |
    """

    sums: list[Floats]
    runs: list[Floats]
    draws: list[Floats]
    left_out: list[Floats]
    names: tuple[str, ...]

    @property
    def patients(self) -> int:
        """G."""
        return self.sums[0].shape[1]


class Estimated(NamedTuple):
    """K scores or differences, their 95% intervals, and what these are made of.

    `value`, `low`, `high` and `seed_variance` [K], `draws` [R, K], and the `shape` of its spread.
    """

    value: Floats
    low: Floats
    high: Floats
    draws: Floats
    shape: Shape
    seed_variance: Floats


def resample(
    methods: Sequence[Floats],
    patient: Ints,
    *,
    resamples: int,
    seed: int,
    names: Sequence[str] = MAIN,
) -> Resampled:
    """Score M methods [S_m, N, C], of S_m runs each, on cases of the patients `patient` [N].

    Columns are `textseg.metrics.summary.case_columns` of the K scores `names`; patients are
    numbered from 0 to G - 1.
    """
    sums = [patient_sums(columns, patient, names) for columns in methods]
    runs = [run_scores(one, names) for one in sums]
    draws = bootstrap(sums, resamples=resamples, seed=seed, names=names)
    left_out = [scores_of_sums(one.sum(axis=1, keepdims=True) - one, names) for one in sums]
    return Resampled(sums, runs, draws, left_out, tuple(names))


def patient_sums(columns: Floats, patient: Ints, names: Sequence[str] = MAIN) -> Floats:
    """Sum over each patient's cases: [S, N, C] and the patients' numbers [N] -> [S, G, C]."""
    assert len(patient) == columns.shape[1], (len(patient), columns.shape)
    return patient_columns(np.stack([sum_by_patient(one, patient) for one in columns]), names)


def run_scores(sums: Floats, names: Sequence[str] = MAIN) -> Floats:
    """Score each run: [S, G, C] -> [S, K]."""
    return scores_of_sums(sums.sum(axis=1), names)


def bootstrap(
    methods: Sequence[Floats], *, resamples: int, seed: int, names: Sequence[str] = MAIN
) -> list[Floats]:
    """Score every run of M methods [S, G, C] over resampled patients.

    The same patients are drawn for every run, which keeps the comparison paired.

    Returns:
        M of [resamples, S, K]; NaN with one patient, who drawn again and again shows no spread.
    """
    patients = methods[0].shape[1]
    out = [np.full((resamples, len(sums), len(names)), np.nan) for sums in methods]
    if patients < 2:
        return out
    generator = np.random.default_rng(seed)
    end = 0
    bar = tqdm(total=resamples, desc="bootstrap", delay=2, unit="draw", leave=False)
    for drawn in patient_draws(generator, patients, resamples):  # [R, G]
        start, end = end, end + len(drawn)
        bar.update(len(drawn))
        for number, sums in enumerate(methods):
            totals = np.tensordot(drawn, sums, axes=(1, 1))
            out[number][start:end] = scores_of_sums(totals, names)
    bar.close()
    return out


def score_with_interval(found: Resampled, method: int, less: int | None = None) -> Estimated:
    """Score a method, or its difference from another's, with the interval.

    Patients and trainings vary independently, and so does how a training meets a patient; with s^2
    the variance of S runs' scores, and v(...) that of draws of patients, the variance of a mean is

        v(mean of runs) + s^2 / S - (mean of v(run) - v(mean of runs)) / (S - 1)

    where the last term, the training's own part in a patient, is in both of the others. What seeds
    add is not below 0. The fewer the seeds that make up the spread, the wider the interval: with
    two, the spread between trainings is hardly known.

    Args:
        found: the methods.
        method: position of the one.
        less: position of the one that is subtracted, if any.

    Returns:
        The ends are NaN with one patient.
    """
    sides, bounds = [method], score_bounds(found.names)
    value, draws, left_out = _means(found, method)
    if less is not None:
        sides, bounds = [method, less], (-bounds[1], bounds[1])
        pairs = zip((value, draws, left_out), _means(found, less), strict=True)
        value, draws, left_out = (one - other for one, other in pairs)
    spreads = [(found.runs[side], found.draws[side]) for side in sides]
    seeds = [seed_variance(runs, drawn) for runs, drawn in spreads if len(runs) > 1]
    one = estimated(value, draws, left_out, seeds, bounds=bounds)
    sums = [found.sums[side].mean(axis=0) for side in sides]
    if less is None:
        low, high = ends_at_a_bound(value, one.low, one.high, sums[0], found.names)
    else:
        low, high = difference_of_bounds(value, one.low, one.high, (sums[0], sums[1]), found.names)
    return one._replace(low=low, high=high)


def _means(found: Resampled, method: int) -> tuple[Floats, Floats, Floats]:
    """Means over a method's runs: scores [K], draws [R, K] and scores without a patient [G, K]."""
    parts = (found.runs, 0), (found.draws, 1), (found.left_out, 0)
    value, draws, left_out = (part[method].mean(axis=axis) for part, axis in parts)
    return value, draws, left_out


def estimated(
    value: Floats,
    draws: Floats,
    left_out: Floats,
    seeds: Sequence[SeedVariance],
    *,
    bounds: Bounds,
) -> Estimated:
    """Put a 95% interval around values [K].

    Args:
        value: [K].
        draws: [R, K], over patients.
        left_out: [G, K], without each of G patients in turn.
        seeds: what trainings add.
        bounds: what the values can be.
    """
    undefined = np.full(len(value), np.nan)
    if len(left_out) < 2:
        shape = Shape(undefined, undefined)
        return Estimated(value, undefined, undefined, draws, shape, undefined)
    shape = shape_of(left_out)
    of_patients = _variance(draws)
    freedom = effective_degrees_of_freedom(of_patients, shape.degrees_of_freedom, seeds)
    added = np.zeros(len(value)) + sum(one.added for one in seeds)
    shape = Shape(shape.acceleration, freedom)
    low, high = t_adjusted_interval(draws, value, shape, seed_variance=added, bounds=bounds)
    return Estimated(value, low, high, draws, shape, added)


def seed_variance(runs: Floats, draws: Floats) -> SeedVariance:
    """What S > 1 runs [S, K] tell of the luck of a training, given their draws [R, S, K].

    See `score_with_interval`.
    """
    count = len(runs)
    whole = runs.var(axis=0, ddof=1) / count
    each, mean = _variance(draws).mean(axis=0), _variance(draws.mean(axis=1))
    in_both = np.maximum(each - mean, 0.0) / (count - 1)
    return SeedVariance(np.maximum(whole - in_both, 0.0), whole, count)


def _variance(draws: Floats) -> Floats:
    """Variance over draws [R, ...] without those that are NaN: [...]."""
    known = ~np.isnan(draws)
    counts = known.sum(axis=0)
    filled = np.where(known, draws, 0.0)
    mean = filled.sum(axis=0) / np.maximum(counts, 1)
    squares = (np.where(known, draws - mean, 0.0) ** 2).sum(axis=0)
    return np.divide(squares, counts - 1, out=np.full(counts.shape, np.nan), where=counts > 1)


def interval_test(one: Estimated) -> Floats:
    """Two-sided p of each of K differences, from the statistic of its interval: [K].

    p < 0.05 exactly where the 95% interval leaves out 0, so that it holds the luck of trainings
    wherever the interval does. NaN where all draws are alike and yet 0 lies in the interval: one
    method has everything, the other nothing, in too few patients to say more.
    """
    p = interval_p_values(one.draws, one.value, one.shape, seed_variance=one.seed_variance)
    unsure = (p < ALPHA) & (one.low <= 0) & (one.high >= 0)
    return np.where(unsure, np.nan, p)


def paired_test(
    method: Floats,
    baseline: Floats,
    *,
    permutations: int,
    seed: int,
    names: Sequence[str] = MAIN,
) -> Floats:
    """Permutation test of two methods over patients: two-sided p of each of K scores, [K].

    Every patient's results, averaged over a method's runs, are kept or exchanged between the two
    methods, all patients independently, and the difference of the scores is taken again. For dice
    and miou, which are means, exchanging is the flip of the sign of the patient's mean difference.
    With 2^G <= `permutations` all 2^G exchanges are made and p is exact; otherwise
    p = (k + 1) / (n + 1), where k of n random ones differ at least as much as the data.

    The runs are taken as they are: a difference that is a seed's luck is significant too. So it
    serves one run against one, as a statement on these two trainings; see `interval_test`.

    Args:
        method, baseline: [S, G, C] of `patient_sums`; the number of seeds may differ.
        names: of the K scores.
        permutations: how many are drawn.
        seed: of the draws.
    """
    one, other = method.mean(axis=0), baseline.mean(axis=0)  # [G, C]
    total, gap = (one + other).sum(axis=0), one - other
    if not gap.any():  # not one pixel differs
        return np.ones(len(names))

    def differences(signs: NDArray[Any]) -> Floats:  # [R, G] of -1 and 1 -> [R, K]
        shift = signs @ gap
        halves = (scores_of_sums((total + sign * shift) / 2, names) for sign in (1, -1))
        return np.abs(np.subtract(*halves))

    patients = len(gap)
    least = differences(np.ones((1, patients)))[0] - 1e-12  # equal up to rounding is as extreme
    if patients < 60 and 2**patients <= permutations:
        bits = np.arange(2**patients)[:, None] >> np.arange(patients) & 1
        return _defined((differences(1.0 - 2.0 * bits) >= least).mean(axis=0), least)
    generator = np.random.default_rng(seed)
    reached = np.zeros(len(names))
    rows = max(1, min(_CHUNK, _MOST_SIGNS // patients))
    starts = range(0, permutations, rows)
    for start in tqdm(starts, "paired test", delay=2, unit="part", leave=False):
        size = (min(rows, permutations - start), patients)
        signs = generator.integers(0, 2, size=size) * 2.0 - 1.0
        reached += (differences(signs) >= least).sum(axis=0)
    return _defined((reached + 1) / (permutations + 1), least)


def _defined(p: Floats, difference: Floats) -> Floats:
    """p [K] where there is a difference; NaN where a score has no case."""
    return np.where(np.isnan(difference), np.nan, p)


def holm(p: Floats) -> Floats:
    """Adjust K p-values by Holm's step-down rule: [K] -> [K], none below its own p, none above 1.

    The smallest is multiplied by K, the next by K - 1, and so on, and none may be less than the one
    before: rejecting where the result is below 0.05 keeps the chance of any false claim among the K
    below 0.05, however they depend on each other (Holm 1979).
    """
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    out = np.empty(len(p))
    out[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return out
