"""The word that tells empty truths from the others, against counts by hand."""

from __future__ import annotations

import pytest

from textseg.metrics.emptiness import emptiness_warnings
from textseg.preprocess import LEAST_IMAGES, telling_word

LESIONS = ["One lesion, left", "two lesions, right lower", "one lesion, right", "no small lesion"]


def test_the_word_that_is_only_in_captions_of_empty_truths_is_found() -> None:
    captions = ["No focal lesion"] * 9 + ["normal"] * 3 + LESIONS * 3
    found = telling_word(captions, [0] * 12 + [50] * 12)
    assert found == ("focal", 9 / 12, 0.0)
    (warning,) = emptiness_warnings(captions, [0] * 12 + [50] * 12)
    assert "'focal' is in 75%" in warning
    assert "0%" in warning


def test_a_word_that_is_missing_from_empty_truths_tells_as_much() -> None:
    captions = ["a chest"] * 10 + ["a chest with a nodule"] * 9 + ["a chest"]
    found = telling_word(captions, [0] * 10 + [9] * 10)
    assert found == ("nodule", 0.0, 0.9)


def test_captions_without_a_word_are_a_word_of_their_own() -> None:
    found = telling_word(["", " - "] * 6 + LESIONS * 3, [0] * 12 + [1] * 12)
    assert found == ("", 1.0, 0.0)
    assert "no word" in emptiness_warnings([""] * 12 + LESIONS * 3, [0] * 12 + [1] * 12)[0]


@pytest.mark.parametrize(
    ("captions", "empty"),
    [
        (LESIONS * 6, 12),  # the same captions either way
        (["normal"] * 9 + LESIONS * 6, 9),  # too few to tell
        ([""] * 24, 12),
        (LESIONS * 6, 0),
    ],
)
def test_captions_that_do_not_tell_are_not_warned_of(captions: list[str], empty: int) -> None:
    true = [0] * empty + [7] * (len(captions) - empty)
    assert emptiness_warnings(captions, true) == []
    assert (telling_word(captions, true) is None) == (
        min(empty, len(captions) - empty) < LEAST_IMAGES
    )


def test_a_set_without_any_lesion_is_warned_of_whatever_its_captions() -> None:
    (warning,) = emptiness_warnings(["x"] * 3, [0] * 3)
    assert "no image has a lesion" in warning
