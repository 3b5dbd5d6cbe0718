"""A cross-validation that is killed and started again ends with the tables of one that was not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

import lightning_cli
from tests.forked import start
from tests.tiny_run import NO_PICTURES, fingerprints, write_experiment
from textseg.crossval.work import Worker
from textseg.runs.crossval import Crossval

SECONDS = 1500


def crossval(home: Path, output: str) -> None:
    """The command, as the leader of the processes that it starts."""
    os.setsid()
    os.chdir(home)
    torch.set_num_threads(1)
    Worker.run = run_forked  # type: ignore[method-assign]
    options = ["--config", "tiny.yaml", "--folds", "3", "--seeds", "2", "--output", output]
    lightning_cli.main(["crossval", *options])


def run_forked(self: Worker, command: Sequence[str], keep_open: int) -> int:
    """As `Worker.run`, but what is forked has imported everything."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        lightning_cli.main(command[2:])
    except BaseException:
        os._exit(1)
    os._exit(0)


def kill_in_the_second_training(process: BaseProcess, folder: Path) -> None:
    """Kill the command and its training as soon as the second one has saved something."""
    until = time.monotonic() + SECONDS
    while not [*folder.glob("fold2_seed1/*/*/checkpoints/last.ckpt")]:
        assert process.is_alive()
        assert time.monotonic() < until
        time.sleep(0.02)
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


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
    kill_in_the_second_training(start(crossval, tmp_path, "killed"), tmp_path / "killed")
    plan = Crossval.in_folder(tmp_path / "killed")
    assert plan is not None
    assert plan.unfinished() == plan.trainings[1:]
    (half,) = plan.home(2, 1).glob("tiny/*")
    for output in ("killed", "whole"):
        process = start(crossval, tmp_path, output)
        process.join(SECONDS)
        assert process.exitcode == 0
    assert [*plan.home(2, 1).glob("tiny/*")] == [half], "it went on in its folder"
    one, two = (
        torch.load(file, weights_only=True)["state_dict"]
        for output in ("killed", "whole")
        for file in (tmp_path / output).glob("fold2_seed1/tiny/*/checkpoints/last.ckpt")
    )
    tensors = [name for name, value in one.items() if isinstance(value, torch.Tensor)]
    different = [name for name in tensors if not torch.equal(one[name], two[name])]
    assert different == [], "few steps may outline nothing, and then tables alone say little"
    for seed in (1, 2):
        one, two = (
            fingerprints(tmp_path / output / f"seed{seed}/test") for output in ("killed", "whole")
        )
        assert one == two
        assert len(one) == 6, "metrics.json and cases.csv of three caption modes"
    reports = (tmp_path / output / "report/comparison.md" for output in ("killed", "whole"))
    assert len({report.read_text() for report in reports}) == 1
