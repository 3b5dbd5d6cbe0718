"""Kills a process at a change of the file system: before the k-th file is opened, renamed, ...

Python tells an audit hook of each such change. What is cut short within one file is left as its
beginning, because a file is opened, written and renamed one after the other.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate", "os.utime"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def kill_before_change(number: int, below: Path) -> Callable[[], int]:
    """Kill this process before the change of this number below a folder, counted from 0.

    Args:
        number: below 0 for none.
        below: other changes, such as those of a library's cache, are not counted.

    Returns:
        what tells how many changes there were.
    """
    place, count = str(below.resolve()), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            flags = arguments[2]
            changes = isinstance(flags, int) and bool(flags & _WRITING)
        else:
            changes = event in _CHANGES
        if not changes or not any(_is_below(name, place) for name in arguments[:2]):
            return
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    sys.addaudithook(hook)
    return lambda: count


def _is_below(name: object, place: str) -> bool:
    if not isinstance(name, (str, bytes, os.PathLike)):
        return False
    return os.path.realpath(os.fsdecode(name)).startswith(place)


def in_child(function: Callable[[], object], number: int, below: Path) -> tuple[bool, int]:
    """Call a function in a fork of this process, killed before a change; fast, for light ones.

    Returns:
        whether it was killed, and else how many changes there were.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            changes = kill_before_change(number, below)
            function()
            os.write(writer, str(changes()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        told = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"the child ended with {status}"
    return status != 0, int(told or 0)
