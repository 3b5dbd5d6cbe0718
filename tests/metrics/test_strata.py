"""What strata are made of, and their scores, against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.metrics.pairs import counted
from textseg.metrics.scores import CaseTableRows, dice, select
from textseg.metrics.strata import SIZES, by_stratum, describe_truth, number_class, size_classes
from textseg.metrics.summary import score_intervals


def mask(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows], dtype=np.uint8)


@pytest.mark.parametrize(
    ("truth", "lesions", "side"),
    [
        (mask("....", "...."), 0, "none"),
        (mask("#...", "...."), 1, "left"),
        (mask("...#", "...#"), 1, "right"),
        (mask("#..#", "...."), 2, "both"),
        (mask(".##.", "...."), 1, "both"),
        (mask("#...", ".#.."), 1, "left"),  # they touch at a corner
        (mask("#.#.", "...."), 2, "both"),
        (mask("..#..", "..#.."), 1, "both"),  # the middle column is on no side
        (mask("..##.", "....."), 1, "right"),
        (mask("#"), 1, "both"),
    ],
)
def test_lesions_and_side_of_a_mask(truth: np.ndarray, lesions: int, side: str) -> None:
    assert describe_truth(truth) == (lesions, side)


def test_a_side_needs_nine_tenths_of_the_foreground() -> None:
    truth = np.zeros((10, 20), np.uint8)
    truth[:9, 0] = 1
    truth[0, 19] = 1  # 9 of 10 on the left
    assert describe_truth(truth).side == "left"
    truth[1, 19] = 1  # 9 of 11
    assert describe_truth(truth).side == "both"
    assert describe_truth(truth[:, ::-1]).side == "both"


@pytest.mark.parametrize(("lesions", "name"), [(0, "0"), (1, "1"), (2, "2"), (3, "3+"), (9, "3+")])
def test_three_lesions_and_more_are_one_class(lesions: int, name: str) -> None:
    assert number_class(lesions) == name


def test_sizes_are_thirds_of_the_lesions_by_share_of_the_image() -> None:
    true = np.array([0, 10, 40, 30, 60, 50, 20])
    pixels = np.array([100, 100, 200, 100, 100, 100, 400])  # 0, .1, .2, .3, .6, .5, .05
    names, cuts = size_classes(true, pixels)
    assert names == ["none", "small", "medium", "medium", "large", "large", "small"]
    assert cuts == [0.1, 0.3]


def test_lesions_of_one_size_are_of_one_class() -> None:
    names, cuts = size_classes(np.array([7, 7, 7, 7]), np.full(4, 49))
    assert set(names) == {"small"}
    assert cuts == [1 / 7, 1 / 7]


def test_a_set_without_lesions_has_no_cuts() -> None:
    assert size_classes(np.zeros(2, np.int64), np.full(2, 9)) == (["none", "none"], [])


def rows_of(triples: list[tuple[int, int, int]]) -> CaseTableRows:
    return counted(*np.array(triples, dtype=np.int64).T)


def test_scores_of_a_stratum_are_those_of_its_cases_alone() -> None:
    rows = rows_of([(5, 10, 10), (0, 0, 0), (8, 10, 10), (2, 4, 16), (0, 5, 0)])
    classes = ["small", "none", "small", "large", "none"]
    patients = ["p", "q", "r", "", "q"]
    found = by_stratum(rows, patients, classes, SIZES)
    assert list(found) == ["none", "small", "large"], "in the order of SIZES, none that is empty"
    assert found["small"]["dice"] == pytest.approx((0.5 + 0.8) / 2)
    assert found["small"]["dice_global"] == pytest.approx(26 / 40)
    assert found["none"]["dice"] == pytest.approx((1 + 0) / 2)
    assert np.isnan(found["none"]["dice_global"]), "without a lesion there is none"
    assert [found[name]["cases"] for name in found] == [2, 2, 1]
    assert [found[name]["patients"] for name in found] == [1, 2, 1]
    own = select(rows, np.array([0, 2]))
    ends = score_intervals(own, ["p", "r"])["dice"]
    assert (found["small"]["dice_ci_low"], found["small"]["dice_ci_high"]) == ends
    assert np.isnan(found["large"]["dice_ci_low"]), "one patient drawn again shows no spread"


def test_cases_of_all_strata_together_are_all_cases() -> None:
    generator = np.random.default_rng(0)
    true = generator.integers(0, 50, 40)
    predicted = generator.integers(0, 50, 40)
    both = np.minimum(true, predicted) // 2
    rows = rows_of(list(zip(both, predicted, true, strict=True)))
    names, _ = size_classes(rows.true, np.full(40, 64))
    found = by_stratum(rows, [""] * 40, names, SIZES)
    weighted = sum(one["dice"] * one["cases"] for one in found.values())
    assert weighted == pytest.approx(dice(rows).sum())
