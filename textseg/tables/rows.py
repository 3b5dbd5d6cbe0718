"""Reads the rows of a table: separated text, a workbook, JSON lines, SGSeg's annotation.json."""

from __future__ import annotations

import codecs
import io
import json
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from textseg.errors import Report, TableError, UserError, first_line, raise_error
from textseg.limits import CELLS, TABLE_BYTES
from textseg.tables.merged import refuse_merged
from textseg.tables.quotes import read_separated

SPLITS = ("train", "val", "test")
_SPLIT_OF = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_TABLE_REMEDY = (
    "accepted are .xlsx, .csv (, or ; or tabs) in UTF-8, .jsonl, and SGSeg's annotation.json; save "
    "other workbooks as .xlsx or 'CSV UTF-8', and name separated text .csv"
)
_UTF8_REMEDY = "save it as CSV in UTF-8 (Excel: Save As, 'CSV UTF-8'), or as .xlsx"
_UNNAMED = "Unnamed: "  # also what pandas calls a column without a name
FILL_IN = "fill it in or delete the row; for an experiment without text set caption_mode=empty"


def split_name(written: str) -> str:
    """Translate a cell such as "Training" to train, val or test; others only to lower case."""
    plain = written.strip().casefold()
    return _SPLIT_OF.get(plain, plain)


class Row(dict[str, Any]):
    """A row's cells by column, and its position in the file.

    Args:
        cells: the columns and what they hold.
        file: the table.
        number: the row, counted from 0 without the empty ones.
        line: the row in a .csv or .xlsx, counted from 1 with the header and the empty rows; None
            for an entry of the JSON formats.
        entry: the entry of a file, counted from 1; None where `number` counts those of one file.
        decimal_comma: whether "1,5" is one number: in text that ; or tabs separate, as Excel
            writes it where decimals have a comma.
    """

    def __init__(
        self,
        cells: Mapping[str, Any],
        file: Path,
        number: int,
        line: int | None = None,
        entry: int | None = None,
        *,
        decimal_comma: bool = False,
    ) -> None:
        super().__init__(cells)
        self.file = file
        self.number = number
        self.line = line
        self.entry = number + 1 if entry is None else entry
        self.decimal_comma = decimal_comma

    @property
    def location(self) -> str:
        """Name the row as an editor numbers it."""
        if self.line is None:
            return f"entry {self.entry}"
        return f"row {self.line} (the header is row 1)"

    def filled(self, column: str) -> bool:
        """Tell whether a cell is there and holds more than spaces."""
        value = self.get(column)
        return value is not None and bool(str(value).strip())

    def required(
        self,
        column: str,
        report: Report = raise_error,
        *,
        kind: str = "invalid row",
        remedy: str = FILL_IN,
    ) -> str:
        """Read a cell that must not be empty; "" where it is and `report` returns.

        Raises:
            UserError: as `report` does.
        """
        if self.filled(column):
            return str(self[column])
        report(self.error(f"{column!r} is empty", remedy, kind=kind))
        return ""

    def check_strings(self, columns: Iterable[str], report: Report = raise_error) -> None:
        """Check that cells hold strings or nothing, as entries of the JSON formats may not.

        Raises:
            UserError: as `report` does.
        """
        for column in columns:
            if not isinstance(self.get(column), str | None):
                detail = f"{column}={self[column]!r} is not one string"
                remedy = "give an image with several expressions or masks one row for each"
                report(self.error(detail, remedy))

    def error(self, detail: str, remedy: str, *, kind: str = "invalid row") -> TableError:
        """Make an error that names the file and the row; `kind` is what an audit calls it."""
        cause = f"{self.file}, {self.location}: {detail}"
        where = f"{self.file.name}, {self.location}"
        return TableError(cause, remedy, kind=kind, where=where, detail=detail)


# --- formats -------------------------------------------------------------------------------------


class _Cells(NamedTuple):
    """What a `Row` is made of."""

    line: int | None
    cells: dict[str, Any]
    decimal_comma: bool = False


def read_rows(file: Path, report: Report = raise_error) -> list[Row]:
    """Read the rows of a table; cells are strings, except in the JSON formats.

    Rows without any cell are left out, and so are columns that have neither a name nor a cell, as
    spreadsheets leave them at the right. A column with cells but no name is called "Unnamed: 3" by
    its position, counted from 0.

    Args:
        file: the table.
        report: is called for a file that cannot be read; where it returns, there are no rows.

    Raises:
        UserError: as `report` does: the file does not exist, cannot be read, is none of the
            accepted formats, or names a column twice.
    """
    readers = {".csv": _csv, ".xlsx": _xlsx, ".jsonl": _jsonl, ".json": _sgseg}
    reader = readers.get(file.suffix.lower())
    try:
        if reader is None:
            raise UserError(f"{file} is not a kind of table that is read here", _TABLE_REMEDY)
        return [
            Row(found.cells, file, n, found.line, decimal_comma=found.decimal_comma)
            for n, found in enumerate(reader(file))
        ]
    except Exception as error:  # csv, json and zipfile share no base class for a broken file
        mistake = error if isinstance(error, UserError) else _unreadable(file, error)
        cause, _, remedy = str(mistake).partition("\n")
        report(TableError(cause, remedy, kind="unreadable table", where=file.name))
        return []


