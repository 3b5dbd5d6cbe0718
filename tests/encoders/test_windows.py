"""Shifted windows: what lies outside them has no weight, and no subnormal number is left."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.encoders.test_encoders import SWIN
from tests.models.stand_ins import pictures
from textseg.encoders.windows import close_other_windows
from textseg.models import TMC, ImageBaseline

NETWORKS = {
    "swin_tiny_patch4_window7_224": {**SWIN, "strict_img_size": False},
    "swinv2_tiny_window8_256": {**SWIN, "depths": (2, 2, 1, 1), "img_size": 64},
    "swinv2_cr_tiny_224": {**SWIN, "depths": (2, 2, 1, 1), "img_size": 64},
}


def build(name: str) -> Any:
    torch.manual_seed(0)
    options = {**NETWORKS[name], "depths": (2, 2, 1, 1)}
    return timm.create_model(name, pretrained=False, features_only=True, **options).eval()


def softmax_weights(network: nn.Module, image: Tensor) -> list[Tensor]:
    """What every softmax of the windows gives."""
    found: list[Tensor] = []
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        if isinstance(module, nn.Softmax):
            module.register_forward_hook(lambda _, __, output: found.append(output.detach()))
    with torch.no_grad():
        network(image)
    return found


def subnormal(weights: Tensor) -> int:
    return int(((weights > 0) & (weights < torch.finfo(weights.dtype).tiny)).sum())


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_windows_give_the_same_maps_and_gradients(name: str) -> None:
    plain = build(name)
    closed = copy.deepcopy(plain)
    close_other_windows(closed)
    image, results = pictures(2, 64, 64), []
    for network in (plain, closed):
        maps = network(image)
        sum(one.square().mean() for one in maps).backward()
        results.append((maps, [p.grad for p in network.parameters() if p.grad is not None]))
    for ours, timms in zip(*results, strict=True):
        assert len(ours) == len(timms) > 3
        for one, other in zip(ours, timms, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_no_subnormal_weight_is_left(name: str) -> None:
    plain = build(name)
    closed = copy.deepcopy(plain)
    close_other_windows(closed)
    image = pictures(1, 64, 64)
    assert sum(map(subnormal, softmax_weights(plain, image))) > 100  # what it is about
    after = softmax_weights(closed, image)
    assert after
    assert not sum(map(subnormal, after))


@pytest.mark.parametrize(
    ("network", "options"),
    [(TMC, {"text_encoder": "scratch"}), (ImageBaseline, {"architecture": "unet"})],
)
def test_networks_close_them(network: Any, options: dict[str, Any]) -> None:
    prefix = "tu-" if network is ImageBaseline else ""
    built = network(
        image_encoder=f"{prefix}swin_tiny_patch4_window7_224",
        image_encoder_options={**SWIN, "depths": (2, 1, 1, 1), "img_size": 64},
        pretrained=False,
        **options,
    )
    windows = [m for m in built.modules() if type(m).__name__ == "WindowAttention"]
    assert windows
    assert all(m._forward_pre_hooks for m in windows)
