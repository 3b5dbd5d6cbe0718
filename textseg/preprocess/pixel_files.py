"""What a file of pixels may be, and how an image or a mask is read from it.

Whoever reads, checks, caches, audits or segments files does it by this table:

| a file's | as an image | as a mask |
|---|---|---|
| size | at most `textseg.limits.PIXELS`, by its header | the same |
| format | PNG, JPEG, BMP, TIFF, GIF, WebP, JPEG 2000, PNM; no other is opened | the same |
| frames | one; of a camera's JPEG with several (MPO) the first | the same |
| orientation (EXIF, XMP) | turned as viewers show it | the same |
| 8-bit gray, 1 bit | 0..255 | 0..255 |
| 16-bit gray | scaled by 255/65535; values beyond 0..65535 are refused | as it is |
| 16-bit color | the upper byte of each color | refused |
| palette | its colors | its largest color; `mask_values` takes the entry's number |
| color (RGB, CMYK, YCbCr) | as RGB | its largest color; `mask_values` takes gray alone |
| transparency | refused where a pixel is transparent | values times opacity |
| float, LAB, 16-bit gray with white as 0 | refused | refused |

A mask is 1 where its value exceeds 127 or, with `mask_values`, is one of these. What one file
cannot tell but a set can, such as a range that is never filled, is noted in its `Oddities`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from textseg.errors import UserError, refusing
from textseg.limits import PIXELS

Size = tuple[int, int]  # height, width
Bytes = NDArray[np.uint8]
Kind = Literal["image", "mask"]

# What Pillow raises for a file that is cut short, spoiled, or claims to be gigantic.
BROKEN = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError),
    *(struct.error, Image.DecompressionBombError),
)

# Raise it when a change below gives other pixels: caches built before are then built anew.
PIXELS_VERSION = 4
FULL_SCALE = 65535  # of 16-bit gray
_DEEPEST = 8  # bytes of a pixel: color and opacity of 16 bits
NARROW = 16  # of 255: 12-bit values that are read as 16 bits fill no more
NARROW_DEEP = 64  # and 14-bit values, as of radiographs
MIXED = 0.25  # of a set's images of 16 bits
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000", "PPM")

GRAY, DEEP, PALETTE, COLOR = "gray", "deep", "palette", "color"
# Pillow's modes; what is not here is refused.
MODES = {
    **dict.fromkeys(("1", "L", "LA"), GRAY),
    **dict.fromkeys(("I", "I;16", "I;16B", "I;16L", "I;16N"), DEEP),
    **dict.fromkeys(("P", "PA"), PALETTE),
    **dict.fromkeys(("RGB", "RGBA", "RGBX", "CMYK", "YCbCr"), COLOR),
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = (5, 6, 7, 8)  # height and width change places
# Where a PNG may say its orientation; without any, it need not be decoded to know.
_PNG_MARKS = (b"eXIf", b"Raw profile type", b"tiff:Orientation")
_WHITE_IS_ZERO, _PHOTOMETRIC = 0, 262  # of TIFF
_pillow_limit = Lock()  # Pillow's is one for all threads
_OF_VOLUMES = (
    "cut volumes and DICOM files into pictures (textseg data slice), or give the volume itself to "
    "textseg segment"
)

Oddities = dict[str, str]
"""What is odd about one file, with a few words on it; most files have none.

