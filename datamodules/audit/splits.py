"""Findings between rows: leaks from split to split, and rows that repeat or contradict others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from datamodules.audit.files import Files
from datamodules.audit.findings import Finding, finding
from datamodules.captions.modes import key
from datamodules.files.layouts import SPLITS
from datamodules.records import Record

Rows = Mapping[str, Sequence[Record]]


def leaks(rows: Rows, files: Files, *, published: Collection[str]) -> list[Finding]:
    """Patients and images that two of train, val and test hold.

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
    found = [
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
    return found + [
        finding("image in two splits", ", ".join(c), files.shown(image), _counts(c))
        for image, c in images.items()
        if len(c) > 1
    ]


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} rows in {split}" for split, count in counts.items())


def repetitions(rows: Rows, files: Files) -> list[Finding]:
    """Rows of one image with the same words: the same row again, or two masks for one caption."""
    found = []
    for split, records in rows.items():
        seen: dict[tuple[Path, str], Record] = {}
        for record in records:
            if not record.text.strip():
                continue
            first = seen.setdefault((record.image, key(record.text)), record)
            if first is record:
                continue
            kind = "repeated row" if _same_mask(first, record, files) else "one caption, two masks"
            found.append(finding(kind, split, record.case, f"as {first.case}: {record.text}"))
    return found


def _same_mask(one: Record, other: Record, files: Files) -> bool:
    if one.mask == other.mask or one.mask is None or other.mask is None:
        return True
    both = files.masks.get(one.mask), files.masks.get(other.mask)
    return None not in both and both[0].digest == both[1].digest  # type: ignore[union-attr]


def empty_splits(rows: Rows) -> list[Finding]:
    return [
        finding("empty split", split, split, "no rows") for split in SPLITS if not rows.get(split)
    ]
