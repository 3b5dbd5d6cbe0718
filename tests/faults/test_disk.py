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
import torch

from datamodules.cache.build_once import build_once
from datamodules.files.nifti import write_nifti
from tests.faults.full_disk import SmallDisk, small_disk
from tests.faults.kill_at import in_child
from tests.faults.untrained import write_untrained
from tests.report.reported_run import write_reported_run
from tests.run_folder import case_row, write_run
from tests.tiny_run import call, fingerprints, write_refhl
from textseg.errors import UserError
from textseg.output import (
    INCOMPLETE,
    disk_error,
    output_folder,
    whole_file,
    write_bytes,
    write_new,
    write_picture,
    write_text,
    writing,
)
from textseg.runs import write_cases
from textseg.training.checkpoint_files import AtomicCheckpoints

BIG = 200_000  # bytes, more than the disk has


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "256k") as found:
        yield found


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (400, 500), dtype=np.uint8)


def nifti(path: Path) -> None:
    with whole_file(path) as part:
        write_nifti(part, np.random.default_rng(0).normal(size=(40, 40, 40)), np.eye(4))


def checkpoint(path: Path) -> None:
    AtomicCheckpoints().save_checkpoint({"weights": torch.rand(BIG // 4)}, path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: write_text(path, "x" * BIG),
    "bytes": lambda path: write_bytes(path, b"x" * BIG),
    "new.html": lambda path: write_new(path, b"x" * BIG),
    "mask.png": lambda path: write_picture(path, noise()),
    "cases.csv": lambda path: write_cases(path, [case_row(i % 9, 0.5, 9) for i in range(3000)]),
    "volume.nii.gz": nifti,
    "last.ckpt": checkpoint,
}


def two_lines(write: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        write()
    assert len(str(caught.value).splitlines()) == 2
    return str(caught.value)


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


@pytest.mark.parametrize("name", ["text", "mask.png", "last.ckpt"])
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


def test_a_cache_on_a_full_disk_is_told_and_built_later(disk: SmallDisk) -> None:
    def build() -> Path:
        def write(folder: Path) -> None:
            (folder / "pixels.bin").write_bytes(b"x" * BIG)

        return build_once(disk.root / "cache", write, identity="a", what="the cache of A")

    disk.fill(60_000)
    told = two_lines(build)
    assert "the cache of A" in told
    assert "KiB of 256 KiB" in told
    assert {path.name for path in disk.root.iterdir()} == {".filling"}
    disk.make_room()
    assert (build() / "pixels.bin").stat().st_size == BIG


@pytest.mark.parametrize("name", WRITERS)
def test_a_name_that_is_too_long_is_told(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{'n' * 252}{Path(name).suffix or '.txt'}"
    told = two_lines(lambda: WRITERS[name](file))
    assert str(file) in told
    assert "too long" in told
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["text", "mask.png", "cases.csv", "volume.nii.gz"])
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


# --- commands ----------------------------------------------------------------------------------


def command(disk: SmallDisk, name: str) -> tuple[list[str], Path]:
    """A command that writes to the disk, and what it writes."""
    home, out = disk.root.parent, disk.root / "out"
    if name == "compare":
        runs = [write_run(home / run, [0.5 + i / 9] * 6, seed=i) for i, run in enumerate("ab")]
        options = ["--names", "[a,b]", "--output", str(out)]
        return ["compare", *map(str, runs), *options], out / "report.html"
    if name == "report":
        run, file = write_reported_run(home / "run"), disk.root / "page.html"
        return ["report", str(run), "--output", str(file)], file
    root = write_refhl(home / "set")
    if name == "data audit":
        return ["data", "audit", str(root), "--output", str(out)], out / "findings.csv"
    checkpoint = write_untrained(home / "run", root)
    given = [str(root / "images"), "--ckpt_path", str(checkpoint), "--output", str(out)]
    return ["segment", *given], out / "averaging.json"


# Each leaves less room than the command needs: at once, and after some files.
@pytest.mark.parametrize("free", [0, 8_192, 40_000])
@pytest.mark.parametrize("name", ["compare", "report", "data audit", "segment"])
def test_a_command_on_a_full_disk_ends_with_two_lines_and_is_taken_up_when_there_is_room(
    tmp_path: Path,
    name: str,
    free: int,
) -> None:
    if (name, free) in (("report", 40_000), ("data audit", 8_192), ("data audit", 40_000)):
        pytest.skip("that is room enough")
    with small_disk(tmp_path / "disk", "4m") as disk:
        words, file = command(disk, name)
        disk.fill(free)
        outcome = call(*words, cwd=tmp_path)
        assert outcome.status == 2
        assert len(outcome.message()) == 2, outcome.err
        assert "Traceback" not in outcome.err
        assert str(disk.root) in outcome.message()[0]
        assert not [*disk.root.rglob(".part-*")]
        out = disk.root / "out"
        assert not file.exists() or (out / INCOMPLETE).exists()
        disk.make_room()
        outcome = call(*words, cwd=tmp_path)
        assert outcome.status in (0, 1), outcome.err  # an audit finds something
        assert file.is_file()
        written = [path.name for path in disk.root.iterdir()]
        assert written == [file.name if name == "report" else "out"]
        assert not (out / INCOMPLETE).exists()


@pytest.mark.slow
@pytest.mark.parametrize("job", ["test", "predict", "probe"])
@pytest.mark.parametrize("free", [0, 12_288, 24_576])
def test_a_test_or_prediction_on_a_full_disk_is_taken_up_when_there_is_room(
    tmp_path: Path,
    job: str,
    free: int,
) -> None:
    root = write_refhl(tmp_path / "set")
    with small_disk(tmp_path / "disk", "16m") as disk:
        run = disk.root / "run"
        checkpoint = write_untrained(run, root)
        words = [job, "--ckpt_path", str(checkpoint)]
        before = fingerprints(run)
        disk.fill(free)
        outcome = call(*words, cwd=tmp_path)
        assert outcome.status == 2
        assert len(outcome.message()) == 2, outcome.err
        disk.make_room()
        outcome = call(*words, cwd=tmp_path)
        assert outcome.status == 0, outcome.err
        new = fingerprints(run).keys() - before.keys()
        assert new
        assert not [name for name in new if INCOMPLETE in name or ".part-" in name or "_2" in name]
