"""Images as data URIs, small enough that a page still opens quickly."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

from PIL import Image

from textseg.errors import UserError, refusing
from textseg.preprocess import BROKEN
from textseg.report.blocks import Picture
from textseg.visualize.sheet import panel_boxes

MAX_BYTES = 7_500_000  # of all case pictures; base64 makes 10 MB of it
_LONGEST_SIDE = 1280  # of a picture that is reduced, pixels
_QUALITY = 85


class Panel(NamedTuple):
    """A panel of an overlay, such as its prediction."""

    file: Path
    name: str


Picked: TypeAlias = Path | Panel


@dataclass(frozen=True)
class Album:
    """Case pictures by file or panel; `reduced` where they are JPEG, not the files' own bytes."""

    pictures: dict[Picked, Picture]
    reduced: bool

    @property
    def note(self) -> str:
        """A sentence for the page where its pictures are reduced; "" where they are not."""
        size = f"JPEGs of at most {_LONGEST_SIDE} pixels"
        return f" The pictures are {size}; the originals lie in the run's folder." * self.reduced

    def show(self, one: Picked, alt: str, caption: str) -> Picture:
        """Take a picture, with what it shows in words."""
        return replace(self.pictures[one], alt=alt, caption=caption)


def album(picked: Iterable[Picked], *, max_bytes: int = MAX_BYTES) -> Album:
    """Embed pictures: as they are, or all as JPEG where they would be more than `max_bytes`.

    Raises:
        UserError: a file is no picture.
    """
    contents = {one: _content(one) for one in dict.fromkeys(picked)}
    reduced = sum(map(len, contents.values())) > max_bytes
    pictures = {
        one: _embedded(one.file if isinstance(one, Panel) else one, data, reduced)
        for one, data in contents.items()
    }
    return Album(pictures, reduced)


def panel_names(file: Path) -> set[str]:
    """Names of the panels of an overlay; none where the file does not tell them."""
    with _opened(file, _read(file)) as image:
        return {*panel_boxes(image)}


def data_uri(data: bytes, kind: str) -> str:
    """Write the bytes of a file of a kind such as image/png as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})", "test the run again") from None


def _content(one: Picked) -> bytes:
    """The file, or a PNG of a panel of it."""
    if isinstance(one, Path):
        return _read(one)
    with _opened(one.file, _read(one.file)) as image:
        left, top, width, height = panel_boxes(image)[one.name]
        buffer = io.BytesIO()
        image.crop((left, top, left + width, top + height)).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def _opened(file: Path, data: bytes) -> Iterator[Image.Image]:
    """The PNG of these bytes, which are of a file."""
    remedy = "the file was cut short or replaced: test the run again"
    with (
        refusing(BROKEN, f"{file} is no PNG that can be read", remedy),
        Image.open(io.BytesIO(data), formats=["PNG"]) as image,
    ):
        image.load()  # a file cut short fails here
        yield image


def _embedded(file: Path, data: bytes, reduced: bool) -> Picture:
    with _opened(file, data) as image:
        if not reduced:
            return Picture(data_uri(data, "image/png"), *image.size)
        small = image.convert("RGB")
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    # No chroma subsampling: it would wash out the thin colored rims.
    small.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return Picture(data_uri(buffer.getvalue(), "image/jpeg"), *small.size)
