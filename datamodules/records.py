"""One row of a dataset on disk: an image, its mask and an expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from textseg.tables import identity

Stage = Literal["train", "val", "test", "predict"]


@dataclass(frozen=True)
class Record:
    """A row of a split.

    Args:
        image: file of the picture.
        mask: file of the mask; None only where nothing is scored.
        text: the expression.
        case: names the row; safe as a file name.
        case_id: patient or study, as `textseg.tables.identity` writes it; "" where unknown.
        row: number in the caption table, from 0.
        spacing: millimeters per pixel, rows then columns; None where unknown.
        strata: its classes by the columns that `data.strata` names, in their order.
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
    strata: tuple[str, ...] = ()
    altered: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Write `case_id` in one way, so that one patient is one patient."""
        if not self.case_id.isascii():
            object.__setattr__(self, "case_id", identity(self.case_id))


Splits = dict[str, list[Record]]
"""Rows by "train", "val", "test" and "predict"."""


def unlikely_spacing(millimeters: Sequence[float]) -> bool:
    """Whether a pixel or voxel has a side as none of a patient has: under 0.01 or over 50 mm."""
    return min(millimeters) < 0.01 or max(millimeters) > 50
