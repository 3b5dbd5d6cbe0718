"""A small disk of its own, in memory, where this process may mount one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from textseg.errors import UserError


class SmallDisk:
    """A mounted tmpfs.

    Args:
        root: where it is mounted.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def fill(self, free: int) -> None:
        """Fill the disk but for about so many bytes (a disk has pages)."""
        left = shutil.disk_usage(self.root).free - free
        with (self.root / ".filling").open("ab") as stream:
            stream.write(b"x" * max(left, 0))

    def make_room(self) -> None:
        """Remove what `fill` wrote."""
        (self.root / ".filling").unlink()

    def mount(self, option: str) -> None:
        """Mount it again with another option, such as ro."""
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.root)], check=True)


@contextmanager
def small_disk(root: Path, size: str) -> Iterator[SmallDisk]:
    """Mount one; skips the test where that is not allowed."""
    root.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(root)]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a disk needs root")
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def two_lines(write: Callable[[], Any]) -> str:
    """The message of a user's error, which has two lines."""
    with pytest.raises(UserError) as caught:
        write()
    assert len(str(caught.value).splitlines()) == 2
    return str(caught.value)
