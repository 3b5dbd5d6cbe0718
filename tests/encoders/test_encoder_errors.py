"""Encoders that cannot do what is asked of them: random words kept, sizes that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import textseg.models
from tests.models.stand_ins import (
    CAPTIONS,
    BatchesInMemory,
    make_batch,
    pictures,
    quiet_trainer,
    write_bert,
)
from tests.models.tiny import NETWORKS, TEXT_GUIDED
from tests.tiny_run import call, write_experiment, write_refhl
from textseg.encoders import ImageEncoder, TextEncoder, near_timm_names, restoring
from textseg.errors import UserError
from textseg.models.base import SegmentationModule


def network(name: str, **settings: Any) -> SegmentationModule:
    torch.manual_seed(0)
    return getattr(textseg.models, name)(**{**NETWORKS[name], **settings})


# --- random words are not frozen


@pytest.mark.parametrize("name", TEXT_GUIDED)
def test_freezing_a_text_encoder_from_scratch_is_refused(name: str) -> None:
    with pytest.raises(UserError) as caught:
        network(name, freeze_text=True)
    cause, remedy = str(caught.value).splitlines()
    assert "freeze_text: true" in cause
    assert "text_encoder='scratch'" in cause
    assert "textseg benchmark --freeze_text true" in remedy


def test_freezing_an_architecture_without_its_weights_is_refused(tmp_path: Path) -> None:
    write_bert(tmp_path)
    folder = str(tmp_path)
    with pytest.raises(UserError, match=r"freeze_text: true(.|\n)*pretrained: false"):
        network("LSMS", text_encoder=folder, pretrained=False, freeze_text=True)
    published = network("LSMS", text_encoder=folder, pretrained=True, freeze_text=True)
    assert isinstance(published.text_encoder, TextEncoder)
    assert published.text_encoder.frozen


def test_words_that_a_checkpoint_brings_can_be_frozen() -> None:
    learnt = network("LSMS")
    learnt.prepare_captions(CAPTIONS, training=True)
    with restoring(learnt.state_dict()):
        frozen = network("LSMS", freeze_text=True)
    frozen.load_state_dict(learnt.state_dict())
    assert isinstance(frozen.text_encoder, TextEncoder)
    assert frozen.text_encoder.frozen
    with torch.no_grad():
        words = [m.eval().encode_text(CAPTIONS).tokens for m in (learnt, frozen)]
    torch.testing.assert_close(*words)


@pytest.mark.parametrize("training", [True, False])
def test_words_can_be_frozen_once_they_were_trained_but_not_for_having_been_read(
    training: bool,
) -> None:
    encoder = TextEncoder("scratch", dim=8, depth=1, vocab_size=64)
    encoder.learn_vocabulary(CAPTIONS)
    encoder.train(training)(CAPTIONS)
    if training:
        encoder.requires_grad_(False)
    else:
        with pytest.raises(UserError, match="freeze_text"):
            encoder.requires_grad_(False)
    assert encoder.frozen is training


def test_the_command_refuses_to_freeze_random_words_and_writes_nothing(tmp_path: Path) -> None:
    write_refhl(tmp_path / "refhl")
    write_experiment(tmp_path, data={"init_args": {"root": "refhl"}})
    outcome = call("fit", "--config", "tiny.yaml", "--model.freeze_text", "true", cwd=tmp_path)
    assert outcome.status == 2
    cause, remedy = outcome.message()
    assert "freeze_text: true" in cause
    assert "textseg benchmark --freeze_text true" in remedy
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


# --- one value for each channel


def train(model: SegmentationModule, count: int, side: int) -> None:
    data = BatchesInMemory([make_batch(count, side, side)])
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=data)


ONE_POSITION = {  # networks that keep a batch norm at 1/32 of the input, or pool whole images
    "LSMS": {},
    "ImageBaseline": {"architecture": "deeplabv3plus"},
}


@pytest.mark.parametrize("name", ONE_POSITION)
def test_one_image_that_leaves_a_batch_norm_one_value_is_a_user_error(name: str) -> None:
    with pytest.raises(UserError) as caught:
        train(network(name, **ONE_POSITION[name]), 1, 32)
    cause, remedy = str(caught.value).splitlines()
    assert name in cause
    assert "32 x 32" in cause
    assert "data.batch_size" in remedy
    assert "data.image_size" in remedy


@pytest.mark.parametrize(
    ("name", "count", "side"), [("LSMS", 2, 32), ("LSMS", 1, 64), ("ImageBaseline", 2, 32)]
)
def test_what_the_remedy_says_can_be_trained(name: str, count: int, side: int) -> None:
    model = network(name, **ONE_POSITION[name])
    before = [p.detach().clone() for p in model.parameters()]
    train(model, count, side)
    pairs = zip(before, model.parameters(), strict=True)
    assert not all(torch.equal(old, new) for old, new in pairs)


def test_another_error_of_a_step_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("ours")

    model = network("LSMS")
    monkeypatch.setattr(model, "forward_features", broken)
    with pytest.raises(ValueError, match=r"^ours$") as caught:
        train(model, 1, 32)
    assert not isinstance(caught.value, UserError)


# --- sizes

SWIN = ("swin_tiny_patch4_window7_224", NETWORKS["TMC"]["image_encoder_options"])
CONVNEXT: tuple[str, dict[str, Any]] = ("test_convnext", {})


@pytest.mark.parametrize("encoder", [SWIN, CONVNEXT], ids=["swin", "convnext"])
@pytest.mark.parametrize("size", [(65, 64), (64, 80)])
@pytest.mark.parametrize("stepped", [True, False])
def test_a_size_that_the_deepest_stage_does_not_divide_is_named_with_a_multiple_that_it_does(
    encoder: tuple[str, dict[str, Any]], size: tuple[int, int], stepped: bool
) -> None:
    name, options = encoder
    fuse = (lambda i, x: x) if stepped else None
    with pytest.raises(UserError) as caught:
        ImageEncoder(name, pretrained=False, options=options)(pictures(1, *size), fuse)
    cause, remedy = str(caught.value).splitlines()
    assert f"{size[0]} x {size[1]}" in cause
    assert f"image_encoder={name!r}" in cause
    assert "32" in remedy


def test_what_timm_asserts_of_a_size_is_a_user_error_in_its_words() -> None:
    name, options = SWIN
    fixed = {**options, "img_size": 64, "strict_img_size": True}
    encoder = ImageEncoder(name, pretrained=False, options=fixed)
    assert len(encoder(pictures(1))) == len(encoder.strides)
    with pytest.raises(UserError, match=rf"96 x 96(.|\n)*'{name}'(.|\n)*64(.|\n)*data\.image_size"):
        encoder(pictures(1, 96, 96))


def test_an_assert_of_ours_in_a_fuse_stays_an_assert() -> None:
    def fuse(i: int, x: Tensor) -> Tensor:
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        ImageEncoder("test_convnext", pretrained=False)(pictures(1), fuse)


# --- names


def test_near_names_stand_behind_the_prefix_and_among_the_others() -> None:
    assert near_timm_names("convnext_tinny")[0] == "convnext_tiny"
    assert near_timm_names("tu-convnext_tinny", prefix="tu-")[0] == "tu-convnext_tiny"
    assert near_timm_names("rsnet34_own", others=["resnet34_own"])[0] == "resnet34_own"
    assert near_timm_names("????") == []


def test_stages_that_a_network_does_not_have_are_named() -> None:
    """Such as the overlays of EfficientNet, laid over an experiment with a ConvNeXt."""
    with pytest.raises(UserError, match=r"'convnext_atto' has fewer stages than .*4\]") as error:
        ImageEncoder("convnext_atto", pretrained=False, options={"out_indices": [1, 2, 3, 4]})
    assert "out_indices" in str(error.value).partition("\n")[2]
