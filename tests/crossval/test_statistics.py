"""Intervals of a cross-validation hold the luck of its trainings: simulated."""

from __future__ import annotations

import numpy as np
import pytest

from textseg.compare.statistics import interval_test, resample, score_with_interval

PATIENTS, FOLDS, REPETITIONS = 200, 5, 400


def simulated(
    generator: np.random.Generator, seeds: int, luck: float
) -> tuple[list[np.ndarray], np.ndarray]:
    """Dice of two equal methods [S, N, 2]: patients, one luck for each training, and the rest.

    Every fold and seed is a training, whose luck all patients of the fold share.
    """
    patient = generator.normal(0.7, 0.1, PATIENTS)
    fold = generator.permutation(PATIENTS) % FOLDS
    methods = []
    for _ in range(2):
        own = patient + generator.normal(0, 0.03, PATIENTS)
        trainings = generator.normal(0, luck, (seeds, FOLDS))
        rest = generator.normal(0, 0.03, (seeds, PATIENTS))
        dice = own + trainings[:, fold] + rest
        methods.append(np.stack([dice, np.ones_like(dice)], axis=-1))
    return methods, np.arange(PATIENTS)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("luck", [0.003, 0.02])
def test_intervals_cover_and_equal_methods_differ_in_one_of_twenty(seeds: int, luck: float) -> None:
    """0.95 +- 3.5 standard errors of 400 repetitions; wider intervals are allowed for two seeds."""
    generator = np.random.default_rng([seeds, int(1000 * luck)])
    inside = different = 0
    for repetition in range(REPETITIONS):
        methods, patient = simulated(generator, seeds, luck)
        found = resample(methods, patient, resamples=600, seed=repetition, names=("dice",))
        own, gap = score_with_interval(found, 0), score_with_interval(found, 1, 0)
        inside += bool(own.low[0] <= 0.7 <= own.high[0])
        p = float(interval_test(gap)[0])
        assert (p < 0.05) == (not gap.low[0] <= 0 <= gap.high[0])
        different += p < 0.05
    print(f"{seeds} seeds, luck {luck}: cover {inside / REPETITIONS}, p {different / REPETITIONS}")
    assert 0.912 <= inside / REPETITIONS <= (0.99 if seeds > 2 else 1.0)
    assert different / REPETITIONS <= 0.088
