"""The result of a probe as plain text, Markdown and CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from textseg.batch import ABSENT
from textseg.metrics.bootstrap import Estimate
from textseg.metrics.text import (
    aligned,
    averaging_text,
    coverage_text,
    escape_markdown,
    markdown_rows,
    one_line,
    with_interval,
)
from textseg.output import whole_text
from textseg.probe.masks import TRUE, ProbedCase, Variants
from textseg.probe.results import (
    Absent,
    ProbeResult,
    VariantResult,
    case_dice,
    case_mask_change,
)
from textseg.tables import spreadsheet_cell

_HEAD = (
    *("captions", "cases", "dice", "dice, true words", "difference", "mask change"),
    "masks changed",
)
_ABSENT_HEAD = ("asked for, though absent", "requests", "something outlined", "area", "area, true")
NOTES = (  # what the numbers mean
    "cases: those whose caption could be changed so, of all; dice: mean over images, against the "
    "truth; difference: to the same cases with true words",
    "mask change: mean of 1 - Dice(mask with true words, mask with these); 0: not a pixel "
    "differs; masks changed: cases in which at least one pixel does",
    "in brackets: 95% interval over patients (over images where none is known), of means by "
    "bootstrap, of shares Wilson's on the effective number of patients",
    "word_removed: all words of one class left out; only captions that have such words count; "
    "altered: captions that the dataset itself offers",
    "the truth is that of the true words throughout: a network that follows changed words "
    "scores a lower dice",
)
ABSENT_NOTES = (
    "absent: another organ, the other side, a lesion where the image has none, random letters; a "
    "network that reads its words outlines nothing. all: the one number to compare with other "
    "networks, probed on the same test set with the same seed",
    "area: mean share of the image that is outlined; area, true: the same with true words",
)


def plain_table(result: ProbeResult) -> str:
    """Write the result for a terminal: columns aligned, nothing escaped but line breaks."""
    lines = aligned([_HEAD, *(_cells(variant, result.cases) for variant in result.variants)])
    warnings = (one_line(f"warning: {text}") for text in result.warnings)
    requests = _absent_rows(result)
    lines += ["", *aligned([_ABSENT_HEAD, *requests])] if requests else []
    return "\n".join([_summary(result), *warnings, "", *lines, "", *_notes(result)])


def markdown_table(result: ProbeResult, cases: Mapping[int, ProbedCase], variants: Variants) -> str:
    """Write the result as a Markdown file: the table, its meaning, one caption for each change."""
    lines = ["# How the network uses its text", "", escape_markdown(_summary(result))]
    for text in result.warnings:
        lines += ["", f"> **Warning:** {escape_markdown(text)}"]
    rows = [_cells(variant, result.cases) for variant in result.variants]
    lines += ["", *markdown_rows(_HEAD, rows)]
    requests = _absent_rows(result)
    lines += ["", *markdown_rows(_ABSENT_HEAD, requests)] if requests else []
    lines += ["", *(f"* {escape_markdown(note)}" for note in _notes(result))]
    examples = []
    for name, texts in variants.items():
        index = next((i for i, case in cases.items() if name in case.measured), None)
        if index is not None:
            text = texts[index] or "(empty caption)"
            examples.append((name, str(variants[TRUE][index]), text))
    lines += ["", "## The first caption of each change", ""]
    lines += markdown_rows(("captions", "true", "given"), examples)
    return "\n".join(lines) + "\n"


def write_cases(path: Path, cases: Mapping[int, ProbedCase], variants: Variants) -> None:
    """Write probe.csv: one row for each case and variant.

    The truth of a request for something absent is nothing, so it has neither dice nor mask_change.
    """
    columns = ["case", "case_id", "variant", "text", "dice", "mask_change", "predicted", "pixels"]
    with whole_text(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for index, case in cases.items():
            for name in filter(case.measured.__contains__, variants):
                scores: tuple[float | str, ...] = ("", "")
                if not name.startswith(ABSENT):
                    scores = tuple(float(f([case], name)[0]) for f in (case_dice, case_mask_change))
                areas = case.measured[name].predicted, case.pixels
                text = variants[name][index]
                texts = map(spreadsheet_cell, (case.case, case.case_id, name, text))
                writer.writerow([*texts, *scores, *areas])


def _summary(result: ProbeResult) -> str:
    averaged = averaging_text(result.averaging())
    of = f"{result.cases} cases of {result.patients} patients"
    return f"{result.network} on {result.data}: {of}" + (f", {averaged}" if averaged else "")


def _cells(variant: VariantResult, total: int) -> tuple[str, ...]:
    return (
        variant.name,
        coverage_text(variant.cases, total, variant.same),
        _estimate(variant.dice),
        _estimate(variant.dice_true),
        _estimate(variant.difference, "+.3f"),
        _estimate(variant.mask_change),
        _estimate(variant.share_changed, ".0%"),
    )


def _absent_rows(result: ProbeResult) -> list[tuple[str, ...]]:
    """A line for each kind of request, and one for all; none where nothing was asked for."""
    if result.absent is None:
        return []
    kinds = [(name, kind, result.cases) for name, kind in result.absent_kinds.items()]
    return [
        *(_absent_cells(name, kind, f"{kind.requests} of {total}") for name, kind, total in kinds),
        _absent_cells("all", result.absent, str(result.absent.requests)),
    ]


def _absent_cells(name: str, kind: Absent, requests: str) -> tuple[str, ...]:
    return (
        name,
        requests,
        _estimate(kind.outlined),
        _estimate(kind.area, ".1%"),
        _estimate(kind.area_true, ".1%"),
    )


def _estimate(score: Estimate, form: str = ".3f") -> str:
    return with_interval(score.value, score.low, score.high, form)


def _notes(result: ProbeResult) -> list[str]:
    notes = []
    if result.pairs is not None:
        pairs = result.pairs
        notes.append(
            f"two expressions of one image ({pairs.pairs} pairs, {pairs.images} images, "
            f"{pairs.patients} patients): swapping them swaps the masks in "
            f"{_estimate(pairs.followed)} of the pairs; Dice with the own truth "
            f"{_estimate(pairs.own)}, with the other's {_estimate(pairs.other)}"
        )
    if result.side_swap is not None:
        notes.append(
            f"sides swapped: of {result.side_swap.cases} masks that lay in one half of "
            f"the picture, {_estimate(result.side_swap.share)} went to the other half"
        )
    return [*notes, *NOTES, *(ABSENT_NOTES if result.absent is not None else ())]
