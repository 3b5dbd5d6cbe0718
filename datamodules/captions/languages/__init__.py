"""Side words of eight languages: which language a caption is in, and its sides exchanged.

A caption's language is found by its script and its words, without a library: English, German,
French, Spanish, Italian and Portuguese by common words, endings and their words for sides, Russian
by the same among Cyrillic texts, Chinese by its characters. What is not surely read is None, so
that its picture is not mirrored: another language, a word of a side in one that does not fit, or
two languages in which the caption would become different texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from datamodules.captions.languages import english
from datamodules.captions.languages.chinese import CHINESE
from datamodules.captions.languages.english import ENGLISH
from datamodules.captions.languages.french import FRENCH
from datamodules.captions.languages.german import GERMAN
from datamodules.captions.languages.italian import ITALIAN
from datamodules.captions.languages.portuguese import PORTUGUESE
from datamodules.captions.languages.russian import RUSSIAN
from datamodules.captions.languages.spanish import SPANISH
from datamodules.captions.languages.words import WORD, Language, folded, script_of, word_set

LanguageSetting = Literal["auto", "en", "zh", "de", "fr", "es", "it", "pt", "ru"]
LATIN = (ENGLISH, GERMAN, FRENCH, SPANISH, ITALIAN, PORTUGUESE)
LANGUAGES = {one.code: one for one in (ENGLISH, CHINESE, *LATIN[1:], RUSSIAN)}
_SCRIPTS = {"zh": "CJK", "ru": "CYRILLIC"}  # of all others LATIN

# Words for sides in languages that are not read here, so that such a caption is never mirrored.
_OTHER_SIDES = word_set(
    "linkse rechtse linkerlong rechterlong linkerborst rechterborst",  # Dutch
    "vänster vänstra höger högra venstre højre høyre højresidig venstresidig",  # Scandinavian
    "lewy lewa lewego lewej lewym lewo prawy prawa prawe prawego prawej prawym prawo",  # Slavic
    "levý levého pravý pravá pravé pravém pravého vlevo vpravo ľavý ľavej pravej lijevo lijevi",
    "lijeva lijeve lijevom desno desni desna desne desnom stâng stânga stângă stângul drept",
    "dreapta dreaptă dreptul esquerre esquerra dret dreta sol solda soldaki sağ sağda sağdaki",
    "jobb baloldali jobboldali vasen vasemman vasemmalla oikea oikean oikealla kiri kanan trái",
    "phải kushoto kulia kaliwa kairė kairys dešinė kreisais labais vasak majtë djathtë ezker",
    "eskuin dexter dextra dextrum dextri dextro sinister sinistrum",
    "dereito dereita dereitos dereitas drech drecha leva levi levega levem bal oldali hidari migi",
    "zuo zuoce youce",
)
# The same without their accents, and what begins with them.
_OTHER_STEMS = re.compile("(hoger|hogra|vanster|vanstra|hoyre|hojre|venstre)\\w*")
# Sides as a letter of an abbreviation: lobes (French LSG, Spanish LII, German ROL), halves of the
# chest (Portuguese HTE).
_LETTERED = re.compile("L[SMI][DEGIS]|[LR][MOU]L|HT[DE]")
# Eyes (Latin OD and OS, Spanish OI), and Latin's abbreviations, which only Italian shares.
_EYES = ("OD", "OS", "OI")
_LATIN_SHORT = re.compile(r"\b(sin|dext?)\.", re.IGNORECASE)
_UNITS = word_set("mm cm ml mg kg hu px cc m g l ms kv ev")
_SYMBOLS = "\u03b1\u03b2\u03b3\u03b4\u03bc\u00b5"  # alpha to delta and mu, as in micrometres
_SHORT = 4  # letters of an abbreviation in capitals


def swapped(text: str, language: LanguageSetting = "auto") -> str | None:
    """Exchange the sides of a text; None where its language or its sides are not surely read.

    Args:
        text: the caption. Letters in full width or with their accents apart count as plain ones,
            and become such where a side is exchanged.
        language: of the text; "auto" finds out.
    """
    even = _plain_letters(text)
    scripts = _scripts(even)
    words = WORD.findall(even)
    if scripts is None or any(_LETTERED.fullmatch(word) or word in _EYES for word in words):
        return None
    result = even
    for script in sorted(scripts):
        languages = _languages(even, script, language)
        if languages is None or (ITALIAN not in languages and _LATIN_SHORT.search(even)):
            return None
        results = {one.swapped(result) for one in languages} or {result}
        if len(results) > 1 or None in results:
            return None
        (result,) = results  # type: ignore[assignment]
    return text if result == even else result


@lru_cache(maxsize=8192)  # captions come back
def language_of(text: str) -> str | None:
    """The language of a text by its code; None where it is unknown, "" without words.

    Of languages that fit alike, the first.
    """
    even = _plain_letters(text)
    scripts = _scripts(even)
    if scripts is None:
        return None
    found = []
    for script in sorted(scripts):
        languages = _languages(even, script, "auto")
        if languages is None:
            return None
        found += [one.code for one in languages[:1]]
    return found[0] if found else ""


def _plain_letters(text: str) -> str:
    """A text with composed accents, and letters such as those of full width as plain ones."""
    if text.isascii():
        return text
    composed = unicodedata.normalize("NFC", text)
    return "".join(
        plain
        if unicodedata.category(letter) in ("Lu", "Ll")
        and (plain := unicodedata.normalize("NFKC", letter)).isascii()
        else letter
        for letter in composed
    )


def _scripts(text: str) -> set[str] | None:
    """The scripts of a text's letters; None where a character or a mixed word may hide any."""
    if text.isascii():
        return {"LATIN"} if any(letter.isalpha() for letter in text) else set()
    if any(unicodedata.category(letter) in ("Cf", "Co", "Cn") for letter in text):
        return None
    scripts: set[str] = set()
    for word in WORD.findall(text):
        own = {script_of(letter) for letter in word if letter not in _SYMBOLS}
        if own & {"LATIN", "CYRILLIC", "GREEK"} == own and len(own) > 1:
            return None  # such as "left" with a Cyrillic letter
        scripts |= own
    return scripts if scripts <= {"LATIN", "CYRILLIC", "CJK"} else None


