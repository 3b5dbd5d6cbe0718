from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from datamodules.captions.modes import apply_caption_mode, key, normalize, swap_sides
from textseg.errors import UserError
from textseg.tables import read_captions

ONE = "Unilateral pulmonary infection, one infected area"
BOTH = "Bilateral pulmonary infection, two infected areas"


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("upper left lung", "upper right lung"),
        ("Left lung and right lung", "Right lung and left lung"),
        ("LEFT breast", "RIGHT breast"),
        ("left-sided effusion, leftmost", "right-sided effusion, rightmost"),
        ("drifts leftward", "drifts rightward"),
        ("a bright slight upright shadow on the left at night", None),
        ("no side at all", "no side at all"),
        ("", ""),
    ],
)
def test_sides_are_exchanged_and_case_is_kept(text: str, mirrored: str | None) -> None:
    if mirrored is None:
        mirrored = text.replace("left", "right")
    assert swap_sides(text) == mirrored
    assert swap_sides(mirrored) == text


@pytest.mark.parametrize(
    "text",
    [
        *("lower lift lung", "all leff lung", "rught lung", "rightlung", "lowerright lung"),
        *("rlower ight lung", "all eft lung", "lower leflung", "the elft lung", "letf lung"),
        *(
            "mass at 2:30",
            "3 oclock",
            "02 o'clock",
            "13 o'clock",
            "at ten o'clock",
            "2-3:75 o'clock",
        ),
        *("L 9 medial", "R 10-11", "left lobe, 10 o'clock"),
        *("left hepatic vein", "right portal branch", "left upper lobe", "right ventricle"),
        *("dilated left atrium", "enlarged right lobes", "LUL nodule", "lEFT lung"),
    ],
)
def test_a_text_that_cannot_be_mirrored_safely_is_refused(text: str) -> None:
    assert swap_sides(text) is None


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("Left breast, 9 o'clock, medial.", "Right breast, 3 o'clock, medial."),
        ("right breast, 12 o'clock", "left breast, 12 o'clock"),
        ("6 o\u2019clock", "6 o\u2019clock"),
        ("at 2:30 o'clock and 12:30 o'clock", "at 9:30 o'clock and 11:30 o'clock"),
        ("left breast, 10 to 11 o'clock", "right breast, 1 to 2 o'clock"),
        ("11-1 o'clock, 3 lesions", "11-1 o'clock, 3 lesions"),
    ],
)
def test_a_clock_position_is_read_on_the_mirrored_face(text: str, mirrored: str) -> None:
    assert swap_sides(text) == mirrored
    assert swap_sides(mirrored) == text


@pytest.mark.parametrize("text", ["a hepatic lesion", "one lobe", "bright", "lest it lift a loft"])
def test_anatomy_without_a_side_is_no_obstacle(text: str) -> None:
    assert swap_sides(text) == (None if "lift" in text else text)


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        (
            f"{BOTH}, upper left lung and all right lung.",
            f"{BOTH}, all left lung and upper right lung.",
        ),
        (f"{BOTH},all  leff lung and low right lung", None),
        (
            f"{BOTH},all  leff lung and lowe rught lung",
            f"{BOTH},lowe leff lung and all  rught lung",
        ),
        (f"{BOTH}, all left and lowerright lung.", f"{BOTH}, lowerleft and all right lung."),
        (f"{BOTH}, all left lung and right lung.", f"{BOTH}, left lung and all right lung."),
        (f"{BOTH}, upper lung and all right lung.", f"{BOTH}, upper lung and all left lung."),
        (f"{BOTH}, all left and upper left lung.", f"{BOTH}, all right and upper right lung."),
        (f"{ONE}, lower right lung.", f"{ONE}, lower left lung."),
        (f"{ONE}, lower rightlung.", f"{ONE}, lower leftlung."),
        (f"{ONE}, lower right right lung.", f"{ONE}, lower left left lung."),
        (f"{ONE}, left lung and all right lung.", f"{ONE}, all left lung and right lung."),
        (f"{ONE}, lower lift lung.", None),
        (f"{ONE}, lower leflung.", None),
        ("No pulmonary infection, zero infected areas.",) * 2,
    ],
)
def test_in_the_template_the_zones_of_two_lungs_change_places(
    text: str, swapped: str | None
) -> None:
    assert swap_sides(text) == swapped
    assert swapped is None or swap_sides(swapped) == text


