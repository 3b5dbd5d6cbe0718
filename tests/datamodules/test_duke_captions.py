from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.captions.modes import swap_sides
from datamodules.duke_breast_mri.captions import (
    Site,
    clock_words,
    compose,
    oracle_caption,
    quadrant,
    read_position,
    tumor_side,
)
from datamodules.duke_breast_mri.sheets import Findings, read_boxes, read_clinical

LUMINAL = Findings(multifocal=False, subtype="luminal-like", grade=2, bilateral=False)

# --- Position


@pytest.mark.parametrize(
    ("text", "sites"),
    [
        ("L 9 medial", [Site("left", (540,), ("medial",))]),
        ("R 10-11", [Site("right", (600, 660), ())]),
        ("R 2:30", [Site("right", (150,), ())]),
        ("R 1030", [Site("right", (630,), ())]),
        ("L 12", [Site("left", (0,), ())]),
        ("L 1130-12", [Site("left", (690, 0), ())]),
        ("R upper outer quadrant", [Site("right", (), ("upper outer quadrant",))]),
        ("L upper inner quadant", [Site("left", (), ("upper inner quadrant",))]),
        ("L subareolar", [Site("left", (), ("subareolar",))]),
        ("L axiallary tail 130", [Site("left", (90,), ("axillary tail",))]),
        ("L 2 10cm from nipple", [Site("left", (120,), ("10 cm from the nipple",))]),
        ("L 4 4cm from nipple", [Site("left", (240,), ("4 cm from the nipple",))]),
        ("L", [Site("left", (), ())]),
        ("L with calcs", [Site("left", (), ())]),
        ("L 6  with and without calcs", [Site("left", (360,), ())]),
        ("L 1 superior med depth", [Site("left", (60,), ("superior", "middle depth"))]),
        (
            "R 10, r 9 1cm from nipple",
            [Site("right", (600,), ()), Site("right", (540,), ("1 cm from the nipple",))],
        ),
        ("R 9 and L", [Site("right", (540,), ()), Site("left", (), ())]),
        ("R 9. L 12", [Site("right", (540,), ()), Site("left", (0,), ())]),
        ("R 9, 10", [Site("right", (540,), ()), Site("right", (600,), ())]),
        ("R 13", [Site("right", (), ())]),
        ("see report", []),
        ("", []),
    ],
)
def test_a_position_is_read_as_far_as_it_can_be(text: str, sites: list[Site]) -> None:
    assert read_position(text) == sites


@pytest.mark.parametrize(
    ("side", "clock", "expected"),
    [
        ("left", (120,), "upper outer quadrant"),
        ("right", (120,), "upper inner quadrant"),
        ("left", (480,), "lower inner quadrant"),
        ("right", (480,), "lower outer quadrant"),
        ("right", (600, 660), "upper outer quadrant"),
        ("left", (690,), "upper inner quadrant"),
        ("left", (0,), ""),
        ("left", (180,), ""),
        ("left", (60, 180), ""),
        ("left", (690, 30), ""),
        ("right", (180, 600), ""),
        ("left", (), ""),
    ],
)
def test_a_clock_position_strictly_inside_a_quadrant_names_it(
    side: str, clock: tuple[int, ...], expected: str
) -> None:
    assert quadrant(side, clock) == expected  # type: ignore[arg-type]


def test_clock_words_say_twelve_and_halves() -> None:
    assert clock_words((0,)) == "12 o'clock"
    assert clock_words((30, 90)) == "12:30 to 1:30 o'clock"


# --- captions


@pytest.mark.parametrize(
    ("position", "caption"),
    [
        ("L 9 medial", "Left breast, 9 o'clock, medial; unifocal, luminal-like, grade 2 tumour."),
        (
            "R 10",
            "Right breast, 10 o'clock, upper outer quadrant; unifocal, luminal-like, grade 2 "
            "tumour.",
        ),
        (
            "R 10 posterior, R 10 anterior",
            "Right breast, 10 o'clock posterior and 10 o'clock anterior, upper outer quadrant; "
            "unifocal, luminal-like, grade 2 tumour.",
        ),
        ("L", "Left breast; unifocal, luminal-like, grade 2 tumour."),
        ("", "Unifocal, luminal-like, grade 2 breast tumour."),
        ("L 1, R 6", "Unifocal, luminal-like, grade 2 breast tumour."),
    ],
)
def test_captions_read_like_a_report(position: str, caption: str) -> None:
    findings = Findings(**{**vars(LUMINAL), "position": position})
    assert compose(findings, by_box=True) == compose(findings, by_box=False) == caption


def test_missing_values_are_left_out_and_not_said() -> None:
    assert compose(Findings(), by_box=False) == "Breast tumour."
    assert compose(Findings(position="R 3", grade=1), by_box=False) == (
        "Right breast, 3 o'clock; grade 1 tumour."
    )


