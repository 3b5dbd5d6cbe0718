"""QaTa phantoms pose the task they claim: read again from the files, with code of our own."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from datamodules.qata_cov19.phantoms import write_qata
from tests.datamodules.reading import pixels, table

FILMS = {"train": 120, "test": 40}


@pytest.fixture(scope="module")
def qata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qata") / "new" / "folder"
    write_qata(folder, **FILMS)
    return folder


FOLDERS = {"train": "Train Set", "test": "Test Set"}
NAME = re.compile(r"covid_\d+\.png|sub-S\d{5}_ses-E\d{5}_run-1_bp-chest_vp-ap_dx\.png")
CAPTION = re.compile(
    r"(Bilateral|Unilateral) pulmonary infection, (\w+) infected (areas?), "
    r"(?:((?:\w+ )+?)left lung)?(?: and )?(?:((?:\w+ )+?)right lung)?\."
)
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six"]


def pairs(folder: Path, split: str) -> list[tuple[np.ndarray, np.ndarray, str]]:
    base = folder / "QaTa-COV19" / "QaTa-COV19-v2" / FOLDERS[split]
    found = []
    for row in table(folder / f"{split}.csv"):
        mask = pixels(base / "Ground-truths" / row["Image"])
        image = pixels(base / "Images" / row["Image"].removeprefix("mask_"))
        assert image.shape == mask.shape == (224, 224)
        assert set(np.unique(mask)) == {0, 255}
        found.append((image, mask > 0, row["Description"]))
    return found


@pytest.mark.parametrize("split", ["train", "test"])
def test_qata_lies_in_kaggles_layout_with_a_sorted_table(qata: Path, split: str) -> None:
    base = qata / "QaTa-COV19" / "QaTa-COV19-v2" / FOLDERS[split]
    rows = table(qata / f"{split}.csv")
    names = [row["Image"] for row in rows]
    assert list(rows[0]) == ["Image", "Description"]
    assert names == sorted(names)
    assert len(names) == FILMS[split]
    assert {path.name for path in (base / "Ground-truths").iterdir()} == set(names)
    images = {path.name for path in (base / "Images").iterdir()}
    assert {f"mask_{name}" for name in images} == set(names)
    assert all(NAME.fullmatch(name) for name in images)
    covid = sum(name.startswith("covid_") for name in images)
    assert (0.2 < covid / len(images) < 0.6) if split == "train" else covid == 0


def test_qata_subjects_have_several_films_and_are_in_one_set_only(qata: Path) -> None:
    subjects = {
        split: Counter(re.findall(r"sub-S\d+", (qata / f"{split}.csv").read_text()))
        for split in FILMS
    }
    assert subjects["train"].keys().isdisjoint(subjects["test"])
    for counts in subjects.values():
        assert set(counts.values()) == {1, 2, 3}


def lung_rows(image: np.ndarray, side: str) -> tuple[int, int]:
    """First and last row of the lung on one side of the picture, by its darkness."""
    smooth = ndimage.gaussian_filter(image.astype(float), 1.5)
    half = np.zeros(image.shape, dtype=bool)
    columns = slice(15, 112) if side == "left" else slice(112, 209)
    half[20:190, columns] = smooth[20:190, columns] < 128
    labels, count = ndimage.label(half)
    middle = np.bincount(labels[90:140].ravel(), minlength=count + 1)
    rows = np.flatnonzero((labels == middle[1:].argmax() + 1).any(axis=1))
    return int(rows[0]), int(rows[-1])


def zones_of(image: np.ndarray, mask: np.ndarray, side: str) -> set[str]:
    """Thirds of one lung that hold at least a twentieth of its infected pixels."""
    top, bottom = lung_rows(image, side)
    columns = slice(0, 112) if side == "left" else slice(112, 224)
    rows, _ = np.nonzero(mask[:, columns])
    third = ((rows - top) / (bottom - top) * 3).clip(0, 2.99).astype(int)
    share = np.bincount(third, minlength=3) / max(1, len(rows))
    return {
        name for name, part in zip(("upper", "middle", "lower"), share, strict=True) if part > 0.05
    }


@pytest.mark.parametrize("split", ["train", "test"])
def test_qata_captions_are_true_of_the_mask(qata: Path, split: str) -> None:
    for image, mask, caption in pairs(qata, split):
        match = CAPTION.fullmatch(caption)
        assert match, caption
        extent, number, noun, *positions = match.groups()
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        assert number == NUMBERS[count], caption
        assert (noun == "area") == (count == 1)
        assert np.bincount(labels.ravel())[1:].min() > 100
        said = {
            side: set((words or "").replace("all", "upper middle lower").split())
            for side, words in zip(("left", "right"), positions, strict=True)
        }
        assert (extent == "Bilateral") == all(said.values())
        for side, zones in said.items():
            assert zones_of(image, mask, side) == zones, caption


def test_qata_infection_is_faint_and_of_real_extent(qata: Path) -> None:
    films = pairs(qata, "train")
    share = [mask.mean() for _, mask, _ in films]
    assert 0.03 < np.median(share) < 0.15
    assert {caption.split()[3] for _, _, caption in films} >= {"one", "two", "three", "four"}
    step = []
    for image, mask, _ in films:
        ring = ndimage.binary_dilation(mask, iterations=6) & ~ndimage.binary_dilation(mask)
        dark = ring & (image < 125)  # leaves out the wall and the diaphragm
        step.append(image[mask].mean() - image[dark].mean())
    assert 10 < np.median(step) < 35
