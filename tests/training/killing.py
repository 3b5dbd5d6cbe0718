"""A callback that kills its own process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, Literal

import lightning as L
import torch

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