def test_a_side_that_contradicts_the_position_is_not_said() -> None:
    doubtful = Findings(location="left", position="R 9", multifocal=True)
    assert compose(doubtful, by_box=True) == "Multifocal breast tumour."


BILATERAL = Findings(
    position="R 12, L 3",
    location="right",
    bilateral=True,
    annotated="left",
    multifocal=False,
    subtype="luminal-like",
    grade=3,
    other_side="left",
    other_subtype="triple-negative",
    other_grade=3,
)


def test_a_bilateral_box_is_told_by_the_annotated_side_and_its_own_pathology() -> None:
    assert compose(BILATERAL, by_box=True) == (
        "Left breast, 3 o'clock; unifocal, triple-negative, grade 3 tumour."
    )
    other = Findings(**{**vars(BILATERAL), "annotated": "right"})
    assert compose(other, by_box=True) == (
        "Right breast, 12 o'clock; unifocal, luminal-like, grade 3 tumour."
    )


def test_a_bilateral_outline_has_no_side_and_only_what_both_tumors_share() -> None:
    assert compose(BILATERAL, by_box=False) == "Unifocal, grade 3 breast tumour."


# --- the oracle


def test_the_oracle_says_what_it_is_and_what_the_mask_shows() -> None:
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[2:5, 30:34] = 1
    mask[5, 34] = 1  # touches at a corner: the same area
    mask[4:6, 20:22] = 1
    assert oracle_caption(mask) == (
        "Oracle from the mask: two tumour areas, right half, anterior third, 1.4 percent of the "
        "picture."
    )
    assert oracle_caption(mask[::-1, ::-1]) == (
        "Oracle from the mask: two tumour areas, left half, posterior third, 1.4 percent of the "
        "picture."
    )
    assert oracle_caption(np.zeros((4, 4), np.uint8)) == "Oracle from the mask: no tumour area."


# --- all real rows


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """The clinical sheet as pandas reads it, with captions for a box and for an outline."""
    folder = os.environ.get("TEXTSEG_REAL_DATA")
    if not folder:
        pytest.skip("TEXTSEG_REAL_DATA is unset: no real samples on this machine")
    file = Path(folder) / "duke_tables" / "Clinical_and_Other_Features.xlsx"
    table = pd.read_excel(
        file, sheet_name="Data", header=1, skiprows=[2], keep_default_na=False, dtype=str
    )
    table["annotated"] = table.iloc[:, 40]  # its name is in the legend's row
    found = read_clinical(file)
    table["box"] = [compose(f, by_box=True) for f in found.values()]
    table["outline"] = [compose(f, by_box=False) for f in found.values()]
    table["side"] = [tumor_side(f, by_box=True) for f in found.values()]
    return table


def sides_named(position: str) -> set[str]:
    """An independent reading: the letters L and R that stand alone."""
    return {s.upper() for s in re.findall(r"(?<![A-Za-z])([LRlr])(?![A-Za-z])", position)}


@pytest.mark.slow
@pytest.mark.real_data
def test_sides_of_all_real_rows_are_those_of_the_sheet(rows: pd.DataFrame) -> None:
    counts: Counter[str] = Counter()
    for row in rows.to_dict("records"):
        said = re.match(r"(Left|Right) breast", row["box"])
        named = sides_named(row["Position"])
        if row["Bilateral Information"] == "1":
            expected = row["annotated"]
        else:
            expected = row["Tumor Location"] or (named.pop() if len(named) == 1 else "")
        assert (said[1][0] if said else "") == expected, row["Patient ID"]
        counts[expected] += 1
        if row["Bilateral Information"] == "1":
            assert "Left" not in row["outline"]
            assert "Right" not in row["outline"]
        else:
            assert row["outline"] == row["box"]
    assert counts == {"L": 455, "R": 459, "": 8}


@pytest.mark.real_data
def test_clock_hours_of_all_real_rows_are_those_of_the_sheet(rows: pd.DataFrame) -> None:
    with_hour = sum(any(site.clock for site in read_position(p)) for p in rows["Position"])
    assert with_hour == 619  # datasets.md, counted apart
    told = 0
    for row in rows.to_dict("records"):
        position = re.sub(r"\d+\s*cm", "", row["Position"])
        digits = {re.sub(r"\D", "", t) for t in re.findall(r"\d{1,2}:\d\d|\d+", position)}
        clocks = re.findall(r"([\d: to]+) o'clock", row["box"])
        said = {t.replace(":", "") for clock in clocks for t in re.findall(r"[\d:]+", clock)}
        assert said <= digits, row["Patient ID"]
        told += bool(said)
        if row["Bilateral Information"] != "1" and len(sides_named(position)) == 1:
            assert said == digits, row["Patient ID"]
    assert told == 619 - 7 - sum(
        # bilateral rows whose annotated side has no hour of its own
        row["Bilateral Information"] == "1"
        and bool(re.search(r"\d", row["Position"]))
        and not re.search(rf"{row['annotated']}\s*\d", row["Position"])
        for row in rows.to_dict("records")
    )


