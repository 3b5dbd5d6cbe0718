"""A small dataset of PNG files of every mode, and comparisons of its samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datamodules.base import TextSegDataModule
from datamodules.dataset import TextSegDataset, collate, to_batch
from datamodules.records import Record
from textseg.tables import case_name

SIZE = (32, 64)
SPLITS = ("train", "val", "test", "predict")
IMAGE_MODES = ("L", "RGB", "gray RGB", "I;16", "1", "RGBA", "P")
MASK_MODES = ("L", "1", "RGB", "RGBA", "faint L")
SIDES = ((40, 70), (32, 64), (33, 31))  # height, width; one needs no resizing


class PngFolder(TextSegDataModule):
    """Every kind of picture in every split, and two rows for each image."""

    def read_records(self, root: Path) -> dict[str, list[Record]]:
        count = 1 + max(int(path.stem[-2:]) for path in root.glob("image_*.png"))
        images = [root / f"image_{number:02}.png" for number in range(count)]
        if self.split == "mirrored":
            images = images[::-1]
        third = len(images) // 3
        parts = {"train": images[:third], "val": images[third:-third], "test": images[-third:]}
        return {
            split: [self._row(i, n) for i in part for n in (0, 1)] for split, part in parts.items()
        }

    def _row(self, image: Path, number: int) -> Record:
        mask = image.with_name(image.name.replace("image", f"mask{number}"))
        text = f"lesion {number} in the left lobe"
        return Record(image, mask, text, case_name(image, number), image.stem, number)

    def write_phantoms(self, folder: Path, rows: int) -> None:
        raise NotImplementedError


def save_image(path: Path, mode: str, side: tuple[int, int], rng: np.random.Generator) -> None:
    if mode == "I;16":
        Image.fromarray(rng.integers(0, 65536, side, dtype=np.uint16)).save(path)
        return
    color = Image.fromarray(rng.integers(0, 256, (*side, 3), dtype=np.uint8))
    image = color.convert("L").convert("RGB") if mode == "gray RGB" else color.convert(mode)
    image.save(path)


def save_mask(path: Path, mode: str, side: tuple[int, int], rng: np.random.Generator) -> None:
    values = rng.choice(np.array([0, 21, 255], dtype=np.uint8), side)
    if mode != "faint L":
        values = np.where(values > 127, 255, 0).astype(np.uint8)
    image = Image.fromarray(values)
    (image if mode == "faint L" else image.convert(mode)).save(path)


def write_pictures(root: Path) -> Path:
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for number in range(3 * len(IMAGE_MODES)):
        side = SIDES[number % 2 if number < 15 else 2]
        save_image(root / f"image_{number:02}.png", IMAGE_MODES[number % 7], side, rng)
        for which in (0, 1):
            mode = MASK_MODES[(number + which) % 5]
            save_mask(root / f"mask{which}_{number:02}.png", mode, side, rng)
    return root


def make(root: Path, **settings: Any) -> PngFolder:
    defaults = {"image_size": list(SIZE), "batch_size": 4, "num_workers": 0}
    cache = str(root.parent / "cache")
    return PngFolder(str(root), **{**defaults, "cache": cache, **settings})


def dataset(datamodule: TextSegDataModule, split: str) -> TextSegDataset:
    found = getattr(datamodule, f"{split}_dataloader")().dataset
    assert isinstance(found, TextSegDataset)
    return found


def folder_of(root: Path) -> Path:
    (folder,) = (root.parent / "cache").iterdir()
    return folder


def picture(sample: Any) -> torch.Tensor:
    """[1, 3, H, W] in [0, 1]: a cache keeps one channel of a gray picture, a file gives three."""
    return to_batch(collate([sample]))["image"]


def same_sample(left: Any, right: Any) -> None:
    assert set(left) == set(right)
    for field, value in left.items():
        if field == "image":
            assert value.dtype == right[field].dtype == torch.uint8
            assert torch.equal(picture(left), picture(right))
        elif isinstance(value, torch.Tensor):
            assert value.dtype == right[field].dtype
            assert torch.equal(value, right[field]), field
        elif field == "spacing":
            assert np.array_equal(value, right[field], equal_nan=True)
        else:
            assert (type(value), value) == (type(right[field]), right[field]), field
