"""A comparison as plain text, Markdown and LaTeX. Names and captions show as they are written.

The three are renderings of the same `Section`s. What a user named, a method, a case or a caption,
may hold markup of any of them, and is escaped like every other cell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from textseg.compare.results import Comparison, Difference, Score, StratumDice
from textseg.compare.statistics import SCORES

WORST = 20  # cases in the list of failures


class Section(NamedTuple):
    """A table: what it is of, the names of its columns, and its cells as unescaped text."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def plain_table(comparison: Comparison) -> str:
    """For a terminal: columns aligned, nothing escaped but line breaks."""
    blocks = [_summary(comparison), *(f"warning: {text}" for text in comparison.warnings)]
    for section in sections(comparison)[:-1]:  # the failures, with captions, are for a file
        table = [section.head, *section.rows]
        widths = [max(len(one_line(row[i])) for row in table) for i in range(len(section.head))]
        lines = [
            "  ".join(one_line(c).ljust(w) for c, w in zip(r, widths, strict=True)) for r in table
        ]
        blocks += ["", section.title, *(line.rstrip() for line in lines)]
    return "\n".join([*blocks, "", *_notes(comparison)])


def markdown_table(comparison: Comparison) -> str:
    """A Markdown file (GitHub's tables)."""
    lines = ["# Comparison", "", escape_markdown(_summary(comparison))]
    for text in comparison.warnings:
        lines += ["", f"> **Warning:** {escape_markdown(text)}"]
    for section in sections(comparison):
        lines += ["", f"## {escape_markdown(section.title)}", ""]
        lines += [_markdown_row(section.head), "|" + " --- |" * len(section.head)]
        lines += [_markdown_row(row) for row in section.rows]
    lines += ["", *(f"* {escape_markdown(note)}" for note in _notes(comparison))]
    return "\n".join(lines) + "\n"


def latex_table(comparison: Comparison) -> str:
    """LaTeX tables to be input into a document that loads the package booktabs."""
    lines = ["% needs \\usepackage{booktabs}"]
    found = sections(comparison)
    foreign = untypeset([_summary(comparison), *(_text_of(section) for section in found)])
    if foreign:
        lines.append(f"% pdflatex cannot typeset {foreign}: take lualatex, and a font that has it")
    for section in found:
        last = "p{6cm}" if section.head[-1] == "caption" else "l"
        lines += [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{escape_latex(section.title)}. {escape_latex(_summary(comparison))}}}",
            f"\\begin{{tabular}}{{{'l' * (len(section.head) - 1)}{last}}}",
            "\\toprule",
            _latex_row(section.head),
            "\\midrule",
            *(_latex_row(row) for row in section.rows),
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    lines += [f"% {one_line(text)}" for text in [*comparison.warnings, *_notes(comparison)]]
    return "\n".join(lines) + "\n"


# --- what they say -----------------------------------------------------------------------------


def sections(comparison: Comparison) -> list[Section]:
    """Scores, differences (where there are two methods), strata, the cases that failed most."""
    found = [_scores(comparison)]
    if comparison.differences:
        found.append(_differences(comparison))
    return [*found, _strata(comparison), _failures(comparison)]


def worst_cases(comparison: Comparison, count: int = WORST) -> list[int]:
    """Positions of the cases with the least Dice, averaged over methods; the worst first."""
    return np.argsort(comparison.case_dice.mean(axis=0), kind="stable")[:count].tolist()


def _summary(comparison: Comparison) -> str:
    return (
        f"{len(comparison.cases)} cases of {comparison.patients} patients, "
        f"captions: {', '.join(comparison.captions)}, baseline: {comparison.baseline}"
    )


def _notes(comparison: Comparison) -> list[str]:
    return [
        "dice, miou: mean over images; dice_global, iou_global: pixels pooled over the test set",
        "± standard deviation over seeds; in brackets: 95% bootstrap interval over patients (over "
        "images where none is known) and seeds",
        "p: paired permutation test over patients of these very runs, two-sided; p (Holm): "
        "corrected for the number of methods compared with the baseline, each score by itself",
        "size: thirds of this test set's lesions by their share of the image; number: connected "
        "parts of the truth; side: of the picture; no p-values, as so many tests would find "
        "something by chance",
    ]


