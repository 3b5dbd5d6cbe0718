"""Pictures in the place of masks: refused, or warned of, in training and in an audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.datamodules.contract import refused
from tests.datamodules.disc_set import save, write_discs
from tests.datamodules.test_pixel_checks import ALL, CACHES, kinds, make, set_up


def shaded(size: int) -> np.ndarray:
    """A picture of many grays, brighter and darker than 127, of a few waves."""
    rows, columns = np.mgrid[:size, :size]
    waves = np.sin(rows / 5) * np.cos(columns / 7) + np.sin((rows + 2 * columns) / 11)
    return (127 + 60 * waves).clip(0, 255).astype(np.uint8)


def picture(mask: np.ndarray, path: Path) -> None:
    """A picture in the place of its mask."""
    save(shaded(len(mask)), path)


def tinted(mask: np.ndarray, path: Path) -> None:
    """A picture with the disc drawn over it in red."""
    values = np.repeat(shaded(len(mask))[..., None], 3, axis=2)
    values[mask > 0, 0] = 255
    save(values, path)


def cut_out(mask: np.ndarray, path: Path) -> None:
    """A picture where the disc is, of values on both sides of 127, else black."""
    rows, columns = np.mgrid[: len(mask), : len(mask)]
    save(np.where(mask > 0, 40 + (37 * rows + 59 * columns) % 160, 0).astype(np.uint8), path)


def smoothed(mask: np.ndarray, path: Path) -> None:
    """A mask with soft edges, resized from twice the size."""
    large = Image.fromarray(mask).resize((4 * len(mask),) * 2, Image.Resampling.NEAREST)
    large.resize((len(mask),) * 2, Image.Resampling.BICUBIC).save(path)


@CACHES
@pytest.mark.parametrize("write", [picture, tinted])
def test_pictures_in_the_place_of_masks_are_refused(
    tmp_path: Path, write: Any, cache: str | None
) -> None:
    root = write_discs(tmp_path / "discs", mask=write)
    with refused("8 of 8 masks of train", "shaded like pictures", "column"):
        set_up(make(root, cache=cache))
    assert kinds(root)["error", "picture as mask"] == ALL


def test_pictures_that_are_named_as_their_own_masks_are_refused(tmp_path: Path) -> None:
    root = write_discs(tmp_path / "discs")
    table = root / "manifest.csv"
    rows = table.read_text().replace("masks/p01", "images/p01")
    table.write_text(rows)
    with refused("1 of 8 images of train", "their own masks"):
        set_up(make(root))
    assert kinds(root)["error", "picture as mask"] >= 1


def test_masks_cut_out_of_pictures_are_warned_of_and_smooth_edges_are_not(tmp_path: Path) -> None:
    root = write_discs(tmp_path / "discs", mask=cut_out)
    [warning] = [found for found in set_up(make(root)) if "more gray than white" in found]
    assert "8 of 8 masks of train" in warning
    assert kinds(root)["warning", "shaded mask"] == ALL
    assert set_up(make(write_discs(tmp_path / "smooth", mask=smoothed))) == []
