"""`stage_norm`: a LayerNorm between the stages of a timm encoder and the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.contract import never_moved, train_three_steps, without_gradient
from tests.models.stand_ins import CAPTIONS, make_batch, pictures
from tests.models.tiny import tiny
from textseg.errors import UserError

NETWORKS = ("TMC", "TMCA", "LAVT", "LanGuideMedSeg")


def stages_inputs(network: Any) -> list[Tensor]:
    """Fills with what each stage of the image encoder reads, in order."""
    seen: list[Tensor] = []
    for name, stage in network.image_encoder.body.items():
        if name in network.image_encoder.body.return_layers:
            stage.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def normed_by_numpy(x: Tensor, weight: Tensor, bias: Tensor) -> np.ndarray:
    """Zero mean and unit variance over the channels of each position, then weight and bias."""
    values = x.detach().double().numpy()
    centered = values - values.mean(1, keepdims=True)
    normed = centered / np.sqrt((centered**2).mean(1, keepdims=True) + 1e-5)
    scale, shift = (p.detach().numpy()[None, :, None, None] for p in (weight, bias))
    return normed * scale + shift


def test_each_map_is_normed_over_its_channels_and_by_default_none_is() -> None:
    network, plain = tiny("TMCA", stage_norm=True), tiny("TMCA")
    assert not [name for name in plain.state_dict() if name.startswith("stage_norms")]
    plain.image_encoder.load_state_dict(network.image_encoder.state_dict())
    for norm in network.stage_norms:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    raw = plain.encode_image(pictures(2))
    for x, norm, found in zip(
        raw, network.stage_norms, network.encode_image(pictures(2)), strict=True
    ):
        expected = normed_by_numpy(x, norm.weight, norm.bias)
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-3, atol=1e-4)


def test_a_fusion_reads_normed_maps_and_what_it_adds_goes_into_the_raw_stream() -> None:
    network, plain = tiny("LAVT", stage_norm=True).eval(), tiny("LAVT").eval()
    plain.image_encoder.load_state_dict(network.image_encoder.state_dict())
    read: list[Tensor] = []

    def add(i: int, x: Tensor) -> Tensor:
        read.append(x)
        return x + 0.5 * (i + 1)

    with torch.no_grad():
        raw = plain.encode_image(pictures(2), lambda i, x: x + 0.5 * (i + 1))
        features = network.encode_image(pictures(2), add)
    for i, (x, norm) in enumerate(zip(raw, network.stage_norms, strict=True)):
        before = x - 0.5 * (i + 1)  # raw[i] is what the next stage of the plain encoder reads
        expected = normed_by_numpy(before, norm.weight, norm.bias)
        np.testing.assert_allclose(read[i].numpy(), expected, atol=2e-3)
        torch.testing.assert_close(features[i], read[i] + 0.5 * (i + 1))


def test_a_fusion_that_adds_nothing_leaves_the_encoder_bit_equal() -> None:
    network, plain = tiny("LAVT", stage_norm=True).eval(), tiny("LAVT").eval()
    plain.image_encoder.load_state_dict(network.image_encoder.state_dict())
    seen, expected = stages_inputs(network), stages_inputs(plain)
    with torch.no_grad():
        network.encode_image(pictures(2), lambda i, x: x)
        plain.encode_image(pictures(2))
    assert len(seen) == 4
    assert all(torch.equal(*pair) for pair in zip(seen, expected, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_norm_is_trained_as_a_new_part(name: str) -> None:
    network = tiny(name, stage_norm=True)
    network.image_encoder.pretrained = True  # as with published weights
    groups = network.parameter_groups(lr=1.0, weight_decay=0.1, pretrained_lr_scale=0.1)
    new = {id(p) for group in groups if group["name"] == "new/no_decay" for p in group["params"]}
    norms = dict(network.stage_norms.named_parameters(prefix="stage_norms"))
    assert len(norms) == 8
    assert {id(p) for p in norms.values()} <= new
    steps = train_three_steps(network, make_batch())
    assert without_gradient(steps) == []
    assert [n for n in never_moved(steps, but_for=()) if n in norms] == []


def test_bf16_autocast_keeps_the_logits_finite() -> None:
    network = tiny("LAVT", stage_norm=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(pictures(2), CAPTIONS)
    assert torch.isfinite(output.logits).all()


@pytest.mark.parametrize("name", ["LSMS", "ImageBaseline"])
def test_an_encoder_that_cannot_be_normed_here_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="stage_norm=True"):
        tiny(name, stage_norm=True)
