"""Rows of a manifest, tables written of them in every format, and a lenient reader."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.files.manifest import read_manifest

Entry = dict[str, Any]

ROWS: list[Entry] = [
    {"image": "i/a.png", "mask": "m/a.png", "text": "left lesion", "case_id": "1"},
    {"image": "i/a.png", "mask": "m/a2.png", "text": "right, small; lesion", "case_id": "1"},
    {"image": "i/b.png", "mask": "m/b.png", "text": "Läsion links", "case_id": "2"},
    {"image": "i/c.png", "mask": "m/c.png", "text": "two lesions", "case_id": "3"},
]
SPLITS = ("train", "train", "val", "test")


def divided() -> list[Entry]:
    return [{**row, "split": split} for row, split in zip(ROWS, SPLITS, strict=True)]


def without(rows: list[Entry], *columns: str) -> list[Entry]:
    return [{k: v for k, v in row.items() if k not in columns} for row in rows]


def save(file: Path, rows: list[Entry], separator: str = ",") -> Path:
    """The rows as the suffix of `file` asks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".xlsx":
        pd.DataFrame(rows).to_excel(file, index=False)
    else:
        with file.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.DictWriter(lines, list(rows[0]), delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    return file


def lenient(root: Path, rows: list[Entry], name: str = "manifest.csv") -> dict[str, list[Any]]:
    file = save(root / name, rows)
    return read_manifest(root, file, needs_split=False, lenient=True)


def counts(splits: Mapping[str, list[Any]]) -> dict[str, int]:
    return {split: len(rows) for split, rows in splits.items() if rows}
