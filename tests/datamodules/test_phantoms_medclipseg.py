"""The ultrasound phantoms are what their captions say: read again from the files, by other code."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from datamodules.medclipseg.phantoms import write_medclipseg
from tests.datamodules.reading import pixels, table

SCANS = {"Train": 60, "Val": 12, "Test": 12}
SIZE = 96
CAPTION = re.compile(
    r"(One|Two) (small|medium|large) (circle|oval)-shaped (benign|malignant) tumors? "
    r"at the ([a-z ,]+) in the breast ultrasound image\.\n"
)
NONE = "No tumor in the breast ultrasound image.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("busi") / "new"
    write_medclipseg(folder, train=60, val=12, test=12, image_size=SIZE)
    return folder


def rows(folder: Path, stem: str) -> list[tuple[str, str]]:
    return [(r["Image"], r["Description"]) for r in table(folder / f"Prompts_Folder/{stem}.csv")]


def every_row(folder: Path) -> list[tuple[str, str, str]]:
    stems = {"Train": "Train_text", "Val": "Val_text", "Test": "Test_text_original"}
    return [(split, *row) for split, stem in stems.items() for row in rows(folder, stem)]


def place_of(mask: np.ndarray) -> str:
    """The third of the picture in which a lesion's centroid lies, in words."""
    down, across = (3 * (c + 0.5) / SIZE for c in ndimage.center_of_mass(mask))
    words = f"{('top', '', 'bottom')[int(down)]} {('left', '', 'right')[int(across)]}".strip()
    return words or "center"


def test_files_and_tables_name_each_other(folder: Path) -> None:
    for split, count in SCANS.items():
        listed = {name for part, name, _ in every_row(folder) if part == split}
        assert len(listed) == count
        for kind in ("img", "label"):
            assert {p.name for p in (folder / f"{split}_Folder/{kind}").iterdir()} == listed
    names = [name for _, name, _ in every_row(folder)]
    assert len(set(names)) == len(names)


def test_masks_have_the_number_and_the_places_that_captions_tell(folder: Path) -> None:
    normal = 0
    for split, name, text in every_row(folder):
        mask = pixels(folder / f"{split}_Folder/label/{name}")
        assert set(np.unique(mask)) <= {0, 255}
        if text == NONE:
            normal += 1
            assert not mask.any()
            assert name.endswith("_normal.png")
            continue
        told = CAPTION.fullmatch(text)
        assert told is not None, text
        labels, number = ndimage.label(mask, np.ones((3, 3)))
        assert number == {"One": 1, "Two": 2}[told[1]]
        found = {place_of(labels == label) for label in range(1, number + 1)}
        assert found == set(told[5].split(", "))
        assert name.endswith(f"_{told[4]}.png")
    assert 5 <= normal <= 25, "a sixth of 84 is 14; three standard deviations are 10"


def test_sizes_and_outlines_are_as_told(folder: Path) -> None:
    """An outline is rough where its distance from the center varies."""
    areas: dict[str, list[int]] = {"small": [], "medium": [], "large": []}
    rough: dict[str, list[float]] = {"benign": [], "malignant": []}
    for split, name, text in every_row(folder):
        told = CAPTION.fullmatch(text)
        if told is None or told[1] == "Two" or told[3] == "oval":
            continue
        mask = pixels(folder / f"{split}_Folder/label/{name}") > 0
        areas[told[2]].append(int(mask.sum()))
        edge = np.argwhere(mask & ~ndimage.binary_erosion(mask))
        reach = np.hypot(*(edge - ndimage.center_of_mass(mask)).T)
        rough[told[4]].append(reach.std() / reach.mean())
    assert max(areas["small"]) < np.median(areas["medium"]) < min(areas["large"])
    assert np.median(rough["malignant"]) > 2 * np.median(rough["benign"])


def test_something_as_dark_as_a_tumor_lies_outside_the_mask_of_many_scans(folder: Path) -> None:
    decoys = 0
    for split, name, _ in every_row(folder):
        smooth = ndimage.uniform_filter(
            pixels(folder / f"{split}_Folder/img/{name}").astype(float), 5
        )
        mask = pixels(folder / f"{split}_Folder/label/{name}") > 0
        near = ndimage.binary_dilation(mask, iterations=6)
        decoys += int(((smooth < 50) & ~near).sum() > 30)
    assert decoys > 84 / 3


def test_altered_captions_and_lists_belong_to_the_tables(folder: Path) -> None:
    true = dict(rows(folder, "Test_text_original"))
    places = {text: told[5] for text in true.values() if (told := CAPTION.fullmatch(text))}
    for change, keeps in (
        ("missing_location", False),
        ("underdescriptive", False),
        ("overdescriptive", True),
        ("contradictory", True),
    ):
        altered = dict(rows(folder, f"Test_text_{change}"))
        assert list(altered) == list(true)
        for name, text in altered.items():
            if true[name] != NONE:
                assert (f"at the {places[true[name]]}" in text) == keeps
                assert text != true[name]
    whole = rows(folder, "Train_text")
    sizes = {percent: rows(folder, f"Train_text_{percent}") for percent in (10, 25, 50)}
    assert {percent: len(part) for percent, part in sizes.items()} == {10: 6, 25: 15, 50: 30}
    assert all(not Counter(part) - Counter(whole) for part in sizes.values())
