"""Scores as text: numbers with intervals, aligned tables, Markdown, and JSON without NaN."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from textseg.metrics.calibration import ERRORS
from textseg.metrics.scores import MAIN, MIXED, SCORES

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
    """How masks were made otherwise than from one network, one image and threshold 0.5, or "".

    Read of a result: `tta`, `ensemble`, `tile_size` and `tile_overlap`, `threshold`, `temperature`.
    """
    tta, members = result.get("tta") or "none", result.get("ensemble") or ()
    size, overlap = result.get("tile_size"), result.get("tile_overlap")
    parts = [f"ensemble of {len(members)}"] if members else []
    parts += [f"tta {tta}"] if tta != "none" else []
    parts += [f"tiles of {size}, overlap {overlap:g}"] if size else []
    for name, usual in (("threshold", 0.5), ("temperature", 1.0)):
        value = result.get(name)
        parts += [f"{name} {value:.4g}"] if value not in (None, usual) else []
    return ", ".join(parts)


def coverage_text(cases: int, total: int, same: int = 0) -> str:
    """How many captions were changed: "8 of 16", or "16 of 16 (2 the true ones)"."""
    return f"{cases} of {total}" + (f" ({same} the true ones)" if 0 < same < cases else "")


def format_results(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of metrics.json by caption mode, with the strata of the first mode."""
    mode, first = next(iter(results.items()))
    blocks = [_scores("captions", "empty_cases", results), _more(results)]
    for name, classes in first["strata"].items():
        title = f"{_STRATA.get(name, name)} ({mode} captions)"
        blocks.append(_scores(title, "patients", classes))
    tables = ("\n".join(aligned(block)) for block in blocks)
    return "\n\n".join([*tables, "\n".join(_notes(results))])


def stored_score(result: Mapping[str, Any], name: str) -> str:
    """A score of metrics.json with its interval; a dash where it is undefined or not there."""
    value = result.get(name)
    if value is None or math.isnan(value):
        return "-"
    low, high = (result.get(f"{name}_ci_{end}") for end in ("low", "high"))
    return with_interval(value, low, high, SCORES[name].form)


def _scores(title: str, count: str, results: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A line for each result: its name, two counts, and the scores with their intervals."""
    lines = [[title, "cases", count.removesuffix("_cases"), *MAIN]]
    for name, result in results.items():
        scores = (stored_score(result, score) for score in MAIN)
        lines.append([name, str(result["cases"]), str(result[count]), *scores])
    return lines


def _more(results: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """All further scores, a line for each and a column for each caption mode."""
    lines = [["further scores", *results]]
    for name in SCORES:
        if name in MAIN or not any(name in result for result in results.values()):
            continue
        lines.append([name, *(stored_score(result, name) for result in results.values())])
        if name == "hd95":
            lines.append(["hd95 median (quartiles)", *map(quartiles_text, results.values())])
    for name in ERRORS:
        if any(name in result for result in results.values()):
            values = (result.get(name) for result in results.values())
            lines.append(
                [name, *("-" if v is None or math.isnan(v) else f"{v:.4f}" for v in values)]
            )
    return lines


def quartiles_text(result: Mapping[str, Any]) -> str:
    """The median of hd95 with its quartiles and unit; a dash where no case has an hd95."""
    first, median, last = (result.get(f"hd95_{name}") for name in ("q1", "median", "q3"))
    if median is None or math.isnan(median):
        return "-"
    return f"{median:.1f} ({first:.1f} to {last:.1f}) {result['surface_unit']}"


def _notes(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    warnings = dict.fromkeys(text for result in results.values() for text in result["warnings"])
    averaged = dict.fromkeys(filter(None, map(averaging_text, results.values())))
    weak = {result["truth"] for result in results.values()} - {"outlines"}
    notes = [f"warning: {text}" for text in warnings]
    notes += [f"at test time: {text}" for text in averaged]
    if weak:
        notes.append(f"the truth is {', '.join(weak)}, not outlines: scores are against those")
    notes += [
        "dice, miou: mean over images; dice_global, iou_global: pixels pooled over the test set",
        "dice_patient: mean over patients, pixels pooled within each; lesion_...: connected parts "
        "matched one to one, pooled; false_...: images without a lesion; precision_at_T: share of "
        "images whose IoU exceeds T",
        "in brackets: 95% bootstrap interval over patients (over images where none is known)",
        "small, medium, large: thirds of this test set's lesions by their share of the image",
    ]
    for mode, result in results.items():
        if result.get("surface_unit") == MIXED:
            notes.append(
                f"{mode}: hd95 and nsd have no mean, as some cases are in millimetres and others "
                "in pixels; test those with a spacing apart"
            )
        elif result.get("surface_undefined"):
            notes.append(
                f"{mode}: hd95 leaves out {result['surface_undefined']} cases in which prediction "
                "or truth is empty; hd95_penalized counts a miss with the image's diagonal"
            )
    return notes
