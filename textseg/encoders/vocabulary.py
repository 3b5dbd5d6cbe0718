"""The word-piece vocabulary of the from-scratch text encoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from textseg.errors import check_at_least

SCRATCH = "scratch"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_NORMALIZER = normalizers.BertNormalizer(lowercase=True)
_SPLITTER = pre_tokenizers.BertPreTokenizer()


def words_of(caption: str) -> list[str]:
    """Words and punctuation marks of a caption, in lower case."""
    pieces = _SPLITTER.pre_tokenize_str(_NORMALIZER.normalize_str(caption))
    return [word for word, _ in pieces]


def build_tokenizer(captions: Sequence[str], vocab_size: int) -> Tokenizer:
    """A lower-case word-piece tokenizer: special tokens, letters, then whole words by frequency.

    The same captions give the same vocabulary in any process, which tokenizers' own trainer does
    not: it breaks ties by hash order. A word that is not in it is split into letters.

    Raises:
        UserError: `vocab_size` holds no letter beside the special tokens.
    """
    check_at_least("vocab_size", vocab_size, len(SPECIAL) + 1)
    letters, words = _pieces(captions)
    pieces = dict.fromkeys([*SPECIAL, *_by_frequency(letters), *_by_frequency(words)])
    vocabulary = {piece: row for row, piece in enumerate(list(pieces)[:vocab_size])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _NORMALIZER, _SPLITTER
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def least_size(captions: Sequence[str]) -> int:
    """The smallest vocabulary with every letter of the captions, so that no word is unknown."""
    return len(SPECIAL) + len(_pieces(captions)[0])


def _pieces(captions: Sequence[str]) -> tuple[Counter[str], Counter[str]]:
    """How often each letter, and each word, stands in the captions, each counted once."""
    words = Counter(word for caption in sorted(set(captions)) for word in words_of(caption))
    letters: Counter[str] = Counter()
    for word, count in words.items():
        for position, letter in enumerate(word):
            letters[f"##{letter}" if position else letter] += count
    return letters, words


def _by_frequency(counts: Counter[str]) -> list[str]:
    return [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
