"""What an audit keeps of a picture or a mask after reading it once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from textseg.preprocess import (
    Oddities,
    Resize,
    Size,
    decode,
    describe_mask,
    fit_mask,
    image_oddities,
    image_pixels,
)

_DOUBTFUL = (64, 191)  # values that could as well have come out on the other side of the threshold
_CORNERS_TOUCH = np.ones((3, 3), dtype=np.uint8)  # 8-connected


@dataclass(frozen=True)
class ImageFacts:
    """An image: `digest` is of its decoded pixels, equal for gray and for three equal channels."""

    size: Size
    mode: str
    digest: str
    oddities: Oddities

    @property
    def constant(self) -> bool:
        """Whether all pixels have one value."""
        return "constant" in self.oddities


@dataclass(frozen=True)
class MaskFacts:
    """A mask, `area` and what follows as training reads it.

    Args:
        size: height and width, as viewers show it.
        digest: of the thresholded pixels.
        unusual_mode: what is unusual about its color mode; "" if nothing.
        other_values: its values but 0 and 255.
        soft_share: share of the area above 0 that is not above 127.
        area: pixels of foreground.
        center: the centroid's column, from 0 (left edge) to 1; None of an empty mask.
        components: number of 8-connected components; None where they are not counted.
        vanishes: whether resizing to the network's size leaves no foreground.
        oddities: what reading it found.
    """

    size: Size
    digest: str
    unusual_mode: str
    other_values: tuple[int, ...]
    soft_share: float
    area: int
    center: float | None
    components: int | None
    vanishes: bool
    oddities: Oddities

    @property
    def doubtful(self) -> bool:
        """Whether values near the threshold could as well have come out on its other side."""
        return any(_DOUBTFUL[0] <= value <= _DOUBTFUL[1] for value in self.other_values)


def inspect_image(path: Path) -> ImageFacts:
    """Decode an image and describe it.

    Raises:
        UserError: it cannot be read.
    """
    file = decode(path, verify=True)
    pixels = image_pixels(file)
    oddities = image_oddities(pixels, file)
    return ImageFacts(file.size, file.image.mode, _digest(pixels), oddities)


def inspect_mask(
    path: Path,
    network: Size,
    resize: Resize = "stretch",
    *,
    count_components: bool,
    mask_values: Sequence[int] | None = None,
) -> MaskFacts:
    """Decode a mask and describe it, also as resized to the network's height and width.

    With `mask_values` nothing is said of other values, which are then not in doubt.

    Raises:
        UserError: it cannot be read.
    """
    file = decode(path, "mask", verify=True)
    read = describe_mask(file, mask_values)
    mask = read.pixels
    unusual_mode = "" if file.image.mode in ("1", "L", "RGB") else f"mode {file.image.mode}"
    if not unusual_mode and read.values.ndim == 3:
        unusual_mode = "three channels that differ"
    levels = read.levels if mask_values is None else mask * np.uint8(255)
    area = int(mask.sum())
    above_zero = int((levels > 0).sum())
    components = ndimage.label(mask, structure=_CORNERS_TOUCH)[1] if count_components else None
    columns = mask.sum(axis=0, dtype=np.int64)
    middle = np.arange(mask.shape[1]) + 0.5
    return MaskFacts(
        size=file.size,
        digest=_digest(mask),
        unusual_mode=unusual_mode if mask_values is None else "",
        other_values=tuple(int(value) for value in np.unique(levels) if value not in (0, 255)),
        soft_share=1 - area / above_zero if above_zero else 0.0,
        area=area,
        center=float(columns @ middle) / area / mask.shape[1] if area else None,
        components=components,
        vanishes=bool(area) and not fit_mask(mask, network, resize).any(),
        oddities=read.oddities,
    )


def _digest(values: NDArray[np.generic]) -> str:
    digest = hashlib.blake2b(f"{values.shape}{values.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
