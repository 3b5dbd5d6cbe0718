"""Calibration from counts of pixels, against numpy, torchmetrics and scipy on the pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, optimize  # type: ignore[import-untyped]
from torchmetrics.functional.classification import binary_calibration_error

from textseg.metrics.calibration import (
    BINS,
    MARGIN,
    THRESHOLDS,
    PixelCounts,
    best_threshold,
    calibration_errors,
    fitted_temperature,
    negative_log_likelihood,
    reliability,
    with_temperature,
)
from textseg.metrics.pixel_table import PixelTable, near_lesion
from textseg.metrics.scores import dice_from_counts

Floats = NDArray[np.float64]
SIZES = [(40, 56), (33, 20), (64, 64), (24, 24)]


def maps(
    seed: int = 0, overconfidence: float = 2.5
) -> tuple[list[Floats], list[NDArray[np.bool_]]]:
    """Random logits, and truths drawn by their probabilities; the third image has no lesion."""
    generator = np.random.default_rng(seed)
    logits, truths = [], []
    for number, size in enumerate(SIZES):
        far = 12 if number == 2 else 2.5
        honest = ndimage.gaussian_filter(generator.normal(size=size), 3) * 30 - far
        truth = generator.uniform(size=size) < 1 / (1 + np.exp(-honest))
        truths.append(truth & (number != 2))
        # As float32, which is what the table reads.
        logits.append((overconfidence * honest).astype(np.float32).astype(np.float64))
    return logits, truths


def table(logits: list[Floats], truths: list[NDArray[np.bool_]]) -> PixelCounts:
    counted = PixelTable(thresholds=True)
    planes = [torch.from_numpy(one).float() for one in logits]
    counted.update(planes, list(map(torch.from_numpy, truths)), torch.arange(len(logits)))
    return counted.compute()


def near_by_distance(truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels at most ceil(MARGIN * the longer side) rows and columns from the lesion, by scipy."""
    reach = int(np.ceil(MARGIN * max(truth.shape)))
    if not truth.any():
        return np.zeros_like(truth)
    return ndimage.distance_transform_cdt(~truth, metric="chessboard") <= reach


def pixels(
    region: Callable[[NDArray[np.bool_]], NDArray[np.bool_]], temperature: float = 1.0
) -> tuple[Floats, NDArray[np.bool_]]:
    """Probabilities and truths of a region's pixels, of all images."""
    logits, truths = maps()
    chosen = [region(truth) for truth in truths]
    flat = [
        np.concatenate([v[c] for v, c in zip(x, chosen, strict=True)]) for x in (logits, truths)
    ]
    return 1 / (1 + np.exp(-flat[0] / temperature)), flat[1].astype(bool)


def error_by_numpy(probability: Floats, truth: NDArray[np.bool_]) -> float:
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    error = 0.0
    for bin in range(BINS):
        here = bins == bin
        if here.any():
            error += here.mean() * abs(probability[here].mean() - truth[here].mean())
    return error


REGIONS = {"ece": np.ones_like, "ece_margin": near_by_distance}


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_expected_calibration_error_is_that_of_the_pixels_themselves(
    name: str, temperature: float
) -> None:
    probability, truth = pixels(REGIONS[name], temperature)
    wanted = error_by_numpy(probability, truth)
    found = calibration_errors(table(*maps()), temperature)[name]
    # Scaled edges lie within bins of logits: a few pixels near them are taken for the next bin's.
    close = 1e-4 if temperature == 1.0 else 2e-3
    assert found == pytest.approx(wanted, abs=close)
    elsewhere = binary_calibration_error(
        torch.from_numpy(probability), torch.from_numpy(truth.astype(int)), n_bins=BINS
    )
    assert found == pytest.approx(float(elsewhere), abs=close)
    assert temperature == 1.0 or found < 0.6 * calibration_errors(table(*maps()))[name]


def test_the_margin_is_a_square_reach_around_every_lesion() -> None:
    _, truths = maps()
    for truth in truths:
        found = near_lesion(torch.from_numpy(truth)).numpy()
        assert np.array_equal(found, near_by_distance(truth))
    point = np.zeros((40, 60), dtype=bool)
    point[0, 30] = True
    assert near_lesion(torch.from_numpy(point)).sum() == 4 * 7, "3 of 60 pixels, cut by the edge"


