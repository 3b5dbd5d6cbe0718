"""Files that are whole or not there: written beside their place, flushed, and renamed."""

from __future__ import annotations

import errno
import io
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from textseg.output.disk import writing

PART = ".part-"  # what names of files begin with that are being written
_STALE = 600  # seconds after which nobody is writing a file that has not changed
_LONGEST = 255  # bytes of a file's name
_MANY = 64  # files, above which the system flushes all in one go faster


@contextmanager
def whole_file(path: Path, *, flush: bool = True, new: bool = False) -> Iterator[Path]:
    """Give a path beside `path` to write to; what is written there is renamed when it is whole.

    The path given has the suffixes of `path`, which tell libraries the format. Where the block
    fails, nothing is left of it.

    Args:
        path: the file, replaced where it exists.
        flush: whether the content must have reached the disk before the name; not needed in a
            folder that is marked as incomplete until `flush_tree` was called.
        new: raise FileExistsError where the file exists by now.

    Raises:
        UserError: the disk is full, read-only, and so on.
    """
    part = path.with_name(_part_name(path.name))
    with writing(path, new=new):
        try:
            if new and path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            yield part
            if flush:
                _flush(part)
            (_link if new else os.replace)(part, path)
        except BaseException:  # before the room on the disk is looked at
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise


@contextmanager
def whole_text(
    path: Path, *, newline: str | None = None, errors: str = "strict", new: bool = False
) -> Iterator[TextIO]:
    """Open a file for text in UTF-8, which has its name when it is whole; see `whole_file`."""
    with (
        whole_file(path, new=new) as part,
        part.open("w", encoding="utf-8", newline=newline, errors=errors) as stream,
    ):
        yield stream


def write_text(path: Path, text: str, *, newline: str | None = None) -> None:
    """Write a file of text in UTF-8 that is whole or not there.

    Raises:
        UserError: it cannot be written.
    """
    with whole_text(path, newline=newline) as stream:
        stream.write(text)


def write_bytes(path: Path, content: bytes, *, flush: bool = True) -> None:
    """Write a file that is whole or not there; `flush` as of `whole_file`.

    Raises:
        UserError: it cannot be written.
    """
    with whole_file(path, flush=flush) as part:
        part.write_bytes(content)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there, and never over another.

    Raises:
        FileExistsError: there is one.
        UserError: it cannot be written.
    """
    with whole_file(path, new=True) as part:
        part.write_bytes(content)


def write_picture(path: Path, picture: Any, **options: Any) -> None:
    """Write a picture as a PNG that is whole or not there, in a folder that is flushed at its end.

    Args:
        path: the file.
        picture: a PIL image, or an array [H, W] or [H, W, 3].
        options: of Pillow's writer of PNG.

    Raises:
        UserError: it cannot be written.
    """
    from PIL import Image

    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = io.BytesIO()  # Pillow's own writing hides what the disk says
    image.save(stream, "PNG", **options)
    write_bytes(path, stream.getvalue(), flush=False)


def is_whole_png(path: Path) -> bool:
    """Whether a file ends as a PNG does; one whose content a power cut took does not."""
    try:
        with path.open("rb") as stream:
            stream.seek(-12, os.SEEK_END)
            return stream.read() == b"\0\0\0\0IEND\xaeB`\x82"
    except OSError:
        return False


def clear_leftovers(folder: Path) -> None:
    """Remove from a folder the files that were being written when their process was killed.

    Those that changed within the last ten minutes stay: a living process may be at them. Folders
    within the folder are not looked at.
    """
    for file in folder.glob(f"{PART}????????-*"):
        with suppress(OSError):  # another process removes it too
            if file.is_file() and time.time() - file.stat().st_mtime > _STALE:
                file.unlink()


def flush_tree(folder: Path) -> None:
    """Wait until every file below a folder, and every name, has reached the disk.

    Raises:
        UserError: the disk cannot take them.
    """
    with writing(folder):
        below = list(os.walk(folder))
        files = [Path(home, name) for home, _, names in below for name in names]
        if len(files) > _MANY:
            os.sync()
            return
        for path in [*files, *(Path(home) for home, _, _ in below)]:
            _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(part: Path, path: Path) -> None:
    """Give a file its name unless there is one of that name."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        path.open("xb").close()  # this disk has no links
        part.replace(path)
    part.unlink(missing_ok=True)


def _part_name(name: str) -> str:
    """A name of its own for each writer: two processes may write one file."""
    prefix = f"{PART}{uuid.uuid4().hex[:8]}-"
    if len(os.fsencode(name)) <= _LONGEST < len(os.fsencode(prefix + name)):
        # The name itself is not too long; of it only the format is needed.
        name = "".join(end for end in Path(name).suffixes[-2:] if len(end) < 8)
    return prefix + name
