"""A hyphenated word is one word: changes of captions reach into none of them."""

from __future__ import annotations

import pytest

from datamodules.captions.modes import swap_sides
from datamodules.captions.perturbations import count_changed, side_swapped
from datamodules.captions.word_classes import BUILT_IN


@pytest.mark.parametrize(
    "text",
    [
        *("one mass-like opacity", "two lesion-like spots", "two cyst\u2011like spots"),
        *("two tumor-free margins", "three focus-positive biopsies"),
        *("one-sided lesion", "two-lesion disease"),
    ],
)
def test_a_word_that_begins_with_a_finding_is_not_counted(text: str) -> None:
    assert {count_changed(text, seed=seed) for seed in range(5)} == {None}


def test_hyphenated_words_before_a_counted_finding_stay() -> None:
    changed = count_changed("two lesion-free areas - left", seed=0)
    assert changed is not None
    assert changed.endswith(" lesion-free areas - left")
    assert not changed.startswith("two")
    assert (count_changed("two lesions- left", seed=0) or "").endswith(" lesions- left")


@pytest.mark.parametrize(
    "text",
    [
        # Bends, chambers and directions of flow that the mirrored picture does not show.
        *("right-angle bend", "right angled bend", "right\u2011angle bend on the left"),
        *("left-heart strain", "right-heart strain", "right-to-left shunt", "left to right shunts"),
        "right-dominant circulation",
        # Of a person; and words that name no side.
        *("right-handed patient with a mass", "left handed", "right-handedness"),
        *("all-right.", "what-is-left."),
    ],
)
def test_sides_in_words_that_no_mirror_exchanges_hinder(text: str) -> None:
    assert swap_sides(text) is None
    assert side_swapped(text) is None


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("left-sided mass", "right-sided mass"),
        ("Right-hand side, mid-left lung", "Left-hand side, mid-right lung"),
        ("non-lesional skin on the left", "non-lesional skin on the right"),
        (
            "left-dominant opacities, right-sided shunt",
            "right-dominant opacities, left-sided shunt",
        ),
        ("right-most of the non-dominant kidney", "left-most of the non-dominant kidney"),
    ],
)
def test_sides_in_hyphenated_words_are_exchanged(text: str, swapped: str) -> None:
    assert swap_sides(text) == swapped
    assert swap_sides(swapped) == text


@pytest.mark.parametrize(
    ("text", "name", "without"),
    [
        ("a 5-year-old patient with a mass", "count", "a patient with a mass"),
        ("a 5-year-old patient with a mass", "other", "a 5-year-old with a mass"),
        ("4-chamber view of the heart", "other", "4-chamber of the heart"),
        ("a 2-sided mass", "side", "a mass"),
        ("mass at 12-o'clock", "place", "mass at"),
        ("two COVID-19 lesions", "count", "COVID-19 lesions"),
        ("BI-RADS-4 mass", "count", None),
        ("a triple-negative-like tumour", "pathology", None),
        ("a triple-negative tumour", "pathology", "a tumour"),
        ("2-3 masses", "count", "masses"),
        ("a one-sided mass", "count", "a mass"),
    ],
)
def test_a_word_with_a_number_is_left_out_whole(text: str, name: str, without: str | None) -> None:
    assert BUILT_IN.removed(text, name) == without
