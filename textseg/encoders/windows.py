"""Masks of shifted windows, as Swin and its kin have them."""

from __future__ import annotations

from typing import Any

from torch import nn

CLASSES = ("WindowAttention", "WindowMultiHeadAttention")  # of timm's Swin, Swin v2 and v2-cr


def close_other_windows(network: nn.Module) -> None:
    """Have timm's shifted windows give what is outside them no weight at all.

    timm adds -100 there, which leaves softmax weights of e-44. These are subnormal numbers, with
    which CPUs multiply some twenty times slower; -inf leaves zeros, and the sums are the same.
    """
    for module in network.modules():
        if type(module).__name__ in CLASSES:
            module.register_forward_pre_hook(_close, with_kwargs=True)


def _close(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mask = kwargs.get("mask")
    if mask is None:
        return None
    return args, {**kwargs, "mask": mask.masked_fill(mask < 0, float("-inf"))}
