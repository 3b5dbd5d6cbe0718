"""Twelve pictures with a bright disc on each side, masks of one of them, and a manifest."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 48
SPLITS = ("train", "train", "train", "train", "val", "test")
Write = Callable[[np.ndarray, Path], Any]


def disc(column: int, row: int) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (columns - column) ** 2 + (rows - row) ** 2 < 36


def save(values: np.ndarray, path: Path) -> None:
    Image.fromarray(values).save(path)


def write_discs(
    root: Path,
    *,
    image: Write = save,
    mask: Write = save,
    text: str = "disc on the {}",
    suffix: str = "png",
    separator: str = ",",
    encoding: str = "utf-8",
    head: str = "",
    **more: str,
) -> Path:
    """Write the set; `image` and `mask` save uint8 values [48, 48] to a file."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    rows = []
    for number in range(12):
        side = ("left", "right")[(number + number // 6) % 2]
        discs = {"left": disc(12, 20 + number // 2), "right": disc(36, 20 + number // 2)}
        picture = np.random.default_rng(number).normal(90, 12, (SIDE, SIDE)).clip(0, 255)
        picture[discs["left"] | discs["right"]] = 190
        image(picture.astype(np.uint8), root / f"images/p{number:02}.{suffix}")
        mask(discs[side].astype(np.uint8) * 255, root / f"masks/p{number:02}.png")
        row = {"image": f"images/p{number:02}.{suffix}", "mask": f"masks/p{number:02}.png"}
        row |= {"text": text.format(side), "case_id": f"c{number}", "split": SPLITS[number % 6]}
        rows.append({**row, **more})
    with (root / "manifest.csv").open("w", newline="", encoding=encoding) as lines:
        lines.write(head)
        table = csv.DictWriter(lines, rows[0], delimiter=separator)
        table.writeheader()
        table.writerows(rows)
    return root
