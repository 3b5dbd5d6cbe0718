"""Which run was written last, where the clock was set back between two.

The clock itself is left alone: files are dated as under a clock that was ahead.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from textseg.runs.crossval import Crossval
from textseg.training.checkpoint_files import AtomicCheckpoints, last_checkpoint

AHEAD = 86_400  # seconds


def save(run: Path) -> Path:
    file = run / "checkpoints" / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"step": torch.tensor(1)}, file)
    return file


def under_a_clock_ahead(file: Path) -> Path:
    later = time.time() + AHEAD
    os.utime(file, (later, later))
    return file


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A run that was begun and saved under a clock ahead, and one that was begun after it."""
    first, second = tmp_path / "2031-01-01_00-00-00", tmp_path / "2026-01-01_00-00-00"
    under_a_clock_ahead(save(first))
    save(second)
    return first, second


def test_last_is_the_run_that_was_written_last_whatever_its_name_and_the_clock(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = runs
    assert last_checkpoint(tmp_path) == second / "checkpoints/last.ckpt"
    save(first)  # it is gone on with
    assert last_checkpoint(tmp_path) == first / "checkpoints/last.ckpt"
    for _ in range(3):
        save(second)
    assert last_checkpoint(tmp_path) == second / "checkpoints/last.ckpt"


def test_a_clock_that_runs_on_keeps_its_own_times(tmp_path: Path) -> None:
    before = time.time_ns()
    files = [save(tmp_path / name) for name in ("b", "a")]
    assert all(before - 10**9 < file.stat().st_mtime_ns <= time.time_ns() for file in files)
    assert last_checkpoint(tmp_path) == files[1]


def test_other_checkpoints_than_last_are_not_dated(runs: tuple[Path, Path], tmp_path: Path) -> None:
    best = runs[1] / "checkpoints" / "best.ckpt"
    AtomicCheckpoints().save_checkpoint({}, best)
    assert best.stat().st_mtime < time.time() + AHEAD / 2


def test_a_fold_goes_on_with_the_run_that_was_written_last(tmp_path: Path) -> None:
    plan = Crossval(tmp_path, "net", 2, 0, 1, 1, "folds.csv", {})
    home = plan.home(1, 1) / "net"
    under_a_clock_ahead(save(home / "2031-01-01_00-00-00"))
    save(home / "2026-01-01_00-00-00")
    run = plan.run(1, 1)
    assert run is not None
    assert run.folder.name == "2026-01-01_00-00-00"
