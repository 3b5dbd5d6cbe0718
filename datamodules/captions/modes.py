"""Caption normalization, the mirrored caption, and the caption modes of an experiment."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from datamodules.captions.lvit_template import SIDES, is_template_kind, mirrored, repaired
from textseg.batch import stable_id
from textseg.errors import UserError, check_choice

CaptionMode = Literal["true", "empty", "shuffled"]


def key(text: str) -> str:
    """Reduce a caption to what equal ones share: case and spacing do not matter."""
    return " ".join(text.split()).lower()


def if_changed(text: str, other: str | None) -> str | None:
    """Return `other`, but None where it equals `text` by `key`."""
    return None if other is None or key(other) == key(text) else other


def seeded_by(change: str, text: str, seed: int) -> np.random.Generator:
    """Return a generator that is the same for equal captions, and another for each change."""
    return np.random.default_rng([seed, stable_id(f"{change} {key(text)}")])


# --- the optional normalizer -------------------------------------------------------------------


def normalize(text: str) -> str:
    """Even out a caption's spacing and final period, or restore LViT's template.

    A caption that mentions a pulmonary infection is repaired (`lvit_template.repaired`), or left
    exactly as it is where words are lacking. In free text, where the same words may be right, only
    spacing and the final period change.
    """
    if is_template_kind(text):
        corrected = repaired(text)
        return text if corrected is None else corrected
    text = re.sub(r"\s*,\s*(?=\D)", ", ", " ".join(text.split()))
    text = " ".join(text.split()).rstrip(" .")
    return f"{text}." if text else ""


# --- left and right ----------------------------------------------------------------------------

_ENDINGS = ("", "most", "ward", "wards", "hand", "handed", "side", "sided")
_MIRROR = {
    f"{a}{ending}": f"{b}{ending}"
    for ending in _ENDINGS
    for a, b in (("left", "right"), ("right", "left"))
}
# English words that hold "right", or are one letter away from a side word, yet name no side.
_PLAIN = re.compile(
    "bright(er|est|ly|ness|en|ened)?|uprights?|lights?|slight|eighth?|height|weight|nights?|sights?|"
    "fights?|tight|might|fright|wright|clefts?|loft|lent|lest|let|heft|deft|weft"
)
# A side written as a letter or abbreviation, such as that of a lobe or quadrant.
_SHORT_SIDE = re.compile("[lr]t?|[lr][ul]l|rml|[lr][ul]q")
# Organs whose left and right parts differ: a mirrored picture shows no true "right hepatic vein".
_ASYMMETRIC = re.compile(
    r"\b(lobes?|lobar|lobectomy|hepatic|hemilivers?|portal|ventricles?|ventricular|atrium|atria|"
    r"atrial|auricles?|hemicolon|colic|flexures?|hypochondri\w+|iliac fossa|bundle branch|"
    r"coronary|gastric|(left|right) (heart|colon))\b",
    re.IGNORECASE,
)
_HOUR = r"(?:1[0-2]|[1-9])(?::[0-5]\d)?"
_CLOCK = re.compile(rf"\b({_HOUR})(?:( to | ?- ?)({_HOUR}))?(?= o['\u2019]clock\b)")
# What is left of a clock position when those that are plainly written are taken out.
_DOUBTFUL_CLOCK = re.compile(r"o\s?['\u2019]?\s?clock\b|\d:\d\d", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z]+")
# Words that are often joined to a side, as in "rihtlung".
_NEIGHBORS = ("lung", "lungs", "upper", "middle", "lower", "all", "and", "breast", "kidney")


def swap_sides(text: str) -> str | None:
    """Rewrite a caption for the mirrored picture: "left" and "right" exchanged, case kept.

    In LViT's template the zones of two lungs are exchanged instead, so that the left lung is still
    named first, as in every caption a network learns from. A clock position, as a breast's is
    given, is read on the mirrored face: 10 o'clock becomes 2 o'clock. A text without a side comes
    back unchanged. ``swap_sides(swap_sides(t)) == t`` for every text that can be rewritten.

    Returns:
        The rewritten text, or None where exchanging the words would not make it true or could
        miss one: times that may be clock positions, sides given as letters, sides of organs that
        are not symmetric, misspelled or joined side words, which within the template hinder only
        where they are misspelled and name a single lung.
    """
    in_template = mirrored(text)
    if in_template is not None:
        return in_template
    words = _WORD.findall(text)
    without = re.sub(rf"{_CLOCK.pattern} o['\u2019]clock\b", "", text)
    if _DOUBTFUL_CLOCK.search(without) or any(_is_doubtful(word) for word in words):
        return None
    text = _CLOCK.sub(_mirrored_clock, text)
    if not any(word.lower() in _MIRROR for word in words):
        return text
    if _ASYMMETRIC.search(text):
        return None
    return _WORD.sub(lambda m: in_case_of(m[0], _MIRROR.get(m[0].lower(), m[0])), text)


def _mirrored_clock(match: re.Match[str]) -> str:
    """The ends of a span are exchanged, so that it still runs clockwise."""
    first, joint, last = match.groups()
    if last is None:
        return _mirrored_hour(first)
    return f"{_mirrored_hour(last)}{joint}{_mirrored_hour(first)}"


def _mirrored_hour(hour: str) -> str:
    hours, _, minutes = hour.partition(":")
    mirrored_hours, mirrored_minutes = divmod(-(int(hours) * 60 + int(minutes or 0)) % 720, 60)
    return f"{mirrored_hours or 12}" + (f":{mirrored_minutes:02d}" if minutes else "")


def in_case_of(model: str, word: str) -> str:
    """Write a word in capitals, capitalized or as it is, as `model` is written."""
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


def _is_doubtful(word: str) -> bool:
    """Whether a word may hide a side that an exact match does not see."""
    lower = word.lower()
    if lower in _MIRROR:
        return word not in (lower, lower.upper(), lower.capitalize())
    if _PLAIN.fullmatch(lower):
        return False
    if _SHORT_SIDE.fullmatch(lower) or "left" in lower or "right" in lower:
        return True
    parts = {f(n) for n in _NEIGHBORS for f in (lower.removeprefix, lower.removesuffix)}
    return any(_within_one_edit(part, side) for part in parts for side in SIDES)


def _within_one_edit(a: str, b: str) -> bool:
    """Whether one insertion, deletion, substitution or exchange of neighbors turns a into b."""
    if abs(len(a) - len(b)) > 1:
        return False
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    rest_a, rest_b = a[start:], b[start:]
    exchanged = rest_a[1::-1] + rest_a[2:]
    return rest_b in (rest_a[1:], exchanged) or rest_b[1:] in (rest_a, rest_a[1:])


# --- controls ----------------------------------------------------------------------------------


def apply_caption_mode(texts: Sequence[str], mode: CaptionMode, seed: int) -> list[str]:
    """Apply an experiment's caption mode to the captions of one split.

    Args:
        texts: the split's captions, in row order.
        mode: "true" keeps them, "empty" blanks them, "shuffled" permutes them so that no row
            keeps a caption equal to its own.
        seed: of the permutation.

    Raises:
        UserError: an unknown mode, or one caption on more than half of the rows, where every
            permutation leaves some row its own.
    """
    check_choice("caption_mode", mode, CaptionMode)
    if mode == "true":
        return list(texts)
    if mode == "empty":
        return [""] * len(texts)
    return [texts[i] for i in _derangement([key(text) for text in texts], seed)]


def _derangement(keys: list[str], seed: int) -> list[int]:
    """A permutation p with keys[p[i]] != keys[i] for every i."""
    for caption, count in Counter(keys).most_common(1):
        if 2 * count > len(keys):
            raise UserError(
                f"caption_mode=shuffled cannot be done: {count} of {len(keys)} rows share the "
                f"caption {caption!r}, over half, so some row would keep its own",
                "use caption_mode=empty, or a split with more varied captions",
            )
    own = np.unique(np.array(keys), return_inverse=True)[1]
    generator = np.random.default_rng(seed)
    source = generator.permutation(len(keys))
    for row in np.flatnonzero(own[source] == own):
        if own[source[row]] != own[row]:
            continue  # already exchanged as another row's partner
        # With at most half of the rows sharing this caption, at least one row neither has it nor
        # holds it, so each exchange fixes a row and breaks none.
        partners = np.flatnonzero((own != own[row]) & (own[source] != own[row]))
        partner = generator.choice(partners)
        source[row], source[partner] = source[partner], source[row]
    return [int(i) for i in source]
