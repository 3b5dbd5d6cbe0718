"""A comparison as plain text, Markdown and LaTeX, all of the same `Section`s.

What a user named, a method, a case or a caption, may hold markup and is escaped like every cell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from textseg.compare.results import Comparison, Score
from textseg.metrics.scores import MAIN, SCORES
from textseg.metrics.text import (
    aligned,
    escape_markdown,
    interval_text,
    markdown_rows,
    one_line,
    with_interval,
)

WORST = 20  # cases in the list of failures
NOTES = (  # what the numbers mean
    "dice, miou: mean over images; dice_global, iou_global: pixels pooled over the test set",
    "dice_patient: mean over patients, pixels pooled within each; lesion_...: connected parts "
    "matched one to one, pooled; false_...: images without a lesion; hd95_penalized: a miss costs "
    "the image's diagonal",
    "± standard deviation over seeds; in brackets: 95% bootstrap interval over patients (over "
    "images where none is known) and seeds",
    "p, two-sided: of trainings and patients where a method has two seeds or more, below 0.05 "
    "exactly where the interval leaves out 0; of these two trainings where one run is compared "
    "with one, by a paired permutation test over patients; p (Holm): corrected for all p of the "
    "table",
    "size: thirds of this test set's lesions by their share of the image; number: connected "
    "parts of the truth; side: of the picture; no p-values, as so many tests would find "
    "something by chance",
)


class Section(NamedTuple):
    """A table: its title, the names of its columns, and its cells as unescaped text.

    `best` are row and column of the cells with the best value of several methods.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()


def plain_table(comparison: Comparison) -> str:
    """Write a comparison for a terminal: columns aligned, each cell on one line."""
    blocks = [_summary(comparison), *(f"warning: {text}" for text in comparison.warnings)]
    for section in sections(comparison)[:-1]:  # the failures, with captions, are for a file
        table = ([one_line(cell) for cell in row] for row in (section.head, *section.rows))
        blocks += ["", section.title, *aligned(table)]
    return "\n".join([*blocks, "", *NOTES])


def markdown_table(comparison: Comparison) -> str:
    """Write a comparison as a Markdown file with GitHub's tables."""
    lines = ["# Comparison", "", escape_markdown(_summary(comparison))]
    for text in comparison.warnings:
        lines += ["", f"> **Warning:** {escape_markdown(text)}"]
    for section in sections(comparison):
        lines += ["", f"## {escape_markdown(section.title)}", ""]
        lines += markdown_rows(section.head, section.rows)
    lines += ["", *(f"* {escape_markdown(note)}" for note in NOTES)]
    return "\n".join(lines) + "\n"


def latex_table(comparison: Comparison) -> str:
    """Write LaTeX tables for a document that loads the package booktabs."""
    lines = ["% needs \\usepackage{booktabs}"]
    for section in sections(comparison):
        last = "p{6cm}" if section.head[-1] == "caption" else "l"
        lines += [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{escape_latex(section.title)}. {escape_latex(_summary(comparison))}}}",
            f"\\begin{{tabular}}{{{'l' * (len(section.head) - 1)}{last}}}",
            "\\toprule",
            _latex_row(section.head),
            "\\midrule",
            *_latex_rows(section),
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    lines += [f"% {one_line(text)}" for text in [*comparison.warnings, *NOTES]]
    return "\n".join(lines) + "\n"


def sections(comparison: Comparison) -> list[Section]:
    """Tables of scores, differences, use of the words, strata, terms and the worst cases.

    Those of differences, words and terms only where there are any.
    """
    tables = [_scores(comparison), _further(comparison)]
    tables += [_differences(comparison)] if comparison.differences else []
    tables += [_words(comparison)] if comparison.words else []
    tables.append(_strata(comparison))
    tables += [_terms(comparison)] if comparison.terms else []
    return [*tables, _failures(comparison)]


def worst_cases(comparison: Comparison, count: int = WORST) -> list[int]:
    """Rank cases by Dice averaged over methods, the worst first; their positions."""
    return np.argsort(comparison.case_dice.mean(axis=0), kind="stable")[:count].tolist()


def _summary(comparison: Comparison) -> str:
    averaged = dict.fromkeys(method.averaging for method in comparison.methods)
    text = (
        f"{len(comparison.cases)} cases of {comparison.patients} patients, "
        f"captions: {', '.join(comparison.captions)}, baseline: {comparison.baseline}"
    )
    if any(averaged):
        text += f", at test time: {'; '.join(name or 'none' for name in averaged)}"
    return text


def _scores(comparison: Comparison) -> Section:
    rows = [
        (method.name, str(len(method.runs)), *(_score(method.scores[x], ".3f") for x in MAIN))
        for method in comparison.methods
    ]
    best = {
        (row, column)
        for column, name in enumerate(MAIN, start=2)
        for row in _best(comparison, name)
    }
    return Section("Scores", ("method", "seeds", *MAIN), tuple(rows), frozenset(best))