def _unreadable(file: Path, error: Exception) -> UserError:
    remedy = _REMEDIES.get(file.suffix.lower(), _TABLE_REMEDY)
    if isinstance(error, OSError):
        remedy = "check its path, and that you may read it"
    return UserError(f"{file} cannot be read as a table ({first_line(error)})", remedy)


def _under_header(file: Path, table: Sequence[Sequence[str]]) -> Iterator[_Cells]:
    """Rows by the names in the first one, without rows and unnamed columns that are empty."""
    if not table:
        return
    header = [name.strip() or f"{_UNNAMED}{column}" for column, name in enumerate(table[0])]
    names = [name.casefold() for name in header]
    repeated = sorted({name for name in header if names.count(name.casefold()) > 1})
    if repeated:
        raise UserError(
            f"{file} has more than one column {', '.join(repeated)}",
            "keep one of each name (upper and lower case are one)",
        )
    lines = enumerate(table[1:], start=2)
    rows = {line: cells for line, cells in lines if any(cell.strip() for cell in cells)}
    for line, cells in rows.items():
        if len(cells) != len(header):
            raise UserError(
                f"{file}, row {line}: {len(cells)} cells under {len(header)} columns",
                "put texts that hold the separator between double quotes",
            )
    kept = [
        column
        for column, name in enumerate(header)
        if not name.startswith(_UNNAMED) or any(cells[column].strip() for cells in rows.values())
    ]
    for line, cells in rows.items():
        yield _Cells(line, {header[column]: cells[column] for column in kept})


