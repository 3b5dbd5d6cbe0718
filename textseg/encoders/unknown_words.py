"""Words that a tokenizer does not know, which all become one token, [UNK]."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer

from textseg.batch import UNKNOWN_BOUND
from textseg.encoders.pretrained import load_tokenizer
from textseg.encoders.vocabulary import SCRATCH, build_tokenizer

_NAMES = ("[UNK]", "<unk>")
_EXAMPLES = 3
_AT_ONCE = 4096  # captions, so that the encodings of a large set are not held together


def unknown_shares(tokenizer: Tokenizer, captions: Sequence[str]) -> list[float]:
    """Share of each caption's tokens that are [UNK], in [0, 1]; 0 for one without words.

    Tokens are those that the network sees: what the tokenizer cuts off does not count, nor do
    special tokens.
    """
    shares: dict[str, float] = {}
    for caption, encoding in encoded_once(tokenizer, captions):
        unknown = _unknown_flags(tokenizer, encoding)
        shares[caption] = sum(unknown) / len(unknown) if unknown else 0.0
    return [shares[caption] for caption in captions]


def encoded_once(tokenizer: Tokenizer, captions: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Each distinct caption with its encoding, of which few are held at once."""
    distinct = list(dict.fromkeys(captions))
    for first in range(0, len(distinct), _AT_ONCE):
        part = distinct[first : first + _AT_ONCE]
        yield from zip(part, tokenizer.encode_batch(part), strict=True)


def _unknown_flags(tokenizer: Tokenizer, encoding: Any) -> list[bool]:
    """Of each content token, whether it is unknown."""
    ids = {tokenizer.token_to_id(name) for name in _NAMES} - {None}
    rows = zip(encoding.ids, encoding.attention_mask, encoding.special_tokens_mask, strict=True)
    return [token in ids for token, real, special in rows if real and not special]


def unknown_examples(tokenizer: Tokenizer, captions: Sequence[str]) -> list[str]:
    """The first few words that become [UNK]."""
    found: dict[str, None] = {}
    for caption in dict.fromkeys(captions):
        encoding = tokenizer.encode(caption)
        for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
            if token in _NAMES and end > start:
                found[caption[start:end]] = None
        if len(found) >= _EXAMPLES:
            break
    return list(found)[:_EXAMPLES]


def unknown_warning(tokenizer: Tokenizer, captions: Sequence[str]) -> str | None:
    """What to warn of: captions of nothing else, or a mean share above `UNKNOWN_BOUND`."""
    shares = unknown_shares(tokenizer, captions)
    mean, nothing_else = sum(shares) / max(1, len(shares)), shares.count(1.0)
    if mean <= UNKNOWN_BOUND and not nothing_else:
        return None
    words = ", ".join(map(repr, unknown_examples(tokenizer, captions)))
    alone = f"; {nothing_else} consist of nothing else, so that the network reads no word of them"
    return (
        f"{mean:.0%} of the words of {len(captions)} captions are unknown to the text encoder and "
        f"all read as [UNK], such as {words}{alone if nothing_else else ''}"
    )


def share_counter(name: str) -> Callable[[Sequence[str], Sequence[str], int], list[float]]:
    """A function from training captions, captions and vocab_size to `unknown_shares`.

    Args:
        name: ``scratch``, whose vocabulary is learned from the training captions; or a local folder
            or hub name, whose tokenizer needs none.

    Raises:
        UserError: the tokenizer cannot be loaded.
    """
    if name == SCRATCH:
        return lambda training, captions, vocab_size: unknown_shares(
            build_tokenizer(training, vocab_size), captions
        )
    tokenizer = load_tokenizer(name)
    return lambda training, captions, vocab_size: unknown_shares(tokenizer, captions)