def _languages(text: str, script: str, language: LanguageSetting) -> Sequence[Language] | None:
    """The languages that the words of a script may be of; () for symbols, None if unknown."""
    words = [word for word in _words(text) if script_of(word[0]) == script]
    if language != "auto":
        own = LANGUAGES[language]
        if script == _SCRIPTS.get(language, "LATIN"):
            strange = [folded(word) for word in words if not _is_word_of(folded(word), own)]
            return None if any(map(_names_any_side, strange)) else (own,)
        return () if script == "LATIN" and not any(map(_may_name_side, words)) else None
    if script == "CJK":
        return (CHINESE,)
    if script == "CYRILLIC":
        return _best(words, (RUSSIAN,))
    symbols = [word for word in words if _is_symbol(word)]
    if len(symbols) == len(words):
        return None if any(map(_may_name_side, words)) else ()
    return _best([word for word in words if not _is_symbol(word)], LATIN)


def _words(text: str) -> list[str]:
    """Words without those that are part of a number or code, such as T2."""
    found: list[str] = []
    for match in WORD.finditer(text):
        around = text[match.start() - 1 : match.start()] + text[match.end() : match.end() + 1]
        if any(sign.isdigit() for sign in around) and len(match[0]) < _SHORT:
            continue
        found.append(match[0])
    return found


def _is_symbol(word: str) -> bool:
    """Whether a Latin word is a unit or an abbreviation that no language knows as a word."""
    plain = folded(word)
    if plain in _UNITS and not word.isupper():
        return True
    if not word.isupper() or len(word) > _SHORT:
        return False
    return not any(one.knows(plain) or one.names_side(plain) for one in LATIN)


def _may_name_side(word: str) -> bool:
    """Whether a Latin word among those of another script may name a side."""
    return _names_any_side(folded(word)) or english.is_doubtful(word)


def _names_any_side(word: str) -> bool:
    """Whether a folded word names a side in any language."""
    return _is_other_side(word) or any(one.names_side(word) for one in LANGUAGES.values())


def _is_other_side(word: str) -> bool:
    """Whether a folded word names a side in a language that is not read here."""
    return word in _OTHER_SIDES or _OTHER_STEMS.fullmatch(word) is not None


def _best(words: Sequence[str], languages: Sequence[Language]) -> Sequence[Language] | None:
    """The languages that fit the words best; None where none fits, or another's side is named.

    A language fits that knows half of the words, or the word of a side. Those count threefold.
    """
    if any(_is_other_side(folded(word)) for word in words):
        return None
    facts = [_facts(word) for word in words]
    scores = {}
    for one in languages:
        named = sum(fact[one.code] == _SIDE for fact in facts)
        known = sum(fact[one.code] > _STRANGE for fact in facts)
        if named or 2 * known >= len(words):
            scores[one.code] = known + 2 * named
    if not scores:
        return None
    best = [one for one in languages if scores.get(one.code) == max(scores.values())]
    others = [one.code for one in languages if one not in best]
    for one in best:
        strange = [n for n, fact in enumerate(facts) if fact[one.code] < _WORD]
        if any(facts[n][other] == _SIDE for n in strange for other in others):
            return None
        if one is not ENGLISH and any(english.is_doubtful(words[n]) for n in strange):
            return None  # "rightlung" ends like a German word
    return best


_STRANGE, _ENDING, _WORD, _SIDE = range(4)  # what a word is to a language


@lru_cache(maxsize=65536)
def _facts(word: str) -> dict[str, int]:
    """By language: no word of it, one by its ending alone, a common word, or that of a side."""
    plain, facts = folded(word), {}
    for one in (*LATIN, RUSSIAN):
        if one.names_side(plain):
            facts[one.code] = _SIDE
        elif not _spelled(word, one):
            facts[one.code] = _STRANGE
        elif plain in one.words:
            facts[one.code] = _WORD
        else:
            facts[one.code] = _ENDING if one.endings.search(plain) else _STRANGE
    return facts


def _is_word_of(word: str, language: Language) -> bool:
    return word in language.words or language.names_side(word)


def _spelled(word: str, language: Language) -> bool:
    """Whether a word has letters of the language alone."""
    return word.isascii() or set(word.lower()) <= language.letters | set(_ALPHABET)


_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
