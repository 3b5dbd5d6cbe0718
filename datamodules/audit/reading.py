"""The rows of a dataset for an audit, with every mistake that its reader reports."""

from __future__ import annotations

from pathlib import Path

from datamodules.audit.findings import Finding, finding
from datamodules.base import TextSegDataModule
from datamodules.records import Splits
from textseg.errors import TableError, UserError


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
