"""Images as data URIs, small enough that a page still opens quickly."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from textseg.errors import UserError, refusing
from textseg.preprocess import BROKEN
from textseg.report.blocks import Picture

MAX_BYTES = 7_500_000  # of all case pictures; base64 makes 10 MB of it
_LONGEST_SIDE = 1280  # of a picture that is reduced, pixels
_QUALITY = 85


@dataclass(frozen=True)
class Album:
    """Case pictures by file; `reduced` where they are JPEG and not the files' own bytes."""

    pictures: dict[Path, Picture]
    reduced: bool

    @property
    def note(self) -> str:
        """A sentence for the page where its pictures are reduced; "" where they are not."""
        size = f"JPEGs of at most {_LONGEST_SIDE} pixels"
        return f" The pictures are {size}; the originals lie in the run's folder." * self.reduced

    def show(self, file: Path, alt: str, caption: str) -> Picture:
        """Take a picture, with what it shows in words."""
        return replace(self.pictures[file], alt=alt, caption=caption)


def album(files: Iterable[Path], *, max_bytes: int = MAX_BYTES) -> Album:
    """Embed pictures: as they are, or all as JPEG where they would be more than `max_bytes`.

    Raises:
        UserError: a file is no picture.
    """
    files = list(dict.fromkeys(files))
    contents = {file: _read(file) for file in files}
    reduced = sum(map(len, contents.values())) > max_bytes
    return Album({file: _embedded(file, data, reduced) for file, data in contents.items()}, reduced)


def data_uri(data: bytes, kind: str) -> str:
    """Write the bytes of a file of a kind such as image/png as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})", "test the run again") from None


def _embedded(file: Path, data: bytes, reduced: bool) -> Picture:
    remedy = "the file was cut short or replaced: test the run again"
    with (
        refusing(BROKEN, f"{file} is no PNG that can be read", remedy),
        Image.open(io.BytesIO(data), formats=["PNG"]) as image,
    ):
        image.load()  # a file cut short fails here
        if not reduced:
            return Picture(data_uri(data, "image/png"), *image.size)
        small = image.convert("RGB")
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    # No chroma subsampling: it would wash out the thin colored rims.
    small.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return Picture(data_uri(buffer.getvalue(), "image/jpeg"), *small.size)
