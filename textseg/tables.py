"""Caption tables: workbooks, comma- or semicolon-separated text, JSON lines, SGSeg's JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from textseg.errors import Report, TableError, UserError, raise_error

# Compared without case: Image is one of them.
IMAGE_COLUMNS = ("image", "filename", "image_path", "original_image_filename")
TEXT_COLUMNS = ("description", "text", "caption")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
TABLE_SUFFIXES = (".csv", ".xlsx", ".jsonl", ".json")

_SPLITS = ("train", "val", "test")
_SPLIT_OF = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_TABLE_REMEDY = "accepted are .xlsx, .csv with , or ;, .jsonl, and SGSeg's annotation.json"


class Row(dict[str, Any]):
    """A row's cells by column.

    Args:
        cells: the columns and what they hold.
        line: the row in a .csv or .xlsx, counted from 1 with the header and the empty rows; None
            for an entry of the JSON formats.
    """

    def __init__(self, cells: Mapping[str, Any], line: int | None = None) -> None:
        super().__init__(cells)
        self.line = line


@dataclass(frozen=True)
class Caption:
    """One row of a caption table.

    `row` counts from 0 within the table, without its empty rows; `split` is "" unless the table
    names one; `line` is `Row`'s.
    """

    name: str
    text: str
    row: int
    split: str = ""
    line: int | None = None


def match_key(name: str) -> str:
    """What an image, its mask and its caption have in common.

    The file name without folders, case, one leading ``mask_`` and a known image extension.
    """
    base = name.strip().replace("\\", "/").rsplit("/", 1)[-1].casefold().removeprefix("mask_")
    for suffix in IMAGE_SUFFIXES:
        if base.endswith(suffix):
            return base.removesuffix(suffix)
    return base


def split_name(written: str) -> str:
    """The split that a cell means; of a cell that means none, its words in lower case."""
    plain = written.strip().casefold()
    return _SPLIT_OF.get(plain, plain)


def read_captions(file: Path, report: Report = raise_error) -> list[Caption]:
    """Read the captions of one table, in its order.

    Args:
        file: the table.
        report: is told every mistake: a file that cannot be read, no image or no text column, an
            empty cell. Where it returns, rows without an image's name are left out, and texts that
            are not there are "".

    Raises:
        UserError: as `report` does.
    """
    rows = read_rows(file, report)
    if not rows:
        report(UserError(f"{file} has no rows", "is it the downloaded table, complete?"))
        return []
    image = _column(file, rows[0], IMAGE_COLUMNS, "an image column", report)
    text = _column(file, rows[0], TEXT_COLUMNS, "a text column", report)
    captions = []
    for number, row in enumerate(rows):
        name = "" if image is None else required(file, number, row, image, report)
        words = "" if text is None else required(file, number, row, text, report, kind="")
        if name.strip():
            captions.append(Caption(name, words, number, _known_split(row), row.line))
    return captions


def _known_split(row: Row) -> str:
    split = split_name(str(row.get("split", "")))
    return split if split in _SPLITS else ""


def read_rows(file: Path, report: Report = raise_error) -> list[Row]:
    """Read the rows of a table as dictionaries; cells are strings, except in the JSON formats.

    Args:
        file: the table.
        report: is told of a file that cannot be read; where it returns, there are no rows.

    Raises:
        UserError: as `report` does: the file does not exist or is none of the accepted formats.
    """
    try:
        return _read_rows(file)
    except UserError as error:
        cause, _, remedy = str(error).partition("\n")
        report(TableError(cause, remedy, kind="unreadable table", where=file.name))
        return []


def _read_rows(file: Path) -> list[Row]:
    readers = {".csv": _csv, ".xlsx": _xlsx, ".jsonl": _jsonl, ".json": _sgseg}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise UserError(f"{file} is not a kind of table that is read here", _TABLE_REMEDY)
    try:
        return reader(file)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} cannot be read as a table ({reason})", _TABLE_REMEDY) from error
    except Exception as error:  # zipfile and openpyxl share no base class for a broken workbook
        raise UserError(f"{file} cannot be read ({type(error).__name__})", _TABLE_REMEDY) from error


def required(
    file: Path,
    number: int,
    row: Row,
    column: str,
    report: Report = raise_error,
    *,
    kind: str = "invalid row",
) -> str:
    """Read a cell that must hold something; "" where it does not and `report` returns.

    Args:
        file: the table.
        number: the row, counted from 0 without the empty ones.
        row: its cells.
        column: which of them.
        report: is told of an empty cell.
        kind: what an audit calls it.

    Raises:
        UserError: as `report` does.
    """
    value = row.get(column)
    text = "" if value is None else str(value)
    if not text.strip():
        remedy = "fill it in or delete the row; for an experiment without text set "
        remedy += "caption_mode=empty"
        report(row_error(file, number, row.line, f"{column!r} is empty", remedy, kind=kind))
        return ""
    return text


def row_error(
    file: Path, number: int, line: int | None, detail: str, remedy: str, *, kind: str
) -> TableError:
    """Name a mistake by its file and row; the arguments are `row_location`'s and `TableError`'s."""
    location = row_location(file, number, line)
    cause, where = f"{file}, {location}: {detail}", f"{file.name}, {location}"
    return TableError(cause, remedy, kind=kind, where=where, detail=detail)


def row_location(file: Path, number: int, line: int | None = None) -> str:
    """Where a reader finds a row when the file is opened in an editor.

    Args:
        file: the table.
        number: the row, counted from 0 without the empty ones.
        line: its `Row.line`; None for a row of a table without empty rows.
    """
    if file.suffix.lower() in (".csv", ".xlsx"):
        return f"row {number + 2 if line is None else line} (the header is row 1)"
    return f"entry {number + 1}"


def _column(file: Path, row: Row, accepted: Sequence[str], what: str, report: Report) -> str | None:
    for column in row:
        if column.casefold() in accepted:
            return column
    detail = f"has no {what.split(maxsplit=1)[1]}; its columns are {', '.join(row) or '(none)'}"
    remedy = f"name {what} one of {', '.join(accepted)} (upper or lower case)"
    kind, where = "missing column", file.name
    report(TableError(f"{file} {detail}", remedy, kind=kind, where=where, detail=detail))
    return None


def _named(file: Path, header: list[str], cells: list[list[str]]) -> list[Row]:
    """Rows by column name; wholly empty rows, which workbooks end with, are left out."""
    header = [name.strip() for name in header]
    rows: list[Row] = []
    for line, values in enumerate(cells, start=2):
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(header):
            raise UserError(
                f"{file}, row {line}: {len(values)} cells under {len(header)} columns",
                "put captions that hold the separator between double quotes",
            )
        rows.append(Row(dict(zip(header, values, strict=True)), line))
    return rows


def _csv(file: Path) -> list[Row]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        header = lines.readline()
        lines.seek(0)
        separator = ";" if header.count(";") > header.count(",") else ","
        table = list(csv.reader(lines, delimiter=separator))
    return _named(file, table[0], table[1:]) if table else []


def _xlsx(file: Path) -> list[Row]:
    """The rows of the only sheet that has cells; the empty ones that Excel adds do not matter."""
    with pd.ExcelFile(file, engine="openpyxl") as book:
        names = [sheet.title for sheet in book.book.worksheets]  # unlike pandas', without charts
        if not names:
            raise UserError(f"{file} has no sheet of cells", "save the table as its only sheet")
        sheets = book.parse(sheet_name=names, dtype=str, keep_default_na=False)
    filled = [name for name, table in sheets.items() if len(table.columns)]
    if len(filled) > 1:
        raise UserError(
            f"{file} has {len(filled)} sheets with cells: {', '.join(map(str, filled))}",
            "keep the sheet with the captions, or save it as .csv",
        )
    table = sheets[filled[0]] if filled else pd.DataFrame()
    cells = table.fillna("").astype(str).to_numpy().tolist()
    return _named(file, [str(column) for column in table.columns], cells)


def _jsonl(file: Path) -> list[Row]:
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is not an object")
    return [Row(row) for row in rows]


def _sgseg(file: Path) -> list[Row]:
    """``{"train": [{...}], "valid": [...], "test": [...]}``; each row is told its split."""
    splits = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(splits, dict) or not set(map(split_name, splits)) <= set(_SPLITS):
        raise ValueError("not an object with the keys train, valid and test")
    return [Row({**row, "split": split}) for split, rows in splits.items() for row in rows]
