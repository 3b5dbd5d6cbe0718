"""Finds a table's columns by the names they may have, and says which cannot be told apart."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from textseg.errors import Report, TableError, UserError, raise_error
from textseg.tables.rows import Row, split_name

_CLOSE = 0.8  # "spilt" and "split" share 0.8 of their letters in order


def columns_of(rows: Iterable[Row]) -> list[str]:
    """List the columns of all rows; in the JSON formats, a row need not have all of them."""
    return list(dict.fromkeys(column for row in rows for column in row))


def plain_column(column: str) -> str:
    """Reduce a column's name to lower case, with _ for spaces and hyphens."""
    return "_".join(column.casefold().replace("-", " ").replace("_", " ").split())


def matching_columns(columns: Iterable[str], accepted: Sequence[str]) -> list[str]:
    """Select the columns that have one of the accepted names, in the table's order."""
    return [column for column in columns if column.strip().casefold() in accepted]


def find_column(
    file: Path, rows: Sequence[Row], accepted: Sequence[str], report: Report = raise_error
) -> str | None:
    """Find the one column that has one of the accepted names, or the first of equal ones.

    Args:
        file: the table.
        rows: all of its rows.
        accepted: names in lower case, of which the first is what messages call the column.
        report: is called where there is none, or where two differ; where it returns, the result is
            None or the first.

    Raises:
        UserError: as `report` does.
    """
    found = optional_column(file, rows, accepted, report)
    if found is not None:
        return found
    columns = columns_of(rows)
    detail = f"has no {accepted[0]} column; its columns are {', '.join(columns) or '(none)'}"
    remedy = f"name it one of {', '.join(accepted)} (upper or lower case)"
    kind, where = "missing column", file.name
    report(TableError(f"{file} {detail}", remedy, kind=kind, where=where, detail=detail))
    return None


def optional_column(
    file: Path, rows: Sequence[Row], accepted: Sequence[str], report: Report = raise_error
) -> str | None:
    """Find a column as `find_column` does; None, without a report, where there is none.

    Raises:
        UserError: as `report` does: columns of several of the names are not equal in every row.
    """
    matching = matching_columns(columns_of(rows), accepted)
    if any(len({_cell(row, column) for column in matching}) > 1 for row in rows):
        detail = f"has {len(matching)} columns for {accepted[0]}: {', '.join(matching)}"
        remedy = "keep one of them, and rename or remove the others"
        kind, where = "several columns", file.name
        report(TableError(f"{file} {detail}", remedy, kind=kind, where=where, detail=detail))
    return matching[0] if matching else None


def _cell(row: Row, column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value).strip()


def check_split(row: Row, column: str | None, split: str, report: Report = raise_error) -> None:
    """Check that a row of one split's table does not say that it is of another.

    Args:
        row: the row.
        column: the column of splits; None where the table has none.
        split: what the file stands for.
        report: is told of another split in the cell.

    Raises:
        UserError: as `report` does.
    """
    if column is None or not row.filled(column) or split_name(str(row[column])) == split:
        return
    detail = f"{column}={row[column]!r} in the table of {split}"
    remedy = f"move the row to the table of its split, or delete the column {column}"
    report(row.error(detail, remedy, kind="invalid split name"))


def refuse_misspelled(
    file: Path,
    unread: Iterable[str],
    absent: Collection[str],
    report: Report = raise_error,
    *,
    meant_by: Mapping[str, str] | None = None,
) -> None:
    """Refuse a column that is not read, but seems to be meant for one that is absent.

    Args:
        file: the table.
        unread: its columns that are not read.
        absent: names of columns that would be read, as `plain_column` gives them.
        report: is told of each.
        meant_by: the columns of `absent` by other names that tables use for them.

    Raises:
        UserError: as `report` does.
    """
    for column in unread:
        plain = plain_column(column)
        near = difflib.get_close_matches(plain, sorted(absent), n=1, cutoff=_CLOSE)
        meant = near[0] if near else (meant_by or {}).get(plain)
        if meant in absent:
            cause = f"{file} has a column {column!r}, which is not read, and none named {meant}"
            remedy = f"did you mean {meant}? Rename it, or delete it if it is something else"
            report(UserError(cause, remedy))
