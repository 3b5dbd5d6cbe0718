"""Networks timed in interleaved rounds, each in several memory formats."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from textseg.batch import Batch
from textseg.benchmark.device import synchronize
from textseg.models.base import SegmentationModule, explain_batchnorm_error
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
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        return kinds[self.name.partition("+")[0]]

    @property
    def compiled(self) -> bool:
        return self.name.endswith("+compile")

    @property
    def precision(self) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
        """What Lightning's Trainer calls it."""
        names = {torch.float32: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}
        return cast(Literal["32-true", "bf16-mixed", "16-mixed"], names[self.dtype])

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Mixed precision as in training: losses included, weights in fp32."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(device.type, self.dtype)

    def apply_to(self, model: SegmentationModule) -> None:
        """Compile the tensor part, if this mode does."""
        if self.compiled:
            compiled = torch.compile(model.forward_features)
            model.forward_features = compiled  # type: ignore[method-assign]


@dataclass(frozen=True)
class Candidate:
    """A network in one mode and memory format, and the seconds of what was timed.

    `text` turns the batch's strings into features; `train` puts the network into training or out
    of it, and is not timed; `tensors` gives what is held between steps: weights, buffers, the
    optimizer's state and the batch.
    """

    name: str
    memory_format: str
    text: Callable[[], None]
    forward: Callable[[], None]
    step: Callable[[], None]
    train: Callable[[bool], object]
    tensors: Callable[[], Iterable[Tensor]]
    times: dict[str, list[float]] = field(default_factory=lambda: {m: [] for m in MEASURES})

    def figures(self) -> dict[str, Any]:
        """Median and interquartile range of each measure."""
        result: dict[str, Any] = {"memory_format": self.memory_format}
        for measure, values in self.times.items():
            result[f"{measure}_s"] = statistics.median(values)
            result[f"{measure}_spread_s"] = spread(values)
        return result


def spread(values: Sequence[float]) -> float:
    """Interquartile range; 0 of a single value."""
    if len(values) == 1:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


def on_device(batch: Batch, device: torch.device, layout: torch.memory_format) -> Batch:
    """A copy of the random batch, its image in a memory format."""
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    result = cast(Batch, moved)
    result["image"] = result["image"].contiguous(memory_format=layout)
    return result


def in_parts(batch: Batch, parts: int) -> list[Batch]:
    """A batch cut into parts of equal size, in order; `parts` divides its rows."""
    rows, rest = divmod(len(batch["text"]), parts)
    assert not rest, f"{len(batch['text'])} rows in {parts} parts"
    starts = range(0, parts * rows, rows)
    values: dict[str, Any] = dict(batch)
    cut = [{name: value[i : i + rows] for name, value in values.items()} for i in starts]
    return cast(list[Batch], cut)


def contender(
    name: str,
    model: SegmentationModule,
    memory_format: str,
    batch: Batch,
    *,
    mode: Mode | None = None,
    device: torch.device = CPU,
    fused: bool | None = None,
    parts: int = 1,
    clip: float | None = None,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Candidate:
    """`model`, moved and converted, with what is timed of it.

    Args:
        name: of the row.
        model: is changed.
        memory_format: a key of MEMORY_FORMATS.
        batch: what it runs on, on the CPU.
        mode: precision and compilation; by default fp32.
        device: where it runs.
        fused: AdamW in one kernel; None: wherever it can be.
        parts: the batch goes through forward and backward in so many equal parts before the
            optimizer's one step, by the mean of their losses.
        clip: norm that the gradients are clipped to; None leaves them.
        around: a context that each step runs in, timed with it.
    """
    mode = Mode() if mode is None else mode
    layout = MEMORY_FORMATS[memory_format]
    model.to(device)
    model.to(memory_format=layout)
    mode.apply_to(model)
    batch = on_device(batch, device, layout)
    groups = model.parameter_groups(lr=1e-6, weight_decay=0.0, pretrained_lr_scale=1.0)
    optimizer = adamw(groups, lr=1e-6, clipped=clip is not None, fused=fused)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    pieces = in_parts(batch, parts)
    scaler = torch.amp.GradScaler(device.type, enabled=mode.dtype is torch.float16)

    def text() -> None:
        with torch.no_grad(), mode.autocast(device):
            model.encode_text(batch["text"])
        synchronize(device)

    def forward() -> None:
        with torch.no_grad(), mode.autocast(device):
            model(batch["image"], batch["text"])
        synchronize(device)

    def step() -> None:
        with around():
            for piece in pieces:
                with mode.autocast(device):
                    with explain_batchnorm_error(model, piece["image"]):
                        output = model(piece["image"], piece["text"])
                    loss = model.compute_loss(output, piece)["loss"] / parts
                scaler.scale(loss).backward()
            if clip is not None:
                scaler.unscale_(optimizer)
                clip_grad_norm_(trained, clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        synchronize(device)

    def tensors() -> Iterator[Tensor]:
        yield from model.parameters()
        yield from model.buffers()
        yield from (v for v in batch.values() if isinstance(v, Tensor))
        for state in optimizer.state.values():
            yield from (v for v in state.values() if isinstance(v, Tensor))

    return Candidate(name, memory_format, text, forward, step, model.train, tensors)


def time_rounds(
    contenders: Sequence[Candidate],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    *,
    measures: Sequence[str] = MEASURES,
    warm_up: int = WARM_UP,
) -> None:
    """Fill in the times: all contenders in every round, each round starting one further on.

    Args:
        contenders: what to time.
        rounds: timed rounds.
        clock: seconds.
        measures: of MEASURES, what runs.
        warm_up: rounds before the timed ones; in the first, captions are cached.
    """
    for i in tqdm(range(warm_up + rounds), desc="timing", unit="round", delay=2, leave=False):
        first = i % len(contenders)
        for one in (*contenders[first:], *contenders[:first]):
            for name in measures:
                run: Callable[[], None] = getattr(one, name)
                one.train(name == "step")
                start = clock()
                run()
                seconds = clock() - start
                if i >= warm_up:
                    one.times[name].append(seconds)


def faster(contenders: Iterable[Candidate]) -> Candidate:
    """The one of a network's memory formats with the smaller sum of median forward and step."""
    return min(
        contenders,
        key=lambda one: sum(statistics.median(one.times[m]) for m in ("forward", "step")),
    )
