"""Random generators, checks and file writers that the phantoms of every dataset share."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from textseg.errors import UserError, check_at_least, check_seed

SMALLEST = 32  # pixels; below, a small lesion has hardly any pixels


def random_stream(*key: int) -> np.random.Generator:
    """Return a generator of its own for every key."""
    return np.random.default_rng(np.random.SeedSequence(key))


def check_counts(image_size: int, seed: int, **counts: int) -> None:
    """Check the numbers that a dataset is to be written from; `train` must be among the counts.

    Raises:
        UserError: a number is out of range.
    """
    for name, count in counts.items():
        check_at_least(name, count, 1 if name == "train" else 0)
    remedy = f"choose at least {SMALLEST} pixels, better 96 or more, so that lesions show"
    check_at_least("image_size", image_size, SMALLEST, remedy)
    check_seed(seed)


def new_folder(folder: Path, *inner: str) -> Path:
    """Create an empty folder, and the folders of the given names inside it.

    Raises:
        UserError: it is a file, or holds something already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} is not an empty folder",
            "name a new folder, or remove this one if its data are no longer needed",
        )
    for path in (folder, *(folder / name for name in inner)):
        path.mkdir(parents=True, exist_ok=True)
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
