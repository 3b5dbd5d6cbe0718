"""Counts of what a built referring set holds and of what was left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.volumes.summary import left_out_lines
from textseg.output import write_text
from textseg.tables import SPLITS

SUMMARY_FILE = "summary.json"
LEFT_OUT = (
    "lesions_too_small",
    "lesions_not_told_apart",
    "slices_without_expression",
    "cases_without_expression",
    "cases_without_lesion",
)


def write_summary(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    counts: Counter[str],
    mirrored: Sequence[str],
    left_out: Sequence[tuple[Path, str]],
) -> None:
    """Write summary.json of the manifest's rows.

    `counts` has the slices, slices_with_several, and what was left out of the chosen slices;
    `mirrored` the cases whose liver is on the patient's left; `left_out` the files that are none of
    the volumes, each with its reason.
    """
    by_split = Counter(row["split"] for row in rows)
    summary = {
        "cases": len({row["case_id"] for row in rows}),
        "slices": counts["slices"],
        "slices_with_several": counts["slices_with_several"],
        "expressions": len(rows),
        "expressions_by_split": {split: by_split[split] for split in SPLITS},
        **{name: counts[name] for name in LEFT_OUT},
        "liver_on_the_left": list(mirrored),
        "left_out": [{"what": str(file), "reason": reason} for file, reason in left_out],
    }
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    write_text(folder / SUMMARY_FILE, text)


def read_summary(output: Path) -> dict[str, Any]:
    """Read the counts of a built set by name, as `write_summary` wrote them."""
    summary: dict[str, Any] = json.loads((output / SUMMARY_FILE).read_text(encoding="utf-8"))
    return summary


def format_summary(summary: dict[str, Any]) -> str:
    """Format the counts that `read_summary` gives as a few lines of text."""
    parts = ", ".join(f"{split} {n}" for split, n in summary["expressions_by_split"].items())
    lines = [
        f"{summary['expressions']} expressions ({parts}) on {summary['slices']} slices of "
        f"{summary['cases']} cases; {summary['slices_with_several']} slices show several lesions",
        f"left out: {summary['lesions_too_small']} lesions that are too small, "
        f"{summary['lesions_not_told_apart']} that cannot be told from the others, "
        f"{summary['slices_without_expression']} slices and "
        f"{summary['cases_without_expression']} cases without an expression, "
        f"{summary['cases_without_lesion']} cases without a lesion",
    ]
    mirrored = summary["liver_on_the_left"]
    if mirrored:
        lines.append(
            f"check {', '.join(mirrored)}: the liver is on the patient's left there, so the file's "
            "orientation may be wrong"
        )
    return "\n".join([*lines, *left_out_lines(summary["left_out"], SUMMARY_FILE)])
