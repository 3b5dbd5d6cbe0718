"""Any accepted image as the values a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from textseg.errors import UserError, refusing
from textseg.preprocess import (
    BROKEN,
    Bytes,
    Examined,
    PixelFile,
    Resize,
    Size,
    decode,
    fit_image,
    image_oddities,
    image_pixels,
    turned_picture,
)
from textseg.segment.pipeline import THREADS, ReadAhead

# A file, a PIL image, or values [H, W] or [H, W, 3].
Picture: TypeAlias = str | Path | Image.Image | NDArray[np.uint8]
# What was read of an image, with its name, or why it cannot be read.
Read: TypeAlias = tuple[str, Examined] | UserError


def require_file(path: Path, where: str = "") -> None:
    """Raises:
    UserError: there is no such file; `where` is the place that names it, if it is a table's.
    """
    if not path.is_file():
        raise UserError(
            f"{where}: {path} does not exist" if where else f"{path} does not exist",
            "a table's paths start from root, by default the table's own folder"
            if where
            else "give an image, a folder of images, or a table (.csv, .xlsx, .jsonl)",
        )


def read_picture(image: Picture) -> Examined:
    """Any accepted image as [H0, W0, 3] uint8, as `read_image` gives a file, and what is odd."""
    if isinstance(image, (str, Path)):
        require_file(Path(image))
        return _examined(decode(Path(image)))
    if isinstance(image, Image.Image):
        return _converted(image)
    values = np.asarray(image)
    sound = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
    if values.dtype != np.uint8 or not sound or not values.size:
        raise UserError(
            f"an image of shape {list(values.shape)} and type {values.dtype} cannot be used",
            "give uint8 values [H, W] or [H, W, 3] (RGB); scale others to 0..255 as the training "
            "images were",
        )
    pixels = np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values
    return Examined(pixels, image_oddities(pixels))


def name_of(image: Picture, number: int) -> str:
    """What messages call an image: the file's name, or its number among others."""
    return Path(image).name if isinstance(image, (str, Path)) else f"image {number}"


def _examined(file: PixelFile) -> Examined:
    pixels = image_pixels(file)
    return Examined(pixels, image_oddities(pixels, file))


def _converted(image: Image.Image) -> Examined:
    if not image.width * image.height:
        raise UserError("the PIL image has no pixels", "give a picture")
    with refusing(BROKEN, "the PIL image cannot be read", "replace its file"):  # only now
        return _examined(turned_picture(image))


def to_tensor(picture: Bytes, size: Size, resize: Resize = "stretch") -> Tensor:
    """[H0, W0, 3] -> [3, H, W] in [0, 1], bit for bit what the DataModules give."""
    channels_first = fit_image(picture, size, resize).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(channels_first, dtype=np.float32)).div_(255)


def read_ahead(images: Sequence[Picture], batch_size: int) -> ReadAhead[Read]:
    """Read pictures in threads, a batch and a few before their turn."""
    fetching = Lock()  # what makes a picture when it is asked for need not be ready for threads

    def read(number: int) -> Read:
        with fetching:
            image = images[number]
        return _read(image, number)

    return ReadAhead(read, len(images), weigh=_bytes, most=batch_size + THREADS)


def _bytes(read: Read) -> int:
    return 0 if isinstance(read, UserError) else read[1].pixels.nbytes


def _read(image: Picture, number: int) -> Read:
    try:
        return name_of(image, number), read_picture(image)
    except UserError as error:
        return error
    except MemoryError as error:
        return UserError(f"{image} takes more memory than there is ({error})", "make it smaller")
