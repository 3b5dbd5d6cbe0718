"""The caption template of LViT's QaTa-COV19 and MosMedData+ workbooks: check, read, repair, mirror.

    {Bilateral|Unilateral} pulmonary infection, {count} infected area(s), <zones> left lung
    [and <zones> right lung].
    No pulmonary infection, zero infected areas.                            (MosMedData+ only)

|            | QaTa-COV19                   | MosMedData+                      |
|------------|------------------------------|----------------------------------|
| count      | one to six                   | one to nine                      |
| area(s)    | "area" or "areas"            | "areas", after "one" too         |
| zones      | one or more of the four words | one of upper, middle, lower, all |

One lung alone may be either; of two, the left one comes first. "left" is the picture's left. This
is the *wording*: it does not ask whether "one" goes with "area", in which order zones stand, or
whether "Unilateral" names one lung. People broke it in 323 of QaTa's 9258 rows; in MosMedData+ a
formula did (an empty left half in 457 rows, a doubled period in 47).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

Extent = Literal["bilateral", "unilateral", "none"]
Template = Literal["qata", "mosmed"]

SIDES = ("left", "right")
ZONES = ("upper", "middle", "lower")
COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Reading(NamedTuple):
    """The content of a caption of the template.

    `count` is the number of infected areas; `zones` has the named lungs, "left" and "right" by the
    viewer's side, each with its zones from the top; "all" is ("upper", "middle", "lower"). Extent
    and lungs may disagree, as they do in some real captions.
    """

    extent: Extent
    count: int  # type: ignore[assignment]  # hides tuple.count, which is not needed here
    zones: dict[str, tuple[str, ...]]


# --- the wording -------------------------------------------------------------------------------

NO_INFECTION = "No pulmonary infection, zero infected areas."


def _wording(counts: Sequence[str], areas: str, zones: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?:Bilateral|Unilateral) pulmonary infection, (?:{'|'.join(counts)}) infected {areas}, "
        rf"{zones}(?:left lung(?: and {zones}right lung)?|right lung)\."
    )


_WORDINGS: dict[Template, re.Pattern[str]] = {
    "qata": _wording(COUNTS[1:7], "areas?", "(?:(?:upper|middle|lower|all) )+"),
    "mosmed": _wording(COUNTS[1:10], "areas", "(?:upper|middle|lower|all) "),
}


def keeps_template(text: str, template: Template) -> bool:
    """Whether a caption, as it stands in the file, is worded by the template to the letter."""
    if template == "mosmed" and text == NO_INFECTION:
        return True
    return _WORDINGS[template].fullmatch(text) is not None


def is_template_kind(text: str) -> bool:
    """Whether a caption mentions a pulmonary infection, as the template's captions do."""
    return "pulmonary infection" in " ".join(text.lower().split())


# --- words, however they are spelled --------------------------------------------------------------

# One character for each word of the template, so that a caption is a string in which a regular
# expression finds words by their number.
_CODES = {
    **{"bilateral": "B", "unilateral": "U", "no": "N", "pulmonary": "p", "infection": "i"},
    **{"infected": "f", "area": "a", "areas": "a", "and": "&", "lung": "g"},
    **{"upper": "u", "middle": "m", "lower": "w", "all": "e", "left": "l", "right": "r"},
    **{word: str(number) for number, word in enumerate(COUNTS)},
}
# Misspelled words of both datasets' real captions. Words that are only joined ("lowerright") are
# not listed: they are taken apart.
_SPELLINGS = {word: word for word in _CODES} | {
    wrong: right
    for right, wrongs in {
        "upper": "higher uooer uppper upperl lupper",
        "middle": "iddle mddle midde midddle midldle midle midlle middlel middlr mmiddle",
        "lower": "loweer lowe lowerl lowoer lwoer llower ower rlower",
        "all": "aall al alll",
        "left": "eft leff lift",
        "right": "ight rught",
        "lung": "ung",
        "three": "thrr",
    }.items()
    for wrong in wrongs.split()
}
_FRAGMENTS = ("l", "ll")  # of a neighboring word
_JOINED_PART = re.compile("|".join(sorted(_CODES, key=len, reverse=True)))
_JOINED = re.compile(f"(?:{_JOINED_PART.pattern})+")
_ANY_WORD = re.compile(r"[A-Za-z]+")
_PUNCTUATION = re.compile(r"[A-Za-z\s,.]*")


class _Word(NamedTuple):
    """A word of the template where it stands in the text; `meant` is its right spelling."""

    meant: str
    start: int
    end: int


def _words(text: str) -> list[_Word] | None:
    """The caption's words, misspelled and joined ones too; None where there is anything else."""
    if _PUNCTUATION.fullmatch(text) is None:
        return None
    words: list[_Word] = []
    for match in _ANY_WORD.finditer(text):
        word, start = match[0].lower(), match.start()
        if word in _SPELLINGS:
            words.append(_Word(_SPELLINGS[word], *match.span()))
        elif word == "leflung":  # joined and misspelled at once
            words += [_Word("left", start, start + 3), _Word("lung", start + 3, start + 7)]
        elif _JOINED.fullmatch(word):
            parts = _JOINED_PART.finditer(word)
            words += [_Word(part[0], start + part.start(), start + part.end()) for part in parts]
        elif word not in _FRAGMENTS:
            return None
    return words


