"""TMC: the shared promises, what its settings build, and that words steer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.models.contract import (
    NetworkContract,
    TextGuidedContract,
    changed_keys,
    never_moved,
    train_three_steps,
    without_gradient,
)
from tests.models.stand_ins import CAPTIONS, make_batch, pictures, write_bert
from tests.models.tiny_tmc import NO_TEXT, TINY_SWIN, make
from textseg.encoders import NoText
from textseg.errors import UserError
from textseg.models.tmc import TMC
from textseg.segment.network import network_from


class TestTMC(NetworkContract, TextGuidedContract):
    learning_settings: ClassVar[dict[str, Any]] = {"alignment": "infonce"}
    learning_rate, learning_steps = 3e-3, 80

    def make(self, **settings: Any) -> TMC:
        return make(**settings)


class TestTMCByPixel(TextGuidedContract):
    """Words steer with the other alignment too."""

    learning_settings: ClassVar[dict[str, Any]] = {"alignment": "pixel"}
    learning_rate, learning_steps = 2e-3, 80  # at 5e-3 both squares stay one mask

    def make(self, **settings: Any) -> TMC:
        return make(**settings)


VARIATIONS: dict[str, dict[str, Any]] = {
    "no text": NO_TEXT,
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
    "a ConvNeXt": {"image_encoder": "test_convnext", "image_encoder_options": None},
}


@pytest.mark.parametrize("settings", VARIATIONS.values(), ids=VARIATIONS)
def test_every_variation_trains_all_of_its_parameters(settings: dict[str, Any]) -> None:
    model = make(**settings)
    with torch.no_grad():
        assert model.eval()(pictures(1, 64, 96), CAPTIONS[:1]).logits.shape == (1, 1, 64, 96)
    steps = train_three_steps(model, make_batch())
    assert without_gradient(steps) == []
    assert never_moved(steps, but_for=TestTMC.gradient_free) == []


def test_lists_as_yaml_gives_them_build_the_network_of_tuples() -> None:
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in TINY_SWIN.items()}
    one = make(mcm_stages=(2, 4), alignment_stages=(1,)).state_dict()
    other = make(mcm_stages=[2, 4], alignment_stages=[1], image_encoder_options=lists).state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[k], other[k]) for k in one if isinstance(one[k], Tensor))


def test_the_default_encoder_has_the_channels_and_strides_of_swin_tiny() -> None:
    model = make(image_encoder_options=None)
    assert model.image_encoder.channels == (96, 192, 384, 768)
    assert model.image_encoder.strides == (4, 8, 16, 32)
    assert [block.text_to_image.heads for block in model.mcm.blocks.values()] == [3, 6, 12, 24]


# --- what is built


def test_without_text_no_text_encoder_is_built_and_words_change_nothing() -> None:
    model = make(**NO_TEXT).eval()
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


def test_the_names_and_shapes_of_the_state_dict_are_the_golden_ones() -> None:
    model = make(image_encoder_options=None)
    assert changed_keys(model, "tmc_swin_tiny.txt") == {"gone": [], "new": []}


def test_a_checkpoint_from_before_the_narrow_decoder_is_read_as_what_it_is(tmp_path: Path) -> None:
    old = make(narrow_decoder=False)
    hyper = {name: value for name, value in old.hparams.items() if name != "narrow_decoder"}
    stored = {"state_dict": old.state_dict(), "hyper_parameters": hyper}
    with pytest.raises(UserError, match=r"set model\.narrow_decoder: false"):
        make().on_load_checkpoint(stored)
    old.on_load_checkpoint(stored)
    stored["hyper_parameters"] = {**hyper, "_class_path": "textseg.models.TMC"}
    again = network_from(stored, tmp_path / "old.ckpt").eval()
    batch = make_batch()
    with torch.no_grad():
        logits = [model(batch["image"], batch["text"]).logits for model in (again, old.eval())]
    assert torch.equal(*logits)


# --- settings


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "stage 5": ({"mcm_stages": (2, 5)}, r"mcm_stages=\[2, 5\]"),
    "stage 0": ({"mcm_stages": (0,)}, r"mcm_stages=\[0\]"),
    "stage twice": ({"mcm_stages": (2, 2)}, r"mcm_stages=\[2, 2\]"),
    "aligned stage 5": ({"alignment_stages": (5,)}, r"alignment_stages=\[5\]"),
    "unknown alignment": ({"alignment": "clip"}, "alignment='clip'"),
    "negative weight": ({"alignment_weight": -0.1}, r"alignment_weight=-0\.1"),
    "alignment without stages": ({"mcm_stages": ()}, "alignment_stages"),
    "five stages": (
        {"image_encoder": "resnet10t", "image_encoder_options": None},
        "image_encoder='resnet10t' has 5 stages",
    ),
    "widths without a position code": (
        {"image_encoder_options": {**TINY_SWIN, "embed_dim": 6, "num_heads": (1, 1, 1, 1)}},
        r"widths \[6, 12, 24, 48\]",
    ),
    "unknown encoder": ({"image_encoder": "swin_huge"}, "swin_huge"),
    "warm-up of all steps": ({"warmup": 1.0}, r"warmup=1\.0"),
}


@pytest.mark.parametrize(("settings", "named"), BAD.values(), ids=BAD)
def test_a_bad_setting_is_a_user_error_that_names_it(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        make(**settings)


def test_the_remedy_for_an_encoder_of_five_stages_works() -> None:
    model = make(image_encoder="resnet10t", image_encoder_options={"out_indices": [1, 2, 3, 4]})
    with torch.no_grad():
        assert model.eval()(pictures(1), CAPTIONS[:1]).logits.shape == (1, 1, 64, 64)


def test_beside_a_frozen_text_encoder_every_parameter_is_trained(tmp_path: Path) -> None:
    write_bert(tmp_path)
    frozen = make(text_encoder=str(tmp_path))
    frozen.text_encoder.freeze()
    assert not any(p.requires_grad for p in frozen.text_encoder.parameters())
    steps = train_three_steps(frozen, make_batch())
    assert without_gradient(steps) == []
    assert never_moved(steps, but_for=()) == []
