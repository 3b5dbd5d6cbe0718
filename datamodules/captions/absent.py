"""Captions that ask for what an image does not show, of which nothing should be outlined.

absent:organ    the finding in another organ, one that no caption of the set is about
absent:side     the finding on the other side; of a row that names one side, where no caption of its
                image names the other, or both
absent:lesion   the finding of another image; of a row whose truth is empty, which the probe knows
absent:letters  nothing: random consonants in the place of each word

A caption that denies a finding ("no infection") asks for nothing; it has the last two alone. So has
one in another language than English, whose denials are not known here.
Whether the other side is free is told by captions: of a set in which not every lesion has one, some
of these lesions may be there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from datamodules.captions.languages import LanguageSetting, language_of
from datamodules.captions.languages.words import in_case_of
from datamodules.captions.modes import if_changed, key, seeded_by, swap_sides
from datamodules.captions.word_classes import BUILT_IN
from textseg.batch import ABSENT, ABSENT_LESION
from textseg.preprocess import words_apart

_DENIAL = re.compile(
    r"(?<![\w-])(no|none|without|zero|normal|healthy|nothing|negative|absence|absent|free of)"
    r"(?![\w-])|(?<=\w-)free(?![\w-])",  # lesion-free
    re.IGNORECASE,
)
_SIDE = re.compile(r"\b(left|right)(?!\w)", re.IGNORECASE)
_BOTH = re.compile(
    r"\b(bilateral(?:ly)?|both|diffuse(?:ly)?|whole|entire|everywhere)\b", re.IGNORECASE
)
# An organ that is far from all that is segmented by text here, and one for sets of that organ:
# noun, adjective, and words by which a caption shows that it is of this very part of the body.
_ORGANS = (
    ("brain", "cerebral", r"brain|cerebr\w*|head|skull|intracranial|gliomas?|mening\w*|pituitary"),
    ("knee", "articular", r"knees?|articular|menisc\w*|cartilage|joints?"),
)
_LOBES = re.compile("lobes?", re.IGNORECASE)  # which another organ may have too
_ADJECTIVES = re.compile(
    "pulmonary|hepatic|renal|thoracic|cardiac|cerebral|colonic|colorectal|prostatic|gastric",
    re.IGNORECASE,
)
_CONSONANTS = "bcdfghjklmnpqrstvwxz"


def absent_captions(
    texts: Sequence[str], images: Sequence[str], *, seed: int, language: LanguageSetting = "auto"
) -> dict[str, list[str | None]]:
    """Make every request for something absent; None where a row has none.

    Args:
        texts: the true captions of a split, in row order.
        images: what names the image of each row.
        seed: of all choices.
        language: of the captions; "auto" finds out for each.

    Returns:
        by name, a text or None for each row.
    """
    assert len(texts) == len(images), (len(texts), len(images))
    noun, adjective = _foreign_organ(texts)
    asking = [asks(text, language) for text in texts]
    return {
        f"{ABSENT}organ": [
            in_another_organ(text, noun, adjective) if asked else None
            for text, asked in zip(texts, asking, strict=True)
        ],
        f"{ABSENT}side": _other_sides(texts, images, asking, language),
        ABSENT_LESION: _lesions_of_others(texts, images, asking, seed),
        f"{ABSENT}letters": [random_letters(text, seed=seed) for text in texts],
    }


def asks(text: str, language: LanguageSetting = "auto") -> bool:
    """Whether a caption asks for something: it has words, and none that denies a finding.

    False of a caption in another language than English, which may deny one in words unknown here.
    """
    own = language_of(text) if language == "auto" else language
    return bool(text.strip()) and own in (None, "", "en") and not _DENIAL.search(words_apart(text))


# --- another organ -----------------------------------------------------------------------------


def _foreign_organ(texts: Sequence[str]) -> tuple[str, str]:
    """Noun and adjective of the first organ that no caption is about."""
    for noun, adjective, near in _ORGANS[:-1]:
        named = re.compile(rf"\b(?:{near})\b", re.IGNORECASE)
        if not any(named.search(words_apart(text)) for text in texts):
            return noun, adjective
    return _ORGANS[-1][:2]


def in_another_organ(text: str, noun: str, adjective: str) -> str | None:
    """Put an organ's name in place of the caption's own; behind the finding where it has none.

    Returns:
        None where the caption asks for nothing, or names neither an organ nor a finding.
    """
    if not asks(text):
        return None
    words = BUILT_IN.content_words(text)
    anatomy = (word for word in words if "anatomy" in word.classes)
    organs = [word for word in anatomy if not _LOBES.fullmatch(word.text)]
    for word in reversed(organs):
        other = adjective if _ADJECTIVES.fullmatch(word.text) else noun
        text = text[: word.start] + in_case_of(word.text, other) + text[word.end :]
    if organs:
        return text
    findings = [word for word in words if word.classes == {"finding"}]
    if not findings:
        return None
    end = findings[-1].end
    return f"{text[:end]} of the {noun}{text[end:]}"


# --- the other side ----------------------------------------------------------------------------


def sides_said(text: str) -> set[str]:
    """The sides that an English caption names, of "left" and "right"; words for both name two."""
    plain = words_apart(text)
    named = {side.lower() for side in _SIDE.findall(plain)}
    return {"left", "right"} if _BOTH.search(plain) else named


def _other_sides(
    texts: Sequence[str],
    images: Sequence[str],
    asking: Sequence[bool],
    language: LanguageSetting,
) -> list[str | None]:
    """Captions of the other side, where all that is said of an image is of one side."""
    said: dict[str, set[str]] = {}
    for text, image in zip(texts, images, strict=True):
        said.setdefault(image, set()).update(sides_said(text))
    return [
        if_changed(text, swap_sides(text, language)) if asked and len(said[image]) == 1 else None
        for text, image, asked in zip(texts, images, asking, strict=True)
    ]


# --- a lesion of another row -------------------------------------------------------------------


def _lesions_of_others(
    texts: Sequence[str], images: Sequence[str], asking: Sequence[bool], seed: int
) -> list[str | None]:
    """A caption of another image that asks for something, unlike the row's own."""
    keys = [key(text) for text in texts]
    rows = [row for row, asked in enumerate(asking) if asked]
    order = [rows[i] for i in np.random.default_rng([seed, 2]).permutation(len(rows))]
    given: list[str | None] = []
    for row, own in enumerate(keys):
        # Each row starts elsewhere in this order, so that not all take the same caption.
        others = (order[(row + step) % len(order)] for step in range(len(order)))
        fits = (at for at in others if keys[at] != own and images[at] != images[row])
        other = next(fits, None)
        given.append(None if other is None else texts[other])
    return given


# --- letters -----------------------------------------------------------------------------------


def random_letters(text: str, *, seed: int) -> str | None:
    """Put random consonants in the place of each word; None for an empty caption.

    Words of three letters and more become as many consonants, so that none is a word.
    """
    generator = seeded_by("letters", text, seed)
    words = re.findall(r"\w+", words_apart(text))
    if not words:
        return None
    drawn = (generator.choice(list(_CONSONANTS), max(3, len(word))) for word in words)
    return " ".join("".join(letters) for letters in drawn)
