"""Patient and lesion scores on random volumes, against loops over sets of pixels."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.metrics.pairs import counted, tabulate
from textseg.metrics.lesions import match_lesions
from textseg.metrics.summary import mean_scores, score_intervals, summary

Mask = NDArray[np.bool_]
Pixels = set[tuple[int, int]]


def mask(*rows: str) -> Mask:
    return np.array([[cell == "#" for cell in row] for row in rows])


def parts(plane: Mask) -> list[Pixels]:
    """Components of pixels that touch, at corners too, by walking from each to its neighbors."""
    left = {(int(y), int(x)) for y, x in np.argwhere(plane)}
    found = []
    while left:
        part, edge = set(), {min(left)}
        while edge:
            part |= edge
            left -= edge
            near = {(y + a, x + b) for y, x in edge for a in (-1, 0, 1) for b in (-1, 0, 1)}
            edge = near & left
        found.append(part)
    return found


def matched_by_hand(pred: Mask, truth: Mask) -> tuple[int, int, int, int]:
    """The best pair that is left, again and again."""
    true, found = parts(truth), parts(pred)
    counts, pairs = (len(true), len(found)), []
    while True:
        rated = [
            (len(t & p) / len(t | p), -i, -j)
            for i, t in enumerate(true)
            for j, p in enumerate(found)
        ]
        if not rated or max(rated)[0] == 0:
            return *counts, len(pairs), sum(value > 0.5 for value in pairs)
        value, i, j = max(rated)
        pairs.append(value)
        true[-i], found[-j] = set(), set()
        true, found = [t for t in true if t], [p for p in found if p]


def volumes(seed: int) -> dict[str, list[tuple[Mask, Mask]]]:
    """Patients of 1 to 5 slices, some empty: lesions go on over slices, merge and are missed."""
    generator = np.random.default_rng(seed)
    out = {}
    for patient in range(12):
        slices = int(generator.integers(1, 6))
        shape = (slices, 18, 16)
        smooth = generator.random((1, 18, 16)) + 0.3 * generator.random(shape)
        truth = smooth > generator.choice([0.9, 1.1, 2.0])  # above 1.3 is nothing
        pred = smooth + 0.25 * generator.normal(size=shape) > generator.choice([0.9, 1.1, 2.0])
        out[f"p{patient}"] = list(zip(pred, truth, strict=True))
    return out


@pytest.mark.parametrize(
    ("pred", "truth", "counts"),
    [
        (mask("##.##", "....."), mask("##.##", "....."), (2, 2, 2, 2)),
        (mask("#####", "....."), mask("##.##", "....."), (2, 1, 1, 0)),  # merged: 2 of 5 pixels
        (mask("##.##", "....."), mask("#####", "....."), (1, 2, 1, 0)),  # torn
        (mask("###.#", "....."), mask("####.", "....."), (1, 2, 1, 1)),
        (mask(".....", "....."), mask("##.##", "....."), (2, 0, 0, 0)),
        (mask("#...#", "....."), mask(".....", "....."), (0, 2, 0, 0)),
        (mask(".....", "....."), mask(".....", "....."), (0, 0, 0, 0)),
        (mask("#....", ".#..."), mask("#....", ".#..."), (1, 1, 1, 1)),  # touch at a corner
        (mask("##...", "....."), mask("#....", "....."), (1, 1, 1, 0)),  # 0.5 is not above 0.5
    ],
)
def test_lesions_are_matched_one_to_one(pred: Mask, truth: Mask, counts: tuple[int, ...]) -> None:
    assert match_lesions(pred, truth) == counts
    assert matched_by_hand(pred, truth) == counts


@pytest.mark.parametrize("seed", [0, 1])
def test_lesion_scores_equal_a_loop_over_sets_of_pixels(seed: int) -> None:
    pairs = [pair for slices in volumes(seed).values() for pair in slices]
    by_hand = np.array([matched_by_hand(*pair) for pair in pairs])
    assert by_hand.min() == 0
    assert by_hand.max() > 2
    true, found, any_overlap, half = by_hand.sum(axis=0)
    assert any_overlap > half, "an example with one criterion alone"
    tensors = [(torch.from_numpy(p), torch.from_numpy(t)) for p, t in pairs]
    result = summary(tabulate(tensors, surface=True))
    for suffix, hits in (("", any_overlap), ("_iou_0.5", half)):
        assert result[f"lesion_sensitivity{suffix}"] == pytest.approx(hits / true)
        assert result[f"lesion_precision{suffix}"] == pytest.approx(hits / found)
        assert result[f"lesion_f1{suffix}"] == pytest.approx(2 * hits / (true + found))


@pytest.mark.parametrize("seed", [0, 1])
def test_dice_per_patient_equals_that_of_whole_volumes(seed: int) -> None:
    stacks = volumes(seed)
    groups = [name for name, slices in stacks.items() for _ in slices]
    pairs = [pair for slices in stacks.values() for pair in slices]
    order = np.random.default_rng(seed).permutation(len(pairs))  # patients' slices need no order
    tensors = [(torch.from_numpy(pairs[i][0]), torch.from_numpy(pairs[i][1])) for i in order]
    result = summary(tabulate(tensors), [groups[i] for i in order])
    by_hand = []
    for slices in stacks.values():
        pred, truth = (np.stack(masks) for masks in zip(*slices, strict=True))
        size = int(pred.sum()) + int(truth.sum())
        by_hand.append(2 * int((pred & truth).sum()) / size if size else 1.0)
    assert 1.0 in by_hand, "a patient without anything"
    assert result["dice_patient"] == pytest.approx(np.mean(by_hand))
    assert abs(result["dice_patient"] - result["dice"]) > 1e-3
    assert result["dice_patient_ci_low"] < result["dice_patient"] < result["dice_patient_ci_high"]


def test_patients_of_one_case_each_have_their_images_dice() -> None:
    rows = counted([5, 0, 8, 0], [10, 0, 10, 3], [10, 0, 10, 0])
    found = mean_scores(rows, list("abcd"), names=["dice", "dice_patient"])
    assert found["dice_patient"] == found["dice"] == pytest.approx((0.5 + 1 + 0.8) / 4)


def test_the_interval_of_dice_per_patient_equals_that_of_a_plain_mean_over_patients() -> None:
    generator = np.random.default_rng(2)
    true = generator.integers(50, 500, 120)
    both = (true * generator.random(120)).astype(np.int64)
    groups = [f"p{number // 3}" for number in range(120)]
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, overlap, size in zip(groups, both, true, strict=True):
        sums[name][0] += overlap
        sums[name][1] += size
    values = np.array([overlap / size for overlap, size in sums.values()])
    low, high = score_intervals(counted(both, true, true), groups, names=["dice_patient"])[
        "dice_patient"
    ]
    half = 2.0227 * values.std(ddof=1) / np.sqrt(40)  # Student's t, 39 degrees of freedom
    assert (high - low) / 2 == pytest.approx(half, rel=0.04)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.01)
