"""Test results as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BOTH = ("dice", "miou", "dice_global", "iou_global")


def format_results(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table with a row for each caption mode and both conventions beside each other.

    Args:
        results: caption mode -> the summary of `textseg.metrics.summary`.
    """
    head = ["captions", "cases", "empty", *_BOTH, "hd95", "nsd"]
    lines = [head]
    for mode, result in results.items():
        cells = [mode, str(result["cases"]), str(result["empty_cases"])]
        for name in _BOTH:
            low, high = result[f"{name}_ci_low"], result[f"{name}_ci_high"]
            cells.append(f"{result[name]:.3f} [{low:.3f}, {high:.3f}]")
        unit = result.get("surface_unit", "")
        cells.append(f"{result['hd95']:.1f} {unit}" if "hd95" in result else "")
        cells.append(f"{result['nsd']:.3f}" if "nsd" in result else "")
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rows = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    notes = [
        "dice, miou: mean over images; dice_global, iou_global: pixels pooled over the test set",
        "in brackets: 95% bootstrap interval over patients (over images where none is known)",
    ]
    weak = {result["truth"] for result in results.values()} - {"outlines"}
    if weak:
        notes.insert(0, f"the truth is {', '.join(weak)}, not outlines: scores are against those")
    for mode, result in results.items():
        if result.get("surface_undefined"):
            notes.append(
                f"{mode}: hd95 and nsd leave out {result['surface_undefined']} cases in which "
                "prediction or truth is empty"
            )
    return "\n".join([*rows, *notes])
