"""What to segment: an image, a folder of images, or a table of images and texts."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from textseg.errors import UserError, first_line
from textseg.segment.pictures import require_file

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
TEXT_COLUMNS = ("text", "caption", "description", "sentence")


@dataclass(frozen=True)
class Row:
    """One image and its text; `case` names the results, `where` is for messages."""

    image: Path
    text: str | None
    case: str
    where: str


def read_rows(image: Path, text: str | None, root: str | None) -> Iterator[Row]:
    """Every image with its text, in the order of the table or of the files' names."""
    image = image.expanduser()
    tabular = image.suffix.lower() in _TABLES and not image.is_dir()
    if root is not None and not tabular:
        raise UserError(f"root={root!r} is for a table, and {image} is none", "leave root out")
    if tabular:
        yield from _table_rows(image, text, root)
        return
    files = [image]
    if image.is_dir():
        files = sorted(path for path in image.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(
            f"{image} holds no image (of the kinds {', '.join(IMAGE_SUFFIXES)})",
            "give the folder that the images lie in directly, or a table of their paths",
        )
    for number, path in enumerate(files):
        require_file(path)
        yield Row(path, text, _case(path, number), str(path))


def _table_rows(file: Path, text: str | None, root: str | None) -> Iterator[Row]:
    require_file(file)
    lines = _read_table(file)
    if not lines:
        raise UserError(f"{file} has no rows", "list one image and its text a row")
    columns = list(dict.fromkeys(column for _, row in lines for column in row))
    image_column = _column(file, columns, ("image",))
    text_column = _column(file, columns, TEXT_COLUMNS)
    if image_column is None:
        raise UserError(
            f"{file} has the columns {', '.join(columns)}", "name that of the images' paths image"
        )
    if text_column is not None and text is not None:
        raise UserError(
            f"text={text!r} is given, and {file} has a column {text_column}",
            "leave the text out, or delete the column",
        )
    folder = file.parent if root is None else Path(root).expanduser()
    for number, (line, row) in enumerate(lines):
        where = f"{file}, line {line}"
        path = _inside(folder, _cell(row, image_column, where) or "", where)
        require_file(path, where)
        own = text if text_column is None else _cell(row, text_column, where)
        yield Row(path, own, _case(path, number), where)


def _case(image: Path, row: int) -> str:
    """As the DataModules name a row."""
    stem = re.sub(r"[^\w.+ -]", "_", image.stem)
    return f"{stem}__{row}"


def _inside(root: Path, entry: str, where: str) -> Path:
    """The file that a table names, below `root`; compared by name, so that links are allowed."""
    if not entry.strip():
        raise UserError(f"{where}: no image is named", "name one, or delete the row")
    base = os.path.abspath(root)  # noqa: PTH100 - resolve() would follow links
    path = os.path.abspath(Path(base) / entry.strip().replace("\\", "/"))  # noqa: PTH100
    if not Path(path).is_relative_to(base):
        raise UserError(
            f"{where}: {entry!r} lies outside root={base}",
            "set root to a folder above all images",
        )
    return Path(path)


# --- tables ------------------------------------------------------------------------------------

_Lines: TypeAlias = list[tuple[int, dict[str, Any]]]


def _read_table(file: Path) -> _Lines:
    """The rows of a table that are not empty, each with its line number, counted from 1.

    Raises:
        UserError: the file cannot be read as what its name says.
    """
    try:
        return _TABLES[file.suffix.lower()](file)
    except UserError:
        raise
    except Exception as error:  # csv, zipfile and openpyxl share no base class for a broken file
        raise UserError(
            f"{file} cannot be read as a table ({first_line(error)})",
            "save it as .csv in UTF-8, .xlsx or .jsonl",
        ) from error


def _csv(file: Path) -> _Lines:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        header = lines.readline()
        lines.seek(0)
        reader = csv.reader(lines, delimiter=";" if header.count(";") > header.count(",") else ",")
        return _named(file, [(reader.line_num, cells) for cells in reader])


def _xlsx(file: Path) -> _Lines:
    sheets = pd.read_excel(
        file, sheet_name=None, header=None, dtype=str, keep_default_na=False, engine="openpyxl"
    )
    filled = {name: sheet for name, sheet in sheets.items() if sheet.size}
    if len(filled) > 1:
        raise UserError(
            f"{file} has {len(filled)} sheets with cells: {', '.join(map(str, filled))}",
            "keep the one with images and texts",
        )
    cells = [sheet.fillna("").astype(str).to_numpy().tolist() for sheet in filled.values()]
    return _named(file, list(enumerate(cells[0], 1)) if cells else [])


def _named(file: Path, lines: list[tuple[int, list[str]]]) -> _Lines:
    """Cells under the names of the first line."""
    if not lines:
        return []
    header = [name.strip() for name in lines[0][1]]
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise UserError(
            f"{file} has more than one column {', '.join(sorted(twice))}", "keep one of each name"
        )
    named: _Lines = []
    for number, cells in lines[1:]:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise UserError(
                f"{file}, line {number}: {len(cells)} cells under {len(header)} columns",
                "put texts that hold the separator between double quotes",
            )
        named.append((number, dict(zip(header, cells, strict=True))))
    return named


def _jsonl(file: Path) -> _Lines:
    lines = enumerate(file.read_text(encoding="utf-8-sig").split("\n"), 1)
    rows = [(number, json.loads(line)) for number, line in lines if line.strip()]
    for number, row in rows:
        if not isinstance(row, dict):
            raise UserError(
                f"{file}, line {number} is no object", 'write {"image": .., "text": ..}'
            )
    return rows


_TABLES = {".csv": _csv, ".xlsx": _xlsx, ".jsonl": _jsonl}


def _column(file: Path, columns: Sequence[str], accepted: Sequence[str]) -> str | None:
    """The one column of these names, in any case; None without any."""
    found = [column for column in columns if column.strip().casefold() in accepted]
    if len(found) > 1:
        raise UserError(
            f"{file} has {len(found)} columns for {accepted[0]}: {', '.join(found)}",
            "keep one of them",
        )
    return found[0] if found else None


def _cell(row: Mapping[str, Any], column: str, where: str) -> str | None:
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise UserError(
            f"{where}: {column}={value!r} is not one string",
            "give an image with several expressions one row for each",
        )
    return value
