"""Captions of regions: a template, or a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from textseg.errors import UserError
from textseg.tables import TEXT_COLUMNS, Row, columns_of, find_column, read_rows

REGION = "{region}"
_KEYS = ("case_id", "slice", "region")


class Captions:
    """Gives the captions of a region in a slice.

    Args:
        template: text in which {region} stands for the region's name, its underscores as blanks.
        table: rows of `text` and any of `case_id`, `slice` and `region`; a row is for all that
            agree with its filled cells. None takes the template.

    Raises:
        UserError: the template is empty, or the table lacks a text or has other columns.
    """

    def __init__(self, template: str, table: Path | None) -> None:
        if not template.strip():
            raise UserError(f"caption={template!r} is empty", f"write a text, such as {REGION}")
        unknown = [name for name in re.findall(r"{[^{}]*}", template) if name != REGION]
        if unknown:
            raise UserError(
                f"caption={template!r} has {unknown[0]}, which stands for nothing",
                f"write {REGION} for the region's name",
            )
        self._template = template
        self._rows = None if table is None else _read(table)
        self._used: set[int] = set()

    def of(self, case: str, z: int, region: str) -> list[str]:
        """The captions of a region, none where no row of the table is for it."""
        if self._rows is None:
            return [self._template.replace(REGION, region.replace("_", " "))]
        key = (case.casefold(), str(z), region.casefold())
        texts = []
        for number, row in enumerate(self._rows):
            if all(value in ("", own) for value, own in zip(row.key, key, strict=True)):
                self._used.add(number)
                texts.append(row.text)
        return list(dict.fromkeys(texts))

    def unused(self) -> list[str]:
        """The rows that were for nothing, as an editor numbers them."""
        rows = self._rows or []
        return [row.location for number, row in enumerate(rows) if number not in self._used]


class _CaptionRow(NamedTuple):
    key: tuple[str, str, str]
    text: str
    location: str


def _read(table: Path) -> list[_CaptionRow]:
    rows = read_rows(table)
    if not rows:
        raise UserError(f"{table} has no rows", "write one caption a row")
    text = find_column(table, rows, TEXT_COLUMNS)
    written = columns_of(rows)
    columns = {name.strip().casefold(): name for name in written}
    keys = [columns.get(key) for key in _KEYS]
    unknown = [name for name in written if name not in (text, *keys)]
    if unknown:
        raise UserError(
            f"{table} has columns that are not read: {', '.join(unknown)}",
            f"accepted are text, {', '.join(_KEYS)}; rename or delete the others",
        )
    assert text is not None, "a missing column is raised"
    return [_row(row, text, keys) for row in rows]


def _row(row: Row, text: str, keys: Sequence[str | None]) -> _CaptionRow:
    """A row; a slice written as 7.0 or 007 is slice 7."""
    case, z, region = (str(row.get(key, "") or "").strip() for key in (name or "" for name in keys))
    if z:
        try:
            number = float(z)
        except ValueError:
            number = -1.0
        if number < 0 or not number.is_integer():
            raise row.error(f"slice={z!r}", "write the slice's number, counted from 0 at the feet")
        z = str(int(number))
    key = (case.casefold(), z, region.casefold())
    return _CaptionRow(key, row.required(text).strip(), row.location)
