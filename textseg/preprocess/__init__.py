"""What is done to images and captions in one way wherever they come from.

Files are read (`pixel_files`, `mask_files`), images resized and windowed; words are found in
captions, and the word that gives away whether there is anything to outline.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from textseg.errors import UserError
from textseg.preprocess.mask_files import (
    MASK_THRESHOLD,
    Mask,
    check_mask_values,
    describe_mask,
    examine_mask,
    read_mask,
)
from textseg.preprocess.pixel_files import (
    BROKEN,
    FULL_SCALE,
    PIXELS_VERSION,
    Bytes,
    Examined,
    Kind,
    Oddities,
    PixelFile,
    Probe,
    Size,
    decode,
    examine_image,
    image_oddities,
    image_pixels,
    narrow_ranges,
    probe,
    probe_size,
    read_image,
    turned_picture,
)

__all__ = [
    "BROKEN",
    "FULL_SCALE",
    "MASK_THRESHOLD",
    "PIXELS_VERSION",
    "Bytes",
    "Examined",
    "Frame",
    "Kind",
    "Mask",
    "Oddities",
    "PixelFile",
    "Probe",
    "Resize",
    "Size",
    "check_mask_values",
    "checked_size",
    "ct_window",
    "decode",
    "describe_mask",
    "examine_image",
    "examine_mask",
    "fit_image",
    "fit_mask",
    "frame_of",
    "image_oddities",
    "image_pixels",
    "narrow_ranges",
    "probe",
    "probe_size",
    "read_image",
    "read_mask",
    "resize_image",
    "resize_mask",
    "turned_picture",
    "word_spans",
    "words_apart",
]

Frame = tuple[int, int, int, int]  # top, left, height, width
Resize = Literal["stretch", "pad"]


def checked_size(image_size: int | tuple[int, int] | list[int]) -> Size:
    """Height and width of the network's input.

    Args:
        image_size: one side for a square, or (height, width), in pixels.

    Raises:
        UserError: a side is not a positive multiple of 32, the deepest stride of the encoders.
    """
    given = image_size if isinstance(image_size, list | tuple) else (image_size, image_size)
    sides = tuple(side for side in given if isinstance(side, int))  # null is none
    if len(given) != len(sides):
        raise UserError(
            f"image_size={image_size!r} is no size", "give one side or [height, width], or leave it"
        )
    if len(sides) != 2 or any(side <= 0 or side % 32 for side in sides):
        nearest = [max(32, round(side / 32) * 32) for side in sides[:2]] or [224]
        raise UserError(
            f"image_size={image_size!r} is not divisible by 32",
            f"give one side or [height, width] in multiples of 32, for example {nearest[0]}",
        )
    return sides[0], sides[1]


def resize_image(image: Bytes, size: Size) -> Bytes:
    """Resize an image bilinearly with anti-aliasing: [H0, W0, 3] -> [H, W, 3]."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_mask(mask: Bytes, size: Size) -> Bytes:
    """Resize a mask by nearest pixel centers, without growth or shift: [H0, W0] -> [H, W]."""
    if mask.shape == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def frame_of(original: Size, size: Size, resize: Resize = "stretch") -> Frame:
    """Where a picture lies in the network's input: top, left, height and width, pixels.

    With "stretch" it fills the input. With "pad" it keeps its aspect ratio: one of its sides fills
    the input, the other is rounded to whole pixels, 1 at least, and lies in the middle; of an odd
    border the larger half is below or on the right.

    Args:
        original: height and width of the picture.
        size: height and width of the input.
        resize: how the one comes to the other.
    """
    if resize == "stretch":
        return 0, 0, *size
    (height, width), (rows, columns) = original, size
    if rows * width <= columns * height:
        columns = max(1, (2 * width * rows + height) // (2 * height))
    else:
        rows = max(1, (2 * height * columns + width) // (2 * width))
    return (size[0] - rows) // 2, (size[1] - columns) // 2, rows, columns


def fit_image(image: Bytes, size: Size, resize: Resize = "stretch") -> Bytes:
    """Make the network's input of an image, with black borders where it is padded.

    Args:
        image: [H0, W0, 3].
        size: height and width of the input.
        resize: see `frame_of`.

    Returns:
        [H, W, 3].
    """
    return _fitted(image, size, resize, resize_image)


def fit_mask(mask: Bytes, size: Size, resize: Resize = "stretch") -> Bytes:
    """Make a mask [H, W] of a mask [H0, W0] as `fit_image` does; a border is background."""
    return _fitted(mask, size, resize, resize_mask)


def _fitted(
    pixels: Bytes, size: Size, resize: Resize, resized: Callable[[Bytes, Size], Bytes]
) -> Bytes:
    if resize == "stretch":
        return resized(pixels, size)
    top, left, height, width = frame_of((pixels.shape[0], pixels.shape[1]), size, resize)
    canvas = np.zeros((*size, *pixels.shape[2:]), dtype=np.uint8)
    canvas[top : top + height, left : left + width] = resized(pixels, (height, width))
    return canvas


def ct_window(hounsfield: NDArray[np.floating], center: float = 40, width: float = 400) -> Bytes:
    """Window Hounsfield units to uint8: center - width/2 maps to 0, center + width/2 to 255.

    The default is the usual abdominal soft-tissue window.
    """
    low = center - width / 2
    scaled = (np.asarray(hounsfield, dtype=np.float64) - low) / width
    return (scaled.clip(0, 1) * 255).round().astype(np.uint8)


def words_apart(text: str) -> str:
    """A text, as long as before, in which underscores part words: those of kidney_left are two."""
    return text.replace("_", " ")


def word_spans(text: str, word: str) -> list[tuple[int, int]]:
    """Spans [start, end) of a whole word or phrase in a text, in any case and spacing."""
    phrase = r"\s+".join(re.escape(part) for part in words_apart(word).split())
    if not phrase:
        return []
    matches = re.finditer(rf"(?<!\w){phrase}(?!\w)", words_apart(text), re.IGNORECASE)
    return [match.span() for match in matches]


LEAST_IMAGES = 10  # with a lesion and without one; of fewer any word may tell them apart by chance
TOLD = 0.5  # difference of shares from which on captions are said to give emptiness away


class TellingWord(NamedTuple):
    """The word whose presence tells images without a lesion best from the others.

    `without` and `with_lesion` are the shares of captions that hold it, of images without and with
    a lesion; word is "" for captions without any word.
    """

    word: str
    without: float
    with_lesion: float

    def __str__(self) -> str:
        """The shares as a sentence without an end."""
        word = repr(self.word) if self.word else "no word at all"
        return (
            f"{word} is in {self.without:.0%} of the captions of images without a lesion and in "
            f"{self.with_lesion:.0%} of the others"
        )

    @property
    def tells(self) -> bool:
        """Whether the shares differ so much that captions give emptiness away."""
        return abs(self.without - self.with_lesion) >= TOLD


def telling_word(captions: Sequence[str], true: Sequence[int]) -> TellingWord | None:
    """Find the word with the largest difference of shares between the two kinds of images.

    Args:
        captions: of N images, compared by lower-case words.
        true: pixels of their lesions, 0 for none.

    Returns:
        None with fewer than `LEAST_IMAGES` images of either kind. Of equal words the first by the
        alphabet.
    """
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    images: Counter[bool] = Counter()
    for caption, pixels in zip(captions, true, strict=True):
        words = set(re.findall(r"\w+", words_apart(caption).lower())) or {""}
        counts[pixels > 0].update(words)
        images[pixels > 0] += 1
    if min(images[True], images[False]) < LEAST_IMAGES:
        return None
    shares = [
        TellingWord(word, counts[False][word] / images[False], counts[True][word] / images[True])
        for word in sorted(counts[True] | counts[False])
    ]
    return max(shares, key=lambda one: abs(one.without - one.with_lesion))
