"""One row of a dataset on disk: an image, its mask and an expression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Stage = Literal["train", "val", "test", "predict"]


@dataclass(frozen=True)
class Record:
    """A row of a split.

    Args:
        image: file of the picture.
        mask: file of the mask; None only where nothing is scored.
        text: the expression.
        case: names the row; safe as a file name.
        case_id: patient or study; "" where unknown.
        row: number in the caption table, from 0.
        spacing: millimeters per pixel, rows then columns; None where unknown.
        altered: other captions of the row that the dataset offers, by the name of their set, such
            as "contradictory"; `textseg probe` gives them to a network, nothing else reads them.
    """

    image: Path
    mask: Path | None
    text: str
    case: str
    case_id: str
    row: int
    spacing: tuple[float, float] | None = None
    altered: Mapping[str, str] = field(default_factory=dict, hash=False)


Splits = dict[str, list[Record]]
"""Rows by "train", "val", "test" and "predict"."""
