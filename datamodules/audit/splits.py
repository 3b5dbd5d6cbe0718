"""Findings between rows: leaks from split to split, and rows that repeat or contradict others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from datamodules.audit.files import FileChecks
from datamodules.audit.findings import Finding, Severity, finding
from datamodules.captions.modes import key
from datamodules.records import Record
from textseg.tables import SPLITS

Rows = Mapping[str, Sequence[Record]]


def leaks(rows: Rows, files: FileChecks, *, published: Collection[str]) -> list[Finding]:
    """Find patients and images that two of train, val and test hold.

    That splits in `published` share patients is no mistake of the user's.
    """
    counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for split in SPLITS:
        for record in rows.get(split, ()):
            counts["image in two splits", files.shown(record.image)][split] += 1
            if record.case_id:
                counts["case in two splits", record.case_id][split] += 1
    findings = []
    for (kind, where), by_split in counts.items():
        if len(by_split) > 1:
            detail = ", ".join(f"{count} rows in {split}" for split, count in by_split.items())
            known = kind == "case in two splits" and set(by_split) <= set(published)
            severity: Severity | None = "warning" if known else None
            findings.append(finding(kind, ", ".join(by_split), where, detail, severity=severity))
    return findings


def repetitions(rows: Rows, files: FileChecks) -> list[Finding]:
    """Find rows of one image with the same words: a row twice, or two masks for one caption."""
    findings = []
    for split, records in rows.items():
        first_rows: dict[tuple[Path, str], Record] = {}
        for record in records:
            if not record.text.strip():
                continue
            first = first_rows.setdefault((record.image, key(record.text)), record)
            if first is record:
                continue
            kind = "repeated row" if _same_mask(first, record, files) else "one caption, two masks"
            findings.append(finding(kind, split, record.case, f"as {first.case}: {record.text}"))
    return findings


def _same_mask(one: Record, other: Record, files: FileChecks) -> bool:
    if one.mask == other.mask or one.mask is None or other.mask is None:
        return True
    both = files.masks.get(one.mask), files.masks.get(other.mask)
    return None not in both and both[0].digest == both[1].digest  # type: ignore[union-attr]
