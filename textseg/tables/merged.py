"""Merged cells of a workbook, of which only the first holds what all of them show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from textseg.errors import UserError

_MERGED = re.compile(rb"<(?:\w+:)?mergeCell\s[^>]*?\bref=[\"']([A-Z]+\d+(?::[A-Z]+\d+)?)[\"']")
_READ = 1 << 20  # bytes of a sheet that are looked through at once
_LONGEST = 1000  # bytes of an entry, which may lie across two reads
_SHOWN = 5


def refuse_merged(file: Path, sheet: Any, *, header_rows: int = 0) -> None:
    """Refuse a sheet with merged cells: all but the first of each range would be read as empty.

    Args:
        file: the workbook, for the message.
        sheet: one of openpyxl's, opened read-only.
        header_rows: rows at the top in which cells may be merged.

    Raises:
        UserError: cells below these rows are merged.
    """
    with sheet._get_source() as source:
        ranges = [cells for cells in merged_ranges(source) if _last_row(cells) > header_rows]
    if ranges:
        shown = ", ".join(ranges[:_SHOWN]) + ", ..." * (len(ranges) > _SHOWN)
        raise UserError(
            f"{file}, sheet {sheet.title!r} has merged cells, of which only the first holds a "
            f"value: {shown}",
            "unmerge them and fill in every cell",
        )


def merged_ranges(source: IO[bytes]) -> Iterator[str]:
    """Yield the ranges of merged cells, such as A2:A7, that a sheet's XML lists.

    The XML is read in parts, as a sheet of hundreds of thousands of rows is large.
    """
    kept = b""
    while part := source.read(_READ):
        text = kept + part
        seen = 0
        for found in _MERGED.finditer(text):
            yield found[1].decode()
            seen = found.end()
        kept = text[max(seen, len(text) - _LONGEST) :]


def _last_row(cells: str) -> int:
    return int(cells.rpartition(":")[2].lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