def _scores(comparison: Comparison) -> Section:
    rows = [
        (method.name, str(len(method.runs)), *(_score(method.scores[name]) for name in SCORES))
        for method in comparison.methods
    ]
    return Section("Scores", ("method", "seeds", *SCORES), tuple(rows))


def _score(score: Score) -> str:
    spread = "" if math.isnan(score.std) else f" ± {score.std:.3f}"
    return f"{score.value:.3f}{spread}{_interval(score.low, score.high, '.3f')}"


def _interval(low: float, high: float, form: str) -> str:
    return "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"


def _differences(comparison: Comparison) -> Section:
    rows = [_difference(difference) for difference in comparison.differences]
    head = ("method", "score", "difference [95% interval]", "p", "p (Holm)")
    return Section(f"Differences from {comparison.baseline}", head, tuple(rows))


def _difference(one: Difference) -> tuple[str, ...]:
    value = f"{one.value:+.3f}{_interval(one.low, one.high, '+.3f')}"
    return one.method, one.score, value, _p(one.p), _p(one.p_holm)


def _strata(comparison: Comparison) -> Section:
    rows = [_stratum(stratum) for stratum in comparison.strata]
    head = ("lesions by", "class", "cases", "patients", "method", "dice")
    gap = f"difference from {comparison.baseline} [95% interval]"
    return Section("Dice by size, number and side of the true lesions", (*head, gap), tuple(rows))


def _stratum(one: StratumDice) -> tuple[str, ...]:
    gap = "" if math.isnan(one.difference) else f"{one.difference:+.3f}"
    gap += _interval(one.low, one.high, "+.3f")
    counts = str(one.cases), str(one.patients)
    return one.grouping, one.name, *counts, one.method, f"{one.dice:.3f}", gap


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _failures(comparison: Comparison) -> Section:
    names = [method.name for method in comparison.methods]
    rows = []
    for position in worst_cases(comparison):
        case = comparison.cases[position]
        values = [f"{value:.3f}" for value in comparison.case_dice[:, position]]
        rows.append((case.name, str(case.true), *values, case.caption))
    head = ("case", "true pixels", *(f"dice of {name}" for name in names), "caption")
    return Section(f"The {len(rows)} cases with the least Dice", head, tuple(rows))


# --- escaping ----------------------------------------------------------------------------------

_TYPED_BY_PDFLATEX = "\u2013\u2014\u2018\u2019\u201c\u201d\u2026"  # dashes, quotes, ellipsis
_LAST_LATIN = "\u017f"  # letters with accents, up to here
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LATEX = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "`": "\\textasciigrave{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "±": "$\\pm$",
    "[": "{[}",  # after a \\ it would be an option of the line break
    "*": "{*}",  # likewise
    "-": "{-}",  # two of them would become a dash
    ",": "{,}",  # two of them a German opening quote, in T1
    '"': "\\symbol{34}",  # babel gives it meanings, and OT1 has none upright
    "'": "\\textquotesingle{}",
    "\u00d7": "$\\times$",
    "\u00b5": "$\\mu$",
    "°": "\\textdegree{}",
    **{character: f"\\{character}" for character in "{}#$%&_"},
}


def one_line(text: str) -> str:
    """One line without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def escape_markdown(text: str) -> str:
    """Text that Markdown and the HTML in it show as it is written."""
    # GitHub also makes links of addresses, www. and @names, and pictures of :words:.
    marks = r"[\\`*_\[\]|~#$@]|:(?=\S)|(?<=www)\."
    escaped = re.sub(marks, r"\\\g<0>", one_line(text), flags=re.IGNORECASE)
    return re.sub("[&<>]", lambda found: _ENTITIES[found[0]], escaped)


def escape_latex(text: str) -> str:
    """Text that LaTeX (of 2020 or later) shows as it is written, and runs nothing of."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def untypeset(texts: Sequence[str]) -> str:
    """The characters that pdflatex has no glyph for: Greek, Chinese, most signs; "" if none."""
    known = set(_TYPED_BY_PDFLATEX)
    return "".join(sorted({c for c in one_line("".join(texts)) if c > _LAST_LATIN} - known))


def _text_of(section: Section) -> str:
    return "".join(cell for row in (section.head, *section.rows) for cell in row)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escape_markdown(cell) for cell in cells) + " |"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + " \\\\"
