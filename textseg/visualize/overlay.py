"""Pictures of a prediction beside its truth.

Drawn with numpy and PIL alone. Hits are blue, false alarms orange, misses magenta: chosen to stay
apart for readers who do not tell red from green, or blue from yellow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textseg.preprocess import Bytes, Size, resize_mask
from textseg.visualize.sheet import Color, sheet_for

Mask = NDArray[np.bool_]

HIT: Color = (40, 140, 255)
FALSE_ALARM: Color = (255, 170, 20)
MISS: Color = (250, 60, 130)
TRUTH: Color = (250, 230, 70)
PREDICTION: Color = (70, 220, 230)
_MIN_HEIGHT = 256  # of a panel, pixels
_LEGEND = ((HIT, "found (TP)"), (FALSE_ALARM, "false alarm (FP)"), (MISS, "missed (FN)"))


def tp_fp_fn(truth: NDArray[Any], pred: NDArray[Any]) -> Bytes:
    """Agreement of two masks as colors on black: two [H, W], nonzero is foreground -> [H, W, 3].

    HIT where both are foreground, FALSE_ALARM where only the prediction is, MISS where only the
    truth is.
    """
    truth, pred = np.asarray(truth, dtype=bool), np.asarray(pred, dtype=bool)
    _check_size("pred", pred, truth.shape)
    colors = np.zeros((*truth.shape, 3), dtype=np.uint8)
    colors[truth & pred] = HIT
    colors[pred & ~truth] = FALSE_ALARM
    colors[truth & ~pred] = MISS
    return colors


def overlay(
    image: NDArray[Any],
    truth: NDArray[Any] | None,
    pred: NDArray[Any],
    *,
    caption: str,
    title: Sequence[str] = (),
) -> Bytes:
    """Image | truth | prediction | agreement, with title lines above and the caption below.

    Panels have the image's own pixels, enlarged by a whole factor to 256 pixels of height or more.
    Without a truth only image | prediction.

    Args:
        image: [H, W, 3] uint8, or [3, H, W] float in [0, 1].
        truth: [H, W], nonzero is foreground; None where there is none.
        pred: [H, W], nonzero is foreground.
        caption: of any length and script. It is wrapped; PIL's built-in font is all but ASCII, so
            letters lose their accents and what remains unknown is drawn as an empty box.
        title: lines above the panels.

    Returns:
        [.., .., 3] uint8.

    Raises:
        ValueError: image, truth and pred differ in size.
    """
    picture = as_bytes(image)
    size = picture.shape[:2]
    masks = {"pred": np.asarray(pred, dtype=bool)}
    if truth is not None:
        masks["truth"] = np.asarray(truth, dtype=bool)
    for name, mask in masks.items():
        _check_size(name, mask, size)
    factor = max(1, -(-_MIN_HEIGHT // size[0]))
    masks = {name: _enlarge(mask, factor) for name, mask in masks.items()}
    panels = _panels(_enlarge(picture, factor), masks["pred"], masks.get("truth"))
    return _page(panels, caption, title, legend=truth is not None)


def _panels(picture: Bytes, pred: Mask, truth: Mask | None) -> list[tuple[str, Bytes]]:
    """Name and picture of each panel, from left to right."""
    predicted = ("prediction", painted(picture, pred, PREDICTION))
    if truth is None:
        return [("image", picture), predicted]
    return [
        ("image", picture),
        ("truth", painted(picture, truth, TRUTH)),
        predicted,
        ("agreement", _agreement(picture, truth, pred)),
    ]


def _page(
    panels: Sequence[tuple[str, Bytes]], caption: str, title: Sequence[str], *, legend: bool
) -> Bytes:
    """Title lines, panels, legend, caption."""
    sheet, gap = sheet_for(panels, len(panels), title)
    sheet.panels(panels, gap)
    sheet.space()
    if legend:
        sheet.legend(_LEGEND)
        sheet.space()
    sheet.text(caption)
    return sheet.joined(margin=sheet.size)


def _check_size(name: str, mask: NDArray[Any], size: tuple[int, ...]) -> None:
    if mask.shape != size:
        raise ValueError(f"{name} is {mask.shape}, but {size} is expected; resize the logits first")


def as_bytes(image: NDArray[Any]) -> Bytes:
    """[H, W, 3] uint8 as it is; [3, H, W] floats in [0, 1] scaled and transposed."""
    values = np.asarray(image)
    if values.dtype == np.uint8:
        return values
    return (values.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)


def _enlarge(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Every pixel as factor x factor equal ones."""
    return values.repeat(factor, axis=0).repeat(factor, axis=1)


def resized_mask(mask: NDArray[Any], size: Size) -> Mask:
    """A mask [H, W], nonzero is foreground, at another size."""
    return resize_mask(np.asarray(mask, dtype=bool).astype(np.uint8), size) > 0


def outlined(picture: Bytes, outlines: Sequence[tuple[Color, str, Mask]]) -> Bytes:
    """The picture with the contour of each mask in its color; the names are for a legend."""
    for color, _, mask in outlines:
        colors = np.broadcast_to(np.array(color), picture.shape)
        picture = _blend(picture, colors, _contour(mask, _contour_width(picture)), 1.0)
    return picture


def painted(picture: Bytes, mask: Mask, color: Color) -> Bytes:
    """A light fill under a solid contour, so that the tissue inside stays visible."""
    colors = np.broadcast_to(np.array(color), picture.shape)
    filled = _blend(picture, colors, mask, 0.25)
    return _blend(filled, colors, _contour(mask, _contour_width(picture)), 1.0)


def _agreement(picture: Bytes, truth: Mask, pred: Mask) -> Bytes:
    """TP, FP and FN over a dimmed image, each region with a solid contour."""
    colors = tp_fp_fn(truth, pred)
    dimmed = (picture * 0.75).astype(np.uint8)
    colored = _blend(dimmed, colors, truth | pred, 0.5)
    for region in (truth & pred, pred & ~truth, truth & ~pred):
        colored = _blend(colored, colors, _contour(region, _contour_width(picture)), 0.9)
    return colored


def _contour(mask: Mask, width: int) -> Mask:
    """The mask's pixels within `width` steps of its outside or of the picture's edge."""
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _contour_width(picture: Bytes) -> int:
    return max(2, min(picture.shape[:2]) // 180)


def _blend(picture: Bytes, colors: NDArray[Any], where: Mask, share: float) -> Bytes:
    """`share` of the colors over the picture where asked: all [H, W, 3] but the mask [H, W]."""
    mixed = picture * (1 - share) + colors * share
    return np.where(where[..., None], mixed.round(), picture).astype(np.uint8)
