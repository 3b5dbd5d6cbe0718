"""Networks timed in interleaved rounds, each in several memory formats."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from textseg.batch import Batch
from textseg.benchmark.cost import first_rows
from textseg.benchmark.device import allocated_bytes, peak_allocation, synchronize
from textseg.models.base import SegmentationModule
from textseg.optim import adamw

MEMORY_FORMATS = {
    "channels_first": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
MEASURES = ("text", "forward", "step")
WARM_UP = 2  # rounds
ModeName = Literal["fp32", "bf16", "fp16", "fp32+compile", "bf16+compile", "fp16+compile"]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Mode:
    """The precision a network runs in, and whether its tensor part is compiled."""

    name: ModeName = "fp32"

    @property
    def dtype(self) -> torch.dtype:
        """The type of matrix products and activations."""
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        return kinds[self.name.partition("+")[0]]

    @property
    def compiled(self) -> bool:
        """Whether the tensor part runs through torch.compile."""
        return self.name.endswith("+compile")

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Mixed precision as in training: losses included, weights in fp32."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(device.type, self.dtype)


class Candidate:
    """A network in one mode and memory format, ready to be timed on its device.

    Args:
        name: of the row.
        model: is moved, converted and trained.
        memory_format: a key of MEMORY_FORMATS.
        batch: what it runs on, on the CPU.
        mode: precision and compilation; by default fp32.
        device: where it runs.

    Attributes:
        times: the seconds that were measured, by measure.
    """

    def __init__(
        self,
        name: str,
        model: SegmentationModule,
        memory_format: str,
        batch: Batch,
        *,
        mode: Mode | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.name, self.memory_format = name, memory_format
        self.mode, self.device = mode or Mode(), device
        self.times: dict[str, list[float]] = {measure: [] for measure in MEASURES}
        layout = MEMORY_FORMATS[memory_format]
        self.model = model.to(device).to(memory_format=layout)
        if self.mode.compiled:
            compiled = torch.compile(model.forward_features)
            model.forward_features = compiled  # type: ignore[method-assign]
        self.batch = first_rows(batch, device, rows=None)
        self.batch["image"] = self.batch["image"].contiguous(memory_format=layout)
        groups = model.parameter_groups(lr=1e-6, weight_decay=0.0, pretrained_lr_scale=1.0)
        self.optimizer = adamw(groups, lr=1e-6, clipped=False)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.mode.dtype is torch.float16)

    def train(self, mode: bool) -> None:
        """Switch between training and evaluation; not timed."""
        self.model.train(mode)

    def text(self) -> None:
        """Turn the batch's captions into features."""
        with torch.no_grad(), self.mode.autocast(self.device):
            self.model.encode_text(self.batch["text"])
        synchronize(self.device)

    def forward(self) -> None:
        """Run the network without gradients."""
        with torch.no_grad(), self.mode.autocast(self.device):
            self.model(self.batch["image"], self.batch["text"])
        synchronize(self.device)

    def step(self) -> None:
        """Run forward, loss, backward and AdamW."""
        with self.mode.autocast(self.device):
            output = self.model(self.batch["image"], self.batch["text"])
            loss = self.model.compute_loss(output, self.batch)["loss"]
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        synchronize(self.device)

    def tensors(self) -> Iterator[Tensor]:
        """What is held between steps: weights, buffers, the optimizer's state and the batch."""
        yield from self.model.parameters()
        yield from self.model.buffers()
        for values in (self.batch, *self.optimizer.state.values()):
            yield from (v for v in values.values() if isinstance(v, Tensor))

    def peak_memory_mib(self) -> float | None:
        """MiB held between steps plus what a step adds at its worst; None on a CPU."""
        if self.device.type != "cuda":
            return None
        self.train(True)
        return (allocated_bytes(self.tensors()) + peak_allocation(self.step, self.device)) / 2**20

    def figures(self) -> dict[str, Any]:
        """Least and median of each measure: what else a machine does can only add time."""
        result: dict[str, Any] = {"memory_format": self.memory_format}
        for measure, values in self.times.items():
            result[f"{measure}_s"] = min(values)
            result[f"{measure}_median_s"] = statistics.median(values)
        return result


def time_rounds(
    candidates: Sequence[Candidate],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Time all candidates in every round, each round starting one further on.

    Args:
        candidates: their times are filled in.
        rounds: timed rounds, after WARM_UP others; in the first of these, captions are cached.
        clock: seconds.
    """
    for i in tqdm(range(WARM_UP + rounds), desc="timing", unit="round", delay=2, leave=False):
        first = i % len(candidates)
        for one in (*candidates[first:], *candidates[:first]):
            for name in MEASURES:
                run: Callable[[], None] = getattr(one, name)
                one.train(name == "step")
                start = clock()
                run()
                seconds = clock() - start
                if i >= WARM_UP:
                    one.times[name].append(seconds)


def faster(candidates: Iterable[Candidate]) -> Candidate:
    """The candidate with the smaller sum of its least forward and step."""
    return min(
        candidates,
        key=lambda one: sum(min(one.times[m]) for m in ("forward", "step")),
    )
