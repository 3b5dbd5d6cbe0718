"""Draws a case with its mask under each change of its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textseg.preprocess import Bytes, Size, resize_image
from textseg.visualize.explanation import panel_size
from textseg.visualize.overlay import PREDICTION, TRUTH, outlined, painted, resized_mask
from textseg.visualize.sheet import FAINT, Sheet, even_columns

_MIN_WIDTH = 220  # of a cell, pixels: room for a caption under a narrow image
_TEXT_SIZE = 15


class Panel(NamedTuple):
    """One variant: its name, its mask [H, W], its caption, and the numbers in words."""

    name: str
    mask: NDArray[Any]
    text: str
    note: str


def probe_picture(
    image: Bytes, truth: NDArray[Any], panels: Sequence[Panel], *, title: str
) -> Bytes:
    """Draw the image [H, W, 3] with its truth [H, W], then each panel's mask and caption."""
    size = panel_size(image)
    picture = resize_image(image, size)
    outline = [(TRUTH, "truth", resized_mask(truth, size))]
    cells = [_cell("image", outlined(picture, outline), ["outlined: the truth"])]
    for panel in panels:
        filled = painted(picture, resized_mask(panel.mask, size), PREDICTION)
        lines = [panel.note, panel.text or "(empty caption)"]
        cells.append(_cell(panel.name, outlined(filled, outline), lines))
    return _joined(cells, size, title)


def _cell(name: str, picture: Bytes, lines: Sequence[str]) -> Bytes:
    """A panel under its name, and lines below: faint numbers first, the caption last."""
    sheet = Sheet(max(_MIN_WIDTH, picture.shape[1]), _TEXT_SIZE)
    sheet.panels([(name, picture)])
    sheet.text(lines[0], FAINT)
    for line in lines[1:]:
        sheet.text(line)
    return np.concatenate(sheet.strips)


def _joined(cells: Sequence[Bytes], size: Size, title: str) -> Bytes:
    """Rows of cells of one width, each row as tall as its tallest cell, title above."""
    columns = even_columns(len(cells))
    gap = max(16, size[0] // 20)
    width = cells[0].shape[1]
    sheet = Sheet(columns * (width + gap) - gap, _TEXT_SIZE)
    sheet.text(title)
    sheet.legend([(TRUTH, "truth (outline)"), (PREDICTION, "mask with these words")])
    sheet.space()
    for first in range(0, len(cells), columns):
        row = cells[first : first + columns]
        height = max(cell.shape[0] for cell in row)
        strip = np.full((height, sheet.width, 3), 255, dtype=np.uint8)
        for column, cell in enumerate(row):
            left = column * (width + gap)
            strip[: cell.shape[0], left : left + width] = cell
        sheet.strips.append(strip)
        sheet.space()
    return sheet.joined()