Images: "turned" (by EXIF), "constant", "narrow" (at most 16 of 255 levels apart, in 16 bits 64),
"deep" (16 bits).
Masks: "empty", "erased" (values, but none above 127), "classes" (several values fill areas),
"faint" (values below 32 do, beside foreground), "inverted" (all corners and most of the picture),
"picture" (a fifth of it is shaded), "shaded" (most of what is not black is), "turned".
"""


# --- opening -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PixelFile:
    """A decoded picture, turned as viewers show it.

    Args:
        image: the picture.
        name: what messages call it.
        orientation: EXIF's number for how its stored pixels were turned; 1 if they were not.
        deep: whether it has 16 bits a color or gray.
        lossy: whether its values are not exact (JPEG).
    """

    image: Image.Image
    name: str
    orientation: int = 1
    deep: bool = False
    lossy: bool = False

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.image.height, self.image.width


class Probe(NamedTuple):
    """What a header says.

    `size` is as viewers show the picture, `turned` whether that is not as it is stored; `digest` is
    of the file's bytes.
    """

    size: Size
    turned: bool
    digest: str


def probe(path: Path, kind: Kind = "image") -> Probe:
    """Check a file's header and its integrity (by checksum, where the format has one).

    An image's pixels are looked at only where its header leaves open whether it can be taken.

    Raises:
        UserError: it cannot be read, is cut short, or is none that the table of this module takes.
    """
    data = _data(path)
    with _reading(path):
        _verify(data, path)
        with _open(data, path) as image:
            orientation = _orientation(image, data)
            _check_header(image, str(path), kind)
            height, width = image.height, image.width
            doubtful = image.mode == "I" or image.has_transparency_data
            swapped = orientation in _QUARTER_TURNS and image.format != "TIFF"
    if doubtful and kind == "image":
        image_pixels(decode(path))
    size = (width, height) if swapped else (height, width)
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Probe(size, orientation != 1, digest)


def probe_size(path: Path) -> Size:
    """Height and width of an image as viewers show it, after the checks of `probe`."""
    return probe(path).size


def decode(path: Path, kind: Kind = "image", *, verify: bool = False) -> PixelFile:
    """Decode a file; `verify` also checks its integrity, as `probe` does.

    Raises:
        UserError: as `probe` does.
    """
    data = _data(path)
    with _reading(path):
        if verify:
            _verify(data, path)
        image = _open(data, path)
        orientation = _orientation(image, data)
        _check_header(image, str(path), kind)
        deep, lossy = _deep(image), image.format in ("JPEG", "MPO")
        already = image.format == "TIFF"  # Pillow turns this one by itself
        image.load()
        if orientation != 1 and not already:
            image = image.transpose(_TURNS[orientation])
    return PixelFile(image, str(path), orientation, deep, lossy)


def _data(path: Path) -> bytes:
    with _reading(path):
        size = path.stat().st_size
        if size > _DEEPEST * PIXELS.most:  # more than the largest picture that is taken has
            PIXELS.check(size // _DEEPEST, path)
        return path.read_bytes()


def _reading(path: Path) -> AbstractContextManager[None]:
    remedy = "replace the file, or leave it out of the captions table"
    return refusing(BROKEN, f"{path} cannot be read as an image", remedy)


def _open(data: bytes, path: Path) -> Image.Image:
    try:
        with _pillow_without_limit():
            image = Image.open(BytesIO(data), formats=FORMATS)
        PIXELS.check(image.width * image.height, path)
        return image
    except UnidentifiedImageError as error:
        cause = f"{path} cannot be read as an image (it is no {', '.join(FORMATS)} file)"
        if data[128:132] == b"DICM" or path.name.endswith((".nii", ".nii.gz", ".nrrd", ".mha")):
            raise UserError(cause, _OF_VOLUMES) from error
        raise UserError(cause, "replace the file, or leave it out of the table") from error


@contextmanager
def _pillow_without_limit() -> Iterator[None]:
    """Open, which decodes nothing, without Pillow's own limit: it would warn below ours."""
    with _pillow_limit:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def _verify(data: bytes, path: Path) -> None:
    with _open(data, path) as image:  # a verified picture cannot be decoded any more
        image.verify()


def _orientation(image: Image.Image, data: bytes) -> int:
    """EXIF's or XMP's number of an opened file; 1 where there is none that is known."""
    if image.format == "PNG" and not any(mark in data for mark in _PNG_MARKS):
        return 1
    return _exif_orientation(image)


def _exif_orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (*BROKEN, struct.error, KeyError, TypeError):  # a broken entry turns nothing
        return 1
    return found if found in _TURNS else 1


def _deep(image: Image.Image) -> bool:
    """Whether a file that is not decoded yet has 16 bits a color or gray."""
    tiles: list[Any] = list(getattr(image, "tile", ()))
    raw = [tile[3] for tile in tiles]
    names = [str(one[0] if isinstance(one, tuple) and one else one) for one in raw]
    return MODES.get(image.mode) == DEEP or any(";16" in name for name in names)


