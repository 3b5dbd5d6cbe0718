"""Findings between rows: leaks from split to split, and rows that repeat or contradict others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from datamodules.audit.files import FileChecks
from datamodules.audit.findings import Finding, finding
from datamodules.captions.modes import key
from datamodules.records import Record
from textseg.tables import SPLITS

Rows = Mapping[str, Sequence[Record]]


def leaks(rows: Rows, files: FileChecks, *, published: Collection[str]) -> list[Finding]:
    """Find patients and images that two of train, val and test hold.

    Args:
        rows: by split; others than these three do not count.
        files: names images.
        published: splits that share patients as they are published.
    """
    cases: dict[str, Counter[str]] = {}
    images: dict[Path, Counter[str]] = {}
    for split in SPLITS:
        for record in rows.get(split, ()):
            images.setdefault(record.image, Counter())[split] += 1
            if record.case_id:
                cases.setdefault(record.case_id, Counter())[split] += 1
    findings = [
        finding(
            "case in two splits",
            ", ".join(c),
            case,
            _counts(c),
            severity="warning" if set(c) <= set(published) else "error",
        )
        for case, c in cases.items()
        if len(c) > 1
    ]
    return findings + [
        finding("image in two splits", ", ".join(c), files.shown(image), _counts(c))
        for image, c in images.items()
        if len(c) > 1
    ]


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} rows in {split}" for split, count in counts.items())


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


def empty_splits(rows: Rows) -> list[Finding]:
    """Find those of train, val and test that have no rows."""
    return [
        finding("empty split", split, split, "no rows") for split in SPLITS if not rows.get(split)
    ]
