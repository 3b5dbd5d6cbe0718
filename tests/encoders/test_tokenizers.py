"""Tokenizers of published text encoders: of the kind that was published, and no code of theirs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, BertTokenizerFast, DistilBertConfig, DistilBertModel

from tests.models.stand_ins import CAPTIONS, WORDS
from textseg.encoders import TextEncoder, restoring, share_counter, token_counter
from textseg.encoders.pretrained import load_tokenizer
from textseg.errors import UserError

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # of XLM-R, which a BERT may have
PIECES = ["▁small", "▁large", "▁les", "ion", "▁in", "▁the", "▁upper", "▁lower", "▁left", "▁right"]
# Those of CAPTIONS[0].
TOKENS = ["<s>", "▁small", "▁les", "ion", "▁in", "▁the", "▁upper", "▁left", "</s>"]
NAMED = {
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
}


def unigram() -> Tokenizer:
    """A SentencePiece tokenizer, as multilingual-e5-small has one."""
    pieces = [(piece, 0.0) for piece in SPECIAL] + [(piece, -2.0) for piece in PIECES]
    return in_brackets(Tokenizer(models.Unigram(pieces, unk_id=3)))


def pairs() -> Tokenizer:
    """A tokenizer of byte pairs with the same pieces."""
    letters = dict.fromkeys("".join(PIECES))
    steps = [(piece[:end], piece[end]) for piece in PIECES for end in range(1, len(piece))]
    known = [*SPECIAL, *letters, *(a + b for a, b in steps)]
    vocabulary = {piece: row for row, piece in enumerate(dict.fromkeys(known))}
    model = models.BPE(vocabulary, list(dict.fromkeys(steps)), unk_token="<unk>")
    return in_brackets(Tokenizer(model))


def in_brackets(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def write_folder(folder: Path, tokenizer: Tokenizer, *, model: str = "bert", **named: Any) -> Path:
    """A text encoder whose tokenizer is not its family's."""
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 64}
    if model == "bert":
        whole: Any = BertModel(
            BertConfig(
                **sizes,
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=48,
            )
        )
    else:
        whole = DistilBertModel(
            DistilBertConfig(**sizes, dim=32, n_layers=1, n_heads=2, hidden_dim=48)
        )
    whole.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**NAMED, **named}))
    return folder


def tokens_of(tokenizer: Tokenizer, caption: str = CAPTIONS[0]) -> list[str]:
    encoding = tokenizer.encode(caption)
    real = zip(encoding.tokens, encoding.attention_mask, strict=True)
    return [token for token, on in real if on]


CLASSES: dict[str, dict[str, Any]] = {
    "of another family": {"tokenizer_class": "XLMRobertaTokenizer"},
    "fast": {"tokenizer_class": "XLMRobertaTokenizerFast"},
    "of any family": {"tokenizer_class": "PreTrainedTokenizerFast"},
    "wrong": {"tokenizer_class": "BertTokenizer"},
    "unknown": {"tokenizer_class": "TheirTokenizer"},
    "of no tokenizer": {"tokenizer_class": "BertModel"},
    "none": {},
}


@pytest.mark.parametrize(
    ("make", "named"),
    [
        *((unigram, named) for named in CLASSES),
        *((pairs, named) for named in ("of any family", "wrong", "unknown", "none")),
    ],
)
def test_a_bert_whose_vocabulary_is_no_word_pieces_reads_its_own(
    make: Callable[[], Tokenizer], named: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "bert", make(), **CLASSES[named])
    assert tokens_of(make()) == TOKENS
    assert tokens_of(load_tokenizer(str(folder))) == TOKENS


def test_a_file_that_its_named_class_may_not_read_is_read_right_or_refused(tmp_path: Path) -> None:
    """The class of XLM-R reads merges in transformers 5.3, and no longer in 5.24."""
    folder = write_folder(tmp_path / "bert", pairs(), **CLASSES["of another family"])
    try:
        found: Any = tokens_of(load_tokenizer(str(folder)))
    except UserError as error:
        found = str(error)
    assert found == TOKENS or f"tokenizer={str(folder)!r}" in found


def test_another_familys_encoder_with_such_a_vocabulary_reads_its_own(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "distilbert", unigram(), model="distilbert")
    assert tokens_of(load_tokenizer(str(folder))) == TOKENS


