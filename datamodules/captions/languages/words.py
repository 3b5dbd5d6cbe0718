"""What the languages share: words without case and accents, and side words that are exchanged."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

# Letters with the marks that a decomposed text writes behind them; Chinese ones apart from others.
_HAN = "\u3400-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"(?:[^\W\d_{_HAN}][\u0300-\u036f]*)+|[{_HAN}]+")
NEVER = re.compile(r"(?!)")
_QUOTES = ("'", "\u2019")
_CLAUSE_END = re.compile(r"[,.;:()\n]")


@lru_cache(maxsize=65536)
def folded(word: str) -> str:
    """A word without case, width and accents: "LÉSION" -> "lesion", "лёгкое" -> "легкое"."""
    composed = unicodedata.normalize("NFKC", unicodedata.normalize("NFC", word)).casefold()
    return "".join(_base(letter) for letter in composed).replace("\u0451", "\u0435")


@lru_cache(maxsize=4096)
def _base(letter: str) -> str:
    """A letter without its accent; in Russian й is no accented и."""
    return letter if script_of(letter) == "CYRILLIC" else unicodedata.normalize("NFD", letter)[0]


@lru_cache(maxsize=4096)
def script_of(letter: str) -> str:
    """LATIN, CYRILLIC, CJK and so on, by the letter's name in Unicode."""
    plain = unicodedata.normalize("NFKC", letter)[:1]
    return unicodedata.name(plain, "?").partition(" ")[0]


def word_set(*lines: str) -> frozenset[str]:
    """The words of several lines, folded."""
    return frozenset(folded(word) for line in lines for word in line.split())


def both_ways(pairs: Mapping[str, str]) -> dict[str, str]:
    """Each word of a pair to the other."""
    return {**pairs, **{right: left for left, right in pairs.items()}}


def in_case_of(model: str, word: str) -> str:
    """Write a word in capitals, capitalized or as it is, as `model` is written."""
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


def within_one_edit(a: str, b: str) -> bool:
    """Whether one insertion, deletion, substitution or exchange of neighbors turns a into b."""
    if abs(len(a) - len(b)) > 1:
        return False
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    rest_a, rest_b = a[start:], b[start:]
    exchanged = rest_a[1::-1] + rest_a[2:]
    return rest_b in (rest_a[1:], exchanged) or rest_b[1:] in (rest_a, rest_a[1:])


@dataclass(frozen=True)
class Language:
    """The side words of a language, and the words that it is known by; all are folded.

    Args:
        code: of ISO 639-1.
        sides: each word of a side -> that of the other.
        words: common words, by which the language is known.
        endings: of words that are of the language.
        letters: that it has beyond a to z.
        stems: each stem of a side -> that of the other.
        compounds: words that begin with a stem; the stem is the first group.
        short: abbreviations that count with a period behind them -> that of the other side.
        plain: words that are like a side word, or hold one, and name none.
        doubtful: words that may name a side.
        letter_sides: single capitals that may stand for a side.
        unclear: phrases in which a side word names no side, or that of an organ whose left and
            right parts differ; searched in a folded text that names a side.
        clock: a time of day, which may be a clock position.
    """

    code: str
    sides: Mapping[str, str]
    words: frozenset[str]
    endings: re.Pattern[str] = NEVER
    letters: frozenset[str] = frozenset()
    stems: Mapping[str, str] = field(default_factory=dict)
    compounds: re.Pattern[str] = NEVER
    short: Mapping[str, str] = field(default_factory=dict)
    plain: re.Pattern[str] = NEVER
    doubtful: re.Pattern[str] = NEVER
    letter_sides: str = "LR"
    unclear: re.Pattern[str] = NEVER
    clock: re.Pattern[str] = NEVER

    def names_side(self, word: str) -> bool:
        """Whether a folded word names a side, in full."""
        return word in self.sides or self.compounds.fullmatch(word) is not None

    def knows(self, word: str) -> bool:
        """Whether a folded word is of the language."""
        return word in self.words or self.endings.search(word) is not None

    def swapped(self, text: str) -> str | None:
        """Exchange the sides of a text in this language; None where that is not safe."""
        once = self._rewritten(text)
        # Of two spellings that have one partner, the second would not come back.
        return once if once is None or self._rewritten(once) == text else None

    def _rewritten(self, text: str) -> str | None:
        pieces, at = [], 0
        plain = WORD.sub(lambda match: folded(match[0]), text.replace("_", " "))
        if self.clock.search(plain):
            return None
        for match in WORD.finditer(text):
            before = self._clause(text[: match.start()])
            beside = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
            other = self._other(match[0], before, beside)
            if other is None:
                return None
            pieces += [text[at : match.start()], other]
            at = match.end()
        result = "".join([*pieces, text[at:]])
        return None if result != text and self.unclear.search(plain) else result

    def _clause(self, before: str) -> list[str]:
        """The folded words since the last mark; only French asks for them."""
        return []

    def _other(self, written: str, before: Sequence[str], beside: tuple[str, str]) -> str | None:
        """What to write for a word: itself where it names no side; None where that is unclear."""
        word = folded(written)
        if len(word) == 1 and (beside[0].isdigit() or beside[1].isdigit() or beside[1] in _QUOTES):
            return written  # L3, D'un
        compound = self.compounds.fullmatch(word)
        if compound is not None:
            stem = compound[1]
            own, rest = written[: len(stem)], written[len(stem) :]
            return in_case_of(own, self.stems[stem]) + rest if _is_cased(written) else None
        if len(word) == 1 and beside[1] in (".", "") and written.upper() in self.letter_sides:
            return None  # "rein g."
        other = self._partner(word, before)
        if word in self.short and beside[1] == ".":
            other = self.short[word]
        if other is None:
            return None if self._is_doubtful(word, written) else written
        return in_case_of(written, other) if other and _is_cased(written) else None

    def _partner(self, word: str, before: Sequence[str]) -> str | None:
        """The word of the other side; None for a word of no side, "" where it is not known."""
        return self.sides.get(word)

    def _is_doubtful(self, word: str, written: str) -> bool:
        if len(word) == 1:
            return written in self.letter_sides
        if self.plain.fullmatch(word) or word in self.words:
            return False
        if self.doubtful.fullmatch(word) or word in self.short:
            return True
        return len(word) > 3 and any(within_one_edit(word, side) for side in self.sides)


def _is_cased(written: str) -> bool:
    """Whether a word is written in one of the usual ways, so that its partner can be."""
    return written in (written.lower(), written.upper(), written.capitalize())


def clause_words(before: str) -> list[str]:
    """The folded words of a text since its last mark."""
    return [folded(word) for word in WORD.findall(_CLAUSE_END.split(before)[-1])]
