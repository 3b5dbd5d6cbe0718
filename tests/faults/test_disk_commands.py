"""Volumes, checkpoints, caches and whole commands on a disk that is full: a tmpfs of some KiB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.cache.build_once import build_once
from datamodules.files.nifti import write_nifti
from tests.faults.full_disk import SmallDisk, small_disk, two_lines
from tests.faults.untrained import write_untrained
from tests.report.reported_run import write_reported_run
from tests.run_folder import write_run
from tests.tiny_run import call, fingerprints, write_refhl
from textseg.output import INCOMPLETE, whole_file
from textseg.training.checkpoint_files import AtomicCheckpoints

BIG = 200_000  # bytes, more than the disk has


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "256k") as found:
        yield found


def nifti(path: Path) -> None:
    with whole_file(path) as part:
        write_nifti(part, np.random.default_rng(0).normal(size=(20, 20, 40)), np.eye(4))


def checkpoint(path: Path) -> None:
    AtomicCheckpoints().save_checkpoint({"weights": torch.rand(BIG // 4)}, path)


@pytest.mark.parametrize(("name", "write"), [("volume.nii.gz", nifti), ("last.ckpt", checkpoint)])
def test_a_volume_or_checkpoint_on_a_full_disk_leaves_what_was_there(
    disk: SmallDisk, name: str, write: Callable[[Path], None]
) -> None:
    file = disk.root / name
    file.write_text("old")
    disk.fill(60_000)
    told = two_lines(lambda: write(file))
    assert str(file) in told
    assert "of 256 KiB" in told  # nibabel has not closed its own yet
    assert file.read_text() == "old"
    assert {path.name for path in disk.root.iterdir()} == {name, ".filling"}
    disk.make_room()
    write(file)
    assert file.stat().st_size > 60_000


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


def slow(name: str, free: int) -> object:
    return pytest.param(name, free, marks=pytest.mark.slow)


# Each leaves less room than the command needs: at once, and after some files.
@pytest.mark.parametrize(
    ("name", "free"),
    [
        *(("compare", 8_192), slow("compare", 0), slow("compare", 40_000)),
        *(("report", 0), slow("report", 8_192), ("data audit", 0)),
        *(("segment", 0), ("segment", 40_000), slow("segment", 8_192)),
    ],
)
def test_a_command_on_a_full_disk_ends_with_two_lines_and_is_taken_up_when_there_is_room(
    tmp_path: Path,
    name: str,
    free: int,
) -> None:
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
@pytest.mark.parametrize(
    ("job", "free"),
    [
        *(("test", 0), ("test", 12_288), ("test", 24_576)),
        *(("predict", 0), ("predict", 12_288), ("probe", 0), ("probe", 12_288)),
    ],
)
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
