"""Windows: which values of a volume become black and which white."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files.volumes import Array
from textseg.errors import UserError
from textseg.preprocess import Bytes, ct_window

HEADER = "header"
PERCENTILES = "percentiles"
DARKEST, BRIGHTEST = 0.5, 99.5  # percentiles that become black and white
LEAST_CONTRAST = 0.02  # of a window's width, which the values must span
# Hounsfield units, as radiology departments set them.
NAMED = {
    "abdomen": (40.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
}
_HOW = (
    f"give one of {', '.join(NAMED)}; or center and width, as in 40,400; or {PERCENTILES} of each "
    "volume, for MR"
)


class Window(NamedTuple):
    """The value that becomes middle gray, and the values from black to white."""

    center: float
    width: float

    def __str__(self) -> str:
        return f"center {self.center:g}, width {self.width:g}"

    def gray(self, values: Array) -> Bytes:
        """Values of any shape as gray levels, as `ct_window` gives them."""
        return ct_window(values, self.center, self.width)


def parse_window(text: str) -> Window | str:
    """Read a window as it is typed: two numbers, a name, "header" or "percentiles".

    Returns:
        the window, or `HEADER` or `PERCENTILES`, which only a volume turns into one.

    Raises:
        UserError: it is none of these, or the width is not positive.
    """
    word = text.strip().casefold()
    if word in (HEADER, PERCENTILES):
        return word
    if word in NAMED:
        return Window(*NAMED[word])
    try:
        numbers = [float(part) for part in re.split(r"[\s,;/]+", word) if part]
    except ValueError:
        numbers = []
    if len(numbers) != 2 or not np.isfinite(numbers).all() or numbers[1] <= 0:
        raise UserError(f"window={text!r} is no window", _HOW)
    return Window(*numbers)


def window_for(
    chosen: Window | str, values: Array, header: tuple[float, float] | None, where: Any
) -> Window:
    """The window of one volume, under which there is something to see.

    Args:
        chosen: what `parse_window` gave.
        values: of the volume, any shape.
        header: center and width that the file gives; None where it gives none.
        where: the file, for messages.

    Raises:
        UserError: the file gives no window, or the values hardly differ under it.
    """
    if chosen == HEADER:
        if header is None:
            raise UserError(f"{where} gives no window of its own (window={HEADER})", _HOW)
        window = Window(*header)
    elif isinstance(chosen, Window):
        window = chosen
    else:
        low, high = np.percentile(values, (DARKEST, BRIGHTEST)).tolist()
        if high <= low:
            raise UserError(f"{where} is {low:g} nearly everywhere", "export it again")
        window = Window((low + high) / 2, high - low)
    least, most = float(values.min()), float(values.max())
    black, white = window.center - window.width / 2, window.center + window.width / 2
    if min(most, white) - max(least, black) < LEAST_CONTRAST * window.width:
        raise UserError(
            f"{where} holds values from {least:g} to {most:g}, of which the window from {black:g} "
            f"to {white:g} shows next to nothing",
            f"{_HOW}; if the values were scaled, take the original volume",
        )
    if window in NAMED.values() and least >= 0:
        rank_zero_warn(
            f"{where} holds values from {least:g} to {most:g}, none below 0, and is shown in a "
            f"window of Hounsfield units ({window}): if it is no CT, give {PERCENTILES}; if it is "
            "one that was shifted, take the original volume"
        )
    return window
