"""What a disk refuses, as two lines: which file, why, how much room there was, what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from textseg.errors import UserError, reason_of, wrapped_error

_AGAIN = "make room there and give the same command again, or choose a folder on another disk"
_ELSEWHERE = "choose a folder that can be written to"
_GONE = "see that the disk is there and give the same command again, or choose another folder"
_SHORTER = "give a shorter name, or an output folder with a shorter path"
# What the user is told of an error of the disk: why, and the remedy.
_KNOWN: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", _AGAIN),
    errno.EDQUOT: ("your quota on that disk is used up", _AGAIN),
    errno.EFBIG: ("the limit on the size of a file is reached", "raise it (ulimit -f)"),
    errno.EROFS: ("the disk is read-only", _ELSEWHERE),
    errno.EACCES: ("permission is denied", _ELSEWHERE),
    errno.EPERM: ("the operation is not permitted", _ELSEWHERE),
    errno.ENAMETOOLONG: ("the name is too long", _SHORTER),
    errno.ENODEV: ("there is no such device", _GONE),
    errno.ENXIO: ("there is no such device", _GONE),
    errno.EIO: ("the disk has failed", _GONE),
    errno.ESTALE: ("the network disk has gone", _GONE),
    errno.ENOTCONN: ("the network disk has gone", _GONE),
    errno.EHOSTDOWN: ("the network disk has gone", _GONE),
}


def disk_error(error: BaseException | None, path: Path | None = None) -> UserError | None:
    """A disk's refusal as a user's error; None where an error is of another kind.

    Args:
        error: an error, however often it was wrapped.
        path: what was written; by default the file that the error names.
    """
    refused = wrapped_error(error, OSError)
    if refused is None or refused.errno not in _KNOWN:
        return None
    why, remedy = _KNOWN[refused.errno]
    named = path or (Path(str(refused.filename)) if refused.filename else None)
    if refused.errno == errno.ENOSPC:
        why += _room(named)
    if refused.errno == errno.ENAMETOOLONG and named is not None:
        why += f" (of {len(named.name.encode(errors='surrogateescape'))} bytes)"
    verb = "written" if path is not None else "read or written"
    return UserError(f"{named or 'a file'} cannot be {verb}: {why}", remedy)


@contextmanager
def writing(path: Path, remedy: str = "", *, new: bool = False) -> Iterator[None]:
    """Raise a UserError for errors of the disk, each naming what was being written.

    Args:
        path: what is named where an error names nothing.
        remedy: where the usual one of an error does not fit.
        new: a FileExistsError stays as it is.

    Raises:
        UserError: the file or folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if new and isinstance(error, FileExistsError):
            raise
        found = disk_error(error, path)
        if found is None:
            cause = f"{path} cannot be written ({error.strerror or error})"
            raise UserError(cause, remedy or _ELSEWHERE) from error
        if remedy:
            found = UserError(reason_of(found), remedy)
        raise found from error


def _room(path: Path | None) -> str:
    """How much of the disk is free, where that can be found out."""
    folder = Path.cwd() if path is None else path.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return ""
    return f" ({_size(usage.free)} of {_size(usage.total)} are free)"


def _size(count: float) -> str:
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.4g} {units[0]}"
