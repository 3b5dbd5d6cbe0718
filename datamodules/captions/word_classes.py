"""Classes of words by what they describe (side, size, count, ...), and their removal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from datamodules.captions.lvit_template import COUNTS
from textseg.errors import UserError
from textseg.preprocess import words_apart

HYPHEN = "[-\u2010\u2011]"
_HOURS = r"\d{1,2}(?::\d\d)?"
_CLOCK = rf"{_HOURS}(?:(?: to | ?- ?){_HOURS})?[ -]o['\u2019]clock"
_FROM_NIPPLE = r"\d+(?:\.\d+)? ?cm from the nipple"
_NUMBER = r"\d+(?:\.\d+)?"
_MEASURE = rf"(?:{_NUMBER}(?: to | ?[-x\u00d7] ?))*{_NUMBER}[ -]?(?:cm|mm|percent|%)"
_SUBTYPE = (
    r"hormone-receptor-positive|her2-positive|luminal(?:-like| [ab]\b)|triple-negative|grade \d"
)
NUMBER_WORDS = (*COUNTS, "ten")

# The first class that fits a word is its class; words of none of them are "other".
_CLASSES = {
    "side": r"(?:left|right)(?:most|wards?|hand|handed|side|sided)?|sided|handed",
    "vertical": "upper|uppermost|middle|mid|lower|lowermost|top|bottom|higher|superior|inferior",
    "place": f"{_CLOCK}|{_FROM_NIPPLE}|inner|outer|medial|lateral|central|midline|anterior|"
    "posterior|deep|superficial|subareolar|retroareolar|axillary|axilla|tail|quadrant|depth|third|"
    f"half|close|nipple|centre|center|peripheral|mid{HYPHEN}depth",
    "extent": "bilateral|unilateral|multifocal|unifocal|both|whole|entire|diffuse",
    "size": f"{_MEASURE}|small(?:er|est)?|medium|large(?:r|st)?|big(?:ger|gest)?|little|tiny|huge|"
    rf"sized|\w+{HYPHEN}sized",
    "density": "(?:hypo|hyper|iso)(?:dense|attenuating|intense|echoic)|dense|density|dark|bright",
    "count": rf"{_NUMBER}|{'|'.join(NUMBER_WORDS)}|no|none|only|single|several|multiple|many",
    "pathology": _SUBTYPE,
    "anatomy": "lungs?|pulmonary|lobes?|livers?|hepatic|breasts?|kidneys?|renal|spleen|pancreas|"
    "chest|thorax|thoracic|heart|cardiac|brain|cerebral|skin|colon|colonic|colorectal|rectum|"
    "prostate|prostatic|bladder|stomach|gastric|bowel|bones?|knees?",
    "finding": "lesions?|tumou?rs?|infections?|infected|areas?|regions?|nodules?|mass|masses|"
    "focus|foci|cysts?|metastas[ei]s|nuclei|polyps?|opacit(?:y|ies)|effusions?|consolidations?|"
    "infiltrates?|ha?emorrhages?|carcinomas?|adenomas?|melanomas?|gliomas?|meningiomas?",
}
WORD_CLASSES = (*_CLASSES, "other")
_FUNCTION_WORD = re.compile(
    "a|an|the|this|that|these|those|of|in|on|at|to|by|for|from|with|without|as|and|or|but|"
    "is|are|was|were|be|been|it|its|there|their|our|part",
    re.IGNORECASE,
)
_WORD = rf"[^\W\d_]\w*(?:{HYPHEN}\w+)*"
_NUMBERED_WORD = rf"{_NUMBER}{HYPHEN}{_WORD}"  # 5-year-old
# Phrases that count as one word, then single words, hyphenated ones whole.
_UNIT = (
    rf"{_CLOCK}|{_FROM_NIPPLE}|{_MEASURE}|\b(?:{_SUBTYPE})(?!{HYPHEN}[^\W\d_])|"
    rf"{_NUMBERED_WORD}|{_NUMBER}|{_WORD}"
)
_ALL_OF_A_LUNG = re.compile(r"all(?=\s+(?:left|right)\b)", re.IGNORECASE)
# Classes whose words are joined without becoming one thing: "upper-left" says two.
_DIRECTIONS = {"side", "vertical"}


class ContentWord(NamedTuple):
    """A word or phrase with content where it stands in a caption.

    `classes` is what it describes. A hyphenated word that no class lists as it is has the classes
    of its parts: "left-lung" is of side and of anatomy, and is left out with either.
    """

    start: int
    end: int
    text: str
    classes: frozenset[str]


class WordClasses:
    """Knows the class of a word: this module's, and classes of the user's own.

    Underscores part words as spaces do; a hyphenated word is one.

    Args:
        own: words and phrases by class, compared without case. A word that is listed belongs to
            that class alone; a class named as one of `WORD_CLASSES` gains words.
        english: whether this module's words count; they are English.

    Raises:
        UserError: `own` is no lists of words by name, or lists a word twice.
    """

    def __init__(
        self, own: Mapping[str, Sequence[str]] | None = None, *, english: bool = True
    ) -> None:
        self._own = _checked(own or {})
        known = _CLASSES if english else {}
        self._patterns = {name: re.compile(p, re.IGNORECASE) for name, p in known.items()}
        phrases = sorted(self._own, key=len, reverse=True)
        listed = [_whole(phrase) for phrase in phrases]
        self._unit = re.compile("|".join([*listed, _UNIT]), re.IGNORECASE)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, the user's own last."""
        return tuple(dict.fromkeys([*WORD_CLASSES, *self._own.values()]))

    @property
    def own_names(self) -> tuple[str, ...]:
        """The classes that the user named."""
        return tuple(dict.fromkeys(self._own.values()))

    def class_of(self, word: str) -> str | None:
        """Classify a word or a phrase such as "9 o'clock"; None for words without content."""
        own = self._own.get(_key(word))
        if own is not None:
            return own
        if _FUNCTION_WORD.fullmatch(word):
            return None
        for name, pattern in self._patterns.items():
            if pattern.fullmatch(word):
                return name
        return "other"

    def content_words(self, text: str) -> list[ContentWord]:
        """Find the caption's words that have content, in order."""
        plain = words_apart(text)
        return [
            ContentWord(start, end, text[start:end], classes)
            for unit in self._unit.finditer(plain)
            for start, end, classes in self._classified(plain, unit)
            if classes
        ]

    def _classified(
        self, text: str, unit: re.Match[str]
    ) -> Iterator[tuple[int, int, frozenset[str]]]:
        """The unit with its classes, or the directions that it joins, each for itself."""
        start, end = unit.span()
        # In LViT's template "all left lung" stands for its upper, middle and lower zone.
        if _ALL_OF_A_LUNG.match(text, start) is not None:
            yield start, end, frozenset({"vertical"})
            return
        name = self.class_of(unit.group())
        parts = [m.span() for m in re.finditer(r"\w+", unit.group())]
        if name != "other" or not re.search(HYPHEN, unit.group()):
            yield start, end, frozenset(filter(None, [name]))
            return
        words = [unit.group()[a:b] for a, b in parts]
        # A number behind a hyphen counts nothing: COVID-19.
        numbers = [at > 0 and word.isdigit() for at, word in enumerate(words)]
        classes = ["other" if n else self.class_of(w) for w, n in zip(words, numbers, strict=True)]
        if set(classes) == _DIRECTIONS:
            for (a, b), one in zip(parts, classes, strict=True):
                yield start + a, start + b, frozenset(filter(None, [one]))
            return
        told = frozenset(one for one in classes if one and one != "other")
        yield start, end, told or frozenset({"other"})

    def removed(self, text: str, name: str) -> str | None:
        """Remove all words of a class from a caption.

        All at once, since one that remains may repeat the information: "upper left lung and lower
        left lung" still names its side when one "left" is gone.

        Returns:
            None where there is none of them, or nothing else: that is the empty caption's case.
        """
        words = self.content_words(text)
        removed = [word for word in words if name in word.classes]
        if not 0 < len(removed) < len(words):
            return None
        capital = text[:1].isupper()
        for word in reversed(removed):
            text = f"{text[: word.start]} {text[word.end :]}"
        return _tidied(text, capital=capital)


