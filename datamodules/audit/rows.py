"""The rows of a dataset, the mistakes its reader reports, and findings between rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path

from datamodules.audit.files import FileChecks
from datamodules.audit.findings import Finding, Severity, finding
from datamodules.base import TextSegDataModule
from datamodules.captions.modes import key
from datamodules.records import Record, Splits
from textseg.errors import TableError, UserError
from textseg.tables import SPLITS


def read_all(datamodule: TextSegDataModule, root: Path) -> tuple[Splits, list[Finding]]:
    """Read the usable rows by split, and list what is wrong with the tables they are from.

    The first mistake, at which training would stop, is "refused by the reader"; each that has a
    row, column or table to itself is a finding of its own besides. A reader that cannot go on
    gives no rows.
    """
    findings: list[Finding] = []

    def report(error: UserError) -> None:
        if not findings:
            findings.append(refusal(error, root))
        if isinstance(error, TableError) and error.kind:
            row = finding(error.kind, "", error.where, error.detail, suggestion=error.remedy)
            findings.append(row)

    try:
        return datamodule.read_records(root, report), findings
    except UserError as error:
        report(error)
        last = refusal(error, root)
        if not isinstance(error, TableError) and last.detail != findings[0].detail:
            findings.append(finding("unreadable table", "", last.where, last.detail))
        return {}, findings


def refusal(error: UserError, root: Path) -> Finding:
    """Put down a mistake at which training would stop."""
    cause, _, remedy = str(error).partition("\n")
    return finding("refused by the reader", "", str(root), cause, suggestion=remedy)


def leaks(rows: Splits, files: FileChecks, *, published: Collection[str]) -> list[Finding]:
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


def repetitions(rows: Splits, files: FileChecks) -> list[Finding]:
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
