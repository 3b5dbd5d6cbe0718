"""Text encoders: loading a folder, refusing a spoilt one, restoring, and truncation."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertForMaskedLM, BertModel

from tests.encoders.tiny_text import frozen, scratch
from tests.models.stand_ins import CAPTIONS, WORDS, write_bert
from textseg.encoders import TextEncoder, restoring, unknown_words
from textseg.errors import UserError

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
