"""Captions changed one thing at a time: what `textseg probe` shows a network beside the true ones.

Every change is a pure function of the caption (and a seed), and gives None where it cannot be made
or would leave the caption as it is. Equal captions are changed equally, in whatever row they stand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from datamodules.captions.expressions import WORDS
from datamodules.captions.lvit_template import COUNTS, Reading, is_template_kind, read_template
from datamodules.captions.modes import apply_caption_mode, key, swap_sides
from textseg.batch import stable_id
from textseg.errors import UserError

# --- what a word says --------------------------------------------------------------------------

_HOURS = r"\d{1,2}(?::\d\d)?"
_CLOCK = rf"{_HOURS}(?:(?: to | ?- ?){_HOURS})? o['\u2019]clock"
_FROM_NIPPLE = r"\d+(?:\.\d+)? ?cm from the nipple"
_MEASURE = r"\d+(?:\.\d+)? ?(?:cm|mm|percent|%)"
_SUBTYPE = (
    r"hormone-receptor-positive|her2-positive|luminal(?:-like| [ab]\b)|triple-negative|grade \d"
)
_NUMBER_WORDS = (*COUNTS, "ten")

# The first class that fits a word is its class; words of none of them are "other".
_CLASSES = {
    "side": r"(?:left|right)(?:most|wards?|hand|handed|side|sided)?|sided|handed",
    "vertical": "upper|uppermost|middle|mid|lower|lowermost|top|bottom|higher|superior|inferior",
    "place": f"{_CLOCK}|{_FROM_NIPPLE}|inner|outer|medial|lateral|central|midline|anterior|"
    "posterior|deep|superficial|subareolar|retroareolar|axillary|axilla|tail|quadrant|depth|third|"
    "half|close|nipple|centre|center|peripheral",
    "extent": "bilateral|unilateral|multifocal|unifocal|both|whole|entire|diffuse",
    "size": f"{_MEASURE}|small(?:er|est)?|large(?:r|st)?|big(?:ger|gest)?|little|tiny|huge",
    "density": "(?:hypo|hyper|iso)(?:dense|attenuating|intense|echoic)|dense|density|dark|bright",
    "count": rf"\d+(?:\.\d+)?|{'|'.join(_NUMBER_WORDS)}|no|none|only|single|several|multiple|many",
    "pathology": _SUBTYPE,
    "anatomy": "lungs?|pulmonary|lobes?|livers?|hepatic|breasts?|kidneys?|renal|spleen|pancreas",
    "finding": "lesions?|tumou?rs?|infections?|infected|areas?|regions?|nodules?|mass|masses|"
    "focus|foci|cysts?|metastas[ei]s|nuclei",
}
_CLASS_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _CLASSES.items()}
WORD_CLASSES = (*_CLASSES, "other")
_FUNCTION_WORDS = frozenset(
    word
    for line in (
        "a an the this that these those of in on at to by for from with without as and or but",
        "is are was were be been it its there their our part",
    )
    for word in line.split()
)
# Phrases that say one thing together, then single words.
_UNIT = re.compile(
    rf"{_CLOCK}|{_FROM_NIPPLE}|{_MEASURE}|\b(?:{_SUBTYPE})|\d+(?:\.\d+)?|[^\W\d_]\w*", re.IGNORECASE
)
_ALL_OF_A_LUNG = re.compile(r"all(?=\s+(?:left|right)\b)", re.IGNORECASE)


def word_class(word: str) -> str | None:
    """What a word, or a phrase such as "9 o'clock", says; None for words without content."""
    if word.lower() in _FUNCTION_WORDS:
        return None
    for name, pattern in _CLASS_PATTERNS.items():
        if pattern.fullmatch(word):
            return name
    return "other"


def _units(text: str) -> list[tuple[re.Match[str], str]]:
    """The caption's words with content, in order, each with its class."""
    found = []
    for unit in _UNIT.finditer(text):
        # In LViT's template "all left lung" stands for its upper, middle and lower zone.
        zones = _ALL_OF_A_LUNG.match(text, unit.start()) is not None
        name = "vertical" if zones else word_class(unit.group())
        if name is not None:
            found.append((unit, name))
    return found


# --- words left out ----------------------------------------------------------------------------


