"""Paraphrases of LViT's template, of Duke's composed captions and of referring expressions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from datamodules.captions.duke_template import read_breast
from datamodules.captions.expressions import WORDS, is_expression
from datamodules.captions.lvit_template import (
    COUNTS,
    SIDES,
    Reading,
    is_template_kind,
    read_template,
)
from datamodules.captions.modes import if_changed, seeded_by


def paraphrased(text: str, *, seed: int) -> str | None:
    """Rephrase a caption of a kind that is known here.

    | caption | becomes |
    |---|---|
    | LViT's template | "Two areas of infection in both lungs: the upper zone of the ..." |
    | Duke's, composed | "Unifocal, grade 2 tumour in the left breast, 9 o'clock." |
    | a referring expression | synonyms of `datamodules.captions.expressions`, in another order |

    A caption is of a kind only as a whole. Free text, even with a kind's words in it, has no other
    wording: they may mean something else there.

    Returns:
        None for any other caption, and for one of LViT's whose extent and lungs disagree.
    """
    if is_template_kind(text):
        reading = read_template(text)
        return None if reading is None else if_changed(text, _template_paraphrase(reading))
    breast = read_breast(text)
    if breast is not None:
        tumor = breast.tumor[0].upper() + breast.tumor[1:]
        return f"{tumor} in the {breast.side.lower()} breast{breast.places}."
    if not is_expression(text):
        return None
    period = "." if text.endswith(".") else ""
    plain = text.removesuffix(".")
    if plain[:1].isupper():
        plain = plain[0].lower() + plain[1:]
    generator = seeded_by("paraphrased", text, seed)
    plain = _TRAIT.sub(lambda m: str(generator.choice(_SYNONYMS[m[0]])), plain)
    plain = _HEIGHT.sub(lambda m: _HEIGHTS[m[0]], plain)
    again = _reordered(_RANK.sub(lambda m: _RANKS[m[0]], plain)) + period
    return if_changed(text, again[:1].upper() + again[1:] if text[0].isupper() else again)


_EXTENT_LUNGS = {"bilateral": 2, "unilateral": 1}


def _template_paraphrase(reading: Reading) -> str | None:
    """A caption of LViT's template in a second wording."""
    if reading.extent == "none":
        return "Neither lung shows an area of infection."
    if len(reading.zones) != _EXTENT_LUNGS[reading.extent]:
        return None
    lungs = [
        f"the {_zone_phrase(reading.zones[side])} {side} lung"
        for side in SIDES
        if side in reading.zones
    ]
    areas = f"{COUNTS[reading.count].capitalize()} area{'' if reading.count == 1 else 's'}"
    where = "both lungs" if len(lungs) == 2 else "one lung"
    return f"{areas} of infection in {where}: {' and '.join(lungs)}."


def _zone_phrase(zones: Sequence[str]) -> str:
    if len(zones) == 3:
        return "whole of the"
    return f"{' and '.join(zones)} zone{'' if len(zones) == 1 else 's'} of the"


_LIVER_PLACE = r"(?:upper|lower|top|bottom) (?:left|right) (?:part of the |of the )?liver"
_SYNONYMS: dict[str, tuple[str, ...]] = {
    word: tuple(sorted(set(group) - {word}))
    for value, group in WORDS.items()
    if " " not in value
    for word in group
}
_TRAIT = re.compile(rf"\b(?:{'|'.join(_SYNONYMS)})\b")
_HEIGHT = re.compile(
    r"\b(?:upper|lower|top|bottom)(?= (?:left|right) (?:part of the |of the )?liver\b)"
)
_HEIGHTS = {"upper": "top", "top": "upper", "lower": "bottom", "bottom": "lower"}
_RANKS = {"largest": "biggest", "larger": "bigger", "only": "single"}
_RANK = re.compile(rf"(?<=^the )(?:{'|'.join(_RANKS)})\b")


_ADJECTIVES = r"(?:[a-z]+ )*"
# Orders of `trait_expression` and `rank_expression`, each with an equivalent one.
_ORDERS = tuple(
    (re.compile(pattern), other)
    for pattern, other in (
        (rf"((?:in|at) the {_LIVER_PLACE}), (.+ lesion|lesion)", r"\2 \1"),
        (rf"((?:the )?{_ADJECTIVES}lesion) ((?:in|at) the {_LIVER_PLACE})", r"\2, \1"),
        (
            rf"((?:the )?)lesion ((?:in|at) the {_LIVER_PLACE}), ([a-z]+)(?: and ([a-z]+))?",
            r"\1\3 \4 lesion \2",
        ),
        (rf"((?:the )?{_ADJECTIVES}lesion), ({_LIVER_PLACE})", r"\1 in the \2"),
        (r"(the [a-z]+) of (?:the )?([a-z]+|\d+) lesions", r"of the \2 lesions, \1"),
        (r"the (smaller|smallest) ((?:liver )?lesion)", r"the \2 that is \1"),
        (rf"((?:the )?{_ADJECTIVES})liver lesion", r"\1lesion of the liver"),
        (rf"((?:the )?{_ADJECTIVES})lesion of the liver", r"\1liver lesion"),
    )
)


def _reordered(text: str) -> str:
    for pattern, other in _ORDERS:
        match = pattern.fullmatch(text)
        if match is not None:
            return " ".join(match.expand(other).split())
    return text
