"""Statistics of differences: bootstrap intervals, a paired permutation test, Holm's correction.

All of it works on sums over patients. A run's patient is C sums over its cases, those of
`textseg.metrics.scores.case_columns`. Each of the K `SCORES` of a set of patients is a function of
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
    Floats,
    Ints,
    SeedVariance,
    effective_degrees_of_freedom,
    interval_p_value,
    patient_draws,
    t_adjusted_interval,
)
from textseg.metrics.scores import SCORES, scores_of_sums

_CHUNK = 256  # exchanges at once: what bounds the memory


class Resampled(NamedTuple):
    """M methods over the same G patients, as they are and resampled.

    | field | shape | meaning |
    |---|---|---|
    | sums | M of [S, G, C] | sums over each patient's cases, for each of a method's S runs |
    | runs | M of [S, K] | scores of each run |
    | draws | M of [R, S, K] | scores of each run over resampled patients |
    """

    sums: list[Floats]
    runs: list[Floats]
    draws: list[Floats]

    @property
    def patients(self) -> int:
        """G."""
        return self.sums[0].shape[1]


class Estimated(NamedTuple):
    """K scores or differences, their 95% intervals, and what these are made of.

    `value`, `low`, `high`, `degrees_of_freedom` and `seed_variance` [K], `draws` [R, K].
    """

    value: Floats
    low: Floats
    high: Floats
    draws: Floats
    degrees_of_freedom: Floats
    seed_variance: Floats


def resample(
    methods: Sequence[Floats], patient: Ints, *, resamples: int, seed: int, score: int | None = None
) -> Resampled:
    """Score M methods [S_m, N, C], of S_m runs each, on cases of the patients `patient` [N].

    Patients are numbered from 0 to G - 1. With `score`, that one of the K scores alone is kept.
    """
    sums = [patient_sums(columns, patient) for columns in methods]
    kept = slice(None) if score is None else [score]
    runs = [run_scores(one)[:, kept] for one in sums]
    draws = bootstrap(sums, resamples=resamples, seed=seed)
    return Resampled(sums, runs, [one[..., kept] for one in draws])


def patient_sums(columns: Floats, patient: Ints) -> Floats:
    """Sum over each patient's cases: [S, N, C] and the patients' numbers [N] -> [S, G, C]."""
    runs, cases, width = columns.shape
    assert len(patient) == cases, (len(patient), cases)
    sums = np.zeros((int(patient.max()) + 1, runs, width))
    np.add.at(sums, patient, columns.transpose(1, 0, 2))
    return sums.transpose(1, 0, 2)


def run_scores(sums: Floats) -> Floats:
    """Score each run: [S, G, C] -> [S, K]."""
    return scores_of_sums(sums.sum(axis=1))


def bootstrap(methods: Sequence[Floats], *, resamples: int, seed: int) -> list[Floats]:
    """Score every run of M methods [S, G, C] over resampled patients.

    The same patients are drawn for every run, which keeps the comparison paired.

    Returns:
        M of [resamples, S, K]; NaN with one patient, who drawn again and again shows no spread.
    """
    patients = methods[0].shape[1]
    out = [np.full((resamples, len(sums), len(SCORES)), np.nan) for sums in methods]
    if patients < 2:
        return out
    generator = np.random.default_rng(seed)
    end = 0
    bar = tqdm(total=resamples, desc="bootstrap", delay=2, unit="draw", leave=False)
    for drawn in patient_draws(generator, patients, resamples):  # [R, G]
        start, end = end, end + len(drawn)
        bar.update(len(drawn))
        for number, sums in enumerate(methods):
            out[number][start:end] = scores_of_sums(np.tensordot(drawn, sums, axes=(1, 1)))
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
    sides, bounds = [method], (0.0, 1.0)
    value, draws = found.runs[method].mean(axis=0), found.draws[method].mean(axis=1)
    if less is not None:
        sides, bounds = [method, less], (-1.0, 1.0)
        value = value - found.runs[less].mean(axis=0)
        draws = draws - found.draws[less].mean(axis=1)
    pairs = [(found.runs[side], found.draws[side]) for side in sides]
    seeds = [seed_variance(runs, drawn) for runs, drawn in pairs if len(runs) > 1]
    return estimated(value, draws, seeds, found.patients, bounds=bounds)


def estimated(
    value: Floats,
    draws: Floats,
    seeds: Sequence[SeedVariance],
    patients: int,
    *,
    bounds: tuple[float, float],
) -> Estimated:
    """Put a 95% interval around values [K], from draws of patients [R, K] and what seeds add."""
    if patients < 2:
        undefined = np.full(len(value), np.nan)
        return Estimated(value, undefined, undefined, draws, undefined, undefined)
    of_patients = np.nanvar(draws, axis=0, ddof=1)
    degrees = effective_degrees_of_freedom(of_patients, patients, seeds)
    added = np.zeros(len(value)) + sum(one.added for one in seeds)
    low, high = t_adjusted_interval(
        draws, value, degrees_of_freedom=degrees, seed_variance=added, bounds=bounds
    )
    return Estimated(value, low, high, draws, degrees, added)


def seed_variance(runs: Floats, draws: Floats) -> SeedVariance:
    """What S > 1 runs [S, K] tell of the luck of a training, given their draws [R, S, K].

    See `score_with_interval`.
    """
    count = len(runs)
    whole = runs.var(axis=0, ddof=1) / count
    each = np.nanvar(draws, axis=0, ddof=1).mean(axis=0)
    mean = np.nanvar(draws.mean(axis=1), axis=0, ddof=1)
    in_both = np.maximum(each - mean, 0.0) / (count - 1)
    return SeedVariance(np.maximum(whole - in_both, 0.0), whole, count)


def interval_test(one: Estimated) -> Floats:
    """Two-sided p of each of K differences, from the statistic of its interval: [K].

    p < 0.05 exactly where the 95% interval leaves out 0, so that it holds the luck of trainings
    wherever the interval does.
    """
    columns = zip(one.draws.T, one.value, one.degrees_of_freedom, one.seed_variance, strict=True)
    return np.array(
        [
            interval_p_value(
                draws, float(value), degrees_of_freedom=float(df), seed_variance=float(variance)
            )
            for draws, value, df, variance in columns
        ]
    )


def paired_test(method: Floats, baseline: Floats, *, permutations: int, seed: int) -> Floats:
    """Permutation test of two methods over patients: two-sided p of each of `SCORES`, [K].

    Every patient's results, averaged over a method's runs, are kept or exchanged between the two
    methods, all patients independently, and the difference of the scores is taken again. For dice
    and miou, which are means, exchanging is the flip of the sign of the patient's mean difference.
    With 2^G <= `permutations` all 2^G exchanges are made and p is exact; otherwise
    p = (k + 1) / (n + 1), where k of n random ones differ at least as much as the data.

    The runs are taken as they are: a difference that is a seed's luck is significant too. So it
    serves one run against one, as a statement on these two trainings; see `interval_test`.

    Args:
        method, baseline: [S, G, C] of `patient_sums`; the number of seeds may differ.
        permutations: how many are drawn.
        seed: of the draws.
    """
    one, other = method.mean(axis=0), baseline.mean(axis=0)  # [G, C]
    total, gap = (one + other).sum(axis=0), one - other
    if not gap.any():  # not one pixel differs
        return np.ones(len(SCORES))

    def differences(signs: NDArray[Any]) -> Floats:  # [R, G] of -1 and 1 -> [R, K]
        shift = signs @ gap
        return np.abs(scores_of_sums((total + shift) / 2) - scores_of_sums((total - shift) / 2))

    patients = len(gap)
    least = differences(np.ones((1, patients)))[0] - 1e-12  # equal up to rounding is as extreme
    if patients < 60 and 2**patients <= permutations:
        bits = np.arange(2**patients)[:, None] >> np.arange(patients) & 1
        return (differences(1.0 - 2.0 * bits) >= least).mean(axis=0)
    generator = np.random.default_rng(seed)
    reached = np.zeros(len(SCORES))
    starts = range(0, permutations, _CHUNK)
    for start in tqdm(starts, "paired test", delay=2, unit="part", leave=False):
        size = (min(_CHUNK, permutations - start), patients)
        signs = generator.integers(0, 2, size=size) * 2.0 - 1.0
        reached += (differences(signs) >= least).sum(axis=0)
    return (reached + 1) / (permutations + 1)


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
