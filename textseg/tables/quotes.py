"""Separated text whose quotes are whole: a row that a stray quote would swallow is an error."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from textseg.errors import UserError, first_line

_REMEDY = 'close the quote, or write it twice ("") within a text that stands between quotes'
_LONGEST_CELL = 1_000_000  # characters; csv's own limit, 131,072, has no word on the remedy


def read_separated(text: str, separator: str, file: Path) -> list[list[str]]:
    """Read the rows of separated text, by the rules of csv.

    A text between quotes may go on over lines. Where it does, and its lines have the form of rows
    of their own, two stray quotes have made one row of several.

    Args:
        text: of the whole table.
        separator: between cells.
        file: the table, for messages.

    Raises:
        UserError: a quote is not closed, text follows one, or it swallows a row; with the line.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    table: list[list[str]] = []
    starts: list[int] = []  # the line of the file on which each row begins
    start = 1
    try:
        for row in reader:
            table.append(row)
            starts.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file}, line {start}: {first_line(error)}", _REMEDY) from error
    _check_no_row_swallowed(table, starts, separator, file)
    return table


def _check_no_row_swallowed(
    table: list[list[str]], starts: list[int], separator: str, file: Path
) -> None:
    """Check the cells that go on over lines.

    Raises:
        UserError: the lines of one are rows by their number of cells and by the form of one of
            these, such as p0.png for p17.png.
    """
    width = len(table[0]) if table else 0
    several = [n for n, row in enumerate(table) if any("\n" in c or "\r" in c for c in row)]
    if not several or width < 2:
        return
    forms: list[set[str]] = [set() for _ in range(width)]  # of each column, where a cell is a line
    for row in table:
        for column, cell in enumerate(row[:width]):
            if cell and "\n" not in cell and "\r" not in cell:
                forms[column].add(_form(cell))
    for number in several:
        for column, cell in enumerate(table[number][:width]):
            first, *rest = re.split(r"\r\n?|\n", cell)
            if rest and _is_row(first, rest, column, separator, forms):
                line = starts[number]
                raise UserError(
                    f"{file}, line {line}: a quote that begins there ends {len(rest)} line(s) "
                    f"further on, after what seems to be a row of its own: {rest[0][:60]!r}",
                    _REMEDY,
                )


def _is_row(
    first: str, rest: list[str], column: int, separator: str, forms: list[set[str]]
) -> bool:
    """Whether the lines of a cell would be rows if the quotes around it were not there."""
    width = len(forms)
    before = rest[-1].split(separator)
    if first.count(separator) != width - 1 - column or len(before) != column + 1:
        return False
    alike = [_form(cell) in forms[n] for n, cell in enumerate(before[:-1])]
    begun, *after = first.split(separator)
    alike.append(_form(begun) == _form(before[-1]))  # both of this column
    alike += [_form(cell) in forms[column + 1 + n] for n, cell in enumerate(after)]
    return any(alike)


def _form(cell: str) -> str:
    """A cell with every number as 0, and of a file's name no more than its end."""
    plain = re.sub(r"\d+", "0", cell.strip().casefold())
    ending = re.search(r"\.[a-z]+(\.gz)?$", plain)
    return ending[0] if ending else plain
