"""Which tokens of a caption are a word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.encoders.tiny_text import frozen, scratch
from tests.models.stand_ins import CAPTIONS
from textseg.encoders import TextEncoder
from textseg.errors import UserError


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
