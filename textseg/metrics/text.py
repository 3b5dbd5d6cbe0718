"""Test results as text and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from textseg.metrics import THRESHOLDS

_BOTH = ("dice", "miou", "dice_global", "iou_global")
_STRATA = {"size": "lesion size", "number": "lesions", "side": "side of the picture"}


def to_json(values: Any) -> str:
    """Indented JSON with null for NaN and infinities, which JSON does not know."""
    return json.dumps(_without_nan(values), indent=2, allow_nan=False) + "\n"


def _without_nan(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _without_nan(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_without_nan(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def format_results(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables: both conventions by caption mode, shares and distances, and the first mode's strata.

    Args:
        results: caption mode -> what a test writes into metrics.json.
    """
    blocks = [_scores(results), _more(results)]
    mode, first = next(iter(results.items()))
    blocks += [_strata(name, classes, mode) for name, classes in first["strata"].items()]
    return "\n\n".join([*map(_aligned, blocks), "\n".join(_notes(results))])


def _scores(results: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    lines = [["captions", "cases", "empty", *_BOTH]]
    for mode, result in results.items():
        counts = [str(result["cases"]), str(result["empty_cases"])]
        lines.append([mode, *counts, *(_with_interval(result, name) for name in _BOTH)])
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


def _strata(name: str, classes: Mapping[str, Mapping[str, Any]], mode: str) -> list[list[str]]:
    lines = [[f"{_STRATA[name]} ({mode} captions)", "cases", "patients", *_BOTH]]
    for label, result in classes.items():
        counts = [str(result["cases"]), str(result["patients"])]
        lines.append([label, *counts, *(_with_interval(result, score) for score in _BOTH)])
    return lines


def _with_interval(result: Mapping[str, Any], name: str) -> str:
    low, high = result[f"{name}_ci_low"], result[f"{name}_ci_high"]
    ends = "" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]"
    return f"{result[name]:.3f}{ends}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(row.rstrip() for row in rows)


def _notes(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    warnings = dict.fromkeys(text for result in results.values() for text in result["warnings"])
    weak = {result["truth"] for result in results.values()} - {"outlines"}
    notes = [f"warning: {text}" for text in warnings]
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
