"""The result of a probe as plain text, Markdown and CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from textseg.metrics.bootstrap import Estimate
from textseg.metrics.text import (
    aligned,
    averaging_text,
    escape_markdown,
    markdown_rows,
    one_line,
    with_interval,
)
from textseg.probe.masks import TRUE, ProbedCase, Variants
from textseg.probe.results import ProbeResult, VariantResult, case_dice, case_mask_change

_HEAD = (
    *("captions", "cases", "dice", "dice, true words", "difference", "mask change"),
    "masks changed",
)
NOTES = (  # what the numbers mean
    "dice: mean over images, against the truth; difference: to the same cases with true words",
    "mask change: mean of 1 - Dice(mask with true words, mask with these); 0: not a pixel "
    "differs; masks changed: cases in which at least one pixel does",
    "in brackets: 95% bootstrap interval over patients (over images where none is known)",
    "word_removed: all words of one class left out; only captions that have such words count",
    "the truth is that of the true words throughout: a network that follows changed words "
    "scores a lower dice",
)


def plain_table(result: ProbeResult) -> str:
    """Write the result for a terminal: columns aligned, nothing escaped but line breaks."""
    lines = aligned([_HEAD, *(_cells(variant) for variant in result.variants)])
    warnings = (one_line(f"warning: {text}") for text in result.warnings)
    return "\n".join([_summary(result), *warnings, "", *lines, "", *_notes(result)])


def markdown_table(result: ProbeResult, cases: Mapping[int, ProbedCase], variants: Variants) -> str:
    """Write the result as a Markdown file: the table, its meaning, one caption for each change."""
    lines = ["# How the network uses its text", "", escape_markdown(_summary(result))]
    for text in result.warnings:
        lines += ["", f"> **Warning:** {escape_markdown(text)}"]
    lines += ["", *markdown_rows(_HEAD, [_cells(variant) for variant in result.variants])]
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
    """Write probe.csv: one row for each case and variant."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "case_id", "variant", "text", "dice", "mask_change"])
        for index, case in cases.items():
            for name in filter(case.measured.__contains__, variants):
                scores = (float(f([case], name)[0]) for f in (case_dice, case_mask_change))
                writer.writerow([case.case, case.case_id, name, variants[name][index], *scores])


def _summary(result: ProbeResult) -> str:
    averaged = averaging_text({"tta": result.tta, "ensemble": result.ensemble})
    of = f"{result.cases} cases of {result.patients} patients"
    return f"{result.network} on {result.data}: {of}" + (f", {averaged}" if averaged else "")


def _cells(variant: VariantResult) -> tuple[str, ...]:
    return (
        variant.name,
        str(variant.cases),
        _estimate(variant.dice),
        _estimate(variant.dice_true),
        _estimate(variant.difference, "+.3f"),
        _estimate(variant.mask_change),
        "" if math.isnan(variant.share_changed) else f"{100 * variant.share_changed:.0f}%",
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
    return [*notes, *NOTES]
