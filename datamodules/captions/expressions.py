"""Referring expressions: words that single out one lesion of a slice, by traits or by rank."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import TypeVar

import numpy as np

from datamodules.captions.lvit_template import COUNTS

Lesion = TypeVar("Lesion")

TRAITS = ("size", "density", "place")
WORDS = {  # the first of each is the commonest
    "small": ("small", "small", "little"),
    "large": ("large", "large", "big"),
    "hypodense": ("hypodense", "hypodense", "dark", "hypoattenuating"),
    "hyperdense": ("hyperdense", "hyperdense", "dense", "hyperattenuating"),
    "isodense": ("isodense", "isodense", "isoattenuating"),
    "upper left": ("upper left", "upper left", "top left"),
    "upper right": ("upper right", "upper right", "top right"),
    "lower left": ("lower left", "lower left", "bottom left"),
    "lower right": ("lower right", "lower right", "bottom right"),
}
PLACE_PHRASES = (
    "in the {} liver",
    "in the {} of the liver",
    "at the {} of the liver",
    "in the {} part of the liver",
)
RANKS = {"largest": "larger", "smallest": "smaller"}  # of three or more lesions, and of two
_NOUNS = ("liver lesion", "lesion", "lesion of the liver")
_ONLY = ("the only lesion", "the only lesion in this slice", "the only liver lesion shown")


def distinguishing_traits(
    traits: Sequence[str],
    others: Sequence[Lesion],
    differs: Callable[[Lesion, str], bool],
) -> list[tuple[str, ...]]:
    """List the combinations of traits that no other lesion shares, the fullest last.

    Args:
        traits: names of the traits that may be used.
        others: the other lesions of the slice.
        differs: whether a lesion clearly differs in the trait of this name.
    """
    return [
        names
        for length in range(1, len(traits) + 1)
        for names in combinations(traits, length)
        if all(any(differs(other, name) for name in names) for other in others)
    ]


def choose_traits(
    rng: np.random.Generator, distinguishing: list[tuple[str, ...]]
) -> tuple[str, ...]:
    """Take the fullest combination half of the time, otherwise any; the fullest is the last."""
    full = rng.random() < 0.5
    return distinguishing[-1] if full else distinguishing[rng.integers(len(distinguishing))]


def trait_expression(rng: np.random.Generator, traits: Mapping[str, str]) -> str:
    """Word an expression with some of size, density and place, in one of several orders.

    The values of `traits`, which stand in this order, are keys of `WORDS`.
    """
    word = {name: str(rng.choice(WORDS[value])) for name, value in traits.items()}
    adjectives = [word[name] for name in ("size", "density") if name in word]
    where = str(rng.choice(PLACE_PHRASES)).format(word["place"]) if "place" in word else ""
    article = str(rng.choice(["the ", ""]))
    order = rng.integers(4)
    noun = "lesion" if where else str(rng.choice(_NOUNS))
    before = " ".join([*adjectives, noun])
    if order == 1 and where:
        return f"{where}, {article}{before}"
    if order == 2 and where and adjectives:
        return f"{article}lesion {where}, {' and '.join(adjectives)}"
    if order == 3 and adjectives:
        place = f", {where.removeprefix('in the ').removeprefix('at the ')}" if where else ""
        return f"{article}{' '.join(adjectives[::-1])} lesion{place}"
    return f"{article}{before} {where}".rstrip()


def rank_expression(rng: np.random.Generator, rank: str, number: int | None) -> str:
    """Word an expression by rank: only, or a key of `RANKS`.

    `number` is that of the slice's lesions; None leaves it unnamed.
    """
    if rank == "only":
        return str(rng.choice(_ONLY))
    word = RANKS[rank] if number == 2 else rank
    phrases = [f"the {word} lesion", f"the {word} liver lesion"]
    if number is not None:
        among = COUNTS[number] if number < len(COUNTS) else str(number)
        phrases += [f"the {word} of the {among} lesions", f"the {word} of {among} lesions"]
    return str(rng.choice(phrases))


# --- reading -----------------------------------------------------------------------------------


def is_expression(text: str) -> bool:
    """Whether a text is, as a whole, an expression of the grammar above.

    It may begin with a capital and end with a period. Its traits may stand in any of the orders,
    whichever of them it names. Free text that only has words of the grammar is none:
    "dark lesion on the back", "hyper-dense lesion", "no lesion".
    """
    plain = text.removesuffix(".")
    return _EXPRESSION.fullmatch(plain[:1].lower() + plain[1:]) is not None


def _one_of(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, sorted(set(words))))})"


def _words_of(*values: str) -> str:
    return _one_of(word for value in values for word in WORDS[value])


def _expression_pattern() -> re.Pattern[str]:
    """What `trait_expression` and `rank_expression` say, as alternatives."""
    size = _words_of("small", "large")
    density = _words_of("hypodense", "hyperdense", "isodense")
    word = _words_of(*(value for value in WORDS if " " in value))
    phrases = [phrase.partition("{}") for phrase in PLACE_PHRASES]
    where = _one_of(before for before, _, _ in phrases) + word + _one_of(b for _, _, b in phrases)
    adjectives = f"(?:{size} (?:{density} )?|{density} (?:{size} )?)"
    more, two = _one_of(RANKS), _one_of(RANKS.values())
    counted = f"(?:{_one_of(COUNTS[3:])}|[1-9][0-9]+)"
    forms = (
        f"(?:the )?{adjectives}{_one_of(_NOUNS)}",
        f"(?:the )?{adjectives}?lesion {where}",
        f"{where}, (?:the )?{adjectives}?lesion",
        f"(?:the )?lesion {where}, (?:{size}(?: and {density})?|{density})",
        f"(?:the )?{adjectives}?lesion, {word}{_one_of(b for _, _, b in phrases)}",
        _one_of(_ONLY),
        f"the (?:{more}|{two}) (?:liver )?lesion",
        f"the (?:{two} of (?:the )?two|{more} of (?:the )?{counted}) lesions",
    )
    return re.compile("|".join(forms))


_EXPRESSION = _expression_pattern()
