"""Columns and tables of which several could be meant: equal ones do, others are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.files.layouts import read_keys, read_split_list, read_tables
from datamodules.files.named_tables import named_table
from datamodules.medclipseg.layouts import read_entries
from datamodules.volumes.captions import Captions
from tests.datamodules.contract import refused
from tests.datamodules.test_layouts import TABLES, flat
from tests.datamodules.trees import write_table
from textseg.errors import UserError
from textseg.tables import Row, find_column, read_captions

COLUMNS = ("Image", "Description", "caption")
ROWS = [("one.png", "left", " left "), ("two.png", "right", "right")]
OTHER = [ROWS[0], ("two.png", "right", "lower right")]


# --- columns


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_of_two_columns_of_text_that_differ_none_is_taken(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"t{suffix}"
    write_table(file, ROWS, COLUMNS)
    assert [caption.text for caption in read_captions(file)] == ["left", "right"]
    write_table(file, OTHER, COLUMNS)
    with refused(file, "Description, caption"):
        read_captions(file)
    columns = ("text", "filename", "Image")
    write_table(file, [(text, name, "x.png") for name, text, _ in ROWS], columns)
    with refused(file, "filename, Image"):
        read_captions(file)


def test_a_column_that_begins_below_the_first_row_counts_as_well(tmp_path: Path) -> None:
    rows = ['{"image": "a.png", "text": "left"}', '{"image": "b.png", "sentence": "right"}']
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    with refused("t.jsonl", "text, sentence"):
        read_captions(tmp_path / "t.jsonl")


def test_where_mistakes_are_only_reported_the_first_column_is_read(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", OTHER, COLUMNS)
    found: list[UserError] = []
    assert [c.text for c in read_captions(tmp_path / "t.csv", found.append)] == ["left", "right"]
    assert [error.kind for error in found] == ["several columns"]  # type: ignore[attr-defined]


def test_an_empty_cell_equals_one_that_is_not_there() -> None:
    rows = [Row({"text": None}, Path("t"), 0), Row({"caption": " "}, Path("t"), 1)]
    assert find_column(Path("t"), rows, ("text", "caption")) == "text"


def _medclipseg(file: Path) -> object:
    return read_entries(file.parent, "train", file)


@pytest.mark.parametrize(
    ("read", "columns"),
    [
        (read_keys, ("Image", "filename")),
        (_medclipseg, ("Image", "text", "mask", "Ground Truth")),
        (_medclipseg, ("Image", "text", "caption")),
        (lambda file: Captions("{region}", file), ("text", "caption")),
    ],
)
def test_no_reader_of_tables_picks_one_of_two_columns(
    tmp_path: Path, read: Callable[[Path], object], columns: tuple[str, ...]
) -> None:
    write_table(tmp_path / "t.csv", [[f"{column}.png" for column in columns]], columns)
    with refused("t.csv", f"{columns[-2]}, {columns[-1]}"):
        read(tmp_path / "t.csv")


# --- tables


@pytest.mark.parametrize("other", ["tr.xlsx", "Tr (1).csv", "tr.jsonl"])
def test_a_table_in_two_forms_is_read_where_they_are_equal(tmp_path: Path, other: str) -> None:
    def write(rows: list[tuple[str, ...]]) -> None:
        if other.endswith("jsonl"):
            lines = [f'{{"Image": "{name}", "Description": "{text}"}}' for name, text in rows]
            (tmp_path / other).write_text("\n".join(lines))
        else:
            write_table(tmp_path / other, rows)

    rows: list[tuple[str, ...]] = [("one.png", "left"), ("two.png", "right")]
    write_table(tmp_path / "tr.csv", rows, separator=";")
    write(rows)
    assert named_table([tmp_path], ("tr",)) == tmp_path / "tr.csv"
    for changed in (rows[:1], rows[::-1], [rows[0], ("two.png", "left")]):
        write(changed)
        with refused("'tr.csv'", repr(other)):
            named_table([tmp_path], ("tr",))


def test_a_table_that_cannot_be_compared_is_not_taken_for_a_copy(tmp_path: Path) -> None:
    write_table(tmp_path / "tr.csv", [("one.png", "left")])
    (tmp_path / "tr.json").write_text("[]")
    with refused("'tr.csv'", "'tr.json'"):
        named_table([tmp_path], ("tr",))


# --- a column of splits in the table of one split


@pytest.mark.parametrize("column", ["split", "Split"])
@pytest.mark.parametrize("cell", ["test", "Val", "fold 3"])
def test_a_row_of_another_split_than_its_files_is_refused(
    tmp_path: Path, column: str, cell: str
) -> None:
    layout = flat(tmp_path)
    columns = ("Image", "text", column)
    write_table(tmp_path / "te.csv", [("two.png", "right", "Testing")], columns)
    rows = [("one.png", "left", "training"), ("two.png", "right", "")]
    write_table(tmp_path / "tr.csv", rows, columns)
    assert len(read_tables(tmp_path, layout, None, TABLES)["train"]) == 2
    write_table(tmp_path / "tr.csv", [rows[0], ("two.png", "right", cell)], columns)
    with refused("tr.csv, row 3", f"{column}={cell!r}", "train"):
        read_tables(tmp_path, layout, None, TABLES)
    with refused("tr.csv, row 3", f"{column}={cell!r}", "train"):
        read_entries(tmp_path, "train", tmp_path / "tr.csv")


def test_a_joint_tables_splits_are_read_in_any_case_of_the_columns_name(tmp_path: Path) -> None:
    rows: list[Any] = [("one.png", "left", "train"), ("two.png", "right", "test")]
    write_table(tmp_path / "all.csv", rows, ("Image", "text", "Split"))
    tables = read_tables(tmp_path, flat(tmp_path), None, TABLES)
    assert {split: len(rows) for split, rows in tables.items()} == {"train": 1, "test": 1}
    write_table(tmp_path / "list.csv", rows, ("Image", "filename", "split"))
    with refused("list.csv", "Image, filename"):
        read_split_list(tmp_path, flat(tmp_path), None, ("list",))
