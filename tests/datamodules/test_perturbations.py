"""Captions changed one thing at a time, against examples written by hand and the real captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from datamodules.captions.absent import (
    absent_captions,
    asks,
    in_another_organ,
    random_letters,
)
from datamodules.captions.expressions import WORDS
from datamodules.captions.lvit_template import COUNTS, read_template
from datamodules.captions.paraphrases import paraphrased
from datamodules.captions.perturbations import (
    caption_variants,
    count_changed,
    other_patients,
    side_swapped,
    typing_errors,
    typos,
)
from datamodules.captions.word_classes import BUILT_IN, WORD_CLASSES, WordClasses
from textseg.errors import UserError
from textseg.tables import read_captions

TEMPLATE = "Bilateral pulmonary infection, two infected areas, upper left lung and all right lung."
BREAST = "Left breast, 9 o'clock, 5 cm from the nipple; unifocal, luminal-like, grade 2 tumour."
SEEDS = range(30)


# --- side and count


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("lesion in the upper left liver", "lesion in the upper right liver"),
        (
            TEMPLATE,
            "Bilateral pulmonary infection, two infected areas, all left lung and upper right "
            "lung.",
        ),
        ("all left lung and all right lung", "all right lung and all left lung"),
        (
            "Bilateral pulmonary infection, two infected areas, all left lung and all right lung.",
            None,
        ),
        ("the large lesion", None),
        ("left hepatic vein", None),
        ("", None),
    ],
)
def test_sides_are_swapped_only_where_that_says_something_else(
    text: str, swapped: str | None
) -> None:
    assert side_swapped(text) == swapped


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (TEMPLATE, TEMPLATE.replace("two", "{}")),
        ("one infected area, left lung", "{} infected areas, left lung"),
        ("one infected areas, left lung", "{} infected areas, left lung"),
        ("the largest of the three lesions", "the largest of the {} lesions"),
        ("one of the three lesions", "one of the {} lesions"),
        ("Three small nodules and one cyst", "{} small nodules and one cyst"),
        ("3 lesions in segment 7", "{} lesions in segment 7"),
        ("one tumour area, left half", "{} tumour areas, left half"),
    ],
)
def test_another_count_is_said_in_the_same_form(text: str, form: str) -> None:
    digits, capital = text[0].isdigit(), text[0].isupper() and form[0] == "{"
    said = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
    words = {number: word.capitalize() if capital else word for number, word in said.items()}
    numbers = {n: str(n) for n in said} if digits else words
    possible = {
        form.format(word).replace("largest of the two", "larger of the two")
        for n, word in numbers.items()
    }
    found = {count_changed(text, seed=seed) for seed in SEEDS}
    assert found == possible - {text}


@pytest.mark.parametrize("own", ["larger", "smaller"])
def test_a_rank_among_two_becomes_a_rank_among_more(own: str) -> None:
    most = own.replace("er", "est").replace("largeest", "largest")
    found = {count_changed(f"the {own} of two lesions", seed=seed) for seed in SEEDS}
    assert found == {f"the {most} of {n} lesions" for n in ("three", "four", "five", "six")}


@pytest.mark.parametrize(
    "text",
    [
        *("the only lesion", "lesion at 3 o'clock", "grade 2 tumour", "a 2 cm lesion", BREAST),
        *("No pulmonary infection, zero infected areas.", "one of the lesions", "oneinfected area"),
        *("HER2-positive tumour", "no tumour area", ""),
    ],
)
def test_what_is_no_count_of_lesions_is_left_alone(text: str) -> None:
    assert {count_changed(text, seed=seed) for seed in SEEDS} == {None}


# --- typing errors


def _one_typing_error(right: str, wrong: str) -> bool:
    """Of the kinds that `typos` makes, looked at from the wrong word back to the right one."""
    if len(wrong) == len(right):
        odd = [i for i, (a, b) in enumerate(zip(right, wrong, strict=True)) if a != b]
        exchanged = len(odd) == 2 and odd[1] == odd[0] + 1
        return len(odd) == 1 or (exchanged and sorted(right) == sorted(wrong))
    longer, shorter = sorted((right, wrong), key=len, reverse=True)
    return any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))


@pytest.mark.parametrize("text", [TEMPLATE, BREAST, "the little hypodense lesion, top right liver"])
def test_one_or_two_words_have_one_typing_error_each_and_all_else_stays(text: str) -> None:
    numbers = set()
    for seed in SEEDS:
        wrong = typos(text, seed=seed)
        assert wrong is not None
        pairs = list(zip(re.split(r"(\W+)", text), re.split(r"(\W+)", wrong), strict=True))
        changed = [(a, b) for a, b in pairs if a != b]
        numbers.add(len(changed))
        assert all(a[0] == b[0] and _one_typing_error(a, b) for a, b in changed), changed
    assert numbers == {1, 2}


def test_no_typing_error_turns_one_known_word_into_another() -> None:
    known = {"left", "right", "lower", "upper", "top", "bottom", "middle", *COUNTS}
    known |= {word for words in WORDS.values() for phrase in words for word in phrase.split()}
    known |= {"lesion", "lesions", "area", "areas", "lung", "lungs", "larger", "largest"}
    for word in sorted(known):
        assert not known & set(typing_errors(word)), word


def test_a_word_too_short_to_misspell_is_left_alone() -> None:
    assert typos("the top of it", seed=0) is None
    assert typos("", seed=0) is None


# --- paraphrases


@pytest.mark.parametrize(
    ("text", "again"),
    [
        (
            TEMPLATE,
            "Two areas of infection in both lungs: the upper zone of the left lung and the whole "
            "of the right lung.",
        ),
        (
            "unilateral pulmonary infection, one infected areas, middle lower right lung.",
            "One area of infection in one lung: the middle and lower zones of the right lung.",
        ),
        (
            "No pulmonary infection, zero infected areas.",
            "Neither lung shows an area of infection.",
        ),
        (
            "Unilateral pulmonary infection, two infected areas, all left lung and all right lung.",
            None,
        ),
        ("Bilateral pulmonary infection, two infected areas, a bit of the left lung.", None),
        (
            BREAST,
            "Unifocal, luminal-like, grade 2 tumour in the left breast, 9 o'clock, 5 cm from the "
            "nipple.",
        ),
        ("Multifocal breast tumour.", None),
        ("in the upper left liver, lesion", "lesion in the top left liver"),
        (
            "the lesion in the lower right of the liver, large",
            "the big lesion in the bottom right of the liver",
        ),
        ("the lesion, top left liver", "the lesion in the upper left liver"),
        ("little lesion", "small lesion"),
        ("the isodense liver lesion", "the isoattenuating lesion of the liver"),
        ("the only lesion in this slice", "the single lesion in this slice"),
        ("the smallest of the three lesions", "of the three lesions, the smallest"),
        ("the smallest liver lesion", "the liver lesion that is smallest"),
        ("the larger lesion.", "the bigger lesion."),
        ("Large lesion", "Big lesion"),
        ("lesion in the lower left lobe", None),
        ("a more dense lesion", None),
        ("a large mass", None),
        ("", None),
    ],
)
def test_what_is_said_in_other_words_is_the_same(text: str, again: str | None) -> None:
    assert paraphrased(text, seed=0) == again


def test_a_trait_is_said_by_any_of_its_other_words() -> None:
    found = {paraphrased("hypodense lesion", seed=seed) for seed in SEEDS}
    assert found == {"dark lesion", "hypoattenuating lesion"}


# --- words left out


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("side", "Bilateral pulmonary infection, two infected areas, upper lung and all lung."),
        (
            "vertical",
            "Bilateral pulmonary infection, two infected areas, left lung and right lung.",
        ),
        ("extent", TEMPLATE.replace("Bilateral p", "P")),
        ("count", TEMPLATE.replace("two ", "")),
        ("finding", "Bilateral pulmonary, two, upper left lung and all right lung."),
        ("density", None),
    ],
)
def test_all_words_of_a_class_are_left_out_of_the_template(name: str, without: str | None) -> None:
    assert BUILT_IN.removed(TEMPLATE, name) == without


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("place", "Left breast; unifocal, luminal-like, grade 2 tumour."),
        ("pathology", "Left breast, 9 o'clock, 5 cm from the nipple; unifocal, tumour."),
        ("extent", BREAST.replace("unifocal, ", "")),
        ("count", None),
        ("size", None),
    ],
)
def test_a_clock_a_distance_and_a_grade_are_phrases_and_no_numbers(
    name: str, without: str | None
) -> None:
    assert BUILT_IN.removed(BREAST, name) == without


@pytest.mark.parametrize(
    ("text", "name", "without"),
    [
        ("a medium-sized lesion, mid-depth", "size", "a lesion, mid-depth"),
        ("a medium-sized lesion, mid-depth", "place", "a medium-sized lesion"),
        ("a medium-sized lesion, mid-depth", "vertical", None),
        ("a medium sized lesion", "size", "a lesion"),
        ("a 3-mm or 2 x 3 cm lesion", "size", "a or lesion"),
        ("a 2-3 cm lesion", "count", None),
        ("opacity of the left-lung base", "side", "opacity of the base"),
        ("opacity of the left-lung base", "anatomy", "opacity of the base"),
        ("lesion in the upper-left liver", "side", "lesion in the upper liver"),
        ("lesion in the upper-left liver", "vertical", "lesion in the left liver"),
        ("a well\u2011defined T2-hyperintense lesion", "density", "a well\u2011defined lesion"),
        ("a well-defined lesion", "other", "a lesion"),
    ],
)
def test_a_hyphenated_word_stays_whole_but_for_two_directions(
    text: str, name: str, without: str | None
) -> None:
    assert BUILT_IN.removed(text, name) == without


@pytest.mark.parametrize(
    ("text", "name", "without"),
    [
        ("kidney_left", "side", "kidney"),
        ("kidney_left", "anatomy", "left"),
        ("Lung_upper_lobe_left, no_lesion", "vertical", "Lung_lobe_left, no_lesion"),
        ("Lung_upper_lobe_left, no_lesion", "anatomy", "Upper_left, no_lesion"),
        ("lung_upper_lobe_left_5_mm", "size", "lung_upper_lobe_left"),
        ("kidney_upper-left", "side", "kidney_upper"),
    ],
)
def test_words_joined_by_underscores_are_left_out_alone(
    text: str, name: str, without: str | None
) -> None:
    assert BUILT_IN.removed(text, name) == without


def test_a_users_phrase_is_found_with_underscores_and_without() -> None:
    classes = WordClasses({"organ": ["adrenal_gland", "portal vein"]})
    assert classes.removed("adrenal_gland_left", "organ") == "left"
    assert classes.removed("left adrenal gland", "organ") == "left"
    assert classes.removed("portal_vein_and_splenic_vein", "organ") == "and_splenic_vein"
    with pytest.raises(UserError, match="'adrenal gland' under"):
        WordClasses({"a": ["adrenal_gland"], "b": ["adrenal gland"]})


def test_other_changes_read_words_joined_by_underscores_too() -> None:
    assert (count_changed("two_infected_areas_left", seed=0) or "").endswith("_infected_areas_left")
    assert typos("kidney_left", seed=0) is not None
    assert len((random_letters("kidney_left", seed=0) or "").split()) == 2
    assert not asks("no_lesion")
    assert in_another_organ("kidney_left", "brain", "cerebral") == "brain_left"
    texts, images = ["lung_left", "lung_left", "lung_right"], ["a", "b", "b"]
    assert absent_captions(texts, images, seed=0)["absent:side"] == ["lung_right", None, None]


def test_words_of_a_users_class_are_of_that_class_alone() -> None:
    own = {
        "severity": ["mild", "Severe"],
        "margin": ["well  defined", "well-defined"],
        "size": ["wee"],
    }
    classes = WordClasses(own)
    text = "a severe, well defined, wee lesion with a mild-to-moderate rim"
    assert classes.removed(text, "severity") == "a, well defined, wee lesion with a rim"
    assert classes.removed(text, "margin") == "a severe, wee lesion with a mild-to-moderate rim"
    assert classes.removed(text, "size") == text.replace("wee ", "")
    assert classes.removed("a WELL-defined lesion", "margin") == "a lesion"
    assert (
        classes.removed(text, "other")
        == "a severe, well defined, wee lesion with a mild-to-moderate"
    )
    assert BUILT_IN.removed(text, "severity") is None


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"severity": "mild"}, "severity='mild'"),
        ({"severity": []}, "severity=[]"),
        ({"severity": ["mild", " "]}, "severity="),
        ({"other": ["mild"]}, "'other'"),
        ({"a:b": ["mild"]}, "'a:b'"),
        ({"severity": ["mild"], "grade": ["MILD"]}, "'mild' under severity and grade"),
    ],
)
def test_classes_that_cannot_be_used_are_refused(own: Any, named: str) -> None:
    with pytest.raises(UserError) as error:
        WordClasses(own)
    assert named in str(error.value)


def test_a_caption_that_says_one_thing_alone_is_not_emptied() -> None:
    assert BUILT_IN.removed("the lesions", "finding") is None


# --- over a split


def test_another_patients_caption_is_of_another_case_and_differs() -> None:
    texts = ["a", "A ", "b", "c", "b", "d"]
    cases = ["p", "p", "p", "q", "q", ""]
    for seed in SEEDS:
        given = other_patients(texts, cases, seed=seed)
        assert given[5] is None, "a row of an unknown patient takes none"
        assert set(given[:3]) <= {"b", "c"}, "and gives none"
        assert given[2] == "c"
        assert given[3] in texts[:3]
        assert given[4] in ("a", "A ")


def test_without_another_patient_no_caption_is_taken() -> None:
    assert other_patients(["a", "b"], ["p", "p"], seed=0) == [None, None]
    assert other_patients(["a", "a"], ["p", "q"], seed=0) == [None, None]


def test_a_split_has_every_change_in_row_order_and_only_classes_in_use() -> None:
    texts = [TEMPLATE, "the small lesion", "the only lesion", ""]
    variants = caption_variants(texts, ["p", "q", "r", "s"], seed=3)
    fixed = ["true", "empty", "shuffled", "other_patient", "side_swapped", "count_changed"]
    assert list(variants)[:8] == [*fixed, "typos", "paraphrased"]
    kinds = [name.partition(":")[::2] for name in list(variants)[8:]]
    removed = {name for kind, name in kinds if kind == "word_removed"}
    expected = {"side", "vertical", "extent", "size", "count", "anatomy", "finding"}
    assert removed == expected < set(WORD_CLASSES)
    assert variants["true"] == texts
    assert variants["empty"] == ["", "", "", None]
    assert variants["word_removed:size"] == [None, "the lesion", None, None]
    assert [text is not None for text in variants["side_swapped"]] == [True, False, False, False]
    assert caption_variants(texts, ["p", "q", "r", "s"], seed=3) == variants
    assert caption_variants(texts, ["p", "q", "r", "s"], seed=4) != variants


def test_a_users_class_and_a_datasets_captions_are_variants_though_no_row_has_any() -> None:
    given: dict[str, Any] = {"altered": {"vague": ["it", None]}, "word_classes": {"tone": ["grim"]}}
    variants = caption_variants(["left", "right"], ["p", "q"], seed=0, **given)
    assert variants["altered:vague"] == ["it", None]
    assert variants["word_removed:tone"] == [None, None]


def test_a_caption_is_changed_equally_wherever_it_stands() -> None:
    alone = caption_variants([TEMPLATE], ["p"], seed=1)
    among = caption_variants(["x", TEMPLATE, TEMPLATE], ["p", "q", "r"], seed=1)
    for name in ("side_swapped", "count_changed", "typos", "paraphrased", "word_removed:side"):
        assert among[name][1] == among[name][2] == alone[name][0]


def test_captions_that_cannot_be_shuffled_have_no_shuffled_variant() -> None:
    assert caption_variants(["a", "a", "b"], ["p", "q", "r"], seed=0)["shuffled"] == [None] * 3


# --- the real captions


def _real(real_data: Path) -> Sequence[str]:
    tables = [real_data / "qata_text" / "test.csv"]
    tables += sorted((real_data / "mosmed_text").glob("Test*.csv"))
    return [row.text for table in tables for row in read_captions(table)]


@pytest.mark.real_data
def test_real_captions_are_changed_in_what_is_meant_and_nothing_else(real_data: Path) -> None:
    texts = sorted(set(_real(real_data)))
    variants = caption_variants(texts, [str(i) for i in range(len(texts))], seed=0)
    made = {name: sum(text is not None for text in column) for name, column in variants.items()}
    assert made["count_changed"] > 0.95 * len(texts)
    assert made["typos"] == len(texts)
    for row, text in enumerate(texts):
        reading = read_template(text)
        if reading is None:
            assert variants["paraphrased"][row] is None
            continue
        counted, swapped = variants["count_changed"][row], variants["side_swapped"][row]
        if counted is not None:
            other = read_template(counted)
            assert other is not None
            assert other.count != reading.count
            assert (other.extent, other.zones) == (reading.extent, reading.zones)
        if swapped is not None:
            sides = {"left": "right", "right": "left"}
            mirrored = {sides[side]: zones for side, zones in reading.zones.items()}
            other = read_template(swapped)
            assert other is not None
            assert (other.count, other.zones) == (reading.count, mirrored)
        again = variants["paraphrased"][row]
        if again is not None and reading.extent != "none":
            assert again.lower().startswith(COUNTS[reading.count])
            assert all(f"{side} lung" in again for side in reading.zones)
            assert ("both lungs" in again) == (reading.extent == "bilateral")
    for name, column in variants.items():
        if name != "true":
            assert all(new != old for new, old in zip(column, texts, strict=True)), name
