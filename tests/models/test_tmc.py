"""TMC: the shared promises, what its settings build, and that words steer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.models.contract import (
    NetworkContract,
    TextGuidedContract,
    first_steps,
    never_moved,
    without_gradient,
)
from tests.models.stand_ins import CAPTIONS, make_batch, pictures, write_bert
from tests.models.tiny import NO_TEXT, TINY_SWIN, tiny
from textseg.encoders import NoText
from textseg.explain import record_inputs

make = partial(tiny, "TMC")


class TestTMC(NetworkContract, TextGuidedContract):
    network_name = "TMC"
    learning_settings: ClassVar[dict[str, Any]] = {"alignment": "infonce"}
    learning_rate = 3e-3
    golden = ("tmc_swin_tiny.txt", {"image_encoder_options": None})
    variations: ClassVar = {
        "no text": NO_TEXT["TMC"],
        "MCM only": {"alignment": "none"},
        "MA Loss only": {"mcm_stages": (), "alignment_stages": (1, 2, 3, 4)},
        "MA Loss only, by pixel": {
            "mcm_stages": (),
            "alignment": "pixel",
            "alignment_stages": (1, 2, 3, 4),
        },
        "pixel": {"alignment": "pixel"},
        "stage 4": {"mcm_stages": (4,)},
        "stages 3 and 4": {"mcm_stages": (3, 4)},
        "stages 2 to 4, gates closed": {"mcm_stages": (2, 3, 4), "gate": 0.0},
        "stages 1 and 2": {"mcm_stages": (1, 2)},
        "stages in any order": {"mcm_stages": (3, 1)},
        "other stages aligned": {"mcm_stages": (1, 4), "alignment_stages": (2, 3)},
        "no stage aligned": {"alignment_stages": ()},
        "all, gates closed": {"gate": 0.0},
        "the text of a stage": {"alignment_text": "stage"},
        "the text of other stages": {
            "alignment_text": "stage",
            "mcm_stages": (1, 3),
            "alignment_stages": (2, 3, 4),
        },
        "alignment without a position code": {"alignment_position": False},
        "fused features feed the encoder": {"mcm_feeds_encoder": True},
        "a ConvNeXt": {"image_encoder": "test_convnext", "image_encoder_options": None},
        "five stages without the finest": {
            "image_encoder": "resnet10t",
            "image_encoder_options": {"out_indices": [1, 2, 3, 4]},
        },
    }
    bad_settings: ClassVar = {
        "gate that is no number": ({"gate": float("nan")}, "gate=nan"),
        "negative gate": ({"gate": -1.0}, "gate=-1.0"),
        "stage 5": ({"mcm_stages": (2, 5)}, "mcm_stages=[2, 5]"),
        "stage 0": ({"mcm_stages": (0,)}, "mcm_stages=[0]"),
        "stage twice": ({"mcm_stages": (2, 2)}, "mcm_stages=[2, 2]"),
        "aligned stage 5": ({"alignment_stages": (5,)}, "alignment_stages=[5]"),
        "unknown alignment": ({"alignment": "clip"}, "alignment='clip'"),
        "unknown text": ({"alignment_text": "image"}, "alignment_text='image'"),
        "no stages to feed": (
            {
                "image_encoder": "hrnet_w18_small",
                "image_encoder_options": {"out_indices": [1, 2, 3, 4]},
                "mcm_feeds_encoder": True,
            },
            "image_encoder='hrnet_w18_small'",
        ),
        "negative weight": ({"alignment_weight": -0.1}, "alignment_weight=-0.1"),
        "alignment without stages": ({"mcm_stages": ()}, "alignment_stages"),
        "five stages": (
            {"image_encoder": "resnet10t", "image_encoder_options": None},
            "image_encoder='resnet10t' has 5 stages",
        ),
        "widths without a position code": (
            {"image_encoder_options": {**TINY_SWIN, "embed_dim": 6, "num_heads": (1, 1, 1, 1)}},
            "widths [6, 12, 24, 48]",
        ),
        "unknown encoder": ({"image_encoder": "swin_huge"}, "swin_huge"),
    }


class TestTMCByPixel(TextGuidedContract):
    """Words steer with the other alignment too."""

    network_name = "TMC"
    learning_settings: ClassVar[dict[str, Any]] = {"alignment": "pixel"}
    learning_rate = 2e-3  # at 5e-3 both squares stay one mask


def test_lists_as_yaml_gives_them_build_the_network_of_tuples() -> None:
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in TINY_SWIN.items()}
    one = make(mcm_stages=(2, 4), alignment_stages=(1,), image_encoder_options=tuples).state_dict()
    other = make(mcm_stages=[2, 4], alignment_stages=[1]).state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[k], other[k]) for k in one if isinstance(one[k], Tensor))


def test_the_default_encoder_has_the_channels_and_strides_of_swin_tiny() -> None:
    model = make(image_encoder_options=None)
    assert model.image_encoder.channels == (96, 192, 384, 768)
    assert model.image_encoder.strides == (4, 8, 16, 32)
    assert [block.text_to_image.heads for block in model.mcm.blocks.values()] == [3, 6, 12, 24]


# --- where F_V^i goes


@pytest.mark.parametrize("feeds", [True, False])
def test_the_next_stage_reads_the_fused_feature_if_and_only_if_asked(feeds: bool) -> None:
    model = make(mcm_feeds_encoder=feeds, mcm_stages=(1,)).eval()
    with torch.no_grad(), record_inputs({"decoder": model.decoder}) as calls:
        model(pictures(2), CAPTIONS)
        plain = model.encode_image(pictures(2))
    first, second = calls["decoder"][0][:2]
    assert not torch.equal(first, plain[0])
    assert torch.equal(second, plain[1]) != feeds
    with torch.no_grad():
        by_hand = model.image_encoder.body["layers_1"](first.permute(0, 2, 3, 1))
    by_hand = by_hand.permute(0, 3, 1, 2)
    assert torch.allclose(second, by_hand, rtol=1e-5, atol=1e-6) == feeds


# --- what is built


def test_without_text_no_text_encoder_is_built_and_words_change_nothing() -> None:
    model = make(**NO_TEXT["TMC"]).eval()
    assert isinstance(model.text_encoder, NoText)
    names = {n.split(".")[0] for n, _ in model.named_parameters()}
    assert names == {"image_encoder", "decoder", "head"}
    with torch.no_grad():
        first, second = (model(pictures(1), [text]).logits for text in CAPTIONS)
    assert torch.equal(first, second)


def test_ma_loss_alone_trains_the_words_and_leaves_the_mask_to_the_image() -> None:
    model = make(mcm_stages=(), alignment_stages=(1, 2, 3, 4)).eval()
    outputs = [model(pictures(2), [text] * 2) for text in CAPTIONS]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    losses = model.compute_loss(model(pictures(2), CAPTIONS), make_batch())
    losses["loss"].backward()
    gradients = [p.grad for p in model.text_encoder.parameters()]
    assert all(g is not None for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients if g is not None)


@pytest.mark.parametrize(
    "settings", [{"alignment": "none"}, {"alignment_weight": 0.0}, {"alignment_stages": ()}]
)
def test_an_alignment_without_weight_builds_no_parameters_and_no_term(
    settings: dict[str, Any],
) -> None:
    with_it, without = make(), make(**settings)
    kept = {n for n, _ in with_it.named_parameters() if not n.startswith("alignment.")}
    assert {n for n, _ in without.named_parameters()} == kept
    output = without(pictures(2), CAPTIONS)
    assert output.aux == {}
    assert set(without.compute_loss(output, make_batch())) == {"loss", "loss_dice", "loss_bce"}


def test_beside_a_frozen_text_encoder_every_parameter_is_trained(tmp_path: Path) -> None:
    write_bert(tmp_path)
    frozen = make(text_encoder=str(tmp_path))
    frozen.text_encoder.freeze()
    assert not any(p.requires_grad for p in frozen.text_encoder.parameters())
    steps = first_steps(frozen, make_batch())
    assert without_gradient(steps) == []
    assert never_moved(steps, but_for=()) == []