def test_a_reliability_curve_has_the_bins_mean_probability_and_share() -> None:
    probability, truth = pixels(np.ones_like)
    curve = reliability(table(*maps()).of("all"))
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    assert curve.pixels.tolist() == np.bincount(bins, minlength=BINS).tolist()
    for bin in range(BINS):
        assert curve.probability[bin] == pytest.approx(probability[bins == bin].mean(), abs=1e-4)
        assert curve.share[bin] == pytest.approx(truth[bins == bin].mean())


def test_empty_bins_count_for_nothing_and_no_pixel_has_no_error() -> None:
    sure = table([np.full((8, 8), -40.0)], [np.zeros((8, 8), dtype=bool)])
    curve = reliability(sure.of("all"))
    assert np.isnan(curve.share[1:]).all()
    assert curve.error == pytest.approx(0, abs=1e-9)
    assert np.isnan(calibration_errors(sure)["ece_margin"])


@pytest.mark.parametrize("overconfidence", [0.4, 1.0, 2.5, 8.0])
def test_the_temperature_is_the_minimum_that_scipy_finds_on_the_pixels(
    overconfidence: float,
) -> None:
    logits, truths = maps(overconfidence=overconfidence)
    flat, signs = (np.concatenate([one.ravel() for one in x]) for x in (logits, truths))
    signed = np.where(signs, flat, -flat)

    def likelihood(temperature: float) -> float:
        return float(np.logaddexp(0, -signed / temperature).mean())

    wanted = optimize.minimize_scalar(likelihood, bracket=(0.5, 2.0), tol=1e-8)
    counts = table(logits, truths).of("all")
    assert fitted_temperature(counts) == pytest.approx(wanted.x, rel=2e-3)
    assert negative_log_likelihood(counts, wanted.x) == pytest.approx(wanted.fun, rel=1e-4)
    assert negative_log_likelihood(counts) == pytest.approx(likelihood(1.0), rel=1e-4)


def test_dice_by_threshold_is_the_mean_over_images_at_each_threshold() -> None:
    logits, truths = maps()
    counts = table(logits, truths)
    assert counts.dice is not None
    wanted = []
    for threshold in THRESHOLDS:
        cut = np.float32(np.log(threshold / (1 - threshold)))
        masks = [one > cut for one in logits]
        areas = [(m & t).sum() for m, t in zip(masks, truths, strict=True)]
        sums = [m.sum() for m in masks], [t.sum() for t in truths]
        wanted.append(dice_from_counts(areas, *sums).mean())
    assert counts.dice / 4 == pytest.approx(np.array(wanted), abs=1e-8)
    assert best_threshold(counts.dice) == THRESHOLDS[int(np.argmax(wanted))]


def test_of_equal_thresholds_the_one_nearest_to_a_half_is_the_best() -> None:
    dice = np.zeros(len(THRESHOLDS))
    dice[[5, 40, 90]] = 0.75
    assert best_threshold(dice) == THRESHOLDS[40]
    assert best_threshold(np.ones(len(THRESHOLDS))) == 0.5


def test_a_threshold_with_a_temperature_outlines_the_same_pixels() -> None:
    logits, _ = maps()
    for threshold in (0.2, 0.5, 0.9):
        scaled = with_temperature(threshold, 2.5)
        one, other = (
            1 / (1 + np.exp(-logits[0] / t)) > cut for t, cut in ((1, threshold), (2.5, scaled))
        )
        assert np.array_equal(one, other)
    assert with_temperature(0.5, 3.0) == 0.5


def test_a_repeated_row_is_counted_by_its_own_process_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, truths = maps()
    whole = table(logits, truths)
    parts = []
    # As DistributedSampler deals four rows to three processes: it repeats rows 0 and 1.
    for rank, rows in enumerate(([0, 3], [1, 0], [2, 1])):
        monkeypatch.setattr(
            "textseg.metrics.pixel_table._rank_and_processes", lambda rank=rank: (rank, 3)
        )
        part = PixelTable(thresholds=True)
        planes = [torch.from_numpy(logits[row]).float() for row in rows]
        part.update(planes, [torch.from_numpy(truths[row]) for row in rows], torch.tensor(rows))
        parts.append(part)
    assert sum(int(part.cases) for part in parts) == whole.cases == 4
    assert np.array_equal(sum(part.counts.numpy() for part in parts), whole.counts)
    assert whole.dice is not None
    assert np.array_equal(sum(part.dice.numpy() for part in parts) / 1e9, whole.dice)
