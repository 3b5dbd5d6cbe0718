"""Tells which network a weights file is of, from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Family(NamedTuple):
    """A family of networks whose variants differ in width and depth.

    Attributes:
        name: of the family.
        block: pattern of a block's name, with the stage and the block as its groups.
        stem: weights whose first axis is the width of the stem, by any of the names in use.
        marker: a part of some name that no other family has.
        variants: (width of the stem, blocks of each stage) -> name.
    """

    name: str
    block: str
    stem: tuple[str, ...]
    marker: str
    variants: Mapping[tuple[int, tuple[int, ...]], str]


FAMILIES = (
    Family(
        "MSCAN",
        r"block(\d+)\.(\d+)\.",
        ("patch_embed1.proj.3.weight",),
        ".spatial_gating_unit.",
        {
            (32, (3, 3, 5, 2)): "mscan_tiny",
            (64, (2, 2, 4, 2)): "mscan_small",
            (64, (3, 3, 12, 3)): "mscan_base",
            (64, (3, 5, 27, 3)): "mscan_large",
        },
    ),
    Family(
        "Swin transformer",
        r"layers\.(\d+)\.blocks\.(\d+)\.",
        ("patch_embed.proj.weight",),
        "relative_position_bias_table",
        {
            (96, (2, 2, 6, 2)): "swin_tiny",
            (96, (2, 2, 18, 2)): "swin_small",
            (128, (2, 2, 18, 2)): "swin_base",
            (192, (2, 2, 18, 2)): "swin_large",
        },
    ),
    Family(
        "ConvNeXt",
        r"stages\.(\d+)\.(?:blocks\.)?(\d+)\.",
        ("stem.0.weight", "downsample_layers.0.0.weight"),
        "gamma",
        {
            (40, (2, 2, 6, 2)): "convnext_atto",
            (48, (2, 2, 6, 2)): "convnext_femto",
            (64, (2, 2, 6, 2)): "convnext_pico",
            (80, (2, 2, 8, 2)): "convnext_nano",
            (96, (3, 3, 9, 3)): "convnext_tiny",
            (96, (3, 3, 27, 3)): "convnext_small",
            (128, (3, 3, 27, 3)): "convnext_base",
            (192, (3, 3, 27, 3)): "convnext_large",
            (256, (3, 3, 27, 3)): "convnext_xlarge",
        },
    ),
    Family(
        "ResNet of bottlenecks",
        r"layer(\d+)\.(\d+)\.",
        ("conv1.weight", "conv1.0.weight"),
        "layer1.0.conv3.",
        {
            (64, (3, 4, 6, 3)): "resnet50",
            (64, (3, 4, 23, 3)): "resnet101",
            (64, (3, 8, 36, 3)): "resnet152",
        },
    ),
    Family(
        "ResNet",
        r"layer(\d+)\.(\d+)\.",
        ("conv1.weight", "conv1.0.weight"),
        "layer1.0.conv2.",
        {(64, (2, 2, 2, 2)): "resnet18", (64, (3, 4, 6, 3)): "resnet34"},
    ),
    Family(
        "EfficientNet or MobileNet",
        r"blocks\.(\d+)\.(\d+)\.",
        ("conv_stem.weight",),
        ".se.conv_reduce.",
        {
            (32, (1, 2, 2, 3, 3, 4, 1)): "efficientnet_b0",
            (40, (2, 3, 3, 5, 5, 6, 2)): "efficientnet_b3",
            (48, (2, 4, 4, 6, 6, 8, 2)): "efficientnet_b4",
        },
    ),
    Family(
        "EfficientNet or MobileNet",
        r"blocks\.(\d+)\.(\d+)\.",
        ("conv_stem.weight",),
        ".conv_dw.",
        {
            (32, (1, 2, 2, 3, 3, 4, 1)): "efficientnet_lite0",
            (32, (1, 3, 3, 5, 5, 6, 1)): "efficientnet_lite3",
            (32, (1, 4, 4, 6, 6, 8, 1)): "efficientnet_lite4",
        },
    ),
)


def recognize(tensors: Mapping[str, Tensor]) -> str | None:
    """The likely network of a weights file, in words; None for one of no known family."""
    for family in FAMILIES:
        stem = next((tensors[name] for name in family.stem if name in tensors), None)
        if stem is None or not any(family.marker in name for name in tensors):
            continue
        blocks = {found.groups() for name in tensors if (found := re.match(family.block, name))}
        stages = sorted({stage for stage, _ in blocks})
        depths = tuple(sum(stage == own for own, _ in blocks) for stage in stages)
        width = stem.shape[0]
        variant = family.variants.get((width, depths), f"another {family.name}")
        return f"{variant} (stem of {width}, blocks {', '.join(map(str, depths))})"
    return "a text encoder" if any("word_embeddings" in name for name in tensors) else None
