"""Findings about captions: their wording, and whether their words are true of the masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from datamodules.audit.file_facts import MaskFacts
from datamodules.audit.findings import Finding, finding
from datamodules.captions.languages import LanguageSetting, language_of
from datamodules.captions.lvit_template import (
    SIDES,
    Reading,
    Template,
    is_template_kind,
    keeps_template,
    read_template,
    repaired,
)
from datamodules.captions.modes import count_unmirrored, normalize
from datamodules.records import Record
from textseg.preprocess import TellingWord, telling_word, words_apart

# "nine" of MosMedData+ is nine and more: its formula has no higher word.
_MOST = {"mosmed": 9}
_OTHER_WORDING = 0.9  # if more of the captions break the template, they do not follow it at all
_MIDDLE = 0.5
# Organs of which the left one lies in the picture's left half. Of a liver's left lobe that is not
# so, nor of a lesion that is "left" within an organ.
_PAIRED = re.compile(r"\b(left|right)\s+(breast|lung|kidney)\b", re.IGNORECASE)
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_NOTHING = re.compile(r"\b(no|none|without|zero|normal|healthy|nothing)\b", re.IGNORECASE)


class CaptionChecks:
    """Reads each row's caption, and collects what is wrong.

    Args:
        template: of the dataset's captions; None where they are free.
        count_tokens: the tokens of a caption; None leaves their number unchecked.
        max_tokens: tokens that a network takes.
        normalized: whether training repairs captions before it counts tokens.
        language: of the captions, for the mirror.
    """

    def __init__(
        self,
        template: Template | None,
        *,
        count_tokens: Callable[[str], int] | None,
        max_tokens: int,
        normalized: bool,
        language: LanguageSetting = "auto",
    ) -> None:
        self.template = template
        self.count_tokens = count_tokens
        self.max_tokens = max_tokens
        self.normalized = normalized
        self.language: LanguageSetting = language
        self.texts: list[str] = []  # of all rows that have words
        self.findings: list[Finding] = []
        self.rows = 0
        self.longest = 0
        self.sides: Counter[tuple[str, bool]] = Counter()  # named side, and whether it is there
        self.counts: Counter[bool] = Counter()
        self._read: list[tuple[str, int]] = []  # captions with the area of their mask
        self._tokens: dict[str, int] = {}
        self._wording: list[Finding] = []

    def read(self, record: Record, split: str, mask: MaskFacts | None) -> None:
        """Check a row's caption, also against its mask where that can be read."""
        self.rows += 1
        text = record.text
        if not text.strip():
            self._add("empty caption", record, split, repr(text))
            return
        self.texts.append(text)
        if self.language == "auto" and language_of(text) is None:
            self._add("unknown language", record, split, text)
        self._count_tokens(record, split)
        reading = read_template(text) if is_template_kind(text) else None
        if self.template is not None:
            self._check_wording(self.template, record, split)
        if reading is not None:
            self._check_extent(reading, record, split)
        if mask is None:
            return
        self._read.append((text, mask.area))
        self._check_emptiness(reading, record, split, mask)
        if reading is not None:
            if len(reading.zones) == 1 and reading.extent == "unilateral":
                [side] = reading.zones
                self._check_side("caption side against mask", side, record, split, mask)
            self._check_count(reading, record, split, mask)
        elif not is_template_kind(text):  # a caption that lacks words says nothing of one side
            named = _paired_side(text)
            if named is not None:
                self._check_side("named side against mask", named, record, split, mask)

    def finished(self) -> list[Finding]:
        """List all findings, after the last row."""
        findings, told = [*self.findings], self._telling_word()
        if told is not None and told.tells:
            findings.append(finding("captions tell empty masks", "", "captions", str(told)))
        if len(self._wording) <= _OTHER_WORDING * self.rows:
            return [*findings, *self._wording]
        detail = f"{len(self._wording)} of {self.rows} captions are not worded by the template"
        return [*findings, finding("another wording", "", "captions", detail)]

    def _telling_word(self) -> TellingWord | None:
        return telling_word([text for text, _ in self._read], [area for _, area in self._read])

    # --- wording -------------------------------------------------------------------------------

    def _count_tokens(self, record: Record, split: str) -> None:
        if self.count_tokens is None:
            return
        text = normalize(record.text) if self.normalized else record.text
        if text not in self._tokens:
            self._tokens[text] = self.count_tokens(text)
        tokens = self._tokens[text]
        self.longest = max(self.longest, tokens)
        if tokens > self.max_tokens:
            detail = f"{tokens} tokens, max_tokens={self.max_tokens}: {text}"
            self._add("truncated caption", record, split, detail)

    def _check_wording(self, template: Template, record: Record, split: str) -> None:
        if keeps_template(record.text, template):
            return
        repair = repaired(record.text)
        kind = "caption beyond repair" if repair is None else "caption breaks the template"
        suggestion = None if repair is None else f"normalize_captions=true reads: {repair}"
        self._wording.append(finding(kind, split, record.case, record.text, suggestion=suggestion))

    def _check_extent(self, reading: Reading, record: Record, split: str) -> None:
        lungs = len(reading.zones)
        if lungs != {"bilateral": 2, "unilateral": 1, "none": 0}[reading.extent]:
            detail = f"{reading.extent}, but names {lungs} of the lungs: {record.text}"
            self._add("extent against lungs", record, split, detail)

    # --- against the mask ----------------------------------------------------------------------

    def _check_emptiness(
        self, reading: Reading | None, record: Record, split: str, mask: MaskFacts
    ) -> None:
        none = reading.count == 0 if reading else bool(_NOTHING.search(words_apart(record.text)))
        if not mask.area and not none and not mask.other_values:
            self._add("empty mask, caption names lesions", record, split, record.text)
        # "no" in free text may be about something else than the lesion.
        if mask.area and none and reading is not None:
            detail = f"{mask.area} pixels: {record.text}"
            self._add("mask, caption names no lesion", record, split, detail)

    def _check_side(
        self, kind: str, side: str, record: Record, split: str, mask: MaskFacts
    ) -> None:
        if mask.center is None:
            return
        there = mask.center < _MIDDLE if side == "left" else mask.center > _MIDDLE
        self.sides[side, there] += 1
        if not there:
            detail = f"{side}, but the centroid is at {mask.center:.2f} of the width: {record.text}"
            self._add(kind, record, split, detail)

    def _check_count(self, reading: Reading, record: Record, split: str, mask: MaskFacts) -> None:
        """Of captions and masks that both have lesions."""
        if not reading.count or not mask.components:
            return
        most = _MOST.get(self.template or "", mask.components)
        agrees = reading.count == min(mask.components, most)
        self.counts[agrees] += 1
        if not agrees:
            detail = f"{reading.count} named, {mask.components} 8-connected areas: {record.text}"
            self._add("caption count against mask", record, split, detail)

    def _add(self, kind: str, record: Record, split: str, detail: str) -> None:
        self.findings.append(finding(kind, split, record.case, detail))

    # --- facts ---------------------------------------------------------------------------------

    def facts(self) -> dict[str, object]:
        """Count how often words and masks agree, of those that were compared."""
        facts: dict[str, object] = {}
        for side in SIDES:
            there, elsewhere = self.sides[side, True], self.sides[side, False]
            if there + elsewhere:
                name = f"captions of one side, {side}: mask there"
                facts[name] = f"{there} of {there + elsewhere}"
        if self.counts.total():
            name = "captions whose count is that of the mask's areas"
            facts[name] = f"{self.counts[True]} of {self.counts.total()}"
        told = self._telling_word()
        if told is not None:
            facts["the word that best tells empty masks from others"] = str(told)
        facts["captions that are never mirrored"] = (
            f"{count_unmirrored(self.texts, self.language).rows} of {len(self.texts)}"
        )
        if self.count_tokens is not None:
            facts["tokens of the longest caption"] = self.longest
        return facts


def _paired_side(text: str) -> str | None:
    """The side of a free caption that names one alone, as that of a paired organ."""
    plain = words_apart(text)
    sides = {word.lower() for word in _SIDE.findall(plain)}
    paired = {match[0].lower() for match in _PAIRED.findall(plain)}
    return sides.pop() if len(sides) == 1 and sides == paired else None
