"""Pictures of a prediction beside its truth.

Drawn with numpy and PIL alone. Hits are blue, false alarms orange, misses magenta: chosen to stay
apart for readers who do not tell red from green, or blue from yellow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textseg.metrics.scores import dice_from_counts
from textseg.preprocess import Bytes, Size, resize_image, resize_mask
from textseg.visualize.sheet import Color, Sheet, sheet_for

Mask = NDArray[np.bool_]

HIT: Color = (40, 140, 255)
FALSE_ALARM: Color = (255, 170, 20)
MISS: Color = (250, 60, 130)
TRUTH: Color = (250, 230, 70)
PREDICTION: Color = (70, 220, 230)
_MIN_HEIGHT = 256  # of a panel, pixels
_MOST_PIXELS = 2048  # on a side of a panel
_LEGEND = ((HIT, "found (TP)"), (FALSE_ALARM, "false alarm (FP)"), (MISS, "missed (FN)"))


def tp_fp_fn(truth: NDArray[Any], pred: NDArray[Any]) -> Bytes:
    """Agreement of two masks as colors on black: two [H, W], nonzero is foreground -> [H, W, 3].

    HIT where both are foreground, FALSE_ALARM where only the prediction is, MISS where only the
    truth is.
    """
    truth = np.asarray(truth, dtype=bool)
    pred = _checked("pred", pred, truth.shape)
    colors = np.zeros((*truth.shape, 3), dtype=np.uint8)
    colors[truth & pred] = HIT
    colors[pred & ~truth] = FALSE_ALARM
    colors[truth & ~pred] = MISS
    return colors


def overlay(
    image: Bytes,
    truth: NDArray[Any] | None,
    pred: NDArray[Any],
    *,
    caption: str,
    title: Sequence[str] = (),
) -> Bytes:
    """Draw `overlay_sheet` as one picture: [.., .., 3] uint8."""
    return overlay_sheet(image, truth, pred, caption=caption, title=title).joined()


def overlay_sheet(
    image: Bytes,
    truth: NDArray[Any] | None,
    pred: NDArray[Any],
    *,
    caption: str,
    title: Sequence[str] = (),
) -> Sheet:
    """Image | truth | prediction | agreement, title lines above, Dice and the caption below.

    Panels have the image's own pixels, enlarged by a whole factor to 256 pixels of height or more.
    Of an image with more than 2048 pixels on a side they are reduced to that; a reduced pixel is
    foreground where any of its own is. Without a truth only image | prediction.

    Args:
        image: [H, W, 3].
        truth: [H, W], nonzero is foreground; None where there is none.
        pred: [H, W], nonzero is foreground.
        caption: of any length and script. It is wrapped; PIL's built-in font is all but ASCII, so
            letters lose their accents and what remains unknown is drawn as an empty box.
        title: lines above the panels.

    Raises:
        ValueError: image, truth and pred differ in size.
    """
    size = image.shape[:2]
    pred = _checked("pred", pred, size)
    truth = None if truth is None else _checked("truth", truth, size)
    found = outcome(truth, pred)  # of all pixels, before they are reduced
    factor = max(1, -(-_MIN_HEIGHT // size[0]))
    if max(size) > _MOST_PIXELS:
        small, factor = _reduced_size(size), 1
        image, pred = resize_image(image, small), reduced_mask(pred, small)
        truth = None if truth is None else reduced_mask(truth, small)
    picture, marked = enlarged(image, factor), enlarged(pred, factor)
    panels = [("image", picture), ("prediction", painted(picture, marked, PREDICTION))]
    if truth is not None:
        true = enlarged(truth, factor)
        panels.insert(1, ("truth", painted(picture, true, TRUTH)))
        panels.append(("agreement", _agreement(picture, true, marked)))
    sheet = sheet_for(panels, len(panels), title)
    sheet.panels(panels)
    sheet.space()
    if truth is not None:
        sheet.legend(_LEGEND)
        sheet.space()
    if found:
        sheet.text(found)
    sheet.text(caption)
    return sheet


def outcome(truth: NDArray[Any] | None, pred: NDArray[Any]) -> str:
    """Dice of two masks [H, W], and what is empty, in words; "" where nothing can be said."""
    pred = np.asarray(pred, dtype=bool)
    notes = [] if pred.any() else ["nothing outlined"]
    if truth is None:
        return ", ".join(notes)
    truth = np.asarray(truth, dtype=bool)
    notes = ["nothing to find", *notes] if not truth.any() else notes
    dice = dice_from_counts((pred & truth).sum(), pred.sum(), truth.sum())
    return ", ".join([f"Dice {dice:.3f}", *notes])


def _checked(name: str, mask: NDArray[Any], size: tuple[int, ...]) -> Mask:
    """A mask as bools, if it has that size."""
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != size:
        raise ValueError(f"{name} is {mask.shape}, but {size} is expected; resize the logits first")
    return mask


def _reduced_size(size: tuple[int, ...]) -> Size:
    """Height and width with `_MOST_PIXELS` on the longer side."""
    scale = _MOST_PIXELS / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def reduced_mask(mask: Mask, size: Size) -> Mask:
    """A smaller mask, foreground where any pixel is, so that a small lesion stays."""
    for axis in (0, 1):
        starts = np.arange(size[axis]) * mask.shape[axis] // size[axis]
        mask = np.logical_or.reduceat(mask, starts, axis=axis)
    return mask


def enlarged(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Every pixel as factor x factor equal ones."""
    return values.repeat(factor, axis=0).repeat(factor, axis=1)


def resized_mask(mask: NDArray[Any], size: Size) -> Mask:
    """A mask [H, W], nonzero is foreground, at another size."""
    return resize_mask(np.asarray(mask, dtype=bool).astype(np.uint8), size) > 0


def outlined(picture: Bytes, outlines: Sequence[tuple[Color, str, Mask]]) -> Bytes:
    """The picture with the contour of each mask in its color; the names are for a legend."""
    drawn = picture.copy()
    for color, _, mask in outlines:
        drawn[_contour(mask)] = color
    return drawn


def painted(picture: Bytes, mask: Mask, color: Color) -> Bytes:
    """A light fill under a solid contour, so that the tissue inside stays visible."""
    return outlined(_blend(picture, np.array(color), mask, 0.25), [(color, "", mask)])


def _agreement(picture: Bytes, truth: Mask, pred: Mask) -> Bytes:
    """TP, FP and FN over a dimmed image, each region with a solid contour."""
    colors = tp_fp_fn(truth, pred)
    dimmed = (picture * 0.75).astype(np.uint8)
    colored = _blend(dimmed, colors, truth | pred, 0.5)
    for region in (truth & pred, pred & ~truth, truth & ~pred):
        colored = _blend(colored, colors, _contour(region), 0.9)
    return colored


def _contour(mask: Mask) -> Mask:
    """The mask's pixels within a few steps of its outside or of the picture's edge."""
    inner = mask
    for _ in range(max(2, min(mask.shape) // 180)):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _blend(picture: Bytes, colors: NDArray[Any], where: Mask, share: float) -> Bytes:
    """`share` of one color or of [H, W, 3] colors over the picture [H, W, 3] in a mask [H, W]."""
    mixed = picture.copy()
    own = colors[where] if colors.ndim == 3 else colors
    mixed[where] = (picture[where] * (1 - share) + own * share).round()
    return mixed
