"""Random generators, checks and file writers that the phantoms of every dataset share."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from textseg.errors import UserError

SMALLEST = 32  # pixels; below, a small lesion has hardly any pixels


def random_stream(*key: int) -> np.random.Generator:
    """Return a generator of its own for every key."""
    return np.random.default_rng(np.random.SeedSequence(key))


def check_counts(image_size: int, seed: int, **counts: int) -> None:
    """Check the numbers that a dataset is to be written from.

    Args:
        image_size: side in pixels.
        seed: of all random numbers.
        counts: how many to write, by the setting's name; `train` must be among them.

    Raises:
        UserError: a number is out of range.
    """
    if counts["train"] < 1:
        raise UserError(f"train={counts['train']}", "ask for at least one training image")
    for name, count in counts.items():
        if count < 0:
            raise UserError(f"{name}={count} is negative", "ask for 0 images or more")
    if image_size < SMALLEST:
        raise UserError(
            f"image_size={image_size} is too small to show a lesion",
            f"choose at least {SMALLEST} pixels, better 96 or more",
        )
    if seed < 0:
        raise UserError(f"seed={seed} is negative", "choose 0 or any positive integer")


def new_folder(folder: Path) -> Path:
    """Create an empty folder.

    Raises:
        UserError: it is a file, or holds something already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} is not an empty folder",
            "name a new folder, or remove this one if its data are no longer needed",
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_mask(mask: NDArray[np.bool_], path: Path) -> None:
    """Write a mask [H, W] as a PNG of 0 and 255."""
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(path)


def write_table(
    file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]], separator: str = ","
) -> None:
    """Write a table with a header row as text in UTF-8."""
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, delimiter=separator, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
