"""Parameters that timm exempts from weight decay, found again in its feature pyramids."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay

from tests.models.tiny import ON_TIMM, TINY_SWIN, tiny
from textseg.encoders import ImageEncoder
from textseg.optim import parameter_groups

TINY_VIT = {"depth": 3, "embed_dim": 24, "num_heads": 2, "img_size": 32}
ENCODERS: dict[str, tuple[str, dict[str, Any], int]] = {  # and how many matrices are exempt
    "Swin": ("swin_tiny_patch4_window7_224", {**TINY_SWIN, "strict_img_size": False}, 4),
    "ViT": ("vit_tiny_patch16_224", TINY_VIT, 2),
    "ConvNeXt": ("test_convnext", {}, 0),
}


def exempt_shapes(groups: list[dict[str, Any]]) -> list[tuple[int, ...]]:
    """Shapes of the matrices (two dimensions or more) that do not decay."""
    still = [p for group in groups if not group["weight_decay"] for p in group["params"]]
    return sorted(tuple(p.shape) for p in still if p.ndim >= 2)


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_exempt_matrices_are_those_of_timms_own_groups(kind: str) -> None:
    name, options, count = ENCODERS[kind]
    whole = timm.create_model(name, **options)
    named = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else ()
    expected = exempt_shapes(param_groups_weight_decay(whole, 0.1, no_weight_decay_list=named))
    encoder = ImageEncoder(name, pretrained=False, options=options)
    found = exempt_shapes(parameter_groups(encoder, lr=1.0, weight_decay=0.1))
    assert found == expected
    assert len(found) == count


@pytest.mark.parametrize("network", [*ON_TIMM, "ImageBaseline"])
def test_a_networks_position_tables_do_not_decay(network: str) -> None:
    swin, options = "swin_tiny_patch4_window7_224", TINY_SWIN
    if network == "ImageBaseline":
        swin, options = f"tu-{swin}", {**options, "img_size": 64}
    settings = {"image_encoder": swin, "image_encoder_options": options}
    model = tiny(network, **settings)
    groups = model.parameter_groups(lr=1.0, weight_decay=0.1, pretrained_lr_scale=0.1)
    still = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    tables = [p for n, p in model.named_parameters() if n.endswith("bias_table")]
    assert len(tables) == 4
    assert {id(p) for p in tables} <= still
    matrices = [p for p in model.parameters() if p.ndim >= 2 and id(p) in still]
    assert len(matrices) == 4, "and no other matrix"


def test_asking_timm_draws_no_random_number() -> None:
    encoder = ImageEncoder("swin_tiny_patch4_window7_224", pretrained=False, options=TINY_SWIN)
    before = torch.get_rng_state()
    assert len(encoder.no_weight_decay()) == 4
    assert torch.equal(torch.get_rng_state(), before)
