"""Pictures of a network's attention and saliency maps.

Heat goes from dark violet to pale yellow: every step is lighter than the last, also to readers who
do not tell red from green, or blue from yellow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from textseg.preprocess import Bytes, Size, resize_image
from textseg.visualize.overlay import PREDICTION, TRUTH, outlined, resized_mask
from textseg.visualize.sheet import Color, even_columns, sheet_for

HEAT: tuple[Color, ...] = (  # low to high, evenly spaced
    *((22, 11, 57), (72, 20, 104), (126, 37, 111), (180, 54, 99)),
    *((222, 85, 66), (244, 134, 34), (248, 192, 60), (250, 250, 170)),
)
PANEL_SIDE = 320  # the longer side of a panel, pixels


def panel_size(picture: Bytes) -> Size:
    """Height and width of a picture's panel: PANEL_SIDE on the longer side."""
    scale = PANEL_SIDE / max(picture.shape[:2])
    return max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale))


def heat(values: NDArray[Any]) -> Bytes:
    """Values in [0, 1] as colors: [...] -> [..., 3]."""
    positions = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(values, positions, channel) for channel in np.array(HEAT).T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def explanation(
    image: Bytes,
    truth: NDArray[Any] | None,
    pred: NDArray[Any],
    maps: Mapping[str, NDArray[Any]],
    *,
    caption: str,
    word: str | None = None,
    title: Sequence[str] = (),
) -> Bytes:
    """The image with its outlines, then every map as heat over the image, the caption below.

    All panels have one size, 320 pixels on the longer side, and the prediction's outline.

    Args:
        image: [H, W, 3].
        truth: [H, W], nonzero is foreground; None where there is none.
        pred: [H, W], nonzero is foreground.
        maps: by name, ``<where>.<kind>`` or ``<kind>``; [h, w] in [0, 1] of any size.
        caption: of any length and script, as for `overlay`.
        word: the word or phrase of the caption to mark.
        title: lines above the panels.

    Returns:
        [.., .., 3] uint8.
    """
    size = panel_size(image)
    picture = resize_image(image, size)
    outlines = [(PREDICTION, "prediction", resized_mask(pred, size))]
    if truth is not None:
        outlines.insert(0, (TRUTH, "truth", resized_mask(truth, size)))
    panels = [("image", outlined(picture, outlines))]
    for name in _reading_order(maps):
        panels.append((name, outlined(heat_over(picture, maps[name]), outlines[-1:])))

    columns = even_columns(len(panels))
    sheet = sheet_for(panels, columns, title)
    for first in range(0, len(panels), columns):
        sheet.panels(panels[first : first + columns])
        sheet.space()
    sheet.legend([(color, f"{name} (outline)") for color, name, _ in outlines])
    sheet.scale(heat, "each map on its own scale, from its least to its greatest value")
    sheet.space()
    sheet.text(caption or "(empty caption)", word=word)
    return sheet.joined()


def _reading_order(maps: Mapping[str, NDArray[Any]]) -> list[str]:
    """Maps of one kind together; what stands for the whole network after the first kind.

    With the image before them, stage i of each kind then stands in one column.
    """
    whole = [name for name in maps if "." not in name]
    kinds = dict.fromkeys(name.rpartition(".")[2] for name in maps if "." in name)
    groups = [[name for name in maps if name.endswith(f".{kind}")] for kind in kinds]
    return list(chain(*groups[:1], whole, *groups[1:]))


def heat_over(picture: Bytes, values: NDArray[Any]) -> Bytes:
    """Heat over the dimmed gray of the picture, so that only the map can be bright.

    Args:
        picture: [H, W, 3].
        values: [h, w] in [0, 1] of any size.
    """
    height, width = picture.shape[:2]
    plane = Image.fromarray(np.asarray(values, dtype=np.float32))
    resized = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    gray = picture.mean(axis=-1, keepdims=True)
    return (0.22 * gray + 0.78 * heat(resized)).round().astype(np.uint8)
