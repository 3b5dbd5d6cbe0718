"""What `textseg benchmark` measures: parameters, GFLOPs, forward and step time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from textseg.batch import Batch
from textseg.errors import UserError
from textseg.models.base import SegmentationModule
from textseg.preprocess import checked_size

CAPTION = "Bilateral pulmonary infection, two infected areas, upper left lung and lower right lung."


def count_gflops(function: Callable[[], Any]) -> float:
    """GFLOPs of a call, 2 for each multiply-add, by torch's counter.

    Attention runs as plain matrix products meanwhile, so that every one of them is seen.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        function()
    return counter.get_total_flops() / 1e9


def benchmark(
    model: SegmentationModule,
    datamodule: L.LightningDataModule,
    image_size: int | None = None,
    batch_size: int = 4,
    rounds: int = 10,
    threads: int = 1,
) -> dict[str, Any]:
    """Parameters, GFLOPs, forward and step time of a network on random images.

    Args:
        model: the network.
        datamodule: gives the image size; no data is read.
        image_size: side of the square input, a multiple of 32; by default that of the data
            settings.
        batch_size: images in a timed batch; GFLOPs are for one image.
        rounds: timed repetitions; medians are reported.
        threads: CPU threads.

    Returns:
        parameters and trainable in millions; gflops of one image, with and without the text
        encoder; forward_s and step_s (forward, backward and AdamW), the median seconds of a batch
        with a frozen text encoder's captions cached, and their spread (interquartile range).

    Raises:
        UserError: a size or number that cannot be measured.
    """
    if min(batch_size, rounds, threads) < 1:
        raise UserError(
            f"batch_size={batch_size}, rounds={rounds}, threads={threads}: one is below 1",
            "give 1 or more of each",
        )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        side, _ = checked_size(_side(datamodule) if image_size is None else image_size)
        model.on_captions([CAPTION], training=True)
        return {
            "network": type(model).__name__,
            "image_size": side,
            "batch_size": batch_size,
            "threads": threads,
            **_size(model),
            **_gflops(model.eval(), side),
            **_times(model, _batch(batch_size, side), rounds),
        }
    finally:
        torch.set_num_threads(before)


def _side(datamodule: L.LightningDataModule) -> int:
    size: Any = getattr(datamodule, "image_size", 224)
    return size if isinstance(size, int) else int(size[0])


def _size(model: SegmentationModule) -> dict[str, float]:
    counts = [(p.numel() / 1e6, p.requires_grad) for p in model.parameters()]
    return {
        "parameters_m": sum(n for n, _ in counts),
        "trainable_m": sum(n for n, trainable in counts if trainable),
    }


def _gflops(model: SegmentationModule, side: int) -> dict[str, float]:
    image = torch.rand(1, 3, side, side)
    with torch.no_grad():
        text = model.encode_text([CAPTION])
    without = count_gflops(lambda: model.forward_features(image, text))
    # Another caption than the cached one, so that a frozen encoder runs as well.
    text_part = count_gflops(lambda: model.encode_text([CAPTION.lower()]))
    return {"gflops": without + text_part, "gflops_without_text_encoder": without}


def _batch(batch_size: int, side: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch_size, 3, side, side, generator=generator)
    return {
        "image": image,
        "mask": (image[:, :1] > 0.9).float(),
        "text": [CAPTION] * batch_size,
        "caption_id": torch.zeros(batch_size, dtype=torch.long),
        "image_id": torch.arange(batch_size),
        "index": torch.arange(batch_size),
        "case": [str(i) for i in range(batch_size)],
        "case_id": [""] * batch_size,
        "original_size": torch.full((batch_size, 2), side),
        "spacing": torch.full((batch_size, 2), torch.nan),
    }


def _times(model: SegmentationModule, batch: Batch, rounds: int) -> dict[str, float]:
    groups = model.parameter_groups(lr=1e-6, weight_decay=0.0, pretrained_lr_scale=1.0)
    optimizer = torch.optim.AdamW(groups)

    def forward() -> None:
        with torch.no_grad():
            model.eval()(batch["image"], batch["text"])

    def step() -> None:
        output = model.train()(batch["image"], batch["text"])
        model.compute_loss(output, batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    times: dict[str, list[float]] = {"forward": [], "step": []}
    for i in tqdm(range(rounds + 2), desc="timing", leave=False):
        for name, function in (("forward", forward), ("step", step)):
            start = time.perf_counter()
            function()
            if i >= 2:  # the first two warm up
                times[name].append(time.perf_counter() - start)
    result = {}
    for name, values in times.items():
        result[f"{name}_s"] = statistics.median(values)
        quarters = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
        result[f"{name}_spread_s"] = quarters[2] - quarters[0]
    return result


def format_benchmark(result: dict[str, Any]) -> str:
    """One line for each figure."""
    width = max(map(len, result))
    return "\n".join(
        f"{name.ljust(width)}  {value:.4g}"
        if isinstance(value, float)
        else f"{name.ljust(width)}  {value}"
        for name, value in result.items()
    )
