"""A probing as plain text, Markdown and CSV. Captions show as they are written."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from textseg.compare.tables import escape_markdown, one_line
from textseg.probe.masks import ProbedCase, Variants
from textseg.probe.results import ProbeResult, Score, VariantResult, case_dice, case_moved

_HEAD = (
    *("captions", "cases", "dice", "dice, true words", "difference", "moved"),
    "masks changed",
)


def plain_table(probing: ProbeResult) -> str:
    """For a terminal: columns aligned, nothing escaped but line breaks."""
    table = [_HEAD, *(_cells(variant) for variant in probing.variants)]
    widths = [max(len(row[i]) for row in table) for i in range(len(_HEAD))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in table]
    warned = [f"warning: {text}" for text in probing.warnings]
    blocks = [_summary(probing), *warned, "", *(line.rstrip() for line in lines), ""]
    return "\n".join(one_line(b) if b in warned else b for b in [*blocks, *_notes(probing)])


def markdown_table(
    probing: ProbeResult, cases: Mapping[int, ProbedCase], variants: Variants
) -> str:
    """A Markdown file: the table, what it means, and one caption for each change."""
    lines = ["# How the network uses its text", "", escape_markdown(_summary(probing))]
    for text in probing.warnings:
        lines += ["", f"> **Warning:** {escape_markdown(text)}"]
    lines += ["", *_markdown(_HEAD, [_cells(variant) for variant in probing.variants])]
    lines += ["", *(f"* {escape_markdown(note)}" for note in _notes(probing))]
    examples = []
    for variant in probing.variants:
        for index in sorted(cases):
            if variant.name in cases[index].measured:
                given = variants[variant.name][index] or "(empty caption)"
                examples.append((variant.name, str(variants["true"][index]), given))
                break
    lines += ["", "## The first caption of each change", ""]
    lines += _markdown(("captions", "true", "given"), examples)
    return "\n".join(lines) + "\n"


def write_cases(
    path: Path, probing: ProbeResult, cases: Mapping[int, ProbedCase], variants: Variants
) -> None:
    """One row for each case and variant: case, case_id, variant, text, dice, moved."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "case_id", "variant", "text", "dice", "moved"])
        for index in sorted(cases):
            case = cases[index]
            for variant in probing.variants:
                name = variant.name
                if name in case.measured:
                    scores = (float(f([case], name)[0]) for f in (case_dice, case_moved))
                    writer.writerow([case.case, case.case_id, name, variants[name][index], *scores])


def _summary(probing: ProbeResult) -> str:
    return (
        f"{probing.network} on {probing.data}: {probing.cases} cases of {probing.patients} patients"
    )


def _cells(variant: VariantResult) -> tuple[str, ...]:
    return (
        variant.name,
        str(variant.cases),
        _said(variant.dice),
        _said(variant.dice_true),
        _said(variant.difference, "+.3f"),
        _said(variant.moved),
        "" if math.isnan(variant.changed) else f"{100 * variant.changed:.0f}%",
    )


def _said(score: Score, form: str = ".3f") -> str:
    if math.isnan(score.value):
        return ""
    interval = "" if math.isnan(score.low) else f" [{score.low:{form}}, {score.high:{form}}]"
    return f"{score.value:{form}}{interval}"


def _notes(probing: ProbeResult) -> list[str]:
    notes = []
    if probing.pairs is not None:
        found = probing.pairs
        notes.append(
            f"two expressions of one image ({found.pairs} pairs, {found.images} images, "
            f"{found.patients} patients): swapping them swaps the masks in "
            f"{_said(found.followed)} of the pairs; Dice with the own truth {_said(found.own)}, "
            f"with the other's {_said(found.other)}"
        )
    if probing.crossing is not None:
        notes.append(
            f"sides swapped: of {probing.crossing.cases} masks that lay in one half of "
            f"the picture, {_said(probing.crossing.share)} went to the other half"
        )
    return [
        *notes,
        "dice: mean over images, against the truth; difference: to the same cases with true words",
        "moved: mean of 1 - Dice(mask with true words, mask with these); 0: not a pixel moved; "
        "masks changed: cases in which at least one pixel did",
        "in brackets: 95% bootstrap interval over patients (over images where none is known)",
        "word_removed: all words of one class left out; only captions that have such words count",
        "the truth is that of the true words throughout: a network that follows changed words "
        "scores a lower dice",
    ]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, *rows]
    cells = ["| " + " | ".join(escape_markdown(cell) for cell in line) + " |" for line in lines]
    return [cells[0], "|" + " --- |" * len(head), *cells[1:]]