def test_key_ignores_case_and_spacing() -> None:
    assert key("  Left \t Lung ") == key("left lung")
    assert key("left lung") != key("right lung")


@pytest.mark.parametrize(
    ("written", "mended"),
    [
        ("a  nodule , left", "a nodule, left."),
        ("size 3,5 cm..", "size 3,5 cm."),
        (
            "Bilateral pulmonary infection,two infected areas, lower left and lowerright lung",
            "Bilateral pulmonary infection, two infected areas, lower left lung and lower right "
            "lung.",
        ),
        (
            "Unilateral pulmonary infection, seven infected areas, left lung and upper right lung.",
            "Unilateral pulmonary infection, seven infected areas, upper right lung.",
        ),
        (
            "Bilateral pulmonary infection, two one infected area, all eft lung and higher right "
            "lung",
            "Bilateral pulmonary infection, two infected areas, all left lung and upper right "
            "lung.",
        ),
        (
            "the lift is higher than the left and right",
            "the lift is higher than the left and right.",
        ),
        ("", ""),
    ],
)
def test_normalize_mends_the_template_and_leaves_free_text_alone(written: str, mended: str) -> None:
    assert normalize(written) == mended
    assert normalize(mended) == mended


@pytest.mark.parametrize(
    "text",
    [
        f"{BOTH}, all left lung and right lung. ",
        f"{BOTH},all eft lung and  all right lung.(wait",
        "No sign of a pulmonary infection ,the lift is higher",
    ],
)
def test_normalize_leaves_alone_what_it_cannot_repair(text: str) -> None:
    assert normalize(text) == text


# --- controls


def test_true_and_empty_captions() -> None:
    assert apply_caption_mode(["a", "b"], "true", 0) == ["a", "b"]
    assert apply_caption_mode(["a", "b"], "empty", 0) == ["", ""]


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_keeps_no_caption_even_when_half_the_rows_share_one(seed: int) -> None:
    texts = ["Same", "same ", "SAME", "same", "a", "b", "b", "c"]
    shuffled = apply_caption_mode(texts, "shuffled", seed)
    assert Counter(shuffled) == Counter(texts)
    assert all(key(a) != key(b) for a, b in zip(texts, shuffled, strict=True))


def test_shuffled_depends_on_the_seed_alone() -> None:
    texts = [str(i % 9) for i in range(50)]
    assert apply_caption_mode(texts, "shuffled", 3) == apply_caption_mode(texts, "shuffled", 3)
    assert apply_caption_mode(texts, "shuffled", 3) != apply_caption_mode(texts, "shuffled", 4)


def test_shuffled_says_when_over_half_of_the_rows_share_a_caption() -> None:
    with pytest.raises(UserError, match="3 of 5 rows share the caption 'same'"):
        apply_caption_mode(["same"] * 3 + ["a", "b"], "shuffled", 0)


def test_shuffling_nothing_gives_nothing() -> None:
    assert apply_caption_mode([], "shuffled", 0) == []


# --- the real captions


@pytest.fixture(scope="module")
def qata(real_data: Path) -> list[str]:
    tables = (read_captions(real_data / "qata_text" / f"{s}.csv") for s in ("train", "test"))
    return [row.text for table in tables for row in table]


@pytest.mark.real_data
def test_real_shuffled_keeps_no_caption(qata: list[str]) -> None:
    shuffled = apply_caption_mode(qata, "shuffled", 0)
    assert not any(key(a) == key(b) for a, b in zip(qata, shuffled, strict=True))
    assert Counter(shuffled) == Counter(qata)


@pytest.mark.real_data
def test_normalize_settles_after_one_pass_and_lowers_the_count_of_captions(
    qata: list[str],
) -> None:
    mended = {normalize(text) for text in set(qata)}
    assert {normalize(text) for text in mended} == mended
    assert len({text.strip() for text in qata}) == 394
    assert len(mended) == 216
