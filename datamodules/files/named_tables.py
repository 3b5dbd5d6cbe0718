"""Finding a table by what it is called, under the names that downloads and copies give it."""

from __future__ import annotations

import filecmp
import re
from collections.abc import Iterable
from pathlib import Path

from textseg.errors import UserError
from textseg.tables import TABLE_SUFFIXES, read_rows

Names = tuple[str, ...]

# Where tables lie below the dataset's folder.
TEXT_FOLDERS = ("", "Text", "text", "prompt", "prompts", "text_annotations")


def plain_stem(stem: str) -> str:
    """Reduce a file name to lower case, without what downloads and copies add at its end.

    "Train_text_MosMedData+ 1(in)" is the workbook "Train_text_MosMedData+ 1", saved as text.
    """
    without_copies = re.sub(r"(\s+\d+|\s*\(\w+\))*\s*$", "", stem.casefold())
    return without_copies.rstrip("+ _")


def table_folders(bases: Iterable[Path]) -> list[Path]:
    """List the folders at and below `bases` in which tables may lie, each once."""
    return [base / name for base in dict.fromkeys(bases) for name in TEXT_FOLDERS]


def named_table(folders: Iterable[Path], stems: Names) -> Path | None:
    """Find the first table of one of these names, folder by folder.

    Raises:
        UserError: it lies there twice, under names that mean the same, and the two differ.
    """
    for folder in folders:
        tables = tables_in(folder)
        for stem in stems:
            same = [file for file in tables if plain_stem(file.stem) == stem]
            if same:
                return _one_of_copies(same)
    return None


def _one_of_copies(tables: list[Path]) -> Path:
    """Of tables of one name, the one of the first's suffix with nothing added to its name.

    Raises:
        UserError: one of them differs from it.
    """
    suffix = tables[0].suffix.lower()
    copies = [file for file in tables if file.suffix.lower() == suffix]
    plainest = min(copies, key=lambda file: len(file.stem))
    for copy in tables:
        if copy != plainest and not _alike(plainest, copy):
            raise UserError(
                f"{plainest.parent} holds {plainest.name!r} and {copy.name!r}, which differ: "
                "which of them is meant?",
                "remove one, or set captions to a folder that holds only the right tables",
            )
    return plainest


def _alike(one: Path, other: Path) -> bool:
    """Whether two tables hold the same cells in every row; false where one cannot be read."""
    if filecmp.cmp(one, other, shallow=False):
        return True
    try:
        cells = _filled_cells(one)
        return bool(cells) and cells == _filled_cells(other)
    except UserError:
        return False


def _filled_cells(file: Path) -> list[dict[str, str]]:
    """A table's cells by the columns' names in lower case; a program may save spaces otherwise."""
    texts = (
        {
            name.strip().casefold(): " ".join(str(row[name]).split())
            for name in row
            if row.filled(name)
        }
        for row in read_rows(file)
    )
    return list(texts)


def tables_in(folder: Path) -> list[Path]:
    """List the tables in a folder; a text copy of a workbook comes before it."""
    if not folder.is_dir():
        return []
    # "~$name.xlsx" is what Excel leaves beside a workbook that is open.
    files = (f for f in folder.iterdir() if not f.name.startswith(("~$", ".")))
    tables = (f for f in files if f.suffix.lower() in TABLE_SUFFIXES)
    return sorted(tables, key=lambda f: (TABLE_SUFFIXES.index(f.suffix.lower()), f.name))
