"""Text encoders: loading and restoring, truncation, the caption cache, and the tokens of a word."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertForMaskedLM, BertModel

from tests.encoders.tiny_text import scratch
from tests.models.stand_ins import CAPTIONS, WORDS, write_bert
from textseg import encoders
from textseg.encoders import TextEncoder, restoring, unknown_words
from textseg.errors import UserError


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    write_bert(tmp_path / "bert")
    return tmp_path / "bert"


def frozen(folder: Path, **settings: Any) -> TextEncoder:
    encoder = TextEncoder(str(folder), **{"max_tokens": 12, **settings})
    encoder.requires_grad_(False)
    return encoder.eval()


class Calls:
    """Counts the runs of an encoder's model, and the captions of each."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.sizes: list[int] = []
        encoder.model.register_forward_hook(self, with_kwargs=True)

    def __call__(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        self.sizes.append(len(kwargs["input_ids"]))


# --- folders


def test_a_folder_is_loaded_with_its_weights_and_without_a_pooler(bert: Path) -> None:
    encoder, original = TextEncoder(str(bert)), write_bert(bert)
    own, expected = encoder.model.state_dict(), original.state_dict()
    assert set(own) == {k for k in expected if not k.startswith("pooler")}
    assert all(torch.equal(own[k], expected[k]) for k in own)
    assert (encoder.pretrained, encoder.dim) == (True, 32)


def test_word_features_are_those_of_transformers(bert: Path) -> None:
    original = write_bert(bert)
    ids = [WORDS.index(w) for w in ("[CLS]", "small", "lesion", "##s", "[SEP]")]
    with torch.no_grad():
        expected = original(torch.tensor([ids])).last_hidden_state[0]
        tokens, mask, pooled = frozen(bert)(["small lesions"])
    assert mask.sum() == 5
    torch.testing.assert_close(tokens[0, :5], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled[0], expected.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_mask_is_understood_as_transformers_own_bit_for_bit(bert: Path, training: bool) -> None:
    encoder = TextEncoder(str(bert), max_tokens=12).train(training)
    ids = torch.tensor([[2, 5, 7, 3] + [0] * 8, [2] + [14] * 10 + [3], [2, 3] + [0] * 10])
    masks = (ids != 0).long()
    for rows in (slice(0, 3), slice(1, 2)):  # the second has no padding at all
        torch.manual_seed(0)  # dropout
        expected = encoder.model(input_ids=ids[rows], attention_mask=masks[rows]).last_hidden_state
        torch.manual_seed(0)
        tokens, mask, _ = encoder(["small lesion", "lung " * 50, ""][rows])
        assert torch.equal(tokens, expected)
        assert torch.equal(mask, masks[rows].bool())
        grads = [
            torch.autograd.grad(t.sum(), encoder.model.parameters()) for t in (tokens, expected)
        ]
        assert all(torch.equal(own, other) for own, other in zip(*grads, strict=True))


@pytest.mark.parametrize("kind", ["eager", "decoder", "distilbert"])
def test_models_that_take_no_finished_mask_are_still_masked_as_transformers_does(
    bert: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    ids, mask = torch.tensor([[2, 5, 7, 3] + [0] * 8]), torch.tensor([[1] * 4 + [0] * 8])
    encoder = other_kind(bert, monkeypatch, kind)
    with torch.no_grad():
        expected = encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state
        assert torch.equal(encoder(["small lesion"]).tokens, expected)


def other_kind(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> TextEncoder:
    """An encoder of a model that is no BERT with sdpa and a view to both sides, untrained."""
    config = json.loads((folder / "config.json").read_text())
    if kind == "decoder":
        config["is_decoder"] = True
    elif kind == "distilbert":
        config = {"model_type": "distilbert", "vocab_size": len(WORDS), "pad_token_id": 0}
        config |= {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
    (folder / "config.json").write_text(json.dumps(config))
    if kind == "eager":
        monkeypatch.setattr(BertModel, "_supports_sdpa", False)
    encoder = TextEncoder(str(folder), pretrained=False, max_tokens=12).eval()
    assert (encoder.model.config._attn_implementation == "eager") == (kind == "eager")
    return encoder


def test_without_pretrained_the_architecture_is_kept_and_the_weights_are_new(bert: Path) -> None:
    encoder, original = TextEncoder(str(bert), pretrained=False), write_bert(bert)
    assert (encoder.pretrained, encoder.needs_vocabulary) == (False, False)
    name = "embeddings.word_embeddings.weight"
    own, old = encoder.model.state_dict()[name], original.state_dict()[name]
    assert own.shape == old.shape
    assert not torch.equal(own, old)


def test_a_checkpoint_with_a_pretraining_head_gives_its_inner_bert(bert: Path) -> None:
    config = write_bert(bert).config
    whole = BertForMaskedLM(config)
    whole.save_pretrained(bert)
    own, inner = TextEncoder(str(bert)).model.state_dict(), whole.bert.state_dict()
    assert all(torch.equal(own[k], inner[k]) for k in own)


def disguise(folder: Path, marker: Path) -> None:
    """As CXR-BERT comes: a type of its own, with code that would define it."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "cxr-bert", "architectures": ["CXRBertModel"], "projection_size": 8}
    config["auto_map"] = {"AutoConfig": "custom.Config", "AutoModel": "custom.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "Tok", "auto_map": {"AutoTokenizer": ["custom.Tok", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "custom.py").write_text(f"open({str(marker)!r}, 'w').write('executed')\n")


def test_a_custom_bert_is_read_as_bert_and_its_code_is_not_run(bert: Path, tmp_path: Path) -> None:
    before = frozen(bert)(CAPTIONS).tokens
    disguise(bert, tmp_path / "marker")
    encoder = frozen(bert)
    assert type(encoder.model).__module__.startswith("transformers.")
    assert torch.equal(encoder(CAPTIONS).tokens, before)
    assert not (tmp_path / "marker").exists()
    assert "auto_map" not in encoder.get_extra_state()["config"]


@pytest.mark.parametrize("name", ["nobody/has-this-encoder", "nowhere/at/all", "no-such-encoder"])
def test_a_missing_encoder_is_a_user_error_that_names_it(name: str) -> None:
    with pytest.raises(UserError, match=f"text_encoder='{name}'"):
        TextEncoder(name)


def spoil(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "broken config":
        (folder / "config.json").write_text("{")
    elif how == "unknown type":
        (folder / "config.json").write_text('{"model_type": "recurrent"}')
    elif how == "no tokenizer":
        for name in ("vocab.txt", "tokenizer.json"):
            (folder / name).unlink(missing_ok=True)
    elif how == "no weights":
        weights.unlink()
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:200])
    elif how == "weights of another network":
        save_file({"stem.weight": torch.zeros(3)}, weights, metadata={"format": "pt"})
    elif how == "weights of another width":
        write_bert(folder / "wide", hidden=64)
        shutil.copy(folder / "wide" / "model.safetensors", weights)


@pytest.mark.parametrize(
    "how",
    [
        *("no config", "broken config", "unknown type", "no tokenizer", "no weights"),
        *("cut weights", "weights of another network", "weights of another width"),
    ],
)
def test_a_spoilt_folder_is_a_user_error(bert: Path, how: str) -> None:
    spoil(bert, how)
    with pytest.raises(UserError):
        TextEncoder(str(bert))


def test_code_in_old_weights_is_refused_and_not_run(bert: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.write_text, (tmp_path / "marker", "executed")

    (bert / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Trap()}, bert / "pytorch_model.bin")
    with pytest.raises(UserError):
        TextEncoder(str(bert))
    assert not (tmp_path / "marker").exists()


def test_restoring_touches_no_folder(bert: Path) -> None:
    first = frozen(bert)
    expected = first(CAPTIONS)
    shutil.rmtree(bert)
    with restoring({f"text_encoder.{k}": v for k, v in first.state_dict().items()}):
        second = frozen(bert)
    second.load_state_dict(first.state_dict())
    assert second.pretrained, "its learning rate stays that of a pretrained part"
    for a, b in zip(expected, second(CAPTIONS), strict=True):
        assert torch.equal(a, b)


# --- truncation


def test_cut_captions_are_counted_and_warned_of_once() -> None:
    encoder = scratch(max_tokens=6)
    captions = ["small lesion", *CAPTIONS, "lesion"]
    assert encoder.count_truncated(captions) == 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder.prepare_captions(captions, training=False)
    assert len(caught) == 1
    assert "2 of 4 captions" in str(caught[0].message)


def test_repeated_captions_count_each_time_and_few_are_encoded_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder, sizes = scratch(max_tokens=6), []
    tokenizer = encoder._require_tokenizer()

    class Noting:
        def encode_batch(self, captions: list[str]) -> list[Any]:
            sizes.append(len(captions))
            return tokenizer.encode_batch(captions)

    monkeypatch.setattr(encoder, "_require_tokenizer", Noting)
    monkeypatch.setattr(unknown_words, "_AT_ONCE", 2)
    assert encoder.count_truncated(["small lesion", *CAPTIONS, *CAPTIONS, "lesion", "right"]) == 4
    assert sizes == [2, 2, 1]


def test_a_caption_of_exactly_max_tokens_is_not_cut(bert: Path) -> None:
    encoder = frozen(bert, max_tokens=8)
    assert encoder.count_truncated([CAPTIONS[0]]) == 0, "six words and two special tokens"
    assert encoder.count_truncated([f"{CAPTIONS[0]} lung"]) == 1


# --- the cache of a frozen encoder


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


# --- which tokens are a word


def chosen(encoder: TextEncoder, caption: str, word: str | None) -> list[str]:
    """The word pieces that `word_mask` picks out."""
    (row,) = encoder.word_mask([caption], word).tolist()
    pieces = encoder._require_tokenizer().encode(caption).tokens
    return [piece for piece, on in zip(pieces, row, strict=True) if on]


@pytest.mark.parametrize(
    ("caption", "word", "pieces"),
    [
        ("small lesion in the upper left", "left", ["left"]),
        ("Small LESION in the upper left", "lesion", ["lesion"]),
        ("small lesion", "LESION", ["lesion"]),
        ("small lesions", "lesions", ["lesion", "##s"]),
        ("small lesion in the upper left", "upper left", ["upper", "left"]),
        ("left lung, left lesion", "left", ["left", "left"]),
        ("the lesion, left.", "left", ["left"]),
        ("quince in the lung", "quince", ["[UNK]"]),
        ("small lesion", None, ["small", "lesion"]),
        ("", None, ["[CLS]", "[SEP]"]),
    ],
)
def test_a_word_is_picked_out_with_all_its_pieces(
    bert: Path, caption: str, word: str | None, pieces: list[str]
) -> None:
    assert chosen(frozen(bert), caption, word) == pieces


@pytest.mark.parametrize(
    ("caption", "word"),
    [
        ("small lesions", "lesion"),
        ("small lesion", "sm.ll"),
        ("small lesion", ".*"),
        ("small lesion", "[CLS]"),
        ("small lesion", "(left"),
        ("small lesion", ""),
        ("", "left"),
        ("lung " * 10 + "left", "left"),
    ],
    ids=["part of a word", "regex", "any", "special", "bracket", "none", "no caption", "cut off"],
)
def test_a_caption_without_the_word_is_a_user_error(bert: Path, caption: str, word: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"{word!r}")):
        frozen(bert).word_mask([caption], word)


def test_word_masks_of_a_batch_are_those_of_its_rows_and_never_padding(bert: Path) -> None:
    encoder, captions = frozen(bert), [*CAPTIONS, "lesion"]
    together = encoder.word_mask(captions, "lesion")
    assert together.shape == (3, 12)
    assert not (together & ~encoder(captions).mask).any()
    for row, caption in zip(together, captions, strict=True):
        assert torch.equal(row, encoder.word_mask([caption], "lesion")[0])


def test_a_word_of_the_scratch_vocabulary_is_picked_out_too() -> None:
    assert "".join(chosen(scratch(), "SMALL Lesion", "lesion")).replace("##", "") == "lesion"


def test_a_phrase_is_found_whatever_its_spacing(bert: Path) -> None:
    assert chosen(frozen(bert), "upper left", " upper   left ") == ["upper", "left"]
