"""Runs that are killed: a callback that kills its own process, and processes that start fast."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import pytest
import torch

import lightning_cli
from tests.tiny_run import ROOT

Moment = Literal[
    "start", "batch_start", "before_step", "batch_end", "validation", "epoch_end", "writing"
]


class Killed(BaseException):
    """Stands in for a kill where the process must live on."""


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def pretend() -> None:
    raise Killed


class KillAt(L.Callback):
    """Kills the process that trains.

    Args:
        batch: batches trained on before, over all epochs.
        moment: where in that batch, or in the first validation, epoch's end or checkpoint after it;
            "start" is before any batch.
        how: "kill" is SIGKILL, "pretend" an exception, otherwise a signal's name.
    """

    def __init__(self, batch: int, moment: Moment = "batch_end", how: str = "kill") -> None:
        self.batch, self.moment = batch, moment
        self.end: Callable[[], None] = {"kill": kill, "pretend": pretend}.get(
            how, lambda: os.kill(os.getpid(), signal.Signals[how])
        )
        self.due = False
        self.save = torch.save

    def _reached(self, moment: Moment) -> None:
        if self.due and moment == self.moment:
            self.due = False
            self.end()

    def on_fit_start(self, *rest: Any) -> None:
        if self.moment == "start":
            self.end()

    def on_train_batch_start(self, trainer: L.Trainer, *rest: Any) -> None:
        self.due = self.due or trainer.fit_loop.total_batch_idx == self.batch
        self._reached("batch_start")
        if self.due and self.moment == "writing":
            torch.save = self._half

    def _half(self, content: Any, file: Any) -> None:
        """Half of a checkpoint reaches the disk."""
        self.save(content, file)
        file.flush()
        file.truncate(file.tell() // 2)
        torch.save = self.save
        self.end()

    def on_before_optimizer_step(self, *rest: Any) -> None:
        self._reached("before_step")

    def on_train_batch_end(self, *rest: Any) -> None:
        self._reached("batch_end")

    def on_validation_batch_end(self, *rest: Any) -> None:
        self._reached("validation")

    def on_train_epoch_end(self, *rest: Any) -> None:
        self._reached("epoch_end")


def _command(home: Path, arguments: list[str]) -> None:
    os.chdir(home)
    torch.set_num_threads(1)
    # Its loaders' workers are to be its own children, as in a run from the shell.
    multiprocessing.set_start_method("fork", force=True)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    lightning_cli.main(arguments)


def run_in_process(home: Path, *arguments: str | Path) -> int:
    """Run main in a process of its own, forked from one that has imported it; the exit status.

    It is minus the signal's number where a signal ended it; what it printed is in log.txt.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.killing"])
    process = context.Process(target=_command, args=(home, [str(a) for a in arguments]))
    with pytest.MonkeyPatch.context() as patch:
        # Before Python 3.13 what is preloaded is found by this alone, and left out if it is not.
        patch.setenv("PYTHONPATH", str(ROOT))
        process.start()
    process.join(300)
    assert process.exitcode is not None, "a run hangs"
    return process.exitcode
