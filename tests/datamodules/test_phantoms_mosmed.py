"""The CT phantoms are what their captions say: read again from the files, with code of our own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from datamodules.mosmed.phantoms import write_mosmed

SLICES = {"train": 60, "val": 10, "test": 10}
SIZE = 128
TABLES = {
    "train": "Train_text_MosMedData+ 1(in).csv",
    "val": "Val_text_MosMedData+ 1(in).csv",
    "test": "Test_text_MosMedData+(in).csv",
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAME = re.compile(
    r"(Morozov_study_\d{4}|Jun_coronacases_case\d+|Jun_radiopaedia_\d+_\d+_\d_case\d+)_\d+\.png"
    r"|(bjorke_\d+)\.png"
)
CAPTION = re.compile(
    r"(Uni|Bi)lateral pulmonary infection, (\w+) infected areas, "
    r"(?:(upper|middle|lower|all) )?left lung(?: and (upper|middle|lower|all) right lung)?\.\.?"
)
EVERYWHERE = np.ones((3, 3))  # pixels that touch by a corner are one area


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mosmed") / "new"
    write_mosmed(folder, **SLICES, image_size=SIZE)
    return folder


def rows(folder: Path, split: str) -> dict[str, str]:
    header, *lines = (folder / TABLES[split]).read_text(encoding="utf-8").splitlines()
    assert header == "Image;text"
    return dict(line.split(";") for line in lines)


def every_row(folder: Path) -> dict[str, str]:
    return {name: text for split in TABLES for name, text in rows(folder, split).items()}


def picture(folder: Path, kind: str, name: str) -> np.ndarray:
    """One of three equal channels, [S, S]."""
    with Image.open(folder / kind / name) as image:
        assert image.mode == "RGB"
        values = np.asarray(image)
    assert (values == values[..., :1]).all()
    return values[..., 0]


def mask_of(folder: Path, name: str) -> np.ndarray:
    return picture(folder, "masks", name) == 255


def lung_rows(folder: Path, name: str, side: int) -> tuple[int, int]:
    """First row and last row + 1 of the lung in one half: what is dark or ill and not outside."""
    seen = picture(folder, "frames", name)
    dark, _ = ndimage.label((seen < 90) | mask_of(folder, name))
    outside = set(dark[0]) | set(dark[-1])
    inner = (dark > 0) & ~np.isin(dark, list(outside))
    parts, _ = ndimage.label(inner)
    sizes = np.bincount(parts.ravel())[1:]
    lungs = np.isin(parts, 1 + np.flatnonzero(sizes > SIZE**2 / 50))
    half = lungs[:, SIZE // 2 :] if side else lungs[:, : SIZE // 2]
    found = np.flatnonzero(half.any(axis=1))
    return int(found[0]), int(found[-1]) + 1


def zones(folder: Path, name: str, side: int) -> set[str]:
    """The thirds of a lung's height that lesions of this half reach."""
    first, end = lung_rows(folder, name, side)
    mask = mask_of(folder, name)
    half = mask[:, SIZE // 2 :] if side else mask[:, : SIZE // 2]
    thirds = (np.flatnonzero(half.any(axis=1)) + 0.5 - first) * 3 // (end - first)
    return {("upper", "middle", "lower")[int(third)] for third in thirds}


def said(position: str | None) -> set[str]:
    return {"upper", "middle", "lower"} if position == "all" else {position} - {None}


def test_the_layout_is_kaggles_with_the_tables_of_lvit(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"frames", "masks", *TABLES.values()}
    names = set(every_row(folder))
    assert len(names) == sum(SLICES.values())
    for kind in ("frames", "masks"):
        assert {path.name for path in (folder / kind).iterdir()} == names
    for split, count in SLICES.items():
        listed = list(rows(folder, split))
        assert len(listed) == count
        assert listed == sorted(listed, key=str.casefold)


def test_names_are_of_the_four_real_families_and_no_study_is_in_two_splits(folder: Path) -> None:
    studies: dict[str, set[str]] = {}
    for split in TABLES:
        found = [NAME.fullmatch(name) for name in rows(folder, split)]
        studies[split] = {match[1] or match[2] for match in found if match}
        assert all(found)
    families = {re.sub(r"[_\d].*", "", s.replace("Jun_", "Jun")) for s in studies["train"]}
    assert families == {"Junradiopaedia", "Juncoronacases", "Morozov", "bjorke"}
    assert len(set().union(*studies.values())) == sum(map(len, studies.values()))


def test_every_caption_is_true_of_its_mask(folder: Path) -> None:
    for name, text in every_row(folder).items():
        mask = mask_of(folder, name)
        count = ndimage.label(mask, EVERYWHERE)[1]
        if text == "No pulmonary infection, zero infected areas.":
            assert count == 0
            continue
        found = CAPTION.fullmatch(text)
        assert found, text
        extent, number, left, right = found.groups()
        assert number == NUMBERS[count], name
        assert zones(folder, name, 0) == said(left), name
        assert zones(folder, name, 1) == said(right), name
        assert (extent == "Bi") == bool(left and right)


def edges(solid: np.ndarray) -> np.ndarray:
    """How many of each pixel's four neighbors are in the mask, at most 2."""
    beside = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    return ndimage.convolve(solid.astype(int), beside, mode="constant").clip(0, 2)


def test_the_templates_quirks_occur(folder: Path) -> None:
    texts = list(every_row(folder).values())
    assert any(re.search(r"areas, left lung and \w+ right lung", text) for text in texts)
    assert any(", one infected areas," in text for text in texts)
    assert not any("infected area," in text for text in texts)
    assert any("zero" in text for text in texts)
    assert any(text.endswith("..") for text in texts)
    for text in texts:
        assert text.endswith("..") == ("all right lung" in text)


def test_masks_have_the_rim_that_the_real_ones_have(folder: Path) -> None:
    for name in every_row(folder):
        values = picture(folder, "masks", name)
        solid = values == 255
        assert set(np.unique(values)) <= {0, 12, 17, 21, 255}
        assert ((values > 0) == ndimage.binary_dilation(solid, EVERYWHERE)).all()
        rim = (values > 0) & ~solid
        assert (values[rim] == np.array((12, 17, 21))[edges(solid)][rim]).all()


@pytest.mark.real_data
def test_the_real_rim_follows_the_same_rule(real_data: Path) -> None:
    """All but 52 of 52,808 rim pixels of the 27 real masks."""
    wrong = total = 0
    for file in (real_data / "mosmed_images_sample/masks").iterdir():
        with Image.open(file) as image:
            values = np.asarray(image)[..., 0]
        solid = values == 255
        expected = np.array((12, 17, 21))[edges(solid)]
        rim = (values > 0) & ~solid
        assert (rim == ndimage.binary_dilation(solid, EVERYWHERE) & ~solid).all()
        wrong += int((values[rim] != expected[rim]).sum())
        total += int(rim.sum())
    assert (wrong, total) == (52, 52808)


def test_infected_lung_is_brighter_than_healthy_lung(folder: Path) -> None:
    for name, text in every_row(folder).items():
        if "zero" in text:
            continue
        seen, mask = picture(folder, "frames", name), mask_of(folder, name)
        near = ndimage.binary_dilation(mask, iterations=8) & ~ndimage.binary_dilation(
            mask, iterations=3
        )
        healthy = seen[near & (seen < 90)]
        assert seen[mask].mean() > healthy.mean() + 30, name


@pytest.mark.parametrize("size", [32, 48, 64])
def test_captions_count_truly_at_small_sizes_too(tmp_path: Path, size: int) -> None:
    write_mosmed(tmp_path / "new", train=60, val=0, test=0, image_size=size)
    for name, text in rows(tmp_path / "new", "train").items():
        assert (
            f"{NUMBERS[ndimage.label(mask_of(tmp_path / 'new', name), EVERYWHERE)[1]]} inf" in text
        )
