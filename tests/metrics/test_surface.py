"""Scores of boundaries and lesions against loops over boundary points, MONAI and scipy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.metrics.pairs import (
    UNKNOWN,
    Pair,
    blobs,
    fill,
    pairs_with_empty_ones,
    random_masks,
    tabulate,
)
from textseg.metrics import summary as test_set
from textseg.metrics.case_table import CaseTable


def boundary_distances(pred: Tensor, truth: Tensor, spacing: Sequence[float]) -> list[np.ndarray]:
    """From each boundary to the other, by all pairs of points."""
    from scipy.ndimage import binary_erosion
    from scipy.spatial.distance import cdist

    edges = [m.numpy() & ~binary_erosion(m.numpy()) for m in (pred, truth)]
    points = [np.argwhere(edge) * np.asarray(spacing) for edge in edges]
    table = cdist(*points)
    return [table.min(axis=1), table.min(axis=0)]


@pytest.mark.parametrize("spacing", [UNKNOWN, (1.0, 1.0), (0.7, 2.5)])
def test_surface_scores_equal_all_pairs_of_boundary_points(spacing: tuple[float, float]) -> None:
    pixel, line = torch.zeros(24, 20), torch.zeros(24, 20)
    pixel[0, 0], line[23, 4:9] = 1, 1
    pairs = [blobs(seed) for seed in range(4)]
    pairs += [(pixel.bool(), line.bool()), (pixel.bool(), pairs[0][1]), (pixel.bool(),) * 2]
    rows = tabulate(pairs, spacing=spacing, surface=True)
    scale = (1.0, 1.0) if np.isnan(spacing).any() else spacing
    for row, (pred, truth) in enumerate(pairs):
        there, back = boundary_distances(pred, truth, scale)
        expected = max(np.percentile(there, 95), np.percentile(back, 95))
        assert rows.hd95[row] == pytest.approx(expected, rel=1e-5)
        near = np.concatenate([there, back]) <= 2.0
        assert rows.nsd[row] == pytest.approx(near.mean(), rel=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 3.0), (4.0, 0.25)])
def test_surface_scores_of_any_masks_equal_a_loop_over_boundary_pixels(
    spacing: tuple[float, float],
) -> None:
    """Boundary pixels by their four neighbors, distances one by one: numpy and nothing else."""
    pairs = [(p, t) for p, t in random_masks(7, 40) if p.any() and t.any()]
    rows = tabulate(pairs, spacing=spacing, surface=True)
    assert len(pairs) > 15
    assert set(rows.unit.tolist()) == {2}, "in millimetres"
    for row, pair in enumerate(pairs):
        one, other = (edge_points(mask.numpy()) for mask in pair)
        there = [min(distance(a, b, spacing) for b in other) for a in one]
        back = [min(distance(a, b, spacing) for a in one) for b in other]
        expected = max(np.percentile(there, 95), np.percentile(back, 95))
        assert rows.hd95[row] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        near = np.mean([value <= 2.0 for value in there + back])
        assert rows.nsd[row] == pytest.approx(near, rel=1e-5)


def edge_points(mask: np.ndarray) -> list[tuple[int, int]]:
    """Foreground pixels with background, or the end of the image, above, below or beside them."""
    padded = np.pad(mask, 1)
    return [
        (y, x)
        for y, x in np.argwhere(mask).tolist()
        if not all(padded[y + 1 + dy, x + 1 + dx] for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)))
    ]


def distance(a: tuple[int, int], b: tuple[int, int], spacing: tuple[float, float]) -> float:
    return float(np.hypot((a[0] - b[0]) * spacing[0], (a[1] - b[1]) * spacing[1]))


def squares(found: int, number: int = 10) -> list[Pair]:
    """Cases of one lesion each in 30 x 40 pixels: the first `found` drawn perfectly, no others."""
    truth = torch.zeros(30, 40, dtype=torch.bool)
    truth[5:15, 5:15] = True
    return [(truth if case < found else truth & ~truth, truth) for case in range(number)]


def test_five_of_ten_lesions_missed_and_the_others_perfect() -> None:
    result = test_set.summary(tabulate(squares(5), surface=True))
    assert result["dice"] == result["dice_with_lesion"] == result["nsd"] == 0.5
    assert result["hd95"] == result["hd95_median"] == 0
    assert result["surface_undefined"] == 5
    assert result["hd95_penalized"] == pytest.approx(50 / 2), "half the diagonal of 30 x 40"
    assert result["missed_rate"] == result["lesion_sensitivity"] == 0.5
    assert result["lesion_precision"] == 1
    millimetres = test_set.summary(tabulate(squares(5), spacing=(2.0, 3.0), surface=True))
    assert millimetres["hd95_penalized"] == pytest.approx(np.hypot(60, 120) / 2)
    for name in ("nsd", "hd95_penalized", "lesion_sensitivity", "missed_rate", "area_error"):
        assert result[f"{name}_ci_low"] < result[name] < result[f"{name}_ci_high"]


def test_nsd_of_one_empty_mask_is_zero_as_in_monai_and_of_two_is_one() -> None:
    from monai.metrics import compute_surface_dice

    pairs = pairs_with_empty_ones(5)
    rows = tabulate(pairs, surface=True)
    assert rows.nsd[2:].tolist() == [1, 0, 0]
    for (pred, truth), own in zip(pairs[3:], rows.nsd[3:], strict=True):
        pair = pred[None, None], truth[None, None]
        assert compute_surface_dice(*pair, class_thresholds=[2.0]).item() == own
    assert np.isnan(rows.hd95[2:]).all()
    result = test_set.summary(rows)
    assert result["surface_undefined"] == 3
    assert result["hd95"] == pytest.approx(rows.hd95[:2].mean())
    sizes = [np.hypot(*truth.shape) for _, truth in pairs[3:]]
    penalized = [*rows.hd95[:2], 0, *sizes]
    assert result["hd95_penalized"] == pytest.approx(np.mean(penalized))


def test_quartiles_of_hd95_are_those_of_the_defined_cases() -> None:
    rows = tabulate([blobs(seed) for seed in range(6)], surface=True)
    result = test_set.summary(rows)
    found = [result[f"hd95_{name}"] for name in ("q1", "median", "q3")]
    assert found == pytest.approx(np.percentile(rows.hd95, [25, 50, 75]).tolist())


def test_the_tolerance_of_nsd_is_a_setting() -> None:
    pred, truth = torch.zeros(2, 20, 20, dtype=torch.bool)
    pred[5:10, 5:10], truth[5:10, 9:14] = True, True
    found = {}
    for tolerance in (1.0, 2.0, 5.0):
        table = CaseTable(surface=True, tolerance=tolerance)
        fill(table, [(pred, truth)], [0])
        near = np.concatenate(boundary_distances(pred, truth, (1.0, 1.0))) <= tolerance
        found[tolerance] = table.compute().nsd[0]
        assert found[tolerance] == pytest.approx(near.mean())
    assert found[1.0] < found[2.0] < found[5.0] == 1


@pytest.mark.parametrize(
    ("spacings", "unit"),
    [
        ([UNKNOWN, UNKNOWN], "px"),
        ([(1.0, 1.0), (2.0, 2.0)], "mm"),
        ([(1.0, 1.0), (1.0, float("nan"))], "mixed"),
    ],
)
def test_pixels_and_millimetres_are_never_averaged(spacings: list, unit: str) -> None:
    preds, truths = zip(blobs(0), blobs(1), strict=True)
    table = CaseTable(surface=True)
    table.update(preds, truths, torch.arange(2), torch.tensor(spacings))
    result = test_set.summary(table.compute())
    assert result["surface_unit"] == unit
    distances = [result[name] for name in ("hd95", "hd95_penalized", "nsd", "hd95_median")]
    assert np.isnan(distances).tolist() == [unit == "mixed"] * 4
    assert result["lesion_sensitivity"] > 0, "counts have no unit"


def test_surface_scores_are_absent_unless_asked_for() -> None:
    rows = tabulate([blobs(0), blobs(1)], spacing=(1.0, 1.0))
    assert np.isnan(rows.hd95).all()
    assert not {"hd95", "nsd", "surface_unit", "lesion_f1"} & set(test_set.summary(rows))


@pytest.mark.parametrize("spacing", [None, (0.7, 2.5)])
def test_surface_scores_equal_monais_own(spacing: tuple[float, float] | None) -> None:
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    pairs = [(p, t) for p, t in random_masks(11, 30) if p.any() and t.any()]
    rows = tabulate(pairs, spacing=spacing or UNKNOWN, surface=True)
    assert len(pairs) > 10
    for row, (pred, truth) in enumerate(pairs):
        pair = pred[None, None], truth[None, None]
        given = {"include_background": True, "spacing": spacing}
        hd95 = compute_hausdorff_distance(*pair, percentile=95, **given)
        nsd = compute_surface_dice(*pair, class_thresholds=[2.0], **given)
        assert rows.hd95[row] == pytest.approx(hd95.item(), rel=1e-6)
        assert rows.nsd[row] == pytest.approx(nsd.item(), rel=1e-6)