def _check_header(image: Image.Image, name: str, kind: Kind) -> None:
    """Check what can be known before decoding.

    Raises:
        UserError: the table of this module refuses it.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise UserError(
            f"{name} holds {frames} pictures (frames or pages)",
            "save the one that is meant, or each, as a file of its own",
        )
    if image.mode not in MODES:
        what = "float values, whose range nothing tells" if image.mode == "F" else "such colors"
        raise UserError(
            f"{name} has mode {image.mode}: {what}",
            "scale it to 0..255 and save it as 8-bit gray or RGB",
        )
    deep = MODES[image.mode] == DEEP
    if kind == "mask" and not deep and _deep(image):
        raise UserError(f"{name} is a mask in 16-bit color", "save it as 8-bit gray of 0 and 255")
    tags: Any = getattr(image, "tag_v2", {})
    if deep and (tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO or "transparency" in image.info):
        raise UserError(
            f"{name} is 16-bit gray with white as 0, or with a transparent value",
            "save it with black as 0 and without transparency",
        )


# --- images ------------------------------------------------------------------------------------


def read_image(path: Path) -> Bytes:
    """Read an image file as [H, W, 3] uint8, by the table of this module.

    Raises:
        UserError: the table refuses it.
    """
    return image_pixels(decode(path))


def turned_picture(image: Image.Image) -> PixelFile:
    """An image in Pillow's hands as `decode` gives its file.

    Raises:
        UserError: the table of this module refuses it.
    """
    _check_header(image, "the PIL image", "image")
    orientation = _exif_orientation(image)
    deep, already = _deep(image), image.format == "TIFF"
    image.load()
    if orientation in _TURNS and not already:
        image = image.transpose(_TURNS[orientation])
    return PixelFile(image, "the PIL image", orientation, deep)


def image_pixels(file: PixelFile) -> Bytes:
    """The pixels of a decoded image as [H, W, 3] uint8.

    Raises:
        UserError: it has transparent pixels, or 16-bit values beyond 0..65535.
    """
    image = file.image
    if MODES[image.mode] == DEEP:
        gray = np.asarray(image, dtype=np.float64)
        if gray.size and (gray.min() < 0 or gray.max() > FULL_SCALE):
            raise UserError(
                f"{file.name} has values from {gray.min():g} to {gray.max():g}, and 16-bit gray is "
                f"read as 0 to {FULL_SCALE}",
                "scale it to 0..255 (CT: by a window that shows the lesion) and save it as 8 bits",
            )
        shades = (gray / FULL_SCALE * 255).round().astype(np.uint8)
        return np.repeat(shades[..., None], 3, axis=2)
    if image.has_transparency_data:
        opacity = np.asarray(image.convert("RGBA"))[..., 3]
        if (opacity < 255).any():
            raise UserError(
                f"{file.name} is transparent in {(opacity < 255).mean():.1%} of its pixels",
                "save it without transparency, on the background that it shall have",
            )
    return np.asarray(image.convert("RGB"))


def image_oddities(pixels: Bytes, file: PixelFile | None = None) -> Oddities:
    """What is odd about an image [H, W, 3]."""
    low, high = int(pixels.min()), int(pixels.max())
    bound = NARROW_DEEP if file is not None and file.deep else NARROW
    odd: Oddities = {}
    if low == high:
        odd["constant"] = f"every value is {low}"
    elif high - low <= bound:
        odd["narrow"] = f"{low} to {high} of 255"
    if file is not None and file.deep:
        odd["deep"] = "16 bits"
    if file is not None and file.orientation != 1:
        odd["turned"] = f"orientation {file.orientation}"
    return odd


class NarrowRange(NamedTuple):
    """Images of a set that stay within a few of 255 levels, as those of another range do.

    Args:
        images: their positions.
        text: what they do, after "3 of 8 images".
        remedy: what to do.
    """

    images: list[int]
    text: str
    remedy: str


def narrow_ranges(names: Sequence[str], oddities: Sequence[Oddities]) -> list[NarrowRange]:
    """Judge a set's images: of 8 bits by whether all are narrow, of 16 by whether a quarter is.

    12 and 16 bits come mixed, from scanners of two kinds; a few dark slices are no sign of it.
    Images of one value tell nothing; where there is no other, none is listed.

    Args:
        names: of N images, for messages.
        oddities: of each.
    """
    found = []
    for deep, bound in ((True, NARROW_DEEP), (False, NARROW)):
        own = [n for n, odd in enumerate(oddities) if ("deep" in odd) == deep]
        telling = [n for n in own if "constant" not in oddities[n]]
        narrow = [n for n in telling if "narrow" in oddities[n]]
        if not narrow or len(narrow) < len(telling) * (MIXED if deep else 1):
            continue
        shown = f"{names[narrow[0]]}: {oddities[narrow[0]]['narrow']}"
        text = f"never fill more than {bound} of 255 levels ({shown})"
        text += ", as values of 12 or 14 bits that are read as 16" if deep else ""
        text += ", beside others that do" if len(narrow) < len(telling) else ""
        remedy = f"scale the whole set alike to 0..{FULL_SCALE if deep else 255}"
        remedy += " (12-bit values by 16, 14-bit ones by 4)" if deep else ""
        found.append(NarrowRange(narrow, text, remedy))
    return found


class Examined(NamedTuple):
    """An image [H, W, 3] and what is odd about it."""

    pixels: Bytes
    oddities: Oddities


def examine_image(path: Path) -> Examined:
    """Read an image as `read_image` does, check its integrity, and tell what is odd about it.

    Raises:
        UserError: as `probe` and `read_image` do.
    """
    file = decode(path, verify=True)
    pixels = image_pixels(file)
    return Examined(pixels, image_oddities(pixels, file))