def _best(comparison: Comparison, name: str) -> list[int]:
    """Positions of the methods with the best value as it is shown; none of a single method."""
    sign = -1 if SCORES[name].less_is_better else 1
    values = [method.scores[name].value for method in comparison.methods]
    shown = [sign * float(f"{value:{SCORES[name].form}}") for value in values]
    known = [value for value in shown if not math.isnan(value)]
    if len(known) < 2 or min(known) == max(known):
        return []
    return [position for position, value in enumerate(shown) if value == max(known)]


def _further(comparison: Comparison) -> Section:
    """All scores but the main ones, a line for each."""
    found = [method.scores for method in comparison.methods]
    names = [name for name in found[0] if name not in MAIN]
    rows = [
        (name, *(_score(scores[name], SCORES[name].form) for scores in found)) for name in names
    ]
    best = {(row, 1 + n) for row, name in enumerate(names) for n in _best(comparison, name)}
    head = ("score", *(method.name for method in comparison.methods))
    return Section("Further scores", head, tuple(rows), frozenset(best))


def _score(score: Score, form: str) -> str:
    if math.isnan(score.value):
        return "-"
    spread = "" if math.isnan(score.std) else f" ± {score.std:{form}}"
    return f"{score.value:{form}}{spread}{interval_text(score.low, score.high, form)}"


def _differences(comparison: Comparison) -> Section:
    rows = [
        (
            one.method,
            one.score,
            with_interval(one.value, one.low, one.high, f"+{SCORES[one.score].form}"),
            _p(one.p),
            _p(one.p_holm),
            "" if math.isnan(one.p) else one.p_is_of,
        )
        for one in comparison.differences
        if not math.isnan(one.value)
    ]
    head = ("method", "score", "difference [95% interval]", "p", "p (Holm)", "p of")
    return Section(f"Differences from {comparison.baseline}", head, tuple(rows))


def _words(comparison: Comparison) -> Section:
    rows = [
        (
            one.method,
            one.captions,
            f"{one.dice:.3f}",
            with_interval(one.gain, one.low, one.high, "+.3f"),
        )
        for one in comparison.words
    ]
    head = ("method", "captions", "dice", "gain of the true ones [95% interval]")
    return Section("Use of the words", head, tuple(rows))


def _terms(comparison: Comparison) -> Section:
    rows = [(name, *values) for name, values in comparison.terms.items()]
    head = ("term", *(method.name for method in comparison.methods))
    return Section("What else differs between the methods", head, tuple(rows))


def _p(value: float) -> str:
    if math.isnan(value):
        return ""
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _strata(comparison: Comparison) -> Section:
    head = ("by", "class", "cases", "patients", "method", "dice")
    gap = f"difference from {comparison.baseline} [95% interval]"
    rows = [
        (
            *(one.grouping, one.name, str(one.cases), str(one.patients), one.method),
            *(f"{one.dice:.3f}", with_interval(one.difference, one.low, one.high, "+.3f")),
        )
        for one in comparison.strata
    ]
    title = "Dice by size, number and side of the true lesions"
    title += f", and by {', '.join(comparison.own_strata)}" * bool(comparison.own_strata)
    return Section(title, (*head, gap), tuple(rows))


def _failures(comparison: Comparison) -> Section:
    names = [method.name for method in comparison.methods]
    rows = []
    for position in worst_cases(comparison):
        case = comparison.cases[position]
        values = [f"{value:.3f}" for value in comparison.case_dice[:, position]]
        rows.append((case.case, str(case.true), *values, case.caption))
    head = ("case", "true pixels", *(f"dice of {name}" for name in names), "caption")
    return Section(f"The {len(rows)} cases with the least Dice", head, tuple(rows))


_MINUS = re.compile(r"(?:^|(?<=[} ]))-(?=\d)")  # of a number, not of a name; [ is {[} by then
_LATEX = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "±": "$\\pm$",
    "[": "{[}",  # after a \\ it would be an option of the line break
    "*": "{*}",  # likewise
    '"': "\\symbol{34}",  # babel gives it meanings
    **{character: f"\\{character}" for character in "{}#$%&_"},
}


def escape_latex(text: str) -> str:
    """Escape text so that LaTeX (of 2020 or later) runs nothing of it."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + " \\\\"


def _latex_rows(section: Section) -> list[str]:
    """Rows of cells: the best bold, and a minus before a number a minus, not a hyphen."""
    lines = []
    for number, row in enumerate(section.rows):
        cells = [_MINUS.sub("$-$", escape_latex(cell)) for cell in row]
        bold = {column for one, column in section.best if one == number}
        cells = [f"\\textbf{{{x}}}" if n in bold else x for n, x in enumerate(cells)]
        lines.append(" & ".join(cells) + " \\\\")
    return lines
