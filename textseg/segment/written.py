"""The files of one segmented image."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from textseg.errors import UserError, first_line
from textseg.preprocess import FULL_SCALE
from textseg.segment.network import Segmentation
from textseg.segment.rows import Row
from textseg.tables import spreadsheet_cell
from textseg.visualize.overlay import overlay


def write_left_out(folder: Path, errors: Mapping[Path, UserError]) -> None:
    """Write left_out.csv: each image that has no results, and the reason."""
    with (folder / "left_out.csv").open("w", encoding="utf-8", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(("file", "reason"))
        rows = ((str(path), first_line(error)) for path, error in errors.items())
        table.writerows(map(spreadsheet_cell, row) for row in rows)


def write_masks(folder: Path, row: Row, result: Segmentation, *, probabilities: bool) -> None:
    """Write masks/, overlays/ and, if asked, probabilities/ of a row, named by its case."""
    name, caption = f"{row.case}.png", row.text or "(no text)"
    Image.fromarray(result.mask.astype(np.uint8) * 255).save(folder / "masks" / name)
    page = overlay(result.image, None, result.mask, caption=caption, title=[row.case])
    Image.fromarray(page).save(folder / "overlays" / name)
    if probabilities:
        levels = (result.probs.astype(np.float64) * FULL_SCALE).round().astype(np.uint16)
        Image.fromarray(levels).save(folder / "probabilities" / name)
