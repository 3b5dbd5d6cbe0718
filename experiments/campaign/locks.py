"""Who works on what: a folder for each row that a worker has taken, with its process and host."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from campaign.processes import process_facts, read, say, write

# Seconds. Workers note themselves more often (processes.BEAT); of one on another host nothing else
# is known.
SILENT = 900.0
UNNAMED = 60.0  # a folder without a name: its maker was killed between two lines


@contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Take `folder` for oneself while the block runs; False where another worker has it.

    A worker that is dead loses it: one of this host whose process is gone, one of another that has
    been silent for a quarter of an hour.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    taken = _make(folder) or _take_over(folder)
    try:
        yield taken
    finally:
        if taken:
            shutil.rmtree(folder, ignore_errors=True)


def owner(folder: Path) -> dict[str, Any] | None:
    """The process and host of the worker that has it; None where nobody has, or a dead one."""
    return None if not folder.is_dir() or _dead(folder) else read(folder / "owner.json") or {}


def beat(folder: Path) -> None:
    """Say that this worker is alive."""
    with suppress(OSError):
        os.utime(folder / "owner.json")


def _make(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    _sign(folder)
    return True


def _sign(folder: Path) -> None:
    own = os.getpid()
    write(folder / "owner.json", {"pid": own, "host": socket.gethostname(), "born": _born(own)})


def _take_over(folder: Path) -> bool:
    """Take what a dead worker has. One judges at a time: a second one finds the first's name."""
    with (folder.parent / "take_over").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # which ends with the process
        if not folder.is_dir():
            return _make(folder)
        if not _dead(folder):
            return False
        say(f"{folder.name}: its worker is dead ({read(folder / 'owner.json')}), taken over")
        _sign(folder)
        return True


def _dead(folder: Path) -> bool:
    file = folder / "owner.json"
    try:
        named = read(file)
        silent = time.time() - (file if named else folder).stat().st_mtime
    except OSError:  # it has just been given back
        return False
    if named is None:
        return silent > UNNAMED
    if named["host"] != socket.gethostname():
        return silent > SILENT
    return not _alive(named["pid"], named["born"])


def _alive(process: int, born: str) -> bool:
    """Whether a process of this host runs, and is not another one with the same number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    facts = process_facts(process)
    return not facts or (facts[0] not in "ZX" and _born(process) == born)


def _born(process: int) -> str:
    """When a process began, in the system's own count; "" where that is not known."""
    facts = process_facts(process)
    return facts[19] if facts else ""


@contextmanager
def claim_waiting(folder: Path) -> Iterator[None]:
    """Take `folder` as soon as no other worker has it."""
    while True:
        with claim(folder) as mine:
            if mine:
                yield
                return
        time.sleep(1.0)
