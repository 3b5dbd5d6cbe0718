"""Overlapping tiles over a picture that is too large to be seen at once; MONAI blends them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from textseg.errors import UserError, check_at_least
from textseg.metrics.case_table import resize_logits, without_border
from textseg.preprocess import Bytes, Resize, Size, fit_image, frame_of

LEAST = 32  # pixels of a tile's side
OVERLAP = 0.25


class Tiles(NamedTuple):
    """Square tiles of `size` pixels of a picture, each sharing `overlap` of it with the next."""

    size: int
    overlap: float = OVERLAP

    def needed(self, size: Sequence[int]) -> bool:
        """Whether a picture of this height and width is larger than a tile."""
        return max(size) > self.size

    def __str__(self) -> str:
        return f"tiles of {self.size} pixels, overlap {self.overlap:g}"


def tiles_of(size: int | None, overlap: float | None) -> Tiles | None:
    """The tiles of a command's settings, overlapping by a quarter unless told; None without a size.

    Raises:
        UserError: a setting is out of range, or an overlap without a size.
    """
    if size is not None:
        check_at_least("tile_size", size, LEAST, "give the pixels of the picture seen at a time")
    if overlap is not None and not 0 <= overlap < 1:
        raise UserError(
            f"tile_overlap={overlap} is no share of a tile", "give 0 or more and less than 1"
        )
    if size is None and overlap is not None:
        raise UserError(
            f"tile_overlap={overlap} is of tiles, and no tile_size is given",
            "give tile_size too, or leave tile_overlap out",
        )
    return None if size is None else Tiles(size, OVERLAP if overlap is None else overlap)


def tiled_logits(
    picture: Bytes,
    tiles: Tiles,
    predict: Callable[[list[Bytes]], Tensor],
    *,
    device: torch.device,
    batch_size: int = 8,
) -> Tensor:
    """Logits [H0, W0] of a picture: of each pixel the mean over tiles, weighted by a Gaussian.

    The weight of a tile falls from its middle with a standard deviation of size / 8, as MONAI's
    sliding_window_inference has it. A picture that is narrower than a tile gets black borders,
    and is cut out of them again. The picture stays in bytes: beyond it memory is that of two maps
    of its size, 8 bytes a pixel, and of the tiles of one batch.

    Args:
        picture: [H0, W0, 3].
        tiles: their size and overlap.
        predict: logits [B, 1, size, size] of B tiles [size, size, 3].
        device: of the logits.
        batch_size: tiles in one forward pass.
    """
    from monai.inferers import sliding_window_inference  # takes seconds, and few need it

    height, width = picture.shape[:2]
    canvas, top, left = _at_least(picture, tiles.size)
    # Only its shape counts; the pixels are cut from the picture by their place.
    blank = torch.zeros(1, 1, 1, 1, device=device).expand(1, 1, *canvas.shape[:2])

    def predicted(_: Tensor, places: Any) -> Tensor:
        return predict([canvas[rows, columns] for *_, rows, columns in places])

    logits: Any = sliding_window_inference(
        blank,
        (tiles.size, tiles.size),
        batch_size,
        predicted,
        overlap=tiles.overlap,
        mode="gaussian",
        with_coord=True,
    )
    return logits[0, 0, top : top + height, left : left + width]


def _at_least(picture: Bytes, side: int) -> tuple[Bytes, int, int]:
    """The picture on a canvas of `side` or more, and its place there: top and left."""
    height, width = picture.shape[:2]
    if min(height, width) >= side:
        return picture, 0, 0
    rows, columns = max(height, side), max(width, side)
    top, left = (rows - height) // 2, (columns - width) // 2
    canvas = np.zeros((rows, columns, 3), dtype=np.uint8)
    canvas[top : top + height, left : left + width] = picture
    return canvas, top, left


def tile_logits(
    network: Callable[[Tensor, list[str]], Any],
    pieces: Sequence[Bytes],
    text: str,
    *,
    like: Tensor,
    resize: Resize,
) -> Tensor:
    """Logits [B, 1, size, size] of B tiles, each shown to the network as a whole picture is.

    Args:
        network: gives a SegmentationOutput of images and texts.
        pieces: B of [size, size, 3].
        text: the caption, of all of them.
        like: [.., 3, H, W] of the network's input size, type and device.
        resize: how a picture comes to that size.
    """
    size: Size = (like.shape[-2], like.shape[-1])
    own = (pieces[0].shape[0], pieces[0].shape[1])
    fitted = np.stack([fit_image(np.ascontiguousarray(piece), size, resize) for piece in pieces])
    image = torch.from_numpy(fitted).permute(0, 3, 1, 2).float().div_(255)  # [B, 3, H, W]
    logits = network(image.to(like), [text] * len(pieces)).logits
    frames = torch.tensor([frame_of(own, size, resize)] * len(pieces))
    return torch.stack([resize_logits(one, own) for one in without_border(logits, frames)])
