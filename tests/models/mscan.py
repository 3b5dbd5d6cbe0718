"""MSCAN written from SegNeXt's paper, its published names, and LSMS's encoder beside it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from textseg.batch import TextFeatures
from textseg.encoders import masked_mean
from textseg.models.lsms.encoder import LanguageGuidedVisionEncoder

# SegNeXt (arXiv 2209.08575), table 2: channels, depths, MLP ratios, millions of parameters.
PUBLISHED: dict[str, tuple[tuple[int, ...], tuple[int, ...], float]] = {
    "mscan_tiny": ((32, 64, 160, 256), (3, 3, 5, 2), 3.9),
    "mscan_small": ((64, 128, 320, 512), (2, 2, 4, 2), 13.4),
    "mscan_base": ((64, 128, 320, 512), (3, 3, 12, 3), 26.3),
}
RATIOS = (8, 8, 4, 4)
TEXT_DIM = 24
WITHOUT_MEMORY = torch.device("meta")  # for names, shapes and counts


def build(variant: str = "mscan_tiny", **settings: Any) -> LanguageGuidedVisionEncoder:
    torch.manual_seed(0)
    encoder = LanguageGuidedVisionEncoder(variant, **{"text_dim": TEXT_DIM, **settings})
    return encoder.eval()


def plain(variant: str = "mscan_tiny", **settings: Any) -> LanguageGuidedVisionEncoder:
    return build(variant, text_dim=0, language_branch="none", **settings)


def words(count: int = 1, *, length: int = 6, real: int = 4, seed: int = 0) -> TextFeatures:
    tokens = torch.randn(count, length, TEXT_DIM, generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(length) < real).expand(count, length)
    return TextFeatures(tokens, mask, masked_mean(tokens, mask))


def published_shapes(variant: str, *, strips: tuple[int, ...] = (7, 11, 21)) -> dict[str, Any]:
    """Names and shapes of the published state_dict, without its classification head."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, inputs: int, *kernel: int) -> None:
        shapes[f"{name}.weight"] = (out, inputs, *(kernel or (1, 1)))
        shapes[f"{name}.bias"] = (out,)

    def batch_norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def block(name: str, c: int, ratio: int) -> None:
        unit = f"{name}.attn.spatial_gating_unit"
        conv(f"{name}.attn.proj_1", c, c), conv(f"{name}.attn.proj_2", c, c)
        conv(f"{unit}.conv0", c, 1, 5, 5), conv(f"{unit}.conv3", c, c)
        for i, k in enumerate((7, 11, 21)):
            if k in strips:
                conv(f"{unit}.conv{i}_1", c, 1, 1, k), conv(f"{unit}.conv{i}_2", c, 1, k, 1)
        conv(f"{name}.mlp.fc1", ratio * c, c), conv(f"{name}.mlp.fc2", c, ratio * c)
        conv(f"{name}.mlp.dwconv.dwconv", ratio * c, 1, 3, 3)
        batch_norm(f"{name}.norm1", c), batch_norm(f"{name}.norm2", c)
        shapes[f"{name}.layer_scale_1"] = shapes[f"{name}.layer_scale_2"] = (c,)

    channels, depths, _ = PUBLISHED[variant]
    conv("patch_embed1.proj.0", channels[0] // 2, 3, 3, 3)
    conv("patch_embed1.proj.3", channels[0], channels[0] // 2, 3, 3)
    batch_norm("patch_embed1.proj.1", channels[0] // 2)
    batch_norm("patch_embed1.proj.4", channels[0])
    for i, (c, depth) in enumerate(zip(channels, depths, strict=True), 1):
        if i > 1:
            conv(f"patch_embed{i}.proj", c, channels[i - 2], 3, 3)
            batch_norm(f"patch_embed{i}.norm", c)
        for j in range(depth):
            block(f"block{i}.{j}", c, RATIOS[i - 1])
        shapes[f"norm{i}.weight"] = shapes[f"norm{i}.bias"] = (c,)
    return shapes


def published_weights(variant: str, *, seed: int = 5) -> dict[str, Tensor]:
    """Random weights under the published names, with a classification head as ImageNet's have."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, shape in published_shapes(variant).items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            weights[name] = 0.5 + torch.rand(shape, generator=generator)
        elif len(shape) == 1:  # small, so that the epsilon of the layer norms shows
            weights[name] = 0.05 * (1 + torch.rand(shape, generator=generator))
        else:
            fan_in = torch.Size(shape[1:]).numel()
            weights[name] = torch.randn(shape, generator=generator) / fan_in**0.5
    head = PUBLISHED[variant][0][-1]
    return {**weights, "head.weight": torch.randn(1000, head), "head.bias": torch.randn(1000)}


class FunctionalMSCAN:
    """MSCAN in eval, straight from SegNeXt's equations and published weights; returns F_1..F_4."""

    def __init__(self, weights: dict[str, Tensor], depths: tuple[int, ...]) -> None:
        self.weights, self.depths = weights, depths

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        padding = [k // 2 for k in weight.shape[2:]]
        return F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1] // weight.shape[1])

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.weights[f"{name}.{part}"] for part in parts))

    def attention(self, name: str, x: Tensor) -> Tensor:
        z = F.gelu(self.conv(f"{name}.proj_1", x))
        unit = f"{name}.spatial_gating_unit"
        first = self.conv(f"{unit}.conv0", z)
        total = first
        for i in range(3):
            total = total + self.conv(f"{unit}.conv{i}_2", self.conv(f"{unit}.conv{i}_1", first))
        return self.conv(f"{name}.proj_2", self.conv(f"{unit}.conv3", total) * z) + x

    def block(self, name: str, x: Tensor) -> Tensor:
        scale = [self.weights[f"{name}.layer_scale_{i}"].view(-1, 1, 1) for i in (1, 2)]
        x = x + scale[0] * self.attention(f"{name}.attn", self.batch_norm(f"{name}.norm1", x))
        hidden = self.conv(f"{name}.mlp.fc1", self.batch_norm(f"{name}.norm2", x))
        hidden = F.gelu(self.conv(f"{name}.mlp.dwconv.dwconv", hidden))
        return x + scale[1] * self.conv(f"{name}.mlp.fc2", hidden)

    def __call__(self, image: Tensor) -> list[Tensor]:
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1).to(image)
        x = (image - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1).to(image)
        features = []
        for i, depth in enumerate(self.depths, 1):
            if i == 1:
                x = F.gelu(
                    self.batch_norm("patch_embed1.proj.1", self.conv("patch_embed1.proj.0", x, 2))
                )
                x = self.batch_norm("patch_embed1.proj.4", self.conv("patch_embed1.proj.3", x, 2))
            else:
                x = self.batch_norm(f"patch_embed{i}.norm", self.conv(f"patch_embed{i}.proj", x, 2))
            for j in range(depth):
                x = self.block(f"block{i}.{j}", x)
            weight, bias = self.weights[f"norm{i}.weight"], self.weights[f"norm{i}.bias"]
            x = F.layer_norm(x.movedim(1, -1), (len(weight),), weight, bias).movedim(-1, 1)
            features.append(x)
        return features