def class_removed(text: str, name: str) -> str | None:
    """The caption without all of its words of a class of `WORD_CLASSES`.

    All at once, since one that is left may say the same again: "upper left lung and lower left
    lung" still names its side when one "left" is gone.

    Returns:
        None where there is none of them, or nothing else: that is the empty caption's case.
    """
    units = _units(text)
    removed = [unit for unit, kind in units if kind == name]
    return _without(text, removed) if 0 < len(removed) < len(units) else None


def _without(text: str, units: Sequence[re.Match[str]]) -> str:
    capital = text[:1].isupper()
    for unit in reversed(units):
        text = f"{text[: unit.start()]} {text[unit.end() :]}"
    return _tidied(text, capital=capital)


def _tidied(text: str, *, capital: bool) -> str:
    """Spaces and marks as they would be written, where words were taken out."""
    text = " ".join(re.sub(r"(?<!\w)-|-(?!\w)", "", text).split())
    text = re.sub(r"\s+([,.;:])", r"\1", text)
    text = re.sub(r"[,;:][\s,;:]*(?=\.)", "", text)
    text = re.sub(r"[,;:](?:\s*[,;:])+", lambda m: max(m.group(), key=" ,:;".find), text)
    text = re.sub(r"^[\s,;:.]+|[\s,;:]+$", "", text)
    return text[:1].upper() + text[1:] if capital else text


# --- side and count ----------------------------------------------------------------------------


def side_swapped(text: str) -> str | None:
    """Left and right exchanged; None where that is not safe, or says the same again."""
    return _changed(text, swap_sides(text))


_PLURALS = {
    **{word: f"{word}s" for word in ("area", "lesion", "nodule", "tumour", "tumor", "cyst")},
    **{"region": "regions", "mass": "masses", "focus": "foci", "metastasis": "metastases"},
}
_NOUNS = "|".join([*_PLURALS.values(), *_PLURALS])
_COUNTED = re.compile(
    rf"(?<![\w.:-])(?<!grade )(?P<count>{'|'.join(_NUMBER_WORDS)}|\d{{1,2}})"
    r"(?P<between>(?:\s+(?!(?:of|the|and|to|o|in|cm|mm|percent)\b)[a-z-]+){0,2})"
    rf"\s+(?P<noun>{_NOUNS})\b",
    re.IGNORECASE,
)
_OF_TWO = {"larger": "largest", "smaller": "smallest", "bigger": "biggest"}
_OF_MORE = {more: two for two, more in _OF_TWO.items()}
_MOST_NAMED = 6  # the largest number that is put in place of another


def count_changed(text: str, *, seed: int) -> str | None:
    """Another number of areas or lesions, from two to six: "two infected areas" -> "five ...".

    The number stays a word or a digit. What hangs on it follows: "one infected area" -> "three
    infected areas", "the larger of two lesions" -> "the largest of four lesions". Nothing becomes
    "one", which datasets write in different ways, and "zero" stays, which the rest of such a
    caption says again.

    Args:
        text: the caption.
        seed: of the choice.
    """
    found = _COUNTED.search(text)
    if found is None:
        return None
    written = found["count"]
    own = int(written) if written.isdigit() else _NUMBER_WORDS.index(written.lower())
    if own == 0:
        return None
    number = int(
        _generator("count", text, seed).choice([n for n in range(2, _MOST_NAMED + 1) if n != own])
    )
    said = str(number) if written.isdigit() else _in_case_of(written, _NUMBER_WORDS[number])
    noun = found["noun"]
    plural = _PLURALS.get(noun.lower(), noun)
    before, after = text[: found.start()], text[found.end() :]
    ranks = _OF_TWO if own == 2 else _OF_MORE if number == 2 else {}
    before = re.sub(r"\w+(?= of (?:the )?$)", lambda m: ranks.get(m.group(), m.group()), before)
    return f"{before}{said}{found['between']} {_in_case_of(noun, plural)}{after}"


def _in_case_of(model: str, word: str) -> str:
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


# --- typing errors -----------------------------------------------------------------------------

