"""Rows of the page that the folder at hand has not tested: the page keeps what it says of them.

A campaign takes days; its folder may be on a machine that is gone when the next rows are run on
another. What was measured stays, marked as of another folder. Cases of such rows are not at
hand, so that rows of two folders stand side by side but are not compared pair by pair.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from campaign.cells import main_test, table
from campaign.headings import (
    CALIBRATION,
    COMPARISON,
    COST,
    DIFFERENCES,
    LEFT,
    LESIONS,
    PROBE,
    SAID,
    SCORES,
    SPEED,
    WORDS,
    Parts,
)
from campaign.settings import Campaign, Row

BY_ROW = (SCORES, WORDS, LESIONS, CALIBRATION, COST, SPEED)
WORST = re.compile(r"The \d+ worst test images of (.+)")
ELSEWHERE = "* Of another folder, whose images' scores are not at hand: "
COUNT = re.compile(r" \(\d+ images\)$")


@dataclass(frozen=True)
class Table:
    """A Markdown table, rows by their first cell, and the lines below it."""

    head: list[str] = field(default_factory=list)
    rows: dict[str, list[str]] = field(default_factory=dict)
    below: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, lines: Sequence[str]) -> Table:
        """The table that `lines` begin with; empty where they begin with none."""
        own = [line for line in lines if line.startswith("|")]
        if not own:
            return cls(below=list(lines))
        head, _, *rows = [[one.strip() for one in line[1:-1].split("|")] for line in own]
        below = [line for line in lines if not line.startswith("|")]
        return cls(head, {row[0]: row for row in rows}, below)

    def cell(self, row: str, column: str) -> str:
        """A cell; empty where there is no such row or column."""
        cells = dict(zip(self.head, self.rows.get(row, []), strict=False))
        return cells.get(column, "")

    def lines(self) -> list[str]:
        """As Markdown, what is below included."""
        return [*(table(self.head, list(self.rows.values())) if self.rows else []), *self.below]


def read_parts(text: str) -> Parts:
    """What a page says of a campaign, `text` being all between its markers, without pictures."""
    parts: Parts = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("### "):
            heading = line.removeprefix("### ")
        elif not line.startswith(("![", "## ")):
            parts.setdefault(heading, []).append(line)
    return {name: _stripped(lines) for name, lines in parts.items()}


def kept_titles(campaign: Campaign, rows: Sequence[Row], old: Parts) -> list[str]:
    """Rows that the page has a dice of, and this folder no test."""
    here = {campaign.title_of(row) for row in rows if main_test(campaign, row)}
    return [title for title in scored(old) if title not in here]


def scored(parts: Parts) -> list[str]:
    """Rows with a dice."""
    scores = Table.read(parts.get(SCORES, []))
    return [title for title in scores.rows if scores.cell(title, "dice")]


def keep(
    campaign: Campaign, rows: Sequence[Row], new: Parts, old: Parts, titles: Sequence[str]
) -> Parts:
    """The parts of the page: of this folder, and of `titles` as the page has them."""
    order = [*dict.fromkeys([*map(campaign.title_of, rows), *titles])]
    found = {"": [*new[""], "", *_makers(old.get("", []), titles)]}
    for name in (*BY_ROW, PROBE):
        merge = _columns if name == PROBE else _rows
        before, now = Table.read(old.get(name, [])), Table.read(new.get(name, []))
        found[name] = merge(now, before, titles, order).lines()
    found[DIFFERENCES] = [*_comparisons(old.get(DIFFERENCES, []), titles)]
    found[DIFFERENCES] = _stripped([*found[DIFFERENCES], *new.get(DIFFERENCES, [])])
    found[SAID] = _said(new.get(SAID, []), old.get(SAID, []), titles, [*order, COMPARISON])
    found[LEFT] = _left(new.get(LEFT, []), old.get(LEFT, []), titles)
    found |= _worst(new, old, titles)
    return {name: found.get(name, new.get(name, [])) for name in dict.fromkeys([*new, *found])}


def kept_scores(parts: Parts, titles: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Dice, its interval, GFLOPs and CPU hours of kept rows; None for what the page lacks."""
    scores, costs = Table.read(parts.get(SCORES, [])), Table.read(parts.get(COST, []))
    found = {}
    for title in titles:
        values = [float(one) for one in re.findall(r"\d+\.\d+", scores.cell(title, "dice"))]
        cells = {"gflops": costs.cell(title, "GFLOPs"), "cpu_hours": costs.cell(title, "CPU hours")}
        numbers = {name: float(cell) if cell else None for name, cell in cells.items()}
        if values:  # else a dash, as where no image has a lesion
            ends = (values[1], values[2]) if len(values) == 3 else None
            found[title] = {"dice": values[0], "interval": ends, **numbers}
    return found


def separate(lines: Sequence[str]) -> list[list[str]]:
    """Tables below one heading, which empty lines part."""
    return [part.splitlines() for part in re.split(r"\n{2,}", "\n".join(lines))]


