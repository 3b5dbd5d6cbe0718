"""Statistics of differences: bootstrap intervals, a paired permutation test, Holm's correction.

All of it works on sums over patients. A run's patient is C sums over its cases, those of
`textseg.metrics.scores.case_columns`. Each of the K `SCORES` of a set of patients is a function of
the sums over the set (`scores_of_sums`), so a resample is one matrix product.

Patients are the unit that is drawn, each with all of its cases, and intervals are made as in a
test: see `textseg.metrics.bootstrap`. Seeds are drawn beside the patients, by the same rule.
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
    effective_degrees_of_freedom,
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
    | draws | [R, M, K] | scores over resampled patients and seeds |
    """

    sums: list[Floats]
    runs: list[Floats]
    draws: Floats

    @property
    def patients(self) -> int:
        """G."""
        return self.sums[0].shape[1]


def resample(
    methods: Sequence[Floats], patient: Ints, *, resamples: int, seed: int, score: int | None = None
) -> Resampled:
    """Score M methods [S_m, N, C], of S_m runs each, on cases of the patients `patient` [N].

    Patients are numbered from 0 to G - 1. With `score`, that one of the K scores alone is kept.
    """
    sums = [patient_sums(columns, patient) for columns in methods]
    kept = slice(None) if score is None else [score]
    runs = [run_scores(one)[:, kept] for one in sums]
    return Resampled(sums, runs, bootstrap(sums, resamples=resamples, seed=seed)[..., kept])


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


def bootstrap(methods: Sequence[Floats], *, resamples: int, seed: int) -> Floats:
    """Score M methods over resampled patients and resampled seeds.

    A resample draws patients with replacement, the same for every method, which keeps the
    comparison paired, and then seeds of each method with replacement, whose scores are averaged.
    Of S seeds S - 1 are drawn (one, where there is one), as of G patients G - 1 are: the mean of so
    many draws varies just as the mean over S independent trainings does, s^2 / S, where S draws
    would vary by (S - 1) / S of that, half as much with two seeds (Rao and Wu 1988).

    Returns:
        [resamples, M, K]; NaN with one patient, who drawn again and again shows no spread.
    """
    patients = methods[0].shape[1]
    out = np.full((resamples, len(methods), len(SCORES)), np.nan)
    if patients < 2:
        return out
    generator = np.random.default_rng(seed)
    end = 0
    bar = tqdm(total=resamples, desc="bootstrap", delay=2, unit="draw", leave=False)
    for drawn in patient_draws(generator, patients, resamples):  # [R, G]
        start, end = end, end + len(drawn)
        bar.update(len(drawn))
        for number, sums in enumerate(methods):
            runs = len(sums)
            each = scores_of_sums(np.tensordot(drawn, sums, axes=(1, 1)))  # [R, S, K]
            times = max(1, runs - 1)
            seeds = generator.multinomial(times, np.full(runs, 1 / runs), size=len(drawn)) / times
            out[start:end, number] = np.einsum("rs,rsk->rk", seeds, each)
    bar.close()
    return out


def score_with_interval(
    found: Resampled, method: int, less: int | None = None
) -> tuple[Floats, Floats, Floats]:
    """Score a method, or its difference from another's, with the interval.

    The fewer the seeds that make up the spread, the wider it is: with two seeds, the spread between
    trainings is hardly known.

    Args:
        found: the methods.
        method: position of the one.
        less: position of the one that is subtracted, if any.

    Returns:
        Values and the ends of their 95% intervals, [K] each; the ends are NaN with one patient.
    """
    draws, sides, least = found.draws[:, method], [found.runs[method]], 0.0
    value = sides[0].mean(axis=0)
    if less is not None:
        draws, least = draws - found.draws[:, less], -1.0
        sides.append(found.runs[less])
        value = value - sides[1].mean(axis=0)
    if found.patients < 2:
        undefined = np.full(len(value), np.nan)
        return value, undefined, undefined
    seeds = [(one.var(axis=0, ddof=1) / len(one), len(one)) for one in sides if len(one) > 1]
    degrees = effective_degrees_of_freedom(draws.var(axis=0, ddof=1), found.patients, seeds)
    ends = t_adjusted_interval(draws, value, degrees_of_freedom=degrees, bounds=(least, 1.0))
    return value, *ends


def paired_test(method: Floats, baseline: Floats, *, permutations: int, seed: int) -> Floats:
    """Permutation test of two methods over patients: two-sided p of each of `SCORES`, [K].

    Every patient's results, averaged over a method's runs, are kept or exchanged between the two
    methods, all patients independently, and the difference of the scores is taken again. For dice
    and miou, which are means, exchanging is the flip of the sign of the patient's mean difference.
    With 2^G <= `permutations` all 2^G exchanges are made and p is exact; otherwise
    p = (k + 1) / (n + 1), where k of n random ones differ at least as much as the data.

    The runs are taken as they are: a difference that is a seed's luck is significant too.

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
