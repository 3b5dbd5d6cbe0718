"""What all writers share: random streams, refusals, and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from textseg.errors import UserError

SPLITS = ("train", "val", "test")
SMALLEST = 32  # pixels; below, a small lesion has no pixels to speak of
COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def random_stream(*key: int) -> np.random.Generator:
    """Return a generator of its own for every key."""
    return np.random.default_rng(np.random.SeedSequence(key))


def check_counts(image_size: int, seed: int, **counts: int) -> None:
    """Refuse numbers that no data set can be written from."""
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
    """Create the folder; a file or a folder with anything in it is refused."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} is not an empty folder",
            "name a new folder, or remove this one if its data are no longer needed",
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_mask(mask: NDArray[np.bool_], path: Path) -> None:
    """A PNG of 0 and 255."""
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(path)
