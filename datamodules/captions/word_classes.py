"""Classes of words by what they describe (side, size, count, ...), and their removal."""

from __future__ import annotations

import re

from datamodules.captions.lvit_template import COUNTS

_HOURS = r"\d{1,2}(?::\d\d)?"
_CLOCK = rf"{_HOURS}(?:(?: to | ?- ?){_HOURS})? o['\u2019]clock"
_FROM_NIPPLE = r"\d+(?:\.\d+)? ?cm from the nipple"
_MEASURE = r"\d+(?:\.\d+)? ?(?:cm|mm|percent|%)"
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
    "half|close|nipple|centre|center|peripheral",
    "extent": "bilateral|unilateral|multifocal|unifocal|both|whole|entire|diffuse",
    "size": f"{_MEASURE}|small(?:er|est)?|large(?:r|st)?|big(?:ger|gest)?|little|tiny|huge",
    "density": "(?:hypo|hyper|iso)(?:dense|attenuating|intense|echoic)|dense|density|dark|bright",
    "count": rf"\d+(?:\.\d+)?|{'|'.join(NUMBER_WORDS)}|no|none|only|single|several|multiple|many",
    "pathology": _SUBTYPE,
    "anatomy": "lungs?|pulmonary|lobes?|livers?|hepatic|breasts?|kidneys?|renal|spleen|pancreas",
    "finding": "lesions?|tumou?rs?|infections?|infected|areas?|regions?|nodules?|mass|masses|"
    "focus|foci|cysts?|metastas[ei]s|nuclei",
}
_CLASS_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _CLASSES.items()}
WORD_CLASSES = (*_CLASSES, "other")
_FUNCTION_WORD = re.compile(
    "a|an|the|this|that|these|those|of|in|on|at|to|by|for|from|with|without|as|and|or|but|"
    "is|are|was|were|be|been|it|its|there|their|our|part",
    re.IGNORECASE,
)
# Phrases that count as one word, then single words.
_UNIT = re.compile(
    rf"{_CLOCK}|{_FROM_NIPPLE}|{_MEASURE}|\b(?:{_SUBTYPE})|\d+(?:\.\d+)?|[^\W\d_]\w*", re.IGNORECASE
)
_ALL_OF_A_LUNG = re.compile(r"all(?=\s+(?:left|right)\b)", re.IGNORECASE)


def word_class(word: str) -> str | None:
    """Classify a word or a phrase such as "9 o'clock"; None for words without content."""
    if _FUNCTION_WORD.fullmatch(word):
        return None
    for name, pattern in _CLASS_PATTERNS.items():
        if pattern.fullmatch(word):
            return name
    return "other"


def content_words(text: str) -> list[tuple[re.Match[str], str]]:
    """Find the caption's words that have content, in order, each with its class."""
    classified = []
    for unit in _UNIT.finditer(text):
        # In LViT's template "all left lung" stands for its upper, middle and lower zone.
        zones = _ALL_OF_A_LUNG.match(text, unit.start()) is not None
        name = "vertical" if zones else word_class(unit.group())
        if name is not None:
            classified.append((unit, name))
    return classified


# --- removal of a class -------------------------------------------------------------------------


def class_removed(text: str, name: str) -> str | None:
    """Remove all words of a class of `WORD_CLASSES` from a caption.

    All at once, since one that remains may repeat the information: "upper left lung and lower left
    lung" still names its side when one "left" is gone.

    Returns:
        None where there is none of them, or nothing else: that is the empty caption's case.
    """
    words = content_words(text)
    removed = [word for word, kind in words if kind == name]
    if not 0 < len(removed) < len(words):
        return None
    capital = text[:1].isupper()
    for word in reversed(removed):
        text = f"{text[: word.start()]} {text[word.end() :]}"
    return _tidied(text, capital=capital)


def _tidied(text: str, *, capital: bool) -> str:
    """Spaces and marks as they would be written, where words were taken out."""
    text = " ".join(re.sub(r"(?<!\w)-|-(?!\w)", "", text).split())
    text = re.sub(r"\s+([,.;:])", r"\1", text)
    text = re.sub(r"[,;:][\s,;:]*(?=\.)", "", text)
    text = re.sub(r"[,;:](?:\s*[,;:])+", lambda m: max(m.group(), key=" ,:;".find), text)
    text = re.sub(r"^[\s,;:.]+|[\s,;:]+$", "", text)
    return text[:1].upper() + text[1:] if capital else text
