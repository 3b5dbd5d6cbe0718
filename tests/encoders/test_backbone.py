"""The text-image backbone: pyramids, what is frozen, and the optimizer's groups."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.stand_ins import CAPTIONS, pictures, write_bert
from textseg.backbone import TextImageBackboneMixin
from textseg.batch import TextFeatures
from textseg.encoders import NoText


class Network(TextImageBackboneMixin):
    """A backbone with a head."""

    def __init__(self, image_encoder: Any = "test_convnext", **settings: Any) -> None:
        super().__init__()
        text = settings.pop("text_encoder", "scratch")
        self.build_backbone(image_encoder, text, **{"pretrained": False, **settings})
        self.head = nn.Conv2d(4, 1, 3)


class Reader(nn.Module):
    """An image encoder that takes text."""

    takes_text = True
    channels, strides = (2,), (4,)

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        self.text_dim = text_dim
        self.seen: TextFeatures | None = None

    def forward(self, image: torch.Tensor, text: TextFeatures) -> list[torch.Tensor]:
        self.seen = text
        return [image]

    def pretrained_parameters(self) -> list[nn.Parameter]:
        return []


@pytest.fixture
def bert(tmp_path: Path) -> str:
    write_bert(tmp_path / "bert")
    return str(tmp_path / "bert")


def pretrained_text(bert: str, **settings: Any) -> Network:
    """Text with weights, image without: offline, timm has none to give."""
    return Network(Reader, text_encoder=bert, pretrained=True, **settings)


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_the_pyramid_has_the_strides_and_channels_it_announces(size: tuple[int, int]) -> None:
    network = Network().eval()
    with torch.no_grad():
        features = network.encode_image(pictures(2, *size))
    encoder: Any = network.image_encoder
    assert encoder.strides == (4, 8, 16, 32)
    assert [tuple(f.shape) for f in features] == [
        (2, c, size[0] // s, size[1] // s)
        for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]


def test_an_encoder_that_takes_text_is_given_its_width_and_the_words(bert: str) -> None:
    network = pretrained_text(bert)
    text = network.encode_text(CAPTIONS)
    network.encode_image(pictures(2), text=text)
    assert network.image_encoder.text_dim == network.text_encoder.dim == 32
    assert network.image_encoder.seen is text


def test_words_have_the_documented_shapes_and_a_masked_mean(bert: str) -> None:
    network = pretrained_text(bert, max_tokens=12)
    tokens, mask, pooled = network.encode_text([CAPTIONS[0], ""])
    assert (tokens.shape, mask.shape, pooled.shape) == ((2, 12, 32), (2, 12), (2, 32))
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [8, 2], "six words and two special tokens; two special tokens"
    torch.testing.assert_close(pooled[0], tokens[0, :8].mean(0))


@pytest.mark.parametrize(
    ("pretrained", "freeze", "frozen"),
    [(True, None, True), (False, None, False), (True, False, False)],
)
def test_text_is_frozen_if_pretrained_unless_told_otherwise(
    bert: str, pretrained: bool, freeze: bool | None, frozen: bool
) -> None:
    network = Network(Reader, text_encoder=bert, pretrained=pretrained, freeze=freeze)
    assert network.text_encoder.frozen is frozen
    assert any(p.requires_grad for p in network.text_encoder.parameters()) is not frozen
    assert network.text_encoder.training is not frozen, "at once, not from the first train() on"
    network.train()
    assert {m.training for m in network.text_encoder.modules()} == {not frozen}
    assert network.head.training


def test_scratch_text_is_never_frozen_by_default() -> None:
    assert not Network(Reader, pretrained=True).text_encoder.frozen


def test_a_network_without_text_has_one_empty_word_of_no_width() -> None:
    network = Network(text_encoder=None)
    assert isinstance(network.text_encoder, NoText)
    tokens, mask, pooled = network.encode_text(CAPTIONS)
    assert (tokens.shape, pooled.shape, mask.tolist()) == ((2, 1, 0), (2, 0), [[True], [True]])
    network.prepare_captions(CAPTIONS, training=True)
    assert not [n for n in network.state_dict() if n.startswith("text")]
    assert network.train().training


def groups_of(network: Network) -> dict[str, dict[str, Any]]:
    groups = network.parameter_groups(lr=1.0, weight_decay=0.5, pretrained_lr_scale=0.1)
    return {group["name"]: group for group in groups}


def test_groups_partition_the_trainable_parameters(bert: str) -> None:
    network = Network(text_encoder=bert)
    network.head.bias.requires_grad_(False)
    held = [id(p) for group in groups_of(network).values() for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in network.parameters() if p.requires_grad}


def test_nothing_under_two_dimensions_decays(bert: str) -> None:
    for group in groups_of(pretrained_text(bert, freeze=False)).values():
        decays = {p.ndim >= 2 for p in group["params"]}
        assert decays == {group["weight_decay"] == 0.5}
        assert group["weight_decay"] in (0.0, 0.5)


def test_pretrained_parts_have_their_own_learning_rate(bert: str) -> None:
    network = pretrained_text(bert, freeze=False)
    slow = {id(p) for g in groups_of(network).values() if g["lr"] == 0.1 for p in g["params"]}
    assert slow == {id(p) for p in network.text_encoder.parameters()}
    fresh = groups_of(Network(text_encoder=bert))
    assert {g["lr"] for g in fresh.values()} == {1.0}, "nothing here is pretrained"


def test_a_frozen_text_encoder_is_in_no_group(bert: str) -> None:
    network = pretrained_text(bert)
    held = {id(p) for g in groups_of(network).values() for p in g["params"]}
    assert not held & {id(p) for p in network.text_encoder.parameters()}


def test_the_vocabulary_is_learnt_in_training_and_only_once() -> None:
    network = Network()
    network.prepare_captions(["other words"], training=False)
    assert network.text_encoder.needs_vocabulary
    network.prepare_captions(CAPTIONS, training=True)
    before = network.text_encoder.get_extra_state()
    network.prepare_captions(["quite other words"], training=True)
    assert network.text_encoder.get_extra_state() == before


def test_cut_captions_are_counted_in_one_warning(bert: str) -> None:
    network = pretrained_text(bert, max_tokens=8)
    longer = ["large lesion in the lower right lung", "small lesion in the lower left lung"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network.prepare_captions([*CAPTIONS, *longer], training=True)
    messages = [str(w.message) for w in caught if "max_tokens" in str(w.message)]
    assert len(messages) == 1
    assert messages[0].startswith("2 of 4 captions")
    assert "max_tokens=8" in messages[0]


def test_captions_that_fit_give_no_warning(bert: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pretrained_text(bert, max_tokens=8).prepare_captions(CAPTIONS, training=True)
