"""BUSI as MedCLIPSeg lays it out, in small, and its DataModule with small settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules import MedCLIPSegDataModule
from tests.datamodules.trees import write_pair, write_table

COLUMNS = ("Image", "Description", "Ground Truth")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom")
ROWS = {"train": 10, "val": 3, "test": 4}


def text_of(number: int) -> str:
    """A caption, equal for no two of 40 rows."""
    size = ("small", "medium", "large", "tiny", "huge")[number // len(PLACES)]
    return f"One {size} tumor at the {PLACES[number % len(PLACES)]} in the ultrasound image."


def write_busi(folder: Path, *, splits: Sequence[str] = tuple(ROWS)) -> Path:
    """BUSI's tree in small: masks called otherwise than images, captions that end in a newline."""
    number = 0
    for split, count in ROWS.items():
        rows = []
        for _ in range(count):
            image, mask = f"{number}.png", f"{number}_segmentation.png"
            home = folder / f"{split.title()}_Folder"
            if split in splits:
                write_pair(home / "img" / image, home / "label" / mask, seed=number)
            rows.append((image, f"{text_of(number)}\n", mask))
            number += 1
        name = "Test_text_original" if split == "test" else f"{split.title()}_text"
        if split in splits:
            save(folder, name, rows)
    return folder


def save(folder: Path, name: str, rows: Sequence[Sequence[str]]) -> Path:
    file = folder / "Prompts_Folder" / f"{name}.xlsx"
    write_table(file, rows, COLUMNS)
    return file


def make(folder: Path, captions: Path | None = None, **settings: Any) -> MedCLIPSegDataModule:
    defaults = {"image_size": 64, "batch_size": 4, "num_workers": 0, "cache": None}
    given = None if captions is None else str(captions)
    return MedCLIPSegDataModule(str(folder), given, **{**defaults, **settings})
