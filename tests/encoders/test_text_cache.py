"""The cache of a frozen text encoder: what it keeps, and when it is emptied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.encoders.tiny_text import frozen, scratch
from tests.models.stand_ins import CAPTIONS, write_bert
from textseg import encoders
from textseg.encoders import TextEncoder


class Calls:
    """Counts the runs of an encoder's model, and the captions of each."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.sizes: list[int] = []
        encoder.model.register_forward_hook(self, with_kwargs=True)

    def __call__(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        self.sizes.append(len(kwargs["input_ids"]))


def test_a_frozen_encoder_runs_once_for_each_distinct_caption(bert: Path) -> None:
    encoder = frozen(bert)
    calls = Calls(encoder)
    encoder([CAPTIONS[0], CAPTIONS[0], CAPTIONS[1]])
    assert calls.sizes == [1, 1]
    encoder(CAPTIONS[::-1])
    assert calls.sizes == [1, 1]
    encoder(["lung"])
    assert calls.sizes == [1, 1, 1]


def test_a_trained_encoder_is_never_cached() -> None:
    encoder = scratch()
    calls = Calls(encoder)
    encoder(CAPTIONS)
    encoder(CAPTIONS)
    assert calls.sizes == [2, 2]


def test_a_cached_feature_equals_a_fresh_one_bit_for_bit(bert: Path) -> None:
    encoder = frozen(bert)
    encoder(CAPTIONS)
    for kept, fresh in zip(encoder(CAPTIONS), frozen(bert)(CAPTIONS), strict=True):
        assert torch.equal(kept, fresh)


def test_a_cached_feature_does_not_depend_on_its_batch(bert: Path) -> None:
    together = frozen(bert)([*CAPTIONS, "", "lung " * 50])
    for i, caption in enumerate([*CAPTIONS, "", "lung " * 50]):
        for whole, alone in zip(together, frozen(bert)([caption]), strict=True):
            assert torch.equal(whole[i], alone[0])


def test_a_cached_feature_does_not_depend_on_the_precision_of_the_training(bert: Path) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        lowered = frozen(bert)(CAPTIONS)
    assert lowered.tokens.dtype == torch.float32
    assert torch.equal(lowered.tokens, frozen(bert)(CAPTIONS).tokens)


def test_a_feature_made_in_inference_mode_serves_in_training(bert: Path) -> None:
    encoder, head = frozen(bert), torch.nn.Linear(32, 1)
    with torch.inference_mode():
        encoder(CAPTIONS)
    head(encoder(CAPTIONS).tokens).sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.abs().max() > 0


def test_changing_a_returned_feature_does_not_change_the_cache(bert: Path) -> None:
    encoder = frozen(bert)
    first = encoder(CAPTIONS[:1]).tokens
    kept = first.clone()
    first.zero_()
    assert torch.equal(encoder(CAPTIONS[:1]).tokens, kept)


def test_new_weights_empty_the_cache(bert: Path, tmp_path: Path) -> None:
    encoder = frozen(bert)
    encoder(CAPTIONS)
    write_bert(tmp_path / "other", seed=9)
    other = frozen(tmp_path / "other")
    encoder.load_state_dict(other.state_dict())
    assert torch.equal(encoder(CAPTIONS).tokens, other(CAPTIONS).tokens)


def test_new_weights_that_come_through_the_network_empty_the_cache(
    bert: Path, tmp_path: Path
) -> None:
    write_bert(tmp_path / "other", seed=9)
    network = torch.nn.ModuleDict({"text_encoder": frozen(bert)})
    other = torch.nn.ModuleDict({"text_encoder": frozen(tmp_path / "other")})
    network["text_encoder"](CAPTIONS)
    network.load_state_dict(other.state_dict())
    texts = [net["text_encoder"](CAPTIONS).tokens for net in (network, other)]
    assert torch.equal(*texts)


def test_a_move_empties_the_cache(bert: Path) -> None:
    encoder = frozen(bert)
    before = encoder(CAPTIONS).tokens
    network = torch.nn.Sequential(encoder).double()
    after = encoder(CAPTIONS).tokens
    assert after.dtype == torch.float64
    torch.testing.assert_close(after.float(), before, rtol=1e-4, atol=1e-5)
    network.to("meta")
    assert encoder._cache == {}


def test_the_cache_is_bounded_and_drops_what_was_used_longest_ago(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders.text, "CACHED_CAPTIONS", 3)
    encoder = frozen(bert)
    calls = Calls(encoder)
    for caption in ("small", "large", "upper", "small", "lower"):
        encoder([caption])
    assert len(encoder._cache) == 3
    assert len(calls.sizes) == 4
    encoder(["small"])
    assert len(calls.sizes) == 4, "used again, so kept"
    encoder(["large"])
    assert len(calls.sizes) == 5, "dropped, so run again"


def test_a_batch_of_more_captions_than_the_cache_holds_is_encoded_whole(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders.text, "CACHED_CAPTIONS", 1)
    encoder = frozen(bert)
    assert torch.equal(encoder(CAPTIONS).tokens[1], frozen(bert)(CAPTIONS[1:]).tokens[0])
    assert len(encoder._cache) == 1


def test_thawing_a_frozen_encoder_lets_gradients_through(bert: Path) -> None:
    encoder = frozen(bert)
    encoder(CAPTIONS)
    encoder.requires_grad_(True)
    encoder(CAPTIONS).pooled[:, 0].sum().backward()
    gradient = encoder.model.embeddings.word_embeddings.weight.grad
    pieces = encoder._require_tokenizer().encode_batch(CAPTIONS)
    used = [i for row in pieces for i in row.ids[: sum(row.attention_mask)]]
    assert (gradient[used].abs().sum(1) > 0).all(), "every word piece of the captions learns"


def test_freezing_again_after_training_uses_the_new_weights(bert: Path) -> None:
    encoder = frozen(bert)
    encoder(CAPTIONS)
    with torch.no_grad():
        for parameter in encoder.requires_grad_(True).parameters():
            parameter.add_(0.1)
    encoder(CAPTIONS)
    thawed = encoder(CAPTIONS).tokens
    encoder.requires_grad_(False)
    torch.testing.assert_close(encoder(CAPTIONS).tokens, thawed, rtol=1e-4, atol=1e-5)
