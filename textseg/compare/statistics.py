"""Statistics of differences: bootstrap intervals, a paired permutation test, Holm's correction.

All of it works on sums over patients. A run's patient is C sums over its N_g cases, those of
`textseg.metrics.scores.case_columns`: per-case scores and pixel counts. Each of the K `SCORES` of a
set of patients is a function of the sums over the set (`scores_of_sums`), so a resample is one
matrix product.

Patients are the unit that is drawn, each with all of its cases, and intervals are made as in a
test: see `textseg.metrics.bootstrap`. Seeds are drawn beside the patients, by the same rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from textseg.metrics.bootstrap import (
    LEVEL,
    Floats,
    Ints,
    effective_degrees_of_freedom,
    patient_draws,
    t_adjusted_interval,
)
from textseg.metrics.scores import SCORES, scores_of_sums

_CHUNK = 256  # resamples at once: what bounds the memory


def patient_sums(columns: Floats, patient: Ints) -> Floats:
    """Sum over each patient's cases.

    Args:
        columns: [S, N, C], a method's S runs on N cases.
        patient: [N], the patient's number, from 0 to G - 1.

    Returns:
        [S, G, C].
    """
    runs, cases, width = columns.shape
    assert len(patient) == cases, (len(patient), cases)
    sums = np.zeros((int(patient.max()) + 1, runs, width))
    np.add.at(sums, patient, columns.transpose(1, 0, 2))
    return sums.transpose(1, 0, 2)


def run_scores(sums: Floats, cases: Ints) -> Floats:
    """Score each run: [S, G, C] and the cases of each patient [G] -> [S, K]."""
    return scores_of_sums(sums.sum(axis=1), np.full(len(sums), float(cases.sum())))


def bootstrap(methods: Sequence[Floats], cases: Ints, *, resamples: int, seed: int) -> Floats:
    """Score M methods over resampled patients and resampled seeds.

    A resample draws patients with replacement, the same for every method, which keeps the
    comparison paired, and then seeds of each method with replacement, whose scores are averaged.
    Of S seeds S - 1 are drawn (one, where there is one), as of G patients G - 1 are: the mean of so
    many draws varies just as the mean over S independent trainings does, s^2 / S, where S draws
    would vary by (S - 1) / S of that, half as much with two seeds (Rao and Wu 1988).

    Args:
        methods: M arrays [S_m, G, C] of `patient_sums`; the number of seeds may differ.
        cases: [G], cases of each patient.
        resamples: number of draws.
        seed: of the draws; equal seeds give equal results.

    Returns:
        [resamples, M, K]; NaN with one patient, who drawn again and again shows no spread.
    """
    if len(cases) < 2:
        return np.full((resamples, len(methods), len(SCORES)), np.nan)
    generator = np.random.default_rng(seed)
    out = np.empty((resamples, len(methods), len(SCORES)))
    end = 0
    bar = tqdm(total=resamples, desc="bootstrap", delay=2, unit="draw", leave=False)
    for drawn in patient_draws(generator, len(cases), resamples):  # [R, G]
        start, end = end, end + len(drawn)
        bar.update(len(drawn))
        counts = drawn @ cases  # [R]
        for number, sums in enumerate(methods):
            runs = len(sums)
            totals = np.tensordot(drawn, sums, axes=(1, 1))  # [R, S, C]
            each = scores_of_sums(totals, np.repeat(counts[:, None], runs, axis=1))  # [R, S, K]
            times = max(1, runs - 1)
            seeds = generator.multinomial(times, np.full(runs, 1 / runs), size=len(drawn)) / times
            out[start:end, number] = np.einsum("rs,rsk->rk", seeds, each)
    bar.close()
    return out


def interval(
    draws: Floats, runs: Floats, less: Floats | None = None, *, patients: int, level: float = LEVEL
) -> tuple[Floats, Floats]:
    """Compute the interval of a method's scores, or of their differences from another method's.

    The fewer the seeds that make up the spread, the wider it is: with two seeds, the spread between
    trainings is hardly known.

    Args:
        draws: [R, K] of `bootstrap`, of the scores or of the differences.
        runs: [S, K], the scores of each of the method's runs.
        less: of the other method's, likewise, where it is about differences.
        patients: how many there are.
        level: coverage.

    Returns:
        low [K], high [K]; NaN with one patient.
    """
    if patients < 2:
        nothing = np.full(draws.shape[1], np.nan)
        return nothing, nothing
    sides = [runs] if less is None else [runs, less]
    estimate = runs.mean(axis=0) - (0.0 if less is None else less.mean(axis=0))
    seeds = [(one.var(axis=0, ddof=1) / len(one), len(one)) for one in sides if len(one) > 1]
    degrees = effective_degrees_of_freedom(draws.var(axis=0, ddof=1), patients, seeds)
    bounds = (0.0 if less is None else -1.0, 1.0)
    return t_adjusted_interval(
        draws, estimate, degrees_of_freedom=degrees, level=level, bounds=bounds
    )


def paired_test(
    method: Floats, baseline: Floats, cases: Ints, *, permutations: int, seed: int
) -> Floats:
    """Permutation test of two methods over patients: two-sided p that their results exchange.

    Every patient's results, averaged over a method's runs, are kept or exchanged between the two
    methods, all patients independently, and the difference of the scores is taken again. For dice
    and miou, which are means, exchanging is the flip of the sign of the patient's mean difference.
    With 2^G <= `permutations` all 2^G exchanges are looked at and p is exact; otherwise
    p = (k + 1) / (n + 1), where k of n random ones differ at least as much as the data.

    The runs are taken as they are: a difference that is a seed's luck is significant too.

    Args:
        method, baseline: [S, G, C] of `patient_sums`; the number of seeds may differ.
        cases: [G], cases of each patient.
        permutations: how many are drawn.
        seed: of the draws.

    Returns:
        [K], one p for each of `SCORES`.
    """
    one, other = method.mean(axis=0), baseline.mean(axis=0)  # [G, C]
    total, gap = (one + other).sum(axis=0), one - other
    number = float(cases.sum())

    def differences(signs: NDArray[Any]) -> Floats:  # [R, G] of -1 and 1 -> [R, K]
        shift = signs @ gap
        count = np.full(len(shift), number)
        return np.abs(
            scores_of_sums((total + shift) / 2, count) - scores_of_sums((total - shift) / 2, count)
        )

    patients = len(cases)
    if not gap.any():  # not one pixel differs
        return np.ones(len(SCORES))
    least = differences(np.ones((1, patients)))[0] - 1e-12  # equal up to rounding is as extreme
    exact = patients < 60 and 2**patients <= permutations
    if exact:
        bits = np.arange(2**patients)[:, None] >> np.arange(patients) & 1
        return (differences(1.0 - 2.0 * bits) >= least).mean(axis=0)
    generator = np.random.default_rng(seed)
    reached = np.zeros(len(SCORES))
    parts = list(_chunks(permutations))
    for part in tqdm(parts, "paired test", delay=2, unit="part", leave=False):
        signs = generator.integers(0, 2, size=(part.stop - part.start, patients)) * 2.0 - 1.0
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


def _chunks(total: int) -> Iterator[slice]:
    for start in range(0, total, _CHUNK):
        yield slice(start, min(start + _CHUNK, total))
