"""How a mask is read from a file, by the table of `pixel_files`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textseg.errors import UserError, check_distinct
from textseg.preprocess.pixel_files import (
    DEEP,
    FULL_SCALE,
    GRAY,
    MODES,
    PALETTE,
    Bytes,
    Oddities,
    PixelFile,
    decode,
)

MASK_THRESHOLD = 127  # MosMedData+ masks have a faint rim at 12..21
_FAINT = 32  # values below it are background beyond doubt, where others are foreground
_NOISE = 16  # distinct values; with more, faint areas are a JPEG's noise
_PACKED = np.array([65536, 256, 1])  # three colors as one number
_SEVERAL = 6  # values that a message lists
_MUCH = 0.2  # of a picture's area between black and white: no smoothed edge has as much


class Mask(NamedTuple):
    """A mask as it is read: `pixels` [H, W] of 0 and 1, and the values that it was made of.

    `values` [H, W] or, in color, [H, W, 3] is times opacity.
    """

    pixels: Bytes
    values: NDArray[np.integer]
    oddities: Oddities

    @property
    def levels(self) -> NDArray[np.integer]:
        """The value or largest color of each pixel, [H, W]."""
        return self.values if self.values.ndim == 2 else self.values.max(axis=2)


def check_mask_values(mask_values: Sequence[int] | None) -> None:
    """Check the setting of this name.

    Raises:
        UserError: it lists nothing, a number that no pixel has, or one twice.
    """
    check_distinct("mask_values", mask_values or ())
    if mask_values is not None and (
        not mask_values or not all(0 <= value <= FULL_SCALE for value in mask_values)
    ):
        raise UserError(
            f"mask_values={list(mask_values)} lists no values of pixels",
            "give those that are foreground, such as [255] or [1, 2], or null for all above 127",
        )


def read_mask(path: Path, mask_values: Sequence[int] | None = None) -> Bytes:
    """Read a mask file as [H, W] uint8, 1 where there is foreground, by the table of `pixel_files`.

    Args:
        path: the file.
        mask_values: the values that are foreground; None takes what exceeds 127.

    Raises:
        UserError: the table refuses it.
    """
    file = decode(path, "mask")
    return _foreground(file, _values(file), mask_values)


def describe_mask(file: PixelFile, mask_values: Sequence[int] | None = None) -> Mask:
    """The pixels of a decoded mask, and what is odd about them.

    Raises:
        UserError: as `read_mask` does.
    """
    values = _values(file)
    pixels = _foreground(file, values, mask_values)
    odd: Oddities = {} if file.orientation == 1 else {"turned": f"orientation {file.orientation}"}
    mask = Mask(pixels, values, odd)
    if not pixels.any():
        numbers = _numbers(file, values) if mask_values else mask.levels
        odd["empty"] = _listed(np.unique(numbers).tolist())
    if mask_values is None:
        _note_values(file, mask)
    return mask


def examine_mask(path: Path, mask_values: Sequence[int] | None = None) -> Mask:
    """Read a mask, check its integrity, and tell what is odd about it.

    Raises:
        UserError: as `read_mask` does, and where its checksum is wrong.
    """
    return describe_mask(decode(path, "mask", verify=True), mask_values)


def _values(file: PixelFile) -> NDArray[np.integer]:
    """Values times opacity: [H, W], or [H, W, 3] where the colors differ.

    Raises:
        UserError: what the colors draw and what opacity draws contradict each other.
    """
    image = file.image
    if MODES[image.mode] == DEEP:
        return np.asarray(image)
    if not image.has_transparency_data:
        plain = image.convert("L" if MODES[image.mode] == GRAY else "RGB")
        return _one_channel(np.asarray(plain))
    pixels = np.asarray(image.convert("RGBA"))
    colors, opacity = pixels[..., :3], pixels[..., 3:]
    shown = (colors.astype(np.uint16) * opacity + 127) // 255
    dark = opacity.min() < opacity.max() > MASK_THRESHOLD and shown.max() <= MASK_THRESHOLD
    hidden = opacity.max() == 0 and colors.min() != colors.max()
    if dark or hidden:
        what = "draws in dark colors on a transparent ground" if dark else "is transparent all over"
        raise UserError(
            f"{file.name} {what}, so that its foreground is in doubt",
            "save it as 8-bit gray of 0 and 255",
        )
    return _one_channel(shown.astype(np.uint8))


def _one_channel(values: NDArray[Any]) -> NDArray[Any]:
    """[H, W] of [H, W, 3] whose channels are equal; anything else as it is."""
    if values.ndim == 3 and bool((values == values[..., :1]).all()):
        return values[..., 0]
    return values


def _foreground(
    file: PixelFile, values: NDArray[np.integer], mask_values: Sequence[int] | None
) -> Bytes:
    if mask_values is not None:
        return np.isin(_numbers(file, values), list(mask_values)).astype(np.uint8)
    if values.ndim == 3:
        values = values.max(axis=2)
    return (values > MASK_THRESHOLD).astype(np.uint8)


def _numbers(file: PixelFile, values: NDArray[np.integer]) -> NDArray[np.integer]:
    """What `mask_values` picks from, [H, W]: gray values, or the entries of a palette.

    Raises:
        UserError: they are not exact, or there is only color.
    """
    if file.lossy:
        raise UserError(
            f"{file.name} is a JPEG, whose values are not exact, but mask_values picks exact ones",
            "save the masks as PNG, or leave mask_values out",
        )
    if MODES[file.image.mode] == PALETTE:
        entries = np.asarray(file.image)
        return entries if entries.ndim == 2 else entries[..., 0]
    if values.ndim == 3:
        raise UserError(
            f"{file.name} is in color, but mask_values picks gray values or entries of a palette",
            "save the masks as 8-bit gray, or leave mask_values out",
        )
    return values


def _note_values(file: PixelFile, mask: Mask) -> None:
    """Note values that are read as something else than they may mean.

    They are noted as `mask_values` takes them.
    """
    pixels, levels, odd = mask.pixels, mask.levels, mask.oddities
    present = _distinct(levels)
    palette = MODES[file.image.mode] == PALETTE
    entries = _listed(_distinct(_numbers(file, levels)[levels > 0])) if palette else ""
    if any(present) and not pixels.any():
        odd["erased"] = entries or _listed([value for value in present if value])
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    if corners.all() and pixels.mean() > 0.5:
        odd["inverted"] = f"{pixels.mean():.0%} of the picture and all four corners"
    gray = mask.values.ndim == 2
    if gray and set(present) <= {0, 255}:
        return
    if levels.dtype == np.uint8 and _note_grays(levels, odd):
        return
    filled = _filled(mask.values)  # [N, 1 or 3]
    # Two values are two classes where about 64 levels lie between them: edges that were smoothed
    # fill nothing, and a JPEG's noise stays near 0 and 255.
    steps = (filled + 32) // 64
    bright = steps.any(axis=1)
    if len(np.unique(steps[bright], axis=0)) > 1:
        values = filled[bright, 0].tolist() if gray else map(tuple, filled[bright].tolist())
        odd["classes"] = entries or _listed(list(values))
    faint = [value for value in filled[:, 0].tolist() if 0 < value < _FAINT]
    if gray and faint and pixels.any() and len(present) <= _NOISE:
        odd["faint"] = _listed(faint)


def _note_grays(levels: NDArray[np.integer], odd: Oddities) -> bool:
    """Note what is shaded like a picture; returns whether a mask can hardly be."""
    counts = np.bincount(levels.ravel(), minlength=256)
    between = counts[_FAINT : 256 - _FAINT]
    total, several = int(between.sum()), np.sort(between)[-4:].sum()
    if np.count_nonzero(between) <= _NOISE or 2 * several >= total:
        return False  # nothing, edges, or the few values of classes
    told = f"from {_FAINT} to {255 - _FAINT}: "
    if total > _MUCH * levels.size:
        odd["picture"] = f"{told}{total / levels.size:.0%} of the picture"
        return True
    drawn = int(counts[1:].sum())
    if 2 * total > drawn:
        odd["shaded"] = f"{told}{total / drawn:.0%} of the area above 0"
    return False


def _distinct(values: NDArray[np.integer]) -> list[int]:
    if values.dtype == np.uint8:  # counting takes a tenth of sorting's time
        return np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    return np.unique(values).tolist()


def _filled(values: NDArray[np.integer]) -> NDArray[np.integer]:
    """The values [N, C] that fill a block of 3 x 3 somewhere in [H, W] or [H, W, C]."""
    gray = values.ndim == 2
    plane = values if gray else values.astype(np.int64) @ _PACKED  # [H, W]
    down = plane[1:] == plane[:-1]  # a pixel equals the one above it
    across = plane[:, 1:] == plane[:, :-1]
    columns = down[1:] & down[:-1]  # [H - 2, W]: three in a column are equal
    rows = across[:, 1:] & across[:, :-1]  # [H, W - 2]
    block = columns[:, :-2] & columns[:, 1:-1] & columns[:, 2:] & rows[1:-1]
    found = np.array(_distinct(plane[1:-1, 1:-1][block]), dtype=np.int64)[:, None]
    return found if gray else found // _PACKED % 256


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:_SEVERAL])) + ", ..." * (len(values) > _SEVERAL)
