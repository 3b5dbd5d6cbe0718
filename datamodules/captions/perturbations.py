"""Captions perturbed one thing at a time, which `textseg probe` compares with the true ones.

Every perturbation is a pure function of the caption (and a seed), and gives None where it cannot be
made or would leave the caption as it is. Equal captions are changed equally, in whatever row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.captions.absent import absent_captions
from datamodules.captions.languages import LanguageSetting, language_of
from datamodules.captions.languages.words import in_case_of, script_of
from datamodules.captions.modes import (
    apply_caption_mode,
    if_changed,
    key,
    seeded_by,
    swap_sides,
)
from datamodules.captions.paraphrases import paraphrased
from datamodules.captions.word_classes import BUILT_IN, HYPHEN, NUMBER_WORDS, WordClasses
from textseg.errors import UserError
from textseg.preprocess import words_apart

# --- side and count ----------------------------------------------------------------------------


def side_swapped(text: str, language: LanguageSetting = "auto") -> str | None:
    """Exchange left and right; None where that is not safe, or changes nothing."""
    return if_changed(text, swap_sides(text, language))


_PLURALS = {
    **{word: f"{word}s" for word in ("area", "lesion", "nodule", "tumour", "tumor", "cyst")},
    **{"region": "regions", "mass": "masses", "focus": "foci", "metastasis": "metastases"},
}
_NOUNS = "|".join([*_PLURALS.values(), *_PLURALS])
_COUNTED = re.compile(
    rf"(?<![\w.:-])(?<!grade )(?P<count>{'|'.join(NUMBER_WORDS)}|\d{{1,2}})"
    r"(?P<between>(?:\s+(?!(?:of|the|and|to|o|in|cm|mm|percent)\b)[a-z-]+){0,2})"
    rf"\s+(?P<noun>{_NOUNS})(?!{HYPHEN}?\w)",  # not "one mass-like opacity"
    re.IGNORECASE,
)
_OF_TWO = {"larger": "largest", "smaller": "smallest", "bigger": "biggest"}
_OF_MORE = {more: two for two, more in _OF_TWO.items()}
_MOST_NAMED = 6  # the largest number that replaces another


def count_changed(text: str, *, seed: int) -> str | None:
    """Name another number of areas or lesions, two to six: "two infected areas" -> "five ...".

    The number stays a word or a digit. Words that agree with it follow: "one infected area" ->
    "three infected areas", "the larger of two lesions" -> "the largest of four lesions". Nothing
    becomes "one", which datasets write in different ways, and "zero" stays, which the rest of such
    a caption repeats.
    """
    found = _COUNTED.search(words_apart(text))
    if found is None:
        return None
    written = found["count"]
    own = int(written) if written.isdigit() else NUMBER_WORDS.index(written.lower())
    if own == 0:
        return None
    others = [n for n in range(2, _MOST_NAMED + 1) if n != own]
    number = int(seeded_by("count", text, seed).choice(others))
    word = str(number) if written.isdigit() else in_case_of(written, NUMBER_WORDS[number])
    noun = found["noun"]
    plural = _PLURALS.get(noun.lower(), noun)
    before, after = text[: found.start()], text[found.end() :]
    ranks = _OF_TWO if own == 2 else _OF_MORE if number == 2 else {}
    before = re.sub(r"\w+(?= of (?:the )?$)", lambda m: ranks.get(m.group(), m.group()), before)
    start, end = found.span("between")
    joint = text[end] if text[end] == "_" else " "
    return f"{before}{word}{text[start:end]}{joint}{in_case_of(noun, plural)}{after}"


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
_SHORTEST = 4  # letters of a word that gets a typo


def typos(text: str, *, seed: int) -> str | None:
    """Give one or two words with content a typing error each.

    A letter is left out, doubled, taken for its neighbor on the keyboard, or exchanged with the
    next. First letters stay, and no word becomes another that this module knows, so that "left"
    never turns into "right" or "eight" into "right".
    """
    listed = BUILT_IN.content_words(text)
    words = [w for w in listed if _is_spelled(w.text) and len(w.text) >= _SHORTEST]
    if not words:
        return None
    original, generator = text, seeded_by("misspelt", text, seed)  # the name is part of the seed
    number = min(len(words), int(generator.integers(1, 3)))
    for at in sorted(generator.choice(len(words), number, replace=False).tolist(), reverse=True):
        word = words[at]
        errors = typing_errors(word.text)
        if errors:
            text = text[: word.start] + str(generator.choice(errors)) + text[word.end :]
    return None if text == original else text


def _is_spelled(word: str) -> bool:
    """Whether a word is of letters; a Chinese character more or less is no typing error."""
    return word.isalpha() and all(script_of(letter) != "CJK" for letter in word)


def typing_errors(word: str) -> list[str]:
    """List the spellings one typing error away that are no known word."""
    errors = []
    for i in range(1, len(word)):
        head, letter, tail = word[:i], word[i], word[i + 1 :]
        errors += [head + tail, head + letter + letter + tail]
        errors += [head + other + tail for other in _NEIGHBORS.get(letter.lower(), "")]
        if tail:
            errors.append(head + tail[0] + letter + tail[1:])
    unlike = [e for e in dict.fromkeys(errors) if e.lower() != word.lower()]
    return [error for error in unlike if BUILT_IN.class_of(error) == "other"]


# --- other captions ----------------------------------------------------------------------------


def other_patients(texts: Sequence[str], case_ids: Sequence[str], *, seed: int) -> list[str | None]:
    """Choose for each row the caption of another patient, unlike its own; None without one.

    Rows of a split whose `case_ids` have "", an unknown patient, neither give nor take.
    """
    keys = np.unique(np.array([key(text) for text in texts], dtype=object), return_inverse=True)[1]
    patients = np.unique(np.array(case_ids, dtype=object), return_inverse=True)[1]
    known = np.array([bool(case_id) for case_id in case_ids], dtype=bool)
    order = np.random.default_rng([seed, 1]).permutation(len(texts))  # another than shuffled uses
    taken: list[str | None] = []
    for row in range(len(texts)):
        fits = known[order] & (patients[order] != patients[row]) & (keys[order] != keys[row])
        rows = order[fits] if known[row] else order[:0]
        # Each row starts elsewhere in this order, so that not all take the same caption.
        taken.append(texts[int(rows[row % len(rows)])] if len(rows) else None)
    return taken


def _english(texts: Sequence[str], language: LanguageSetting) -> list[bool]:
    """Tell which captions are taken for English, and warn of the others with their number."""
    languages = [language_of(text) if language == "auto" else language for text in texts]
    others = Counter(one for one in languages if one not in (None, "", "en"))
    unknown = [text for text, one in zip(texts, languages, strict=True) if one is None]
    if others or unknown:
        named = ", ".join(f"{code} {count}" for code, count in others.most_common())
        parts = [
            f"{others.total()} in other languages ({named}), of which only sides, letters and "
            "words of your own word_classes are changed"
        ] * bool(others)
        parts += [
            f"{len(unknown)} in none that is known here, which are taken for English, such "
            f"as {unknown[0]!r}"
            for _ in unknown[:1]
        ]
        rank_zero_warn(
            f"a probe changes English captions in every way, and of {len(texts)} captions there "
            f"are {'; '.join(parts)}"
        )
    return [one in (None, "", "en") for one in languages]


def caption_variants(
    texts: Sequence[str],
    case_ids: Sequence[str],
    *,
    seed: int,
    images: Sequence[str] | None = None,
    altered: Mapping[str, Sequence[str | None]] | None = None,
    word_classes: Mapping[str, Sequence[str]] | None = None,
    language: LanguageSetting = "auto",
) -> dict[str, list[str | None]]:
    """Make every perturbation of every caption of a split; None where one cannot be made.

    The keys are true, empty, shuffled, other_patient, side_swapped, count_changed, typos,
    paraphrased, ``word_removed:<class>`` for the classes that the split's captions use and those
    of the user, ``altered:<name>`` for captions that the dataset offers, and the requests for
    something absent of `absent_captions`. A row has one removal for a class: all its words of that
    class (`WordClasses.removed`).

    Sides are swapped in all languages that are known here, and the user's own words are removed in
    any; other counts, paraphrases, the removal of this package's words and most requests are of
    English captions alone. A warning counts the others. Captions of an unknown language are taken
    for English.

    Args:
        texts: the true captions, in row order.
        case_ids: patient or study of each row, "" where unknown.
        seed: of all choices.
        images: what names the image of each row; None takes each for an image of its own.
        altered: by name, the dataset's own altered captions in row order, None where there is none.
        word_classes: the user's own classes, see `WordClasses`.
        language: of the captions, for their sides.

    Returns:
        by name, a text or None for each row; ``shuffled`` is None throughout where one caption
        stands on more than half of them.

    Raises:
        UserError: `word_classes` cannot be used.
    """
    assert len(texts) == len(case_ids), (len(texts), len(case_ids))
    shuffled: list[str | None]
    try:
        shuffled = list(apply_caption_mode(texts, "shuffled", seed))
    except UserError:  # one caption stands on too many rows
        shuffled = [None] * len(texts)
    english = _english(texts, language)
    variants: dict[str, list[str | None]] = {
        "true": list(texts),
        "empty": ["" if text else None for text in texts],
        "shuffled": shuffled,
        "other_patient": other_patients(texts, case_ids, seed=seed),
        "side_swapped": [side_swapped(text, language) for text in texts],
        "count_changed": [
            count_changed(text, seed=seed) if known else None
            for text, known in zip(texts, english, strict=True)
        ],
        "typos": [typos(text, seed=seed) for text in texts],
        "paraphrased": [
            paraphrased(text, seed=seed) if known else None
            for text, known in zip(texts, english, strict=True)
        ],
    }
    classes, own = WordClasses(word_classes), WordClasses(word_classes, english=False)
    for name in classes.names:
        removed = [
            (classes if known else own).removed(text, name)
            if known or name in classes.own_names
            else None
            for text, known in zip(texts, english, strict=True)
        ]
        if name in classes.own_names or any(text is not None for text in removed):
            variants[f"word_removed:{name}"] = removed
    for name, given in (altered or {}).items():
        variants[f"altered:{name}"] = list(given)
    names = list(map(str, range(len(texts)))) if images is None else images
    return variants | absent_captions(texts, names, seed=seed, language=language)
