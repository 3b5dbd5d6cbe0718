"""The files of segmented images."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from tqdm import tqdm

from textseg.errors import UserError, first_line
from textseg.output import is_whole_png, whole_text, write_picture
from textseg.preprocess import FULL_SCALE
from textseg.segment.network import Segmentation, Segmenter
from textseg.segment.pipeline import Writers
from textseg.segment.rows import Row
from textseg.tables import spreadsheet_cell
from textseg.visualize.overlay import overlay


def write_left_out(folder: Path, errors: Mapping[Path, UserError]) -> None:
    """Write left_out.csv: each image that has no results, and the reason."""
    with whole_text(folder / "left_out.csv", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(("file", "reason"))
        rows = ((str(path), first_line(error)) for path, error in errors.items())
        table.writerows(map(spreadsheet_cell, row) for row in rows)


def write_masks(folder: Path, row: Row, result: Segmentation, kinds: Sequence[str]) -> None:
    """Write masks/ and, of `kinds`, overlays/ and probabilities/ of a row, named by its case.

    The mask comes last: where there is one, the row is done.
    """
    name = f"{row.case}.png"
    if "probabilities" in kinds:
        levels = (result.probs.astype(np.float64) * FULL_SCALE).round().astype(np.uint16)
        write_picture(folder / "probabilities" / name, levels)
    if "overlays" in kinds:
        write_overlay(folder / "overlays" / name, result, row.text, row.case)
    write_picture(folder / "masks" / name, result.mask.astype(np.uint8) * 255)


def write_overlay(file: Path, result: Segmentation, text: str | None, title: str) -> None:
    """Write a picture of what was outlined, under a title and over the text."""
    caption = text or "(no text)"
    write_picture(file, overlay(result.image, None, result.mask, caption=caption, title=[title]))


def work_of(rows: Sequence[Row], ckpt_paths: Sequence[str], *settings: object) -> str:
    """What a folder is of: an ended command's goes on for the same texts, files and settings."""
    digest = hashlib.blake2b(repr(settings).encode(errors="replace"), digest_size=16)
    for file in (*map(Path, ckpt_paths), *(row.image for row in rows)):
        path = file.expanduser().absolute()
        state = path.stat()
        told = f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0"
        digest.update(told.encode(errors="surrogateescape"))
    for row in rows:
        digest.update(f"{row.case}\0{row.text}\0".encode(errors="replace"))
    return f"segment {digest.hexdigest()}"


def left_of(rows: Sequence[Row], folder: Path, kinds: Sequence[str], batch_size: int) -> list[Row]:
    """Rows that an ended command has left, in whole batches, with what is done in those.

    In another batch the last bits of a probability may differ.
    """

    def is_done(row: Row) -> bool:
        return all(is_whole_png(folder / kind / f"{row.case}.png") for kind in kinds)

    batches = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return [row for batch in batches if not all(map(is_done, batch)) for row in batch]


def write_each(
    net: Segmenter, rows: Sequence[Row], folder: Path, kinds: Sequence[str], batch_size: int
) -> dict[Path, UserError]:
    """Write the results of rows; return the images that could not be segmented, with the errors."""
    left_out = {}
    images, texts = [row.image for row in rows], [row.text for row in rows]
    with (
        closing(net.segment_each(images, texts, batch_size=batch_size)) as results,
        Writers() as writers,
    ):
        bar = tqdm(results, "segment", len(rows), delay=2, unit="image")
        for row, result in zip(rows, bar, strict=True):
            if isinstance(result, UserError):
                left_out[row.image] = result
            else:
                writers.write(result.nbytes, write_masks, folder, row, result, kinds)
    return left_out
