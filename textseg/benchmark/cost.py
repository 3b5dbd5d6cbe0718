"""Costs that do not depend on the machine, parameters and GFLOPs, and the batch that is timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from textseg.batch import Batch, stable_id
from textseg.models.base import SegmentationModule

CAPTION = "Bilateral pulmonary infection, two infected areas, upper left lung and lower right lung."


def count_gflops(function: Callable[[], Any], *, backward: bool = False) -> float:
    """GFLOPs of a call, 2 for each multiply-add, by torch's counter.

    Attention runs as plain matrix products meanwhile, so that every one of them is seen. A grouped
    convolution's backward is counted here: torch takes its groups for one.

    Args:
        function: what to count.
        backward: it runs a backward pass of its own; otherwise no gradients are kept.
    """
    mapping: dict[Any, Any] = {torch.ops.aten.convolution_backward: _convolution_backward}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    gradients = nullcontext() if backward else torch.no_grad()
    with gradients, sdpa_kernel(SDPBackend.MATH), counter:
        function()
    return counter.get_total_flops() / 1e9


def _convolution_backward(
    grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *settings: Any, out_shape: object
) -> int:
    """FLOPs from shapes: the gradients of input and weight cost a forward each, where computed."""
    # bias, stride, padding, dilation, transposed, output_padding, groups, output_mask
    transposed, output_mask = settings[4], settings[7]
    positions = x if transposed else grad  # [B, C, ...]: each meets every weight once
    forward = 2 * positions[0] * math.prod(positions[2:]) * math.prod(weight)
    return forward * sum(output_mask[:2])


def parameter_counts(model: SegmentationModule) -> dict[str, float]:
    """All parameters and the trainable ones, in millions."""
    return {
        "parameters_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "trainable_m": sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6,
    }


def gflops(model: SegmentationModule, side: int) -> dict[str, float]:
    """GFLOPs of one image's forward, with and without the text encoder; `model` is in eval."""
    image = torch.rand(1, 3, side, side)
    with torch.no_grad():
        text = model.encode_text([CAPTION])
    without = count_gflops(lambda: model.forward_features(image, text))
    # Another caption than the cached one, so that a frozen encoder runs as well.
    text_part = count_gflops(lambda: model.encode_text([CAPTION.lower()]))
    return {"gflops": without + text_part, "gflops_without_text_encoder": without}


def step_gflops(model: SegmentationModule, batch: Batch) -> float:
    """GFLOPs of one image of a training step: forward, loss and backward.

    A caption that is cached costs nothing. Changes running statistics and gradients: give a copy.
    """

    def step() -> None:
        output = model.train()(batch["image"], batch["text"])
        model.compute_loss(output, batch)["loss"].backward()

    model.encode_text(batch["text"])  # a frozen encoder keeps them
    return count_gflops(step, backward=True) / len(batch["text"])


def first_rows(batch: Batch, device: torch.device, rows: int | None = 2) -> Batch:
    """The first rows of a batch on a device: two, as a batch norm may need; None for all."""
    cut = {name: value[:rows] for name, value in batch.items()}  # type: ignore[index]
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in cut.items()}
    return cast(Batch, moved)


def random_batch(batch_size: int, side: int) -> Batch:
    """Random images with captions that all differ, so that each row has its negatives."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch_size, 3, side, side, generator=generator)  # [B, 3, H, W]
    text = [CAPTION.replace("two", str(i + 2)) for i in range(batch_size)]
    return {
        "image": image,
        "mask": (image[:, :1] > 0.9).float(),  # [B, 1, H, W]
        "text": text,
        "caption_id": torch.tensor([stable_id(caption) for caption in text]),
        "image_id": torch.arange(batch_size),
        "index": torch.arange(batch_size),
        "case": [str(i) for i in range(batch_size)],
        "case_id": [""] * batch_size,
        "original_size": torch.full((batch_size, 2), side),
        "spacing": torch.full((batch_size, 2), torch.nan),
    }
