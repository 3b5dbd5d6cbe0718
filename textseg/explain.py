"""Explanations of a mask: inputs of attention modules, saliency, and maps at image size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SALIENCY_CELL = 4  # pixels: the finest grid of the encoders, below which a gradient is noise


@contextmanager
def record_inputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Any, ...]]]:
    """While open, collect the positional arguments of each module's latest call, by name.

    An attention can so run fused in `forward`; its weights are computed from the same arguments
    only for an explanation. The tensors are not copied.
    """
    inputs: dict[str, tuple[Any, ...]] = {}

    def recorder(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            inputs[name] = arguments

        return hook

    hooks = [module.register_forward_pre_hook(recorder(n)) for n, module in modules.items()]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """While open, put all of `module` in eval mode; afterwards each part is as it was.

    Parts differ: a text encoder or a batch norm that somebody froze stays in eval while the rest
    trains, which ``train(True)`` of the whole would undo.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def saliency(logits_of: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Gradient saliency of the predicted region, for any network.

    |d S / d image|, largest over the colors, averaged over cells of 4 x 4 pixels, with
    S = sum over pixels of p z, z the logit and p its probability, held fixed: the region's own
    evidence, defined for an empty prediction too (Simonyan et al. 2013, adapted to masks).

    Args:
        logits_of: [B, 3, H, W] -> [B, 1, H, W]; rows must not depend on each other (eval mode).
        image: [B, 3, H, W] in [0, 1].

    Returns:
        [B, H/4, W/4].
    """
    with torch.enable_grad():
        pixels = image.detach().clone().requires_grad_(True)
        logits = logits_of(pixels)
        score = (logits.sigmoid().detach() * logits).sum()
        (gradient,) = torch.autograd.grad(score, pixels)
    return F.avg_pool2d(gradient.abs().amax(1, keepdim=True), SALIENCY_CELL)[:, 0]


def normalize_map(raw: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map [B, h, w] to [B, H, W] and scale each row to [0, 1] by its minimum and maximum.

    A constant map becomes 0.
    """
    resized = F.interpolate(raw[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
    low = resized.amin((1, 2), keepdim=True)
    span = resized.amax((1, 2), keepdim=True) - low
    # Below rounding a span is no pattern; stretching it would paint one.
    flat = span <= 1e-6 * (low.abs() + span)
    return torch.where(flat, 0.0, (resized - low) / span.clamp_min(torch.finfo(span.dtype).tiny))
