"""Training the last layers of a frozen text encoder: what moves, what is cached, what drops out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertModel, DistilBertConfig, ModernBertConfig

from tests.encoders.tiny_text import scratch
from tests.models.stand_ins import (
    CAPTIONS,
    WORDS,
    BatchesInMemory,
    make_batch,
    quiet_trainer,
    write_bert,
)
from tests.models.tiny import tiny
from textseg.backbone import TextImageBackboneMixin
from textseg.encoders import TextEncoder, TextEncoderBase
from textseg.encoders.pretrained import build, layers_of
from textseg.errors import UserError

LAST = "text_encoder.model.encoder.layer.1."


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A BERT of two layers."""
    write_bert(tmp_path / "bert")
    return tmp_path / "bert"


class Network(TextImageBackboneMixin):
    """Text with weights, image without."""

    def __init__(self, text_encoder: Any, layers: int, **settings: Any) -> None:
        super().__init__()
        self.unfreeze_text_layers = layers
        self.build_backbone(image_reader, text_encoder, pretrained=True, **settings)


def image_reader(text_dim: int) -> nn.Module:
    module: Any = nn.Module()
    module.channels, module.strides, module.takes_text = (2,), (4,), True
    module.pretrained_parameters = list
    return module


def test_the_last_layers_are_trained_and_all_below_is_frozen(bert: Path) -> None:
    network = Network(str(bert), 1)
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in network.named_parameters() if n.startswith(LAST)}
    groups = network.parameter_groups(
        lr=1.0, weight_decay=0.1, pretrained_lr_scale=0.1, text_lr_scale=0.5
    )
    assert {group["name"] for group in groups} == {"text/decay", "text/no_decay"}
    assert sum(len(group["params"]) for group in groups) == len(trained)
    assert not network.text_encoder.frozen


def test_dropout_is_on_in_the_trained_layers_alone(bert: Path) -> None:
    network = Network(str(bert), 1)
    for mode in (None, True, False, True):
        network = network if mode is None else network.train(mode)
        training = {
            name
            for name, part in network.named_modules()
            if part.training and name.startswith("text_encoder")
        }
        inside = {n for n, _ in network.named_modules() if f"{n}.".startswith(LAST)}
        assert training == (set() if mode is False else inside)


def test_the_frozen_part_gives_the_trained_layers_what_the_published_model_would(
    bert: Path,
) -> None:
    original: BertModel = write_bert(bert)
    network = Network(str(bert), 1, max_tokens=12)
    seen: list[torch.Tensor] = []
    layer = network.text_encoder.model.encoder.layer[1]
    layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network.train().encode_text(["small lesion"])
    ids = torch.tensor([[WORDS.index(w) for w in ("[CLS]", "small", "lesion", "[SEP]")]])
    with torch.no_grad():
        expected = original(ids, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(seen[0][:, :4], expected, rtol=1e-4, atol=1e-5)
    assert not seen[0].requires_grad, "no graph is kept below the trained layers"


def test_features_follow_the_weights_and_nothing_stale_is_kept(bert: Path) -> None:
    network = Network(str(bert), 1).eval()
    with torch.no_grad():
        before = network.encode_text(CAPTIONS).tokens
        again = network.encode_text(CAPTIONS).tokens
        layer = network.text_encoder.model.encoder.layer[1]
        layer.output.LayerNorm.bias += 1
        after = network.encode_text(CAPTIONS).tokens
    assert torch.equal(before, again)
    torch.testing.assert_close(after, before + 1)


def test_unfreezing_no_layer_and_freezing_again_give_the_frozen_encoders_features(
    bert: Path,
) -> None:
    frozen = Network(str(bert), 0).train().encode_text(CAPTIONS).tokens
    network = Network(str(bert), 2).train()
    network.text_encoder.freeze()
    assert torch.equal(network.train().encode_text(CAPTIONS).tokens, frozen)
    assert not any(part.training for part in network.text_encoder.modules())


def test_a_fit_moves_the_last_layer_and_nothing_below(bert: Path) -> None:
    network = tiny("TMC", text_encoder=str(bert), pretrained=False)
    network.text_encoder.freeze()
    network.unfreeze_text_layers = 1
    network.unfreeze_text(frozen=True)
    before = {n: p.clone() for n, p in network.text_encoder.named_parameters()}
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(network, BatchesInMemory([make_batch(seed=s) for s in (0, 1)]))
    moved = {n for n, p in network.text_encoder.named_parameters() if not torch.equal(p, before[n])}
    last = "model.encoder.layer.1."
    assert all(name.startswith(last) for name in moved)
    # A bias of the keys has no effect: a softmax does not see what is added to every score.
    still = {n for n in before if n.startswith(last)} - moved
    assert all(name.endswith("key.bias") for name in still)


# --- other architectures


def test_layers_are_found_in_other_architectures_with_a_norm_behind_them() -> None:
    distilled = build(DistilBertConfig(vocab_size=20, dim=32, n_layers=3, n_heads=2, hidden_dim=8))
    layers, norms = layers_of(distilled)
    assert (len(layers), norms) == (3, [])
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 8}
    modern = build(ModernBertConfig(vocab_size=20, num_hidden_layers=2, pad_token_id=0, **sizes))
    layers, norms = layers_of(modern)
    assert layers == list(modern.layers)
    assert norms == [modern.final_norm]


# --- mistakes


class Words(TextEncoderBase):
    """A pretrained encoder that knows no layers."""

    dim = 4
    pretrained = True

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(2, 4)

    def word_mask(self, text: Sequence[str], word: str | None) -> torch.Tensor:
        return torch.ones(len(text), 2, dtype=torch.bool)


def test_more_layers_than_there_are_is_refused(bert: Path) -> None:
    Network(str(bert), 2)
    with pytest.raises(UserError) as caught:
        Network(str(bert), 3)
    message = str(caught.value)
    assert [p for p in ("unfreeze_text_layers=3", "2 layers", str(bert)) if p not in message] == []


@pytest.mark.parametrize(
    ("text_encoder", "settings", "named"),
    [
        ("scratch", {}, "unfreeze_text_layers=1"),
        ("BERT", {"freeze": False}, "unfreeze_text_layers=1"),
        (None, {}, "unfreeze_text_layers=1"),
        (Words, {}, "Words"),
    ],
)
def test_layers_of_an_encoder_that_is_not_frozen_or_has_none_are_refused(
    bert: Path, text_encoder: Any, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        Network(str(bert) if text_encoder == "BERT" else text_encoder, 1, **settings)


@pytest.mark.parametrize("network", ["ImageBaseline", "TMC"])
def test_networks_refuse_what_has_no_effect(network: str) -> None:
    with pytest.raises(UserError, match="unfreeze_text_layers=2"):
        tiny(network, unfreeze_text_layers=2)
    with pytest.raises(UserError, match="unfreeze_text_layers=-1"):
        tiny(network, unfreeze_text_layers=-1)


def test_an_encoder_without_unfrozen_layers_trains_as_before() -> None:
    encoder: TextEncoder = scratch()
    assert {part.training for part in encoder.train().modules()} == {True}
    assert {part.training for part in encoder.eval().modules()} == {False}
