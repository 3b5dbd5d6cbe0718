"""Requests for what an image does not show, against examples written by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from datamodules.captions.absent import absent_captions, asks, random_letters, sides_said
from textseg.tables import read_captions

TEMPLATE = "Unilateral pulmonary infection, one infected area, upper left lung."
BOTH = "Bilateral pulmonary infection, two infected areas, all left lung and all right lung."
DENIED = "No pulmonary infection, zero infected areas."


def test_a_finding_is_asked_for_in_an_organ_that_no_caption_is_about() -> None:
    texts = [
        *(TEMPLATE, "the large liver lesion", "small lesion, upper left", "left lobe of the liver"),
        *("on the left", DENIED, "", "Lungs with a nodule", "the lesion in the left lobe"),
    ]
    found = absent_captions(texts, list(map(str, range(9))), seed=0)["absent:organ"]
    assert found == [
        "Unilateral cerebral infection, one infected area, upper left brain.",
        "the large brain lesion",
        "small lesion of the brain, upper left",
        "left lobe of the brain",
        *(None, None, None),
        "Brain with a nodule",
        "the lesion of the brain in the left lobe",
    ]
    heads = absent_captions(["a lesion", "Cerebral glioma"], ["a", "b"], seed=0)["absent:organ"]
    assert heads == ["a lesion of the knee", "Articular glioma"]
    polyps = absent_captions(["a polyp, lower left", "skin melanoma"], ["a", "b"], seed=0)
    assert polyps["absent:organ"] == ["a polyp of the brain, lower left", "brain melanoma"]


@pytest.mark.parametrize(
    ("texts", "images", "asked"),
    [
        ([TEMPLATE, BOTH], "ab", [TEMPLATE.replace("left", "right"), None]),
        (["the left lesion", "the right lesion"], "aa", [None, None]),
        (["the left lesion", "the right lesion"], "ab", ["the right lesion", "the left lesion"]),
        (["the left lesion", "both lungs"], "aa", [None, None]),
        (["the left lesion", "lesion"], "aa", ["the right lesion", None]),
        (["no lesion on the left", "left hepatic vein"], "ab", [None, None]),
    ],
)
def test_the_other_side_is_asked_for_where_nothing_is_said_of_it(
    texts: list[str], images: str, asked: list[str | None]
) -> None:
    assert absent_captions(texts, list(images), seed=0)["absent:side"] == asked


def test_a_lesion_of_another_image_is_asked_for_and_never_the_rows_own() -> None:
    texts, images = ["a", "A ", "b", "no lesion", "c"], ["p", "q", "q", "r", "r"]
    for seed in range(20):
        given = absent_captions(texts, images, seed=seed)["absent:lesion"]
        assert given[0] in ("b", "c")
        assert given[1] == "c", "of image q itself is b, and a is the row's own"
        assert given[2] in ("a", "c")
        assert given[3] in ("a", "A ", "b")
        assert given[4] in ("a", "A ", "b")
    assert absent_captions(["no lesion", ""], ["a", "b"], seed=0)["absent:lesion"] == [None, None]


def test_random_letters_are_as_many_and_spell_no_word() -> None:
    letters = random_letters(TEMPLATE, seed=0)
    assert letters is not None
    assert [len(word) for word in letters.split()] == [10, 9, 9, 3, 8, 4, 5, 4, 4]
    assert re.fullmatch(r"[b-df-hj-np-tv-z ]+", letters), "consonants alone"
    assert random_letters(TEMPLATE.upper(), seed=0) == letters
    assert random_letters(TEMPLATE, seed=1) != letters
    assert random_letters(" ", seed=0) is None


@pytest.mark.parametrize(
    "text",
    [
        *(DENIED, "normal liver", "without tumour", "", "negative"),
        *("brain scan free of lesions", "lesion-free lung"),
    ],
)
def test_a_denial_asks_for_nothing(text: str) -> None:
    assert not asks(text)


def test_the_sides_that_a_caption_names() -> None:
    assert sides_said("large lesion, upper LEFT lung") == {"left"}
    assert sides_said("left lung and lower right lung") == {"left", "right"}
    assert sides_said("Bilateral infection") == {"left", "right"}
    assert sides_said("leftover, brightness, the upper lung") == set()


@pytest.mark.parametrize(
    "text", ["keine Läsion in der Lunge", "pas de lésion", "\u672a\u89c1\u75c5\u7076"]
)
def test_what_a_caption_in_another_language_asks_for_is_not_known(text: str) -> None:
    assert not asks(text)
    made = absent_captions([text, TEMPLATE], ["a", "b"], seed=0)
    assert [made[f"absent:{name}"][0] for name in ("organ", "side", "lesion")] == [
        None,
        None,
        TEMPLATE,
    ]
    assert made["absent:lesion"][1] is None


def test_a_subtype_denies_nothing() -> None:
    assert asks("triple-negative tumour")


@pytest.mark.real_data
def test_real_captions_can_be_asked_for_what_is_absent(real_data: Path) -> None:
    texts = [row.text for row in read_captions(real_data / "qata_text" / "test.csv")]
    made = absent_captions(texts, list(map(str, range(len(texts)))), seed=0)
    counts = {name: sum(text is not None for text in column) for name, column in made.items()}
    assert counts["absent:organ"] == counts["absent:letters"] == len(texts)
    one_sided = sum(text.startswith("Unilateral") for text in texts)
    assert 0.9 * one_sided < counts["absent:side"] < 1.1 * one_sided
    assert not any("lung" in text or "pulmonary" in text for text in made["absent:organ"] if text)
