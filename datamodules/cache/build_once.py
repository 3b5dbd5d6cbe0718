"""Folders that one process builds once and atomically."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info

from textseg.errors import UserError, reason_of, refusing
from textseg.output import disk_error, flush_tree, write_text

IDENTITY = ".identity"  # in every folder built here


def build_once(
    folder: Path,
    write: Callable[[Path], None],
    *,
    identity: str,
    what: str,
    elsewhere: str = "choose a folder on another disk",
) -> Path:
    """Build a folder unless a complete one of this identity is there.

    `write` fills a new folder beside it, which is renamed when it is complete, so that an
    interrupted build is never taken for a complete one. One process builds, the others wait. A
    folder of another identity, or of none, is replaced.

    Args:
        folder: where the result belongs.
        write: fills the empty folder it is given.
        identity: changes whenever the result would.
        what: names the result in messages.
        elsewhere: how the user chooses another folder, for messages.

    Returns:
        `folder` as an absolute path.

    Raises:
        UserError: the folder cannot be written, or its disk is full.
    """
    folder = folder.absolute()
    if is_complete(folder, identity):
        return folder
    with _locked(folder, what, elsewhere):
        if not is_complete(folder, identity):  # while waiting, another process may have built it
            _build(folder, write, identity, what, elsewhere)
    return folder


def is_complete(folder: Path, identity: str) -> bool:
    """Whether the folder was built to its end, and with this identity."""
    try:
        return (folder / IDENTITY).read_text(encoding="utf-8") == identity
    except (FileNotFoundError, NotADirectoryError):
        return False


def forget(folder: Path) -> None:
    """Invalidate a folder, so that the next `build_once` builds it anew."""
    (folder / IDENTITY).unlink(missing_ok=True)


def sources_identity(paths: Iterable[Path], *settings: object) -> str:
    """Digest files by name, size and time of change, and settings by their `repr`.

    The order of the files and their repetitions do not matter; a file that does not exist counts
    as that.
    """
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    for path in sorted({str(path) for path in paths}):
        try:
            stat = os.stat(path)  # noqa: PTH116 - of thousands of files, Path.stat takes longer
            state = f"{stat.st_size}/{stat.st_mtime_ns}"
        except (FileNotFoundError, NotADirectoryError):
            state = "absent"
        digest.update(f"\0{path}\0{state}".encode(errors="surrogateescape"))
    return digest.hexdigest()


@contextmanager
def _locked(folder: Path, what: str, elsewhere: str) -> Iterator[None]:
    """Hold the folder's lock."""
    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(path)
    with refusing(OSError, f"{what} cannot be written into {folder.parent}", elsewhere):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            rank_zero_info(f"waiting for another process that builds {what} in {folder}")
            lock.acquire()
    try:
        yield
    finally:
        # Removed while held: who waits for the removed file finds that it has no name any more
        # and starts over (filelock looks at its link count).
        path.unlink(missing_ok=True)
        lock.release()


def _build(
    folder: Path, write: Callable[[Path], None], identity: str, what: str, elsewhere: str
) -> None:
    """Write to a temporary folder and rename it; what killed builds have left is removed first."""
    leftover = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{32}}")
    for path in folder.parent.iterdir():
        if leftover.fullmatch(path.name):
            shutil.rmtree(path)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        aside.mkdir()
        write(aside)
        write_text(aside / IDENTITY, identity)
        flush_tree(aside)  # a power cut must not leave a complete folder of empty files
        if folder.exists():
            folder.replace(old)
        aside.replace(folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)  # before the room on the disk is looked at
        refused = disk_error(error, folder if error.filename is None else None)
        if refused is None:
            raise
        cause = f"{what} was not written: {reason_of(refused)}"
        raise UserError(cause, f"free space, or {elsewhere}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
