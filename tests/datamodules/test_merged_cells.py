"""Merged cells of a workbook hold one value, and the others under it would read as empty."""

from __future__ import annotations

import io
from pathlib import Path

import openpyxl
import pytest

from tests.datamodules.contract import refused
from textseg.tables import read_rows, workbook_rows
from textseg.tables.merged import merged_ranges


def write(file: Path, *merged: str) -> None:
    """A workbook with a sheet "cases" of six rows, of which some cells are merged."""
    book = openpyxl.Workbook()
    book.active.title = "cases"
    book.active.append(("image", "text", "case_id"))
    for number in range(6):
        book.active.append((f"{number}.png", "left", "p1"))
    for cells in merged:
        book.active.merge_cells(cells)
    book.create_sheet("empty").merge_cells("A1:B9")
    book.save(file)


@pytest.mark.parametrize("cells", ["C2:C7", "A3:B3", "A1:B1"])
def test_a_table_with_merged_cells_is_refused_by_sheet_and_range(
    tmp_path: Path, cells: str
) -> None:
    file = tmp_path / "t.xlsx"
    write(file)
    assert [row["case_id"] for row in read_rows(file)] == ["p1"] * 6
    write(file, cells, "B5:C6")
    with refused(file, "'cases'", cells, "B5:C6"):
        read_rows(file)


def test_headers_of_several_rows_may_be_merged_but_not_what_lies_below(tmp_path: Path) -> None:
    file = tmp_path / "t.xlsx"
    write(file, "A1:C1", "A2:A3")
    assert len(list(workbook_rows(file, "cases", header_rows=3))) == 7
    for header_rows in (0, 2):
        with refused("'cases'", "A2:A3"):
            list(workbook_rows(file, "cases", header_rows=header_rows))
    write(file, "A3:A4")
    with refused("A3:A4"):
        list(workbook_rows(file, "cases", header_rows=3))


class _Parts(io.BytesIO):
    """A file that is read a few bytes at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(7)


def test_a_range_is_found_wherever_the_parts_of_a_sheet_end() -> None:
    xml = b"<x:mergeCells count='2'><x:mergeCell ref='A1:B2'/><mergeCell  a=\"1\" ref=\"C3:C9\"/>"
    assert list(merged_ranges(_Parts(b" " * 3000 + xml + b"</sheet>"))) == ["A1:B2", "C3:C9"]
