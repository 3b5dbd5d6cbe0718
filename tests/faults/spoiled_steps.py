"""A callback that makes a training not finite at chosen steps, and a network for many of them."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
from torch import nn

from textseg.batch import SegmentationOutput, TextFeatures
from textseg.models.base import SegmentationModule

What = Literal["loss", "gradient", "weight", "forward"]


class Spoil(L.Callback):
    """Spoils the batches numbered `batches`, counted over all epochs.

    Args:
        batches: which.
        what: the loss, one gradient, one weight after the step, or the picture's pixels, so that
            running statistics are spoiled too.
        value: what it becomes.
        rank: in this process alone.
    """

    def __init__(
        self, batches: list[int], what: What = "loss", value: float = math.nan, rank: int = 0
    ) -> None:
        self.batches, self.what, self.value, self.rank = batches, what, value, rank
        self.batch = -1

    def _due(self, trainer: L.Trainer, what: What) -> bool:
        due = self.batch in self.batches and trainer.global_rank == self.rank
        return due and self.what == what

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batch = trainer.fit_loop.total_batch_idx
        if self._due(trainer, "forward"):
            batch["image"] = torch.full_like(batch["image"], self.value)

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: torch.Tensor) -> None:
        if self._due(trainer, "loss"):
            with torch.no_grad():
                loss.mul_(self.value)

    def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self._due(trainer, "gradient"):
            parameter = next(p for p in pl_module.parameters() if p.grad is not None)
            parameter.grad[(0,) * parameter.ndim] = self.value

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Called before the next batch's gradients, so after the step."""
        if self.batch + 1 in self.batches and self.what == "weight":
            next(pl_module.parameters()).data[0] = self.value


class KillProcess(L.Callback):
    """SIGKILL to the process of one rank, in its second batch."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_rank == self.rank and trainer.fit_loop.total_batch_idx == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class SmallNetwork(SegmentationModule):
    """Two convolutions and a batch norm, a network of a user's own."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, 1, 1)

    def encode_text(self, text: Sequence[str]) -> TextFeatures:
        return TextFeatures(*(torch.zeros(len(text), 1) for _ in range(3)))

    def token_mask(self, text: Sequence[str], word: str | None) -> torch.Tensor:
        return torch.zeros(len(text), 1, dtype=torch.bool)

    def forward_features(self, image: torch.Tensor, text: TextFeatures) -> SegmentationOutput:
        return SegmentationOutput(self.head(self.body(image)), {})

    def parameter_groups(self, **settings: Any) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters())}]
