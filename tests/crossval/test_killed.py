"""A cross-validation that is killed and started again ends with the tables of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny_run import NO_PICTURES, ROOT, fingerprints, shell, write_experiment
from textseg.runs.crossval import Crossval

OPTIONS = ("--config", "tiny.yaml", "--folds", "3", "--seeds", "2")


def crossval(output: str) -> list[str]:
    return [str(ROOT / "lightning_cli.py"), "crossval", *OPTIONS, "--output", output]


def begin_and_kill(home: Path, output: str) -> Crossval:
    """Kill the command and its training as soon as the second training has saved something."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *crossval(output)],
        cwd=home,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    until = time.monotonic() + 500
    while not [*(home / output).glob("fold2_seed1/*/*/checkpoints/last.ckpt")]:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    plan = Crossval.in_folder(home / output)
    assert plan is not None
    return plan


@pytest.mark.slow
def test_a_killed_cross_validation_goes_on_to_the_same_tables(tmp_path: Path) -> None:
    """LSMS tiny with drop path and augmentation, on phantoms."""
    settings = {"synthesize": 8, "image_size": 32, "batch_size": 2, "num_workers": 0, "cache": None}
    write_experiment(
        tmp_path,
        trainer={"max_epochs": 3},
        model={"init_args": {"drop_path": 0.2}},
        data={"class_path": "QaTaCov19DataModule", "init_args": settings},
        results_writer=NO_PICTURES,
        restart={"every_n_steps": 1},
    )
    plan = begin_and_kill(tmp_path, "killed")
    assert plan.unfinished() == plan.trainings[1:], "killed in the second training"
    (half,) = plan.home(2, 1).glob("tiny/*")
    for output in ("killed", "whole"):
        done = shell(*crossval(output), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert [run.name for run in plan.home(2, 1).glob("tiny/*")] == [half.name]
    for seed in (1, 2):
        one, two = (
            fingerprints(tmp_path / output / f"seed{seed}/test") for output in ("killed", "whole")
        )
        assert one == two
        assert len(one) == 6, "metrics.json and cases.csv of three caption modes"
    reports = (tmp_path / output / "report/comparison.md" for output in ("killed", "whole"))
    assert len({report.read_text() for report in reports}) == 1
