"""A disk that is full, read-only or gone, and names it does not take: two lines, nothing half.

Full and read-only disks are real ones, a tmpfs of some KiB; root, which ignores permissions, is
refused by one that is mounted read-only. Quotas and lost devices are errors of a patched fsync. A
limit on the size of files (ulimit -f) is set in a child.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.full_disk import SmallDisk, small_disk, two_lines
from tests.faults.kill_at import in_child
from tests.run_folder import case_row
from textseg.errors import UserError
from textseg.output import (
    disk_error,
    output_folder,
    write_bytes,
    write_new,
    write_picture,
    write_text,
    writing,
)
from textseg.runs import write_cases

BIG = 200_000  # bytes, more than the disk has


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "256k") as found:
        yield found


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (400, 500), dtype=np.uint8)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: write_text(path, "x" * BIG),
    "bytes": lambda path: write_bytes(path, b"x" * BIG),
    "new.html": lambda path: write_new(path, b"x" * BIG),
    "mask.png": lambda path: write_picture(path, noise()),
    "cases.csv": lambda path: write_cases(path, [case_row(i % 9, 0.5, 9) for i in range(1200)]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_with_the_room_there_is_and_leaves_nothing_half(
    disk: SmallDisk, name: str
) -> None:
    file = disk.root / name
    disk.fill(60_000)
    before = {path.name for path in disk.root.iterdir()}
    told = two_lines(lambda: WRITERS[name](file))
    assert str(file) in told
    assert "KiB of 256 KiB" in told
    assert {path.name for path in disk.root.iterdir()} == before
    disk.make_room()
    WRITERS[name](file)
    assert file.stat().st_size > 60_000


@pytest.mark.parametrize("name", ["text", "mask.png"])
def test_a_full_disk_leaves_the_file_that_was_there(disk: SmallDisk, name: str) -> None:
    file = disk.root / name
    file.write_text("old")
    disk.fill(60_000)
    two_lines(lambda: WRITERS[name](file))
    assert file.read_text() == "old"


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_mounted_read_only_is_told(disk: SmallDisk, name: str) -> None:
    disk.mount("ro")
    told = two_lines(lambda: WRITERS[name](disk.root / name))
    assert str(disk.root / name) in told
    assert "read-only" in told


def test_no_folder_is_made_on_a_disk_that_is_full_or_read_only(disk: SmallDisk) -> None:
    folder = disk.root / "results" / "test"
    disk.fill(0)
    for state in ("rw", "ro"):
        disk.mount(state)
        with pytest.raises(UserError) as caught, output_folder(folder, "work"):
            raise AssertionError("it was made")
        assert str(folder) in str(caught.value)
        assert not folder.exists()
        assert not [*disk.root.rglob(".part-*")]


@pytest.mark.parametrize("name", WRITERS)
def test_a_name_that_is_too_long_is_told(tmp_path: Path, name: str) -> None:
    file = tmp_path / ("n" * 255 + "".join(Path(name).suffixes or [".txt"]))
    told = two_lines(lambda: WRITERS[name](file))
    assert str(file) in told
    assert "too long" in told
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["text", "mask.png", "cases.csv"])
def test_a_limit_on_the_size_of_files_is_told(tmp_path: Path, name: str) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        told = two_lines(lambda: WRITERS[name](tmp_path / name))
        assert str(tmp_path / name) in told
        assert "ulimit -f" in told

    assert in_child(limited, -1, tmp_path)[0] is False
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.EDQUOT, "quota"),
        (errno.ENODEV, "device"),
        (errno.EIO, "failed"),
        (errno.ESTALE, "network"),
        (errno.EACCES, "permission"),
    ],
)
@pytest.mark.parametrize("name", ["text", "new.html", "cases.csv"])
def test_other_refusals_of_a_disk_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, word: str, name: str
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    told = two_lines(lambda: WRITERS[name](tmp_path / name))
    assert str(tmp_path / name) in told
    assert word in told
    assert not any(tmp_path.iterdir())


def test_what_is_no_fault_of_a_disk_stays_what_it_is(tmp_path: Path) -> None:
    assert disk_error(ValueError("no")) is None
    assert disk_error(FileNotFoundError(errno.ENOENT, "no", "a")) is None
    with pytest.raises(FileExistsError), writing(tmp_path, new=True):
        raise FileExistsError(errno.EEXIST, "there is one")
    hidden = RuntimeError("a library's own")
    hidden.__cause__ = OSError(errno.ENOSPC, "full", str(tmp_path / "a"))
    found = disk_error(hidden)
    assert found is not None
    assert str(tmp_path / "a") in str(found)
