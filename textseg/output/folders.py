"""Folders of results that say so while they are not complete, and are taken up again.

A new folder gets its name together with its marker, INCOMPLETE, which is removed last. The process
that writes holds the marker's lock, so that a folder whose process was killed is known by a marker
that nobody holds. A disk without locks tells nobody: what is marked there is left as it is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from textseg.errors import UserError
from textseg.output.disk import writing
from textseg.output.files import PART, clear_leftovers, flush_tree

INCOMPLETE = "INCOMPLETE"
_HEAD = (
    "This folder is not complete: the command below is at it, or was ended before it was done.\n"
    "The same command takes it up again.\n"
)
# A lock of lockf goes with the process, not with those that it forks, such as a loader's workers;
# but it is lost when any descriptor of the file is closed, so a held marker is not opened again.
_held: dict[Path, tuple[int, int]] = {}  # marker -> process, descriptor


class OutputFolder:
    """A folder that this process writes to; another process of the same run has no marker.

    Attributes:
        path: the folder.
        goes_on: whether results of an ended command are in it, that are not to be made again.
    """

    def __init__(self, path: Path, *, goes_on: bool = False) -> None:
        self.path = path
        self.goes_on = goes_on

    def finish(self) -> None:
        """Flush what is in the folder, and remove the marker: it is complete.

        Raises:
            UserError: the disk cannot take it.
        """
        if self._is_held():
            flush_tree(self.path)
            with writing(self.path):
                (self.path / INCOMPLETE).unlink()
            self.release()

    def release(self) -> None:
        """Let others take the folder up; the marker stays."""
        if self._is_held():
            os.close(_held.pop(_key(self.path))[1])

    def _is_held(self) -> bool:
        return _held.get(_key(self.path), (0, 0))[0] == os.getpid()


@contextmanager
def output_folder(folder: Path, work: str, *, goes_on: bool = False) -> Iterator[OutputFolder]:
    """Claim a folder as `claim_folder` does; it is complete where the block ends well.

    Raises:
        UserError: the folder cannot be made, or not written to.
    """
    claimed = claim_folder(folder, work, goes_on=goes_on)
    try:
        yield claimed
        claimed.finish()
    finally:
        claimed.release()


def claim_folder(folder: Path, work: str, *, goes_on: bool = False) -> OutputFolder:
    """Create a marked folder, or take up the one that an ended command of the same work left.

    Args:
        folder: where it exists and is not to be taken up, the first of <folder>_2, <folder>_3, ...
            is taken that does not exist or is to be taken up.
        work: what is written there; a folder is taken up for equal work only.
        goes_on: keep what is in a folder that is taken up; else it is emptied.

    Raises:
        UserError: the folder cannot be made, or is the working folder.
    """
    folder = folder.expanduser()
    if folder.resolve() == Path.cwd():
        raise UserError(
            "the output would be the working folder itself", "name a new folder, such as results"
        )
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_nameless(folder)
        clear_leftovers(folder.parent)
        for number in range(1, 10_000):
            candidate = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
            if _created(candidate, work):
                return OutputFolder(candidate)
            if _taken_up(candidate, work):
                if goes_on:
                    _clear_parts(candidate)
                else:
                    sys.stderr.write(f"{candidate} was left incomplete and is begun anew\n")
                    _empty(candidate)
                return OutputFolder(candidate, goes_on=goes_on)
    raise UserError(f"{folder} exists ten thousand times", "clear out old results")


def is_incomplete(folder: Path) -> bool:
    """Whether a folder of results is being written, or was left by a command that was ended."""
    return (folder / INCOMPLETE).exists()


def check_complete(folder: Path) -> None:
    """Check that a folder of results is complete.

    Raises:
        UserError: it is not; names the command and when it began.
    """
    if not is_incomplete(folder):
        return
    told = _told(folder)
    raise UserError(
        f"{folder} is not complete: {told.get('command', 'a command')} began it on "
        f"{told.get('begun', 'a day unknown')} and is at it, or was ended",
        "give the same command again, which takes it up; or remove the folder",
    )


# --- the marker --------------------------------------------------------------------------------


def _key(folder: Path) -> Path:
    return folder.resolve() / INCOMPLETE


def _content(work: str) -> str:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else "python"
    plain = "".join(letter if letter.isprintable() else "?" for letter in command)
    now = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    lines = {"command": plain, "begun": now, "process": f"{os.getpid()} on {socket.gethostname()}"}
    lines |= {"work": work} if work else {}
    return _HEAD + "".join(f"{name}: {text}\n" for name, text in lines.items())


def _told(folder: Path) -> dict[str, str]:
    """What a marker says, by name; nothing where it cannot be read or this process holds it."""
    if _key(folder) in _held:
        return {}
    try:
        text = (folder / INCOMPLETE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(": ") for line in text.splitlines())
    return {
        name: "".join(x if x.isprintable() else "?" for x in value)[:500]
        for name, colon, value in pairs
        if colon
    }


def _created(folder: Path, work: str) -> bool:
    """Create a folder with its marker, at once; False where there is one."""
    if folder.exists() or folder.is_symlink():
        return False
    aside = folder.with_name(f"{PART}{uuid.uuid4().hex[:8]}-{folder.name[:200]}")
    aside.mkdir()
    descriptor = -1
    try:
        descriptor = os.open(aside / INCOMPLETE, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(descriptor)
        _write(descriptor, work)
        aside.replace(folder)  # another's folder has a marker: it is not empty
    except FileNotFoundError:  # another process has cleared it while it was empty
        if descriptor >= 0:
            os.close(descriptor)
        return _created(folder, work)
    except BaseException as error:
        if descriptor >= 0:
            os.close(descriptor)
        shutil.rmtree(aside, ignore_errors=True)
        taken = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
        if isinstance(error, OSError) and error.errno in taken:
            return False
        raise
    _held[_key(folder)] = os.getpid(), descriptor
    return True


def _taken_up(folder: Path, work: str) -> bool:
    """Take up a folder whose marker is of the same work and held by nobody."""
    file = folder / INCOMPLETE
    if _held.get(_key(folder), (0, 0))[0] == os.getpid() or _told(folder).get("work") != work:
        return False
    try:
        descriptor = os.open(file, os.O_RDWR)
    except OSError:  # it is complete by now, or another user's
        return False
    # Another process may have taken it up and finished it since it was opened.
    named = _lock(descriptor) and os.fstat(descriptor).st_nlink > 0
    if not named:
        os.close(descriptor)
        return False
    _write(descriptor, work)
    _held[_key(folder)] = os.getpid(), descriptor
    return True


def _lock(descriptor: int) -> bool:
    """Take a marker's lock; False where another process holds it, or the disk has no locks."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _write(descriptor: int, work: str) -> None:
    content = _content(work).encode(errors="replace")
    os.pwrite(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))
    os.fsync(descriptor)


def _empty(folder: Path) -> None:
    """Remove all that is in a folder but its marker."""
    for path in folder.iterdir():
        if path.name == INCOMPLETE:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _clear_parts(folder: Path) -> None:
    """Remove the files below a folder that were being written when their process was killed."""
    for path in folder.rglob(f"{PART}*"):
        path.unlink()


def _clear_nameless(folder: Path) -> None:
    """Remove what processes left that were killed before their folder had its name."""
    for aside in folder.parent.glob(f"{PART}????????-*"):
        if not aside.is_dir():
            continue
        with suppress(OSError):
            if not any(aside.iterdir()):
                aside.rmdir()
                continue
            descriptor = os.open(aside / INCOMPLETE, os.O_RDWR)
            try:
                if _lock(descriptor):
                    shutil.rmtree(aside)
            finally:
                os.close(descriptor)