def _rows(new: Table, old: Table, titles: Sequence[str], order: Sequence[str]) -> Table:
    """Kept rows in their places; columns by name."""
    head = old.head if set(new.head) <= set(old.head) else new.head
    both = {title: [new.cell(title, name) for name in head] for title in new.rows}
    both |= {t: [old.cell(t, name) for name in head] for t in titles if t in old.rows}
    tested = any(any(new.rows[title][1:]) for title in new.rows)
    below = new.below if tested or not old.below else old.below
    return Table(head, {title: both[title] for title in order if title in both}, below)


def _columns(new: Table, old: Table, titles: Sequence[str], order: Sequence[str]) -> Table:
    """Kept columns in their places; a change of the words is known without its count of images."""
    first = (new.head or old.head)[:1]
    by_change: list[dict[str, str]] = []
    for one in (new, old):
        by_change.append({COUNT.sub("", label): label for label in one.rows})
    labels = {key: by_change[0].get(key) or by_change[1][key] for of in by_change for key in of}
    names = [t for t in order if t in new.head or (t in titles and t in old.head)]
    rows = {}
    for key, label in sorted(labels.items(), key=lambda pair: not pair[0].startswith("dice, ")):
        cells = []
        for name in names:
            of, known = (old, by_change[1]) if name in titles else (new, by_change[0])
            cells.append(of.cell(known.get(key, ""), name))
        rows[label] = [label, *cells]
    return Table([*first, *names], rows, new.below if new.rows else old.below)


def _comparisons(old: Sequence[str], titles: Sequence[str]) -> list[str]:
    """Earlier tables of differences with a row that is kept, each with an empty line below it."""
    found: list[str] = []
    for lines in separate(old):
        if any(title in titles for title in Table.read(lines).rows):
            found += [*lines, ""]
    return found


def _makers(old: Sequence[str], titles: Sequence[str]) -> list[str]:
    """By whom kept rows were made: a line for each folder."""
    found, rest = [], set(titles)
    for line in (one for one in old if one.startswith(ELSEWHERE)):
        names, _, how = line.removeprefix(ELSEWHERE).partition(" (made by: ")
        own = [name for name in names.split("; ") if name in rest]
        rest -= set(own)
        found += [f"{ELSEWHERE}{'; '.join(own)} (made by: {how}"] if own else []
    if rest:
        how = next((one for one in old if one and not one.startswith(ELSEWHERE)), "not noted")
        how = re.sub(r"^`[^`]*`,? ?", "", how).rstrip(".")
        own = [title for title in titles if title in rest]
        found.append(f"{ELSEWHERE}{'; '.join(own)} (made by: {how})")
    return found


def _said(
    new: Sequence[str], old: Sequence[str], titles: Sequence[str], order: Sequence[str]
) -> list[str]:
    """What commands warn of, each once; of the page's own what is of kept rows."""
    one = "|".join(map(re.escape, sorted(order, key=len, reverse=True)))
    form = re.compile(rf"(.*) \(((?:{one})(?:, (?:{one}))*)\)")
    found: dict[str, set[str]] = {}
    of_kept = [line for line in old if _names(line, titles)]
    for lines, known in ((new, {*order}), (of_kept, {*titles, COMPARISON})):
        for line in lines:
            match = form.fullmatch(line)
            text, names = match.groups() if match else (line, "")
            found.setdefault(text, set()).update({*re.findall(one, names)} & known)
    named = {text: ", ".join(n for n in order if n in names) for text, names in found.items()}
    return [f"{text} ({names})" if names else text for text, names in named.items()]


def _left(new: Sequence[str], old: Sequence[str], titles: Sequence[str]) -> list[str]:
    """What is left to do, kept rows being done but for what the page says is left of them."""
    found = []
    for line in new:
        title, _, tasks = line.removeprefix("* ").partition(": ")
        if title == "not trained":
            names = [one for one in tasks.split("; ") if one not in titles]
            found += [f"* {title}: {'; '.join(names)}"] * bool(names)
        elif title not in titles:
            found.append(line)
    of_kept = [one for one in old if one.removeprefix("* ").partition(": ")[0] in titles]
    return of_kept + found


def _worst(new: Parts, old: Parts, titles: Sequence[str]) -> Parts:
    """The failures of the best network by val/dice; that of the other folder goes."""
    sections = {}
    for parts in (new, old):
        for name, lines in parts.items():
            match = WORST.fullmatch(name)
            if match and (parts is new or match[1] in titles):
                value = Table.read(parts[SCORES]).cell(match[1], "val/dice").split()
                sections[name] = (float(value[0]) if value else 0.0, lines)
    best = max(sections, key=lambda name: sections[name][0], default=None)
    return {name: lines if name == best else [] for name, (_, lines) in sections.items()}


def _names(line: str, titles: Iterable[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(title)}(?!\w)", line) for title in titles)


def _stripped(lines: Sequence[str]) -> list[str]:
    return "\n".join(lines).strip("\n").splitlines()
