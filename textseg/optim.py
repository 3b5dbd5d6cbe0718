"""Parameter groups, AdamW, and a learning rate per step: warm-up, then poly or cosine decay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from textseg.errors import UserError

Schedule = Literal["poly", "cosine", "constant"]


def parameter_groups(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    pretrained: Iterable[nn.Parameter] = (),
    pretrained_lr_scale: float = 0.1,
    text: Iterable[nn.Parameter] = (),
    text_lr_scale: float | None = None,
) -> list[dict[str, Any]]:
    """Groups that hold every trainable parameter once, also one that two modules share.

    Parameters under two dimensions (biases, norms, layer scales, temperatures) get no weight decay,
    nor do those that a part names in a method ``no_weight_decay()``, as timm's networks do.
    Parameters of pretrained parts have their own rate.

    Args:
        module: the network.
        lr: learning rate of the new parts.
        weight_decay: of the other parameters.
        pretrained: those of its parameters that start from pretrained weights.
        pretrained_lr_scale: their learning rate, as a share of `lr`.
        text: those of a pretrained text encoder.
        text_lr_scale: their learning rate, as a share of `lr`; by default `pretrained_lr_scale`.

    Returns:
        groups for an optimizer, empty ones left out, in the order of the module's parameters, each
        with a `name`: `new/decay`, `new/no_decay`, the same of `pretrained`, and of `text` where it
        has a rate of its own.
    """
    origins = {id(parameter): "pretrained" for parameter in pretrained}
    of_text = "pretrained" if text_lr_scale is None else "text"
    origins |= {id(parameter): of_text for parameter in text}
    rates = {"new": lr, "pretrained": lr * pretrained_lr_scale, "text": lr * (text_lr_scale or 0)}
    exempt = _without_decay(module)
    groups: dict[str, dict[str, Any]] = {}
    for origin, rate in rates.items():
        for kind, decay in (("decay", weight_decay), ("no_decay", 0.0)):
            name = f"{origin}/{kind}"
            groups[name] = {"params": [], "lr": rate, "weight_decay": decay, "name": name}
    for parameter in module.parameters():  # yields a shared parameter once
        if parameter.requires_grad:
            origin = origins.get(id(parameter), "new")
            decays = parameter.ndim >= 2 and id(parameter) not in exempt
            kind = "decay" if decays else "no_decay"
            groups[f"{origin}/{kind}"]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def _without_decay(module: nn.Module) -> set[int]:
    """Ids of the parameters that a part of the module names in ``no_weight_decay()``."""
    exempt: set[int] = set()
    for part in module.modules():
        named = getattr(part, "no_weight_decay", None)
        if callable(named):
            names = set(named())
            exempt |= {id(p) for name, p in part.named_parameters() if name in names}
    return exempt


def adamw(
    groups: Sequence[dict[str, Any]], *, lr: float, clipped: bool, fused: bool | None = None
) -> AdamW:
    """AdamW over `groups`, by default fused into one kernel on a CPU or a CUDA GPU.

    Elsewhere torch decides. The formula is the same, the rounding is not.

    Args:
        groups: of `parameter_groups`.
        lr: of groups without one of their own.
        clipped: whether gradients are clipped. A fused AdamW offers to divide fp16's scale out of
            the gradients itself, after they were clipped; then it leaves that to the GradScaler.
            Lightning refuses to clip otherwise, in bf16 too, where nothing is scaled.
        fused: whether to fuse; by default where all parameters are on a CPU or a CUDA GPU.
    """
    if fused is None:
        parameters = [parameter for group in groups for parameter in group["params"]]
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    optimizer = AdamW(groups, lr=lr, fused=True if fused else None)
    if fused and clipped:
        optimizer._step_supports_amp_scaling = False
    return optimizer


def schedule_factor(
    step: int, *, total_steps: int, warmup_steps: int, kind: Schedule, floor: float = 0.0
) -> float:
    """The factor of the learning rate in optimizer step 0, 1, ..., total_steps - 1.

    Warm-up, step < w: (step + 1) / (w + 1). From step w on floor + (1 - floor) d, with
    x = (step - w) / (total - w): poly d = (1 - x)^0.9, cosine d = (1 + cos(pi x)) / 2, constant
    d = 1. Continuous at w, where it is 1, and above 0 in every step; it reaches `floor` after the
    last.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
    decay = {
        "poly": (1 - done) ** 0.9,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "constant": 1.0,
    }
    return floor + (1 - floor) * decay[kind]


def warmup_schedule(
    optimizer: Optimizer,
    *,
    total_steps: int,
    warmup_steps: int,
    kind: Schedule,
    floor: float = 0.0,
) -> LambdaLR:
    """Scheduler by step with warm-up and decay; see `schedule_factor`.

    Every group keeps its own learning rate, multiplied by the same factor.

    Args:
        optimizer: whose learning rates are the peak ones.
        total_steps: optimizer steps in the whole run.
        warmup_steps: steps before the peak.
        kind: what follows the warm-up.
        floor: factor in which the decay ends, in [0, 1].

    Raises:
        UserError: warmup_steps is negative, or the run is over before the warm-up is.
    """
    if not 0 <= warmup_steps < total_steps:
        raise UserError(
            f"warmup_steps={warmup_steps} does not fit in a run of {total_steps} optimizer steps",
            "give 0 <= warmup_steps < the run's steps: fewer warm-up steps, or more epochs",
        )
    factor = partial(
        schedule_factor,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        kind=kind,
        floor=floor,
    )
    return LambdaLR(optimizer, factor)