def quadrant_of_hours(side: str, position: str) -> str:
    """An independent reading: the quadrant all of whose parts' hours lie strictly inside."""
    quadrants = set()
    for part in re.sub(r"\d+\s*cm", "", position).split(","):
        hours = [int(t[:-2] or t) if len(t) > 2 else int(t) for t in re.findall(r"\d+", part)]
        halves = [len(t) > 2 for t in re.findall(r"\d+", part)]
        angles = [30 * (h % 12) + 15 * half for h, half in zip(hours, halves, strict=True)]
        if not angles or any(angle % 90 == 0 for angle in angles):
            return ""
        quadrants |= {angle // 90 for angle in angles}
    names = ("upper outer", "lower outer", "lower inner", "upper inner")  # of the left breast
    mirrored = ("upper inner", "lower inner", "lower outer", "upper outer")
    return (names if side == "L" else mirrored)[quadrants.pop()] if len(quadrants) == 1 else ""


@pytest.mark.real_data
def test_quadrants_of_all_real_rows_agree_with_their_hours(rows: pd.DataFrame) -> None:
    counts: Counter[str] = Counter()
    for row in rows.to_dict("records"):
        position = row["Position"].replace(":", "")
        found = re.findall(r"(?:upper|lower) (?:inner|outer)(?= quadrant)", row["box"])
        stated = re.findall(r"(?:upper|lower) (?:inner|outer)(?= quad)", position)
        if stated:
            assert found == stated, row["Patient ID"]
        elif len(sides_named(position)) == 1 and "axi" not in position and row["side"]:
            expected = quadrant_of_hours(sides_named(position).pop(), position)
            if row["Patient ID"] == "Breast_MRI_617":  # annotated on the left, told of the right
                expected = ""
            assert found == [expected] * bool(expected), row["Patient ID"]
        counts["stated" if stated else "derived" if found else "none"] += 1
    assert counts == {"derived": 334, "stated": 24, "none": 564}


@pytest.mark.real_data
def test_pathology_and_focality_of_all_real_rows_are_those_of_the_sheet(
    rows: pd.DataFrame,
) -> None:
    words = {
        "0": "luminal-like",
        "1": "hormone-receptor-positive, HER2-positive",
        "2": "HER2-positive",
        "3": "triple-negative",
    }
    for row in rows[rows["Bilateral Information"] != "1"].to_dict("records"):
        tumor = row["box"].split("; ")[-1].lower()
        focality = "multifocal" if row["Multicentric/Multifocal"] == "1" else "unifocal"
        grade = row["Nottingham grade"]
        parts = [focality, words[row["Mol Subtype"]]]
        parts += [f"grade {grade}"] if grade in ("1", "2", "3") else []
        assert tumor.removesuffix(".").removesuffix("tumour").removesuffix("breast ").strip() == (
            ", ".join(parts).lower()
        ), row["Patient ID"]


@pytest.mark.real_data
def test_the_side_said_is_the_side_of_the_real_box_in_nearly_every_patient(
    real_data: Path, rows: pd.DataFrame
) -> None:
    """GE (512 rows) stores the patient's left on the image's left, Siemens on its right."""
    tables = real_data / "duke_tables"
    boxes = read_boxes(tables / "Annotation_Boxes.csv")
    columns = {"0": 320, "1": 448, "2": 512}
    agree = []
    for number, row in enumerate(rows.to_dict("records"), start=1):
        if row["side"]:
            width = columns[row["Columns"]]
            on_image_left = (boxes[number].start_column + boxes[number].end_column) / 2 < width / 2
            siemens = row["Manufacturer"] == "2"
            agree.append((row["side"] == "left") == (on_image_left != siemens))
    assert len(agree) == 914
    assert np.mean(agree) > 0.97


@pytest.mark.real_data
def test_every_real_caption_can_be_mirrored_and_stays_true_of_its_quadrant(
    rows: pd.DataFrame,
) -> None:
    checked = 0
    for caption in rows["box"]:
        mirrored = swap_sides(caption)
        assert mirrored is not None
        assert swap_sides(mirrored) == caption
        said = re.match(r"(L|R)\w+ breast, (\d+) o'clock, (\w+ \w+) quadrant;", mirrored)
        if said and (expected := quadrant_of_hours(said[1], said[2])):
            assert said[3] == expected, caption
            checked += 1
    assert checked > 200
