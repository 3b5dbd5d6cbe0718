"""What to segment: an image, a folder of images, or a table of images and texts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from textseg import tables
from textseg.errors import UserError
from textseg.segment.pictures import require_file

_TABULAR = (".csv", ".xlsx", ".jsonl")


@dataclass(frozen=True)
class Row:
    """One image and its text; `case` names the results, `where` is for messages."""

    image: Path
    text: str | None
    case: str
    where: str


def read_rows(image: Path, text: str | None, root: str | None) -> Iterator[Row]:
    """Yield every image with its text, in the order of the table or of the files' names.

    Raises:
        UserError: a file is missing, or the table cannot be used.
    """
    image = image.expanduser()
    tabular = image.suffix.lower() in _TABULAR and not image.is_dir()
    if root is not None and not tabular:
        raise UserError(f"root={root!r} is for a table, and {image} is none", "leave root out")
    if tabular:
        yield from _table_rows(image, text, root)
        return
    files = [image]
    if image.is_dir():
        files = sorted(
            path for path in image.iterdir() if path.suffix.lower() in tables.IMAGE_SUFFIXES
        )
    if not files:
        raise UserError(
            f"{image} holds no image (of the kinds {', '.join(tables.IMAGE_SUFFIXES)})",
            "give the folder that the images lie in directly, or a table of their paths",
        )
    for number, path in enumerate(files):
        require_file(path)
        yield Row(path, text, _case(path, number), str(path))


def _table_rows(file: Path, text: str | None, root: str | None) -> Iterator[Row]:
    require_file(file)
    table = tables.read_rows(file)
    if not table:
        raise UserError(f"{file} has no rows", "list one image and its text a row")
    columns = list(dict.fromkeys(column for row in table for column in row))
    tables.find_column(file, columns, ("image",), "an image column")
    image_column = _one_column(file, columns, ("image",))
    text_column = _one_column(file, columns, tables.TEXT_COLUMNS)
    if text_column and text is not None:
        raise UserError(
            f"text={text!r} is given, and {file} has a column {text_column}",
            "leave the text out, or delete the column",
        )
    folder = file.parent if root is None else Path(root).expanduser()
    for number, row in enumerate(table):
        where = f"{file}, {tables.row_location(file, number, row.line)}"
        path = _inside(folder, _cell(row, image_column, where) or "", where)
        require_file(path, where)
        yield Row(
            image=path,
            text=_cell(row, text_column, where) if text_column else text,
            case=_case(path, number),
            where=where,
        )


def _one_column(file: Path, columns: list[str], accepted: tuple[str, ...]) -> str:
    """The one column of these names; "" without any."""
    found = tables.matching_columns(columns, accepted)
    if len(found) > 1:
        raise UserError(
            f"{file} has {len(found)} columns for {accepted[0]}: {', '.join(found)}",
            "keep one of them",
        )
    return found[0] if found else ""


def _cell(row: tables.Row, column: str, where: str) -> str | None:
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise UserError(
            f"{where}: {column}={value!r} is not one string",
            "give an image with several expressions one row for each",
        )
    return value


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
