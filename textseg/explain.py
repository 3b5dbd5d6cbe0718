"""What a network looks at: recording its attention, saliency, and bringing maps to a picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SALIENCY_CELL = 4  # pixels: the finest grid of the encoders, below which a gradient is noise


@contextmanager
def record_inputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Any, ...]]]:
    """While open, collects the positional arguments of each module's latest call, by name.

    So an attention runs fused in `forward`, and its weights are computed from the same arguments
    only when a picture is asked for. The tensors are the very ones that were passed.
    """
    calls: dict[str, tuple[Any, ...]] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            calls[name] = arguments

        return hook

    hooks = [module.register_forward_pre_hook(remember(n)) for n, module in modules.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """While open, all of `module` is in eval mode; afterwards each part is as it was.

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


def word_spans(text: str, word: str) -> list[tuple[int, int]]:
    """Where a whole word or phrase stands in a text, in any case and spacing: [start, end) each."""
    phrase = r"\s+".join(re.escape(part) for part in word.split())
    if not phrase:
        return []
    found = re.finditer(rf"(?<!\w){phrase}(?!\w)", text, re.IGNORECASE)
    return [match.span() for match in found]


def saliency(logits_of: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Where a change of the pixels would change the outlined region most (any network).

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
    """Raw map [B, h, w] -> [B, H, W] in [0, 1]: upsampled, then min-max for each row.

    A constant map says nothing and becomes 0 everywhere.
    """
    resized = F.interpolate(raw[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
    low = resized.amin((1, 2), keepdim=True)
    span = resized.amax((1, 2), keepdim=True) - low
    # Below rounding a span is no pattern; stretching it would paint one.
    flat = span <= 1e-6 * (low.abs() + span)
    return torch.where(flat, 0.0, (resized - low) / span.clamp_min(torch.finfo(span.dtype).tiny))
