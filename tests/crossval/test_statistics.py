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


@pytest.mark.slow
@pytest.mark.parametrize(("coefficients", "least"), [(5, 0.91), (20, 0.91), (60, 0.84)])
def test_the_choice_of_training_patients_is_little_unless_it_changes_the_method(
    coefficients: int, least: float
) -> None:
    """Linear regressions on 160 of 200 patients: intervals of the mean over training sets.

    No estimate of what training sets add is unbiased (Bengio and Grandvalet 2004).
    """
    generator = np.random.default_rng(coefficients)
    slope = generator.normal(0, coefficients**-0.5, coefficients)

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = generator.normal(size=(count, coefficients))
        return x, x @ slope + generator.normal(size=count)

    others = drawn(4000)
    fold = np.arange(PATIENTS) % FOLDS
    draws = {"resamples": 600, "names": ("dice",)}
    truth, ends = [], []
    for repetition in range(REPETITIONS):
        x, y = drawn(PATIENTS)
        score = np.empty(PATIENTS)
        for one in range(FOLDS):
            fitted = np.linalg.lstsq(x[fold != one], y[fold != one], rcond=None)[0]
            score[fold == one] = np.exp(-((y - x @ fitted)[fold == one] ** 2))
            truth.append(np.exp(-((others[1] - others[0] @ fitted) ** 2)).mean())
        columns = np.stack([score, np.ones_like(score)], axis=-1)[None]
        found = resample([columns], np.arange(PATIENTS), seed=repetition, **draws)
        own = score_with_interval(found, 0)
        ends.append((own.low[0], own.high[0]))
    mean = float(np.mean(truth))
    inside = np.mean([low <= mean <= high for low, high in ends])
    print(f"{coefficients} coefficients: cover {inside}")
    assert inside >= least
