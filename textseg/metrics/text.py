"""Scores as text: numbers with intervals, aligned tables, Markdown, and JSON without NaN."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from textseg.metrics.scores import SCORES, THRESHOLDS

_STRATA = {"size": "lesion size", "number": "lesions", "side": "side of the picture"}
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def to_json(values: Any) -> str:
    """Indented JSON with null for NaN and infinities, which JSON does not know."""
    return json.dumps(_without_nan(values), indent=2, allow_nan=False) + "\n"


def _without_nan(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _without_nan(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_without_nan(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def interval_text(low: float | None, high: float | None, form: str = ".3f") -> str:
    """` [low, high]`, or nothing where the interval is undefined (NaN or None)."""
    if low is None or high is None or math.isnan(low):
        return ""
    return f" [{low:{form}}, {high:{form}}]"


def with_interval(value: float, low: float | None, high: float | None, form: str = ".3f") -> str:
    """A score such as `0.710 [0.602, 0.803]`, without what is undefined."""
    return "" if math.isnan(value) else f"{value:{form}}{interval_text(low, high, form)}"


def aligned(lines: Iterable[Sequence[str]], *, right: bool = False) -> list[str]:
    """Lines of cells as lines of text with aligned columns; `right` aligns all but the first."""
    table = [list(line) for line in lines]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if right and column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]


def one_line(text: str) -> str:
    """Text on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def escape_markdown(text: str) -> str:
    """Escape text so that Markdown, with HTML and GitHub's links in it, shows it as written."""
    # GitHub also makes links of addresses, www. and @names, and pictures of :words:.
    marks = r"[\\`*_\[\]|~#$@]|:(?=\S)|(?<=www)\."
    escaped = re.sub(marks, r"\\\g<0>", one_line(text), flags=re.IGNORECASE)
    return re.sub("[&<>]", lambda mark: _ENTITIES[mark[0]], escaped)


def markdown_rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table of unescaped cells, line by line."""
    lines = [
        "| " + " | ".join(escape_markdown(cell) for cell in line) + " |" for line in (head, *rows)
    ]
    return [lines[0], "|" + " --- |" * len(head), *lines[1:]]


def averaging_text(result: Mapping[str, Any]) -> str:
    """What logits were averaged over, by `tta`, `ensemble` and windows of a result; or ""."""
    tta, members = result.get("tta") or "none", result.get("ensemble") or ()
    size, overlap = result.get("window_size"), result.get("window_overlap")
    parts = [f"ensemble of {len(members)}"] if members else []
    parts += [f"tta {tta}"] if tta != "none" else []
    return ", ".join([*parts, *([f"windows of {size}, overlap {overlap:g}"] if size else [])])


def format_results(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of metrics.json by caption mode, with the strata of the first mode."""
    mode, first = next(iter(results.items()))
    blocks = [_scores("captions", "empty_cases", results), _more(results)]
    for name, classes in first["strata"].items():
        title = f"{_STRATA[name]} ({mode} captions)"
        blocks.append(_scores(title, "patients", classes))
    tables = ("\n".join(aligned(block)) for block in blocks)
    return "\n\n".join([*tables, "\n".join(_notes(results))])


def _scores(title: str, count: str, results: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A line for each result: its name, two counts, and the scores with their intervals."""
    lines = [[title, "cases", count.removesuffix("_cases"), *SCORES]]
    for name, result in results.items():
        ends = {score: (result[f"{score}_ci_low"], result[f"{score}_ci_high"]) for score in SCORES}
        scores = (with_interval(result[score], *ends[score]) for score in SCORES)
        lines.append([name, str(result["cases"]), str(result[count]), *scores])
    return lines


def _more(results: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Shares of cases above each IoU, and the surface distances."""
    lines = [["precision_at", *map(str, THRESHOLDS), "hd95", "nsd"]]
    for mode, result in results.items():
        cells = [f"{result[f'precision_at_{threshold}']:.3f}" for threshold in THRESHOLDS]
        unit = result.get("surface_unit", "")
        hd95, nsd = (result.get(name, math.nan) for name in ("hd95", "nsd"))
        cells.append("-" if math.isnan(hd95) else f"{hd95:.1f} {unit}")
        cells.append("-" if math.isnan(nsd) else f"{nsd:.3f}")
        lines.append([mode, *cells])
    return lines


def _notes(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    warnings = dict.fromkeys(text for result in results.values() for text in result["warnings"])
    averaged = dict.fromkeys(filter(None, map(averaging_text, results.values())))
    weak = {result["truth"] for result in results.values()} - {"outlines"}
    notes = [f"warning: {text}" for text in warnings]
    notes += [f"averaging at test time: {text}" for text in averaged]
    if weak:
        notes.append(f"the truth is {', '.join(weak)}, not outlines: scores are against those")
    notes += [
        "dice, miou: mean over images; dice_global, iou_global: pixels pooled over the test set",
        "in brackets: 95% bootstrap interval over patients (over images where none is known)",
        "small, medium, large: thirds of this test set's lesions by their share of the image",
    ]
    for mode, result in results.items():
        if result.get("surface_undefined"):
            notes.append(
                f"{mode}: hd95 and nsd leave out {result['surface_undefined']} cases in which "
                "prediction or truth is empty"
            )
    return notes
