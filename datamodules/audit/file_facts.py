"""What an audit keeps of a picture or a mask after reading it once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage  # type: ignore[import-untyped]

from textseg.errors import UserError, first_line
from textseg.preprocess import BROKEN, MASK_THRESHOLD, Resize, Size, fit_mask, mask_values

_DOUBTFUL = (64, 191)  # values that could as well have come out on the other side of the threshold
_CORNERS_TOUCH = np.ones((3, 3), dtype=np.uint8)  # 8-connected


@dataclass(frozen=True)
class ImageFacts:
    """An image: `digest` is of its decoded pixels, equal for gray and for three equal channels."""

    size: Size
    mode: str
    digest: str
    constant: bool


@dataclass(frozen=True)
class MaskFacts:
    """A mask, `area` and what follows as training reads it.

    Args:
        size: height and width on disk.
        digest: of the thresholded pixels.
        unusual_mode: what is unusual about its color mode; "" if nothing.
        other_values: its values but 0 and 255.
        soft_share: share of the area above 0 that is not above 127.
        area: pixels of foreground.
        center: the centroid's column, from 0 (left edge) to 1; None of an empty mask.
        components: number of 8-connected components; None where they are not counted.
        vanishes: whether resizing to the network's size leaves no foreground.
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

    @property
    def doubtful(self) -> bool:
        """Whether values near the threshold could as well have come out on its other side."""
        return any(_DOUBTFUL[0] <= value <= _DOUBTFUL[1] for value in self.other_values)


def inspect_image(path: Path) -> ImageFacts:
    """Decode an image and describe it.

    Raises:
        UserError: it cannot be read.
    """
    image = _decoded(path)
    plain = image.mode in ("1", "L", "RGB") or image.mode.startswith("I")
    values = _one_channel(np.asarray(image if plain else image.convert("RGB")))
    return ImageFacts(
        size=(image.height, image.width),
        mode=image.mode,
        digest=_digest(values),
        constant=bool((values == values[:1, :1]).all()),
    )


def inspect_mask(
    path: Path, network: Size, resize: Resize = "stretch", *, count_components: bool
) -> MaskFacts:
    """Decode a mask and describe it, also as resized to the network's height and width.

    Raises:
        UserError: it cannot be read.
    """
    image = _decoded(path)
    values, unusual_mode = _mask_values(image)
    mask = (values > MASK_THRESHOLD).astype(np.uint8)
    area = int(mask.sum())
    above_zero = int((values > 0).sum())
    components = ndimage.label(mask, structure=_CORNERS_TOUCH)[1] if count_components else None
    columns = mask.sum(axis=0, dtype=np.int64)
    middle = np.arange(mask.shape[1]) + 0.5
    return MaskFacts(
        size=(image.height, image.width),
        digest=_digest(mask),
        unusual_mode=unusual_mode,
        other_values=tuple(int(value) for value in np.unique(values) if value not in (0, 255)),
        soft_share=1 - area / above_zero if above_zero else 0.0,
        area=area,
        center=float(columns @ middle) / area / mask.shape[1] if area else None,
        components=components,
        vanishes=bool(area) and not fit_mask(mask, network, resize).any(),
    )


def _mask_values(image: Image.Image) -> tuple[NDArray[np.integer], str]:
    """[H, W] as `preprocess.read_mask` takes them, and what is unusual about the mode."""
    unusual_mode = "" if image.mode in ("1", "L", "RGB") else f"mode {image.mode}"
    values = mask_values(image)
    if values.ndim == 3:
        if not unusual_mode and _one_channel(values).ndim == 3:
            unusual_mode = "three channels that differ"
        values = values.max(axis=2)
    return values, unusual_mode


def _decoded(path: Path) -> Image.Image:
    """The picture, if it also passes the check of integrity that training makes."""
    try:
        data = path.read_bytes()
        with Image.open(BytesIO(data)) as image:
            image.verify()
        image = Image.open(BytesIO(data))  # a verified picture cannot be decoded any more
        image.load()
    except BROKEN as error:
        raise UserError(f"{first_line(error)}") from error
    return image


def _one_channel(values: NDArray[np.generic]) -> NDArray[np.generic]:
    if values.ndim == 3 and bool((values == values[..., :1]).all()):
        return values[..., 0]
    return values


def _digest(values: NDArray[np.generic]) -> str:
    digest = hashlib.blake2b(f"{values.shape}{values.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