# --- the sentence -------------------------------------------------------------------------------

_SENTENCE = re.compile(
    "(?P<extent>[BU])pi(?P<count>[1-9])(?P<extra>1?)fa"
    "(?P<zones>[umwe]*)(?P<side>l+|r+)g?(?:&(?P<zones2>[umwe]*)(?P<side2>l+|r+)g?)?|Npi0fa"
)


class _Half(NamedTuple):
    """One lung: its zones' words, which may be none, and its side's, which may be written twice."""

    zones: list[_Word]
    side: list[_Word]


class _Sentence(NamedTuple):
    extent: Extent
    number: int
    areas: str  # "area" or "areas", as written
    halves: list[_Half]


def _parse(text: str) -> _Sentence | None:
    """The caption's parts; None where it is no sentence of the template, however spelled."""
    words = _words(text)
    if words is None:
        return None
    match = _SENTENCE.fullmatch("".join(_CODES[word.meant] for word in words))
    if match is None:
        return None
    if match["extent"] is None:
        return _Sentence("none", 0, "areas", [])
    count = int(match["count"])
    # "two one infected area": five rows, all of two lungs, and all their masks have two areas.
    if match["extra"] and (count == 1 or match["extent"] == "U"):
        return None
    areas = words[match.end("extra") + 1].meant
    halves = [
        _Half(words[slice(*match.span(zones))], words[slice(*match.span(side))])
        for zones, side in (("zones", "side"), ("zones2", "side2"))
        if match[side]
    ]
    extent: Extent = "bilateral" if match["extent"] == "B" else "unilateral"
    return _Sentence(extent, count, areas, halves)


def _lungs(sentence: _Sentence) -> dict[str, list[str]] | None:
    """The words of the zones by side; None where a zone or the other side is lacking."""
    named = {half.side[0].meant: [word.meant for word in half.zones] for half in sentence.halves}
    if len(named) < len(sentence.halves):
        return None
    if sentence.extent == "unilateral" and len(named) == 2:
        # MosMedData+: "Unilateral ..., left lung and middle right lung" is the right lung only.
        filled = {side: zones for side, zones in named.items() if zones}
        return filled or None
    return named if all(named.values()) else None


def read_template(text: str) -> Reading | None:
    """Read the content of a caption, also if it is misspelled or all in lower case.

    Returns:
        None where the caption is not of the template's kind, has a word that the template has not,
        or lacks one that cannot be supplied: a zone ("all left lung and right lung") or a side.
    """
    sentence = _parse(text)
    lungs = None if sentence is None else _lungs(sentence)
    if sentence is None or lungs is None:
        return None
    zones = {
        side: ZONES if "all" in words else tuple(zone for zone in ZONES if zone in words)
        for side, words in lungs.items()
    }
    return Reading(sentence.extent, sentence.number, zones)


def repaired(text: str) -> str | None:
    """Put a caption into the template's wording; one that has it comes back unchanged.

    Corrected are misspelled and joined words, "higher" for "upper", spacing, a lacking "lung", the
    order of zones and "area" after two and more; MosMedData+'s empty left half goes. "one infected
    areas" stays, since it is MosMedData+'s own wording; so does an extent that disagrees with the
    lungs, since either may be the wrong one. ``repaired(repaired(t)) == repaired(t)``.

    Returns:
        None where `read_template` gives None: nothing is made up.
    """
    sentence = _parse(text)
    lungs = None if sentence is None else _lungs(sentence)
    if sentence is None or lungs is None:
        return None
    if sentence.extent == "none":
        return NO_INFECTION
    areas = sentence.areas if sentence.number == 1 else "areas"
    named = [f"{_in_order(lungs[side])} {side} lung" for side in SIDES if side in lungs]
    return (
        f"{sentence.extent.capitalize()} pulmonary infection, {COUNTS[sentence.number]} infected "
        f"{areas}, {' and '.join(named)}."
    )


def _in_order(zones: list[str]) -> str:
    """Each zone once, from the top; "all" includes the others."""
    return "all" if "all" in zones else " ".join(zone for zone in ZONES if zone in zones)


# --- left and right -----------------------------------------------------------------------------


def mirrored(text: str) -> str | None:
    """Rewrite a caption for the mirrored picture in the template's order: left lung first.

    Of two lungs the zones are exchanged, as they are spelled, with what joins them to the side; of
    one the side is exchanged. ``mirrored(mirrored(t)) == t``.

    Returns:
        None where the caption is no sentence of the template, names one lung twice, or names a
        single one by a misspelled side, which has no partner.
    """
    sentence = _parse(text)
    if sentence is None:
        return None
    if len(sentence.halves) == 2:
        return _zones_exchanged(text, *sentence.halves)
    pieces, at = [], 0
    for word in (word for half in sentence.halves for word in half.side):
        written = text[word.start : word.end]
        other = {"left": "right", "right": "left"}.get(written)
        if other is None:
            return None
        pieces += [text[at : word.start], other]
        at = word.end
    return "".join([*pieces, text[at:]])


def _zones_exchanged(text: str, first: _Half, second: _Half) -> str | None:
    if first.side[0].meant == second.side[0].meant:
        return None
    (a, b), (c, d) = (
        ((half.zones or half.side)[0].start, half.side[0].start) for half in (first, second)
    )
    return text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]