_REMEDIES = {
    ".xlsx": "save the table as .xlsx, or as CSV in UTF-8",
    ".csv": "separate cells by , or ; or tabs, and put texts that hold the separator in quotes",
    ".jsonl": 'write one object a line: {"image": .., "text": ..}',
    ".json": "give SGSeg's annotation.json, complete, or a table as .csv, .xlsx or .jsonl",
}
_MARKS = (  # of UTF-32 first: its mark begins as that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),  # Excel's "Unicode text"
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ZIP, _OLD_OFFICE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def _text_of(file: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark.

    Raises:
        UserError: it is in another encoding, or a workbook.
    """
    TABLE_BYTES.check(file.stat().st_size, file)
    data = file.read_bytes()
    if data.startswith(_ZIP):
        raise UserError(f"{file} is a workbook, not text", "name it .xlsx")
    _refuse_old_workbook(file, data)
    mark, encoding = next((m for m in _MARKS if data.startswith(m[0])), (b"", "utf-8"))
    if encoding == "utf-32" or (not mark and 4 * data[:400].count(0) > len(data[:400])):
        found = "UTF-32" if mark else "UTF-16 or UTF-32 without a mark, or no text"
        raise UserError(f"{file} is in {found}", _UTF8_REMEDY)
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        what = f"byte {error.object[error.start]:#04x} at {error.start}"
        raise UserError(f"{file} is not in {encoding.upper()} ({what})", _UTF8_REMEDY) from error


def _refuse_old_workbook(file: Path, data: bytes) -> None:
    if data.startswith(_OLD_OFFICE):
        raise UserError(
            f"{file} is a workbook of Excel's old form (.xls), or protected by a password",
            "save it as .xlsx without a password, or as CSV in UTF-8",
        )


def _csv(file: Path) -> Iterator[_Cells]:
    text = _text_of(file)
    header = io.StringIO(text, newline="").readline()
    # Excel writes this line, and does not show it when it opens the file.
    told = re.fullmatch(r'"?sep=(.)"?', header.strip("\r\n"), re.IGNORECASE)
    if told:
        text = text[len(header) :]
    separator = told[1] if told else max(",;\t", key=header.count)
    table = read_separated(text, separator, file)
    for found in _under_header(file, table):
        yield found._replace(decimal_comma=separator in ";\t")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON in which no object has a key twice: of two values, none is the right one.

    A number is read as a spreadsheet shows it: 3.0 is 3, so that it is the same patient, and NaN,
    which pandas writes for an empty cell, is None.

    Raises:
        ValueError: it is no JSON, has a key twice, or holds an infinite number.
    """
    return json.loads(
        text, object_pairs_hook=_unique, parse_float=_number, parse_constant=_constant
    )


def _number(written: str) -> int | float:
    """Read a number that is written with a point or an exponent."""
    number = float(written)
    if math.isinf(number):
        raise ValueError(f"{written} is too large for a number")
    return int(number) if number.is_integer() else number


def _constant(written: str) -> None:
    """Read NaN, Infinity or -Infinity, which JSON does not have, but Python writes."""
    if written != "NaN":
        raise ValueError(f"{written} is no finite number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the key {', '.join(map(repr, repeated))} is given twice")
    return dict(pairs)


def _jsonl(file: Path) -> Iterator[_Cells]:
    # Not splitlines, which also breaks a caption at a line separator of Unicode.
    for number, line in enumerate(_text_of(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except (ValueError, RecursionError) as error:
            cause = f"{file}, line {number} is no JSON ({first_line(error)})"
            raise UserError(cause, _REMEDIES[".jsonl"]) from error
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number} is no object", _REMEDIES[".jsonl"])
        yield _Cells(None, row)


def _sgseg(file: Path) -> Iterator[_Cells]:
    """``{"train": [{...}], "valid": [...], "test": [...]}``; each row gets its split's name."""
    splits = parse_json(_text_of(file))
    if not isinstance(splits, dict) or not set(map(split_name, splits)) <= set(SPLITS):
        raise ValueError("not an object with the keys train, valid and test")
    for split, rows in splits.items():
        for row in rows:
            yield _Cells(None, {**row, "split": split})


# --- workbooks -----------------------------------------------------------------------------------


def _xlsx(file: Path) -> Iterator[_Cells]:
    from openpyxl.cell.cell import ERROR_CODES  # type: ignore[import-untyped]

    table: list[list[str]] = []
    width = 0
    for row in workbook_rows(file):
        width = max(width, len(row))
        table.append(row)
        CELLS.check(width * len(table), file)
    cells = [["" if cell in ERROR_CODES else cell for cell in row] for row in table]
    return _under_header(file, [row + [""] * (width - len(row)) for row in cells])


def workbook_rows(
    file: Path, sheet: str | None = None, *, header_rows: int = 0
) -> Iterator[list[str]]:
    """Yield the rows of one sheet as strings, each as wide as the widest up to it.

    A workbook may hold hundreds of thousands of rows; they are not held in memory.

    Args:
        file: an .xlsx workbook.
        sheet: its name, compared without case; None for the only one that has cells, beside charts
            and the empty sheets that Excel adds.
        header_rows: rows at the top in which cells may be merged; all but the first are "".

    Raises:
        UserError: the file is no workbook, does not have that sheet, or cells of it are merged.
    """
    import openpyxl  # type: ignore[import-untyped]

    book = None
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_OLD_OFFICE))
        _refuse_old_workbook(file, start)
        if not start.startswith(_ZIP[:2]):
            raise UserError(f"{file} is no workbook", "name it .csv if it is text, or save it anew")
        with zipfile.ZipFile(file) as archive:
            TABLE_BYTES.check(sum(part.file_size for part in archive.infolist()), file)
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        cells = _sheet(file, book, sheet)
        if cells is not None:
            refuse_merged(file, cells, header_rows=header_rows)
        width = 0
        for row in () if cells is None else _values(cells):
            width = max(width, len(row))  # rows end at their last filled cell
            yield [_text(value) for value in row] + [""] * (width - len(row))
    except UserError:
        raise
    except Exception as error:  # zipfile and openpyxl share no base class for a broken workbook
        raise _unreadable(file, error) from error
    finally:
        if book is not None:
            book.close()


def _sheet(file: Path, book: Any, name: str | None) -> Any:
    """The sheet of this name, or else the only one with cells; None where all are empty."""
    if name is not None:
        for sheet in book.worksheets:
            if sheet.title.strip().casefold() == name.casefold():
                return sheet
        raise UserError(
            f"{file} has the sheets {', '.join(map(repr, book.sheetnames))}; {name!r} is expected",
            "use the workbook as downloaded, or rename its sheets",
        )
    if not book.worksheets:  # nothing but charts
        raise UserError(f"{file} has no sheet of cells", "save the table as its only sheet")
    filled = [sheet for sheet in book.worksheets if any(any(map(_text, r)) for r in _values(sheet))]
    if len(filled) > 1:
        titles = ", ".join(sheet.title for sheet in filled)
        raise UserError(
            f"{file} has {len(filled)} sheets with cells: {titles}",
            "keep the sheet with the table, or save it as .csv",
        )
    return filled[0] if filled else None


def _values(sheet: Any) -> Iterator[tuple[object, ...]]:
    sheet.reset_dimensions()  # some programs write a wrong extent, and rows would be cut off
    rows: Iterator[tuple[object, ...]] = sheet.iter_rows(values_only=True)
    return rows


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