def _whole(phrase: str) -> str:
    """A pattern of a phrase that is no part of a longer or a hyphenated word."""
    words = r"\s+".join(map(re.escape, phrase.split()))
    return rf"(?<![\w-]){words}(?![\w-])"


def _key(word: str) -> str:
    return " ".join(words_apart(word).casefold().split())


def _checked(own: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The class by word or phrase."""
    remedy = "write, for example, word_classes: {severity: [mild, severe], margin: [well defined]}"
    class_by_word: dict[str, str] = {}
    for name, words in own.items():
        listed = words if isinstance(words, (list, tuple)) else []
        if not listed or not all(isinstance(word, str) and _key(word) for word in listed):
            raise UserError(f"word_classes: {name}={words!r} is no list of words", remedy)
        if not re.fullmatch(r"\w[\w -]*", str(name)) or name == "other":
            raise UserError(f"word_classes: {name!r} cannot name a class", remedy)
        for word in dict.fromkeys(map(_key, listed)):
            if word in class_by_word:
                raise UserError(
                    f"word_classes lists {word!r} under {class_by_word[word]} and {name}",
                    "leave it in one of them",
                )
            class_by_word[word] = str(name)
    return class_by_word


def _tidied(text: str, *, capital: bool) -> str:
    """Spaces and marks as they would be written, where words were taken out."""
    text = re.sub(r"_(?:\s+_)+", "_", text)  # a word from between others: gland_left_upper
    text = re.sub(r"(?<![^\W_])_+|_+(?![^\W_])", "", text)
    text = " ".join(re.sub(r"(?<!\w)-|-(?!\w)", "", text).split())
    text = re.sub(r"\s+([,.;:])", r"\1", text)
    text = re.sub(r"[,;:][\s,;:]*(?=\.)", "", text)
    text = re.sub(r"[,;:](?:\s*[,;:])+", lambda m: max(m.group(), key=" ,:;".find), text)
    text = re.sub(r"^[\s,;:.]+|[\s,;:]+$", "", text)
    return text[:1].upper() + text[1:] if capital else text


BUILT_IN = WordClasses()
