"""Pictures of the page, at a size that a screen shows."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from textseg.preprocess import Bytes, Size, resize_image
from textseg.visualize.explanation import HEAT, heat_over
from textseg.visualize.overlay import FALSE_ALARM, PREDICTION, enlarged, painted, reduced_mask
from textseg.visualize.sheet import Color

COLORS: tuple[Color, Color] = (PREDICTION, FALSE_ALARM)  # of the first and the second finding
_LEAST, _MOST = 512, 1024  # pixels on the longer side
_MAP_SIDE = 256  # of an explanation


def panel(picture: Bytes) -> Bytes:
    """A picture [H, W, 3] with 512 to 1024 pixels on its longer side.

    A small one is enlarged by a whole factor, which may leave more.
    """
    size = _shown_size(picture)
    if size is not None:
        return resize_image(picture, size)
    return np.asarray(enlarged(picture, _factor(picture)))


def mask_panel(picture: Bytes, mask: NDArray[np.bool_], number: int) -> Bytes:
    """A panel with a mask [H, W] in the color of finding `number`.

    Where the picture is reduced, a pixel is foreground if any of its own is.
    """
    size = _shown_size(picture)
    marked = enlarged(mask, _factor(picture)) if size is None else reduced_mask(mask, size)
    return painted(panel(picture), marked, COLORS[number])


def probability_panel(picture: Bytes, probs: NDArray[Any]) -> Bytes:
    """A panel of probabilities [H, W] as heat over the picture, from 0 to 1."""
    return heat_over(panel(picture), probs)


def map_panel(picture: Bytes, values: NDArray[Any]) -> Bytes:
    """A small panel of an explanation [h, w] in [0, 1]."""
    scale = _MAP_SIDE / max(picture.shape[:2])
    size = (max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale)))
    return heat_over(resize_image(picture, size), values)


def png(pixels: Bytes) -> bytes:
    """The bytes of a PNG of [H, W] or [H, W, 3]."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)
    return file.getvalue()


def mask_file(mask: NDArray[np.bool_]) -> bytes:
    """The PNG of a mask, 0 and 255, at the picture's own size."""
    return png(mask.astype(np.uint8) * np.uint8(255))


def heat_gradient() -> str:
    """The colors of heat from low to high, for CSS."""
    return ", ".join(f"rgb{color}" for color in HEAT)


def _factor(picture: Bytes) -> int:
    return max(1, -(-_LEAST // max(picture.shape[:2])))


def _shown_size(picture: Bytes) -> Size | None:
    """The size of a picture that must be reduced; None of others."""
    longer = max(picture.shape[:2])
    if longer <= _MOST:
        return None
    scale = _MOST / longer
    return max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale))