_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBORS = {
    letter: "".join(
        other
        for r, others in enumerate(_KEYS)
        for c, other in enumerate(others)
        if other != letter and abs(r - row) <= 1 and abs(c - column) <= 1
    )
    for row, letters in enumerate(_KEYS)
    for column, letter in enumerate(letters)
}
_SHORTEST = 4  # letters of a word that is typos


def typos(text: str, *, seed: int) -> str | None:
    """One or two words with content, each with one typing error.

    A letter is left out, doubled, taken for its neighbor on the keyboard, or exchanged with the
    next. First letters stay, and no word becomes another that this module knows, so that "left"
    never turns into "right" or "eight" into "right".

    Args:
        text: the caption.
        seed: of the choices.
    """
    words = [u for u, _ in _units(text) if u.group().isalpha() and len(u.group()) >= _SHORTEST]
    if not words:
        return None
    original, generator = text, _generator("typos", text, seed)
    number = min(len(words), int(generator.integers(1, 3)))
    for at in sorted(generator.choice(len(words), number, replace=False).tolist(), reverse=True):
        word = words[at]
        errors = typing_errors(word.group())
        if errors:
            text = text[: word.start()] + str(generator.choice(errors)) + text[word.end() :]
    return None if text == original else text


def typing_errors(word: str) -> list[str]:
    """All spellings one typing error away that are no known word."""
    errors = []
    for i in range(1, len(word)):
        head, letter, tail = word[:i], word[i], word[i + 1 :]
        errors += [head + tail, head + letter + letter + tail]
        errors += [head + other + tail for other in _NEIGHBORS.get(letter.lower(), "")]
        if tail:
            errors.append(head + tail[0] + letter + tail[1:])
    unlike = [e for e in dict.fromkeys(errors) if e.lower() != word.lower()]
    return [error for error in unlike if word_class(error) == "other"]


# --- other words for the same ------------------------------------------------------------------


def paraphrased(text: str, *, seed: int) -> str | None:
    """The same said in other words, where we know how.

    | caption | becomes |
    |---|---|
    | LViT's template | "Two areas of infection in both lungs: the upper zone of the ..." |
    | Duke's, composed | "Unifocal, grade 2 tumour in the left breast, 9 o'clock." |
    | a referring expression | synonyms of `datamodules.captions.expressions`, in another order |

    Args:
        text: the caption.
        seed: of the choice among synonyms.

    Returns:
        None for any other caption, and for one of LViT's whose extent and lungs disagree.
    """
    if is_template_kind(text):
        reading = read_template(text)
        return None if reading is None else _changed(text, _said_again(reading))
    breast = _BREAST.fullmatch(text)
    if breast is not None:
        tumour = breast["tumour"][0].upper() + breast["tumour"][1:]
        return f"{tumour} in the {breast['side'].lower()} breast{breast['places']}."
    if re.search(r"\blesions?\b", text) is None:
        return None
    period = "." if text.endswith(".") else ""
    plain = text.removesuffix(".")
    if plain[:1].isupper():
        plain = plain[0].lower() + plain[1:]
    generator = _generator("paraphrased", text, seed)
    again = _reordered(_with_synonyms(plain, generator)) + period
    return _changed(text, again[:1].upper() + again[1:] if text[0].isupper() else again)


_BREAST = re.compile(
    r"(?P<side>Left|Right) breast(?P<places>(?:, [^;]*)?); (?P<tumour>[^;]*tumour)\."
)
_EXTENT_LUNGS = {"bilateral": 2, "unilateral": 1}


def _said_again(reading: Reading) -> str | None:
    """What a caption of LViT's template says, in a second wording."""
    if reading.extent == "none":
        return "Neither lung shows an area of infection."
    if len(reading.zones) != _EXTENT_LUNGS[reading.extent]:
        return None
    lungs = [
        f"the {_zones_said(reading.zones[side])} {side} lung"
        for side in ("left", "right")
        if side in reading.zones
    ]
    areas = f"{COUNTS[reading.count].capitalize()} area{'' if reading.count == 1 else 's'}"
    where = "both lungs" if len(lungs) == 2 else "one lung"
    return f"{areas} of infection in {where}: {' and '.join(lungs)}."