def test_no_word_of_it_is_unknown_in_a_network_nor_in_an_audit(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bert", unigram(), **CLASSES["of another family"])
    encoder = TextEncoder(str(folder), max_tokens=12).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.prepare_captions(CAPTIONS, training=True)
    assert encoder.unknown_shares(CAPTIONS) == [0.0, 0.0]
    assert encoder.word_mask(CAPTIONS[:1], "lesion").sum() == 2
    assert share_counter(str(folder))([], CAPTIONS, 512) == [0.0, 0.0]
    assert share_counter(str(folder))([], ["poumon"], 512) == [1.0]
    assert token_counter(str(folder))(CAPTIONS[0]) == len(TOKENS)


def test_its_checkpoint_is_restored_with_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bert", unigram(), **CLASSES["unknown"])
    first = TextEncoder(str(folder), max_tokens=12).eval()
    with restoring({f"text_encoder.{k}": v for k, v in first.state_dict().items()}):
        second = TextEncoder("gone", max_tokens=12).eval()
    second.load_state_dict(first.state_dict())
    assert sorted(second.vocabulary()) == sorted(first.vocabulary())
    assert second.unknown_shares(CAPTIONS) == [0.0, 0.0]


@pytest.mark.parametrize("named", ["XLMRobertaTokenizer", "TheirTokenizer"])
def test_code_that_would_define_a_tokenizer_is_not_run(named: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    auto = {"AutoTokenizer": ["custom.TheirTokenizer", "custom.TheirTokenizer"]}
    folder = write_folder(tmp_path / "bert", unigram(), tokenizer_class=named, auto_map=auto)
    (folder / "custom.py").write_text(f"open({str(marker)!r}, 'w').write('executed')\n")
    assert tokens_of(load_tokenizer(str(folder))) == TOKENS
    assert not marker.exists()


def test_a_file_that_cuts_and_pads_does_neither_until_it_is_told_to(tmp_path: Path) -> None:
    tokenizer = unigram()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=20, pad_id=1, pad_token="<pad>")
    folder = write_folder(tmp_path / "bert", tokenizer)
    assert load_tokenizer(str(folder)).encode(CAPTIONS[0]).tokens == TOKENS
    assert token_counter(str(folder))(CAPTIONS[0]) == len(TOKENS)


# --- ordinary folders


def word_pieces(normalizer: normalizers.Normalizer) -> Tokenizer:
    vocabulary = {word: row for row, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


LOWER = normalizers.BertNormalizer(lowercase=True)
ORDINARY: dict[str, tuple[Tokenizer | None, dict[str, Any] | None]] = {
    "vocabulary alone": (None, None),
    "vocabulary in lower case": (None, {"do_lower_case": True}),
    "vocabulary with capitals": (None, {"do_lower_case": False}),
    "file alone": (word_pieces(LOWER), None),
    "file and class": (word_pieces(LOWER), {"tokenizer_class": "BertTokenizer"}),
    "file and fast class": (word_pieces(LOWER), {"tokenizer_class": "BertTokenizerFast"}),
    "file and any class": (word_pieces(LOWER), {"tokenizer_class": "PreTrainedTokenizerFast"}),
    "file and unknown class": (word_pieces(LOWER), {"tokenizer_class": "CXRBertTokenizer"}),
}


@pytest.mark.parametrize(("tokenizer", "named"), ORDINARY.values(), ids=ORDINARY)
def test_ordinary_berts_have_the_tokens_of_berts_own_class(
    tokenizer: Tokenizer | None, named: dict[str, Any] | None, bert: Path
) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (bert / file).unlink(missing_ok=True)
    if tokenizer is not None:
        (bert / "vocab.txt").unlink()
        tokenizer.save(str(bert / "tokenizer.json"))
    if named is not None:
        (bert / "tokenizer_config.json").write_text(json.dumps(named))
    own = load_tokenizer(str(bert))
    expected = BertTokenizerFast.from_pretrained(bert).backend_tokenizer
    for caption in (*CAPTIONS, "Large Lésions, lungs.", ""):
        assert own.encode(caption).ids == expected.encode(caption).ids
