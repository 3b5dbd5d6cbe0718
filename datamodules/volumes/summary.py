"""Counts of what `textseg data slice` wrote, and the files and regions that it left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.files.checks import preview
from textseg.output import write_text
from textseg.tables import SPLITS

SUMMARY_FILE = "slices.json"


def write_summary(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    window: str,
    windows: Mapping[str, str],
    left_out: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> None:
    """Write slices.json of a set.

    Args:
        folder: of the set.
        rows: of its manifest.
        window: as it was asked for, so that `segment` can do the same.
        windows: what it was in each case.
        left_out: files, cases or regions, each with the reason.
        notes: what else a user should know.
    """
    summary = {
        "window": window,
        "cases": len({row["case_id"] for row in rows}),
        "pictures": len({row["image"] for row in rows}),
        "rows": len(rows),
        "rows_by_split": {split: Counter(r["split"] for r in rows)[split] for split in SPLITS},
        "rows_by_region": dict(Counter(row["lesion_id"] for row in rows).most_common()),
        "windows": dict(windows),
        "left_out": [{"what": what, "reason": reason} for what, reason in left_out],
        "notes": list(notes),
    }
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    write_text(folder / SUMMARY_FILE, text)


def read_summary(folder: Path) -> dict[str, Any]:
    """Read what `write_summary` wrote."""
    summary: dict[str, Any] = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    return summary


def format_summary(summary: Mapping[str, Any]) -> str:
    """Format a summary as a few lines of text; what was left out is grouped by its reason."""
    splits = ", ".join(f"{split} {n}" for split, n in summary["rows_by_split"].items())
    regions = ", ".join(f"{name} {n}" for name, n in summary["rows_by_region"].items())
    different = dict.fromkeys(summary["windows"].values())
    lines = [
        f"{summary['rows']} rows ({splits}) on {summary['pictures']} pictures of "
        f"{summary['cases']} cases",
        f"regions: {regions}",
        f"window ({summary['window']}): {preview(list(different))}",
    ]
    lines += left_out_lines(summary["left_out"], SUMMARY_FILE)
    return "\n".join([*lines, *summary["notes"]])


def left_out_lines(left_out: Sequence[Mapping[str, str]], file: str) -> list[str]:
    """Format what was left out by its reason; `file` is said to name all of it."""
    reasons: dict[str, list[str]] = {}
    for entry in left_out:
        reasons.setdefault(entry["reason"], []).append(entry["what"])
    lines = [
        f"left out, {reason}: {len(what)}: {preview(what)}" for reason, what in reasons.items()
    ]
    if any(len(what) > 1 for what in reasons.values()):
        lines.append(f"({file} names all that was left out)")
    return lines
