"""What to segment: an image, a folder of images, or a table of images and texts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from textseg import tables
from textseg.errors import UserError
from textseg.preprocess import probe_size
from textseg.segment.pictures import require_file

_TABULAR = (".csv", ".xlsx", ".jsonl")
_IMAGE = ("image",)  # the column of images, as a manifest calls it


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
    if not image.is_dir():
        require_file(image)
    for number, path in enumerate(_images_of(image) if image.is_dir() else [image]):
        yield Row(path, text, tables.case_name(path, number), str(path))


def _images_of(folder: Path) -> list[Path]:
    """The images of a folder by name, without masks that lie beside their images.

    Raises:
        UserError: there is none.
    """
    files, others = tables.images_in(folder), tables.not_images_in(folder)
    if not files:
        raise UserError(
            f"{folder} holds no image (of the kinds {', '.join(tables.IMAGE_SUFFIXES)})"
            + f", but {', '.join(others)}" * bool(others),
            "give the folder that the images lie in directly, or a table of their paths",
        )
    if others:
        warnings.warn(
            f"{len(others)} of {len(files) + len(others)} entries of {folder} are left out, as no "
            f"images: {', '.join(others)}",
            stacklevel=2,
        )
    masks = frozenset(tables.masks_among(files))
    if masks:
        names = ", ".join(sorted(path.name for path in masks))
        warnings.warn(
            f"{len(masks)} of {len(files)} images of {folder} are left out, as masks of others by "
            f"their names: {names}; one that is given itself, or in a table, is segmented all the "
            "same",
            stacklevel=2,
        )
    return [path for path in files if path not in masks]


def _table_rows(file: Path, text: str | None, root: str | None) -> Iterator[Row]:
    require_file(file)
    table = tables.read_rows(file)
    if not table:
        raise UserError(f"{file} has no rows", "list one image and its text a row")
    columns = tables.columns_of(table)
    image_column = tables.find_column(file, table, _IMAGE)
    assert image_column is not None, "its absence is raised"
    text_column = tables.optional_column(file, table, tables.TEXT_COLUMNS)
    if text_column and text is not None:
        raise UserError(
            f"text={text!r} is given, and {file} has a column {text_column}",
            "leave the text out, or delete the column",
        )
    _say_unread(file, columns, text_column)
    folder = file.parent if root is None else Path(root).expanduser()
    for row in table:
        row.check_strings(filter(None, (image_column, text_column)))
        path = tables.resolve_inside(folder, row.required(image_column), row)
        assert path is not None, "a mistake is raised"
        where = f"{file}, {row.location}"
        require_file(path, where)
        words = row.get(text_column) if text_column else text
        yield Row(path, words, tables.case_name(path, row.number), where)


def _say_unread(file: Path, columns: list[str], text_column: str | None) -> None:
    """Warn of columns that are not read, of which none may be a text's, misspelled.

    Raises:
        UserError: there is no text, and a column that seems to be meant for it.
    """
    read = tables.matching_columns(columns, (*_IMAGE, *tables.TEXT_COLUMNS))
    unread = [column for column in columns if column not in read]
    absent = () if text_column else tables.TEXT_COLUMNS
    tables.refuse_misspelled(file, unread, absent)
    if unread:
        warnings.warn(f"{file}: columns that are not read: {', '.join(unread)}", stacklevel=2)


def check_texts(rows: Sequence[Row]) -> None:
    """Check that every row has a text, for a network that reads it.

    Raises:
        UserError: one has none.
    """
    for row in rows:
        if not (row.text or "").strip():
            raise UserError(
                f"{row.where}: there is no text, but the network segments what is named",
                'say what to look for: textseg segment IMAGE "text", or a table with a text in '
                "each row",
            )


def unreadable(rows: Sequence[Row]) -> dict[Path, UserError]:
    """Find the images that are cut short or no images, each with its error."""
    found = {}
    for path in tqdm(dict.fromkeys(row.image for row in rows), "check", delay=2, unit="image"):
        try:
            if not path.is_file():  # of a folder; else it was refused before
                raise UserError(
                    f"{path} is a folder or a link to nothing", "replace it, or remove it"
                )
            probe_size(path)
        except UserError as error:
            found[path] = error
    return found