def _zones_said(zones: Sequence[str]) -> str:
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
_TRAIT = re.compile(rf"(?<!more )(?<!less )(?<!very )\b(?:{'|'.join(_SYNONYMS)})\b")
_HEIGHT = re.compile(
    r"\b(?:upper|lower|top|bottom)(?= (?:left|right) (?:part of the |of the )?liver\b)"
)
_HEIGHTS = {"upper": "top", "top": "upper", "lower": "bottom", "bottom": "lower"}
_RANKS = {"largest": "biggest", "larger": "bigger", "only": "single"}
_RANK = re.compile(rf"(?<=^the )(?:{'|'.join(_RANKS)})\b")


def _with_synonyms(text: str, generator: np.random.Generator) -> str:
    text = _TRAIT.sub(lambda m: str(generator.choice(_SYNONYMS[m.group()])), text)
    text = _HEIGHT.sub(lambda m: _HEIGHTS[m.group()], text)
    return _RANK.sub(lambda m: _RANKS[m.group()], text)


_ADJECTIVES = r"(?:[a-z]+ )*"
# Orders of `expressions.say_traits` and `say_rank`, each with another that says the same.
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
        found = pattern.fullmatch(text)
        if found is not None:
            return " ".join(found.expand(other).split())
    return text


# --- other captions ----------------------------------------------------------------------------


def other_patients(texts: Sequence[str], case_ids: Sequence[str], *, seed: int) -> list[str | None]:
    """For each row the caption of a row of another patient, unlike its own; None without one.

    Args:
        texts: the captions of a split, in row order.
        case_ids: patient or study of each row, "" where unknown: such rows neither give nor take.
        seed: of the choice.
    """
    keys = np.unique(np.array([key(text) for text in texts], dtype=object), return_inverse=True)[1]
    patients = np.unique(np.array(case_ids, dtype=object), return_inverse=True)[1]
    known = np.array([bool(case_id) for case_id in case_ids], dtype=bool)
    order = np.random.default_rng([seed, 1]).permutation(len(texts))  # unlike the shuffled deal
    taken: list[str | None] = []
    for row in range(len(texts)):
        fits = known[order] & (patients[order] != patients[row]) & (keys[order] != keys[row])
        rows = order[fits] if known[row] else order[:0]
        # Each row starts elsewhere in the deal, so that not all take the same caption.
        taken.append(texts[int(rows[row % len(rows)])] if len(rows) else None)
    return taken


def caption_variants(
    texts: Sequence[str], case_ids: Sequence[str], *, seed: int
) -> dict[str, list[str | None]]:
    """Every change of every caption of a split; None where one cannot be made.

    The keys are true, empty, shuffled, other_patient, side_swapped, count_changed, typos,
    paraphrased, and ``word_removed:<class>`` for those of `WORD_CLASSES` that the split's captions
    use. A row has one removal for a class: all its words of that class (`class_removed`).

    Args:
        texts: the true captions, in row order.
        case_ids: patient or study of each row, "" where unknown.
        seed: of all choices.

    Returns:
        by name, a text or None for each row. ``shuffled`` is None throughout where one caption
        stands on more than half of the rows.
    """
    assert len(texts) == len(case_ids), (len(texts), len(case_ids))
    shuffled: list[str | None]
    try:
        shuffled = list(apply_caption_mode(texts, "shuffled", seed))
    except UserError:  # no deal leaves every row without its own
        shuffled = [None] * len(texts)
    variants: dict[str, list[str | None]] = {
        "true": list(texts),
        "empty": ["" if text else None for text in texts],
        "shuffled": shuffled,
        "other_patient": other_patients(texts, case_ids, seed=seed),
        "side_swapped": [side_swapped(text) for text in texts],
        "count_changed": [count_changed(text, seed=seed) for text in texts],
        "typos": [typos(text, seed=seed) for text in texts],
        "paraphrased": [paraphrased(text, seed=seed) for text in texts],
    }
    for name in WORD_CLASSES:
        removed = [class_removed(text, name) for text in texts]
        if any(text is not None for text in removed):
            variants[f"word_removed:{name}"] = removed
    return variants


def _changed(text: str, other: str | None) -> str | None:
    return None if other is None or key(other) == key(text) else other


def _generator(change: str, text: str, seed: int) -> np.random.Generator:
    """The same for equal captions, and another for each change."""
    return np.random.default_rng([seed, stable_id(f"{change} {key(text)}")])
