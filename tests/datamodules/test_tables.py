from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import openpyxl
import openpyxl.chart
import pandas as pd
import pytest

from tests.datamodules.trees import write_table
from textseg.errors import UserError
from textseg.tables import TEXT_COLUMNS, match_key, read_captions, read_rows

ROWS = [("mask_a.png", "left, upper"), ("mask_b.png", "NA")]


@pytest.mark.parametrize(
    "name",
    [
        *("mask_covid_1.png", "covid_1.PNG", "Covid_1", "Images\\covid_1.png", "x/y/mask_covid_1"),
        *("covid_1.tif", " covid_1.jpg "),
    ],
)
def test_image_mask_and_caption_meet_under_one_key(name: str) -> None:
    assert match_key(name) == "covid_1"


def test_only_one_mask_prefix_is_dropped_and_other_dots_are_kept() -> None:
    assert match_key("mask_mask_1.png") == "mask_1"
    assert match_key("study.v2") == "study.v2"


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".csv", ";"), (".xlsx", ",")])
@pytest.mark.parametrize(
    "image", ["Image", "image", "filename", "image_path", "original_image_filename"]
)
@pytest.mark.parametrize("text", ["Description", "text", "caption", "sentence"])
def test_every_accepted_form_reads_alike(
    tmp_path: Path, suffix: str, separator: str, image: str, text: str
) -> None:
    write_table(tmp_path / f"t{suffix}", ROWS, (image, text), separator)
    captions = read_captions(tmp_path / f"t{suffix}")
    assert [(c.name, c.text, c.row) for c in captions] == [(*r, n) for n, r in enumerate(ROWS)]


def test_json_lines_and_sgseg_json_are_read(tmp_path: Path) -> None:
    entries = [{"image_path": name, "caption": text, "infected_area": 2} for name, text in ROWS]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(entry) for entry in entries) + "\n")
    (tmp_path / "b.json").write_text(json.dumps({"train": entries[:1], "valid": entries[1:]}))
    assert [(c.name, c.text) for c in read_captions(tmp_path / "a.jsonl")] == ROWS
    assert [(c.name, c.text) for c in read_captions(tmp_path / "b.json")] == ROWS
    assert [c.split for c in read_captions(tmp_path / "b.json")] == ["train", "val"]


def test_an_unknown_column_is_answered_with_those_found_and_those_accepted(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ROWS, ("Image", "Words"))
    with pytest.raises(UserError, match=r"t\.csv .*Image, Words\n") as e:
        read_captions(tmp_path / "t.csv")
    assert all(column in str(e.value).splitlines()[1] for column in TEXT_COLUMNS)


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_an_empty_caption_is_named_with_its_row(tmp_path: Path, suffix: str) -> None:
    write_table(tmp_path / f"t{suffix}", [*ROWS, ("mask_c.png", " ")])
    with pytest.raises(UserError, match=rf"t{suffix}, row 4 .*'Description'"):
        read_captions(tmp_path / f"t{suffix}")


def test_empty_rows_count_as_lines_and_not_as_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Image,text\n\na.png,left\n,\nb.png,\n")
    with pytest.raises(UserError, match=r"t\.csv, row 5 .*'text'"):
        read_captions(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("Image,text\n\na.png,left\n,\nb.png,right\n")
    rows = read_rows(tmp_path / "t.csv")
    assert [(row.number, row.line) for row in rows] == [(0, 3), (1, 5)]
    book = openpyxl.Workbook()
    for row, cells in ((1, ("Image", "text")), (3, ("a.png", "left")), (5, ("b.png", " "))):
        for column, cell in enumerate(cells, start=1):
            book.active.cell(row, column, cell)
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(UserError, match=r"t\.xlsx, row 5 .*'text'"):
        read_captions(tmp_path / "t.xlsx")


def test_an_unquoted_separator_in_a_caption_is_named_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Image,Description\na.png,one, two\n")
    with pytest.raises(UserError, match=r"row 2\b.*3 .*2"):
        read_captions(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["t.xlsx", "t.json", "t.jsonl", "t.csv", "t.txt"])
def test_a_file_of_something_else_is_a_users_mistake(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00garbage")
    with pytest.raises(UserError, match=name):
        read_captions(tmp_path / name)


def add_chart(book: openpyxl.Workbook) -> None:
    """A sheet, before all others, that has a chart and no cells."""
    book.create_chartsheet("chart", 0).add_chart(openpyxl.chart.BarChart())


def write_sheets(file: Path, sheets: dict[str, list[tuple[str, str]]]) -> None:
    with pd.ExcelWriter(file, engine="openpyxl") as book:
        for name, rows in sheets.items():
            columns = ["Image", "text"] if rows else []
            pd.DataFrame(rows, columns=columns).to_excel(book, sheet_name=name, index=False)


def test_empty_sheets_beside_the_captions_do_not_matter(tmp_path: Path) -> None:
    write_sheets(tmp_path / "t.xlsx", {"Sheet2": [], "in": ROWS, "Sheet3": []})
    assert [(c.name, c.text) for c in read_captions(tmp_path / "t.xlsx")] == ROWS


def test_a_chart_before_the_captions_does_not_matter(tmp_path: Path) -> None:
    write_sheets(tmp_path / "t.xlsx", {"in": ROWS})
    book = openpyxl.load_workbook(tmp_path / "t.xlsx")
    add_chart(book)
    book.save(tmp_path / "t.xlsx")
    assert [(c.name, c.text) for c in read_captions(tmp_path / "t.xlsx")] == ROWS


def test_two_filled_sheets_are_named_instead_of_one_being_guessed(tmp_path: Path) -> None:
    write_sheets(tmp_path / "t.xlsx", {"old": ROWS, "new": ROWS[:1]})
    with pytest.raises(UserError, match=r"t\.xlsx .*old, new\n"):
        read_captions(tmp_path / "t.xlsx")


def test_a_workbook_without_cells_is_a_users_mistake(tmp_path: Path) -> None:
    write_sheets(tmp_path / "empty.xlsx", {"Sheet1": []})
    with pytest.raises(UserError, match=r"empty\.xlsx has no rows"):
        read_captions(tmp_path / "empty.xlsx")
    book = openpyxl.Workbook()
    add_chart(book)
    book.remove(book.worksheets[0])
    book.save(tmp_path / "chart.xlsx")
    with pytest.raises(UserError, match=r"chart\.xlsx has no sheet of cells"):
        read_captions(tmp_path / "chart.xlsx")


def test_a_workbooks_numbers_dates_and_errors_are_read_as_its_reader_sees_them(
    tmp_path: Path,
) -> None:
    book = openpyxl.Workbook()
    book.active.append(("number", "share", "day", "answer", "broken", None, None))
    book.active.append((7.0, 0.25, datetime(2020, 1, 31), True, "#N/A", None, None))
    book.active.append(("NA", "x ", None, "-", "-", "beyond", None))
    book.save(tmp_path / "t.xlsx")
    rows = read_rows(tmp_path / "t.xlsx")
    assert list(rows[0].values()) == ["7", "0.25", "2020-01-31 00:00:00", "True", "", ""]
    assert list(rows[1].values()) == ["NA", "x ", "", "-", "-", "beyond"]
    assert list(rows[0])[5:] == ["Unnamed: 5"]


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_a_name_that_two_columns_share_is_refused(tmp_path: Path, suffix: str) -> None:
    write_table(tmp_path / f"t{suffix}", [("a.png", "x", "y")], ("Image", "text", "text"))
    with pytest.raises(UserError, match=rf"t{suffix} .*text\n"):
        read_captions(tmp_path / f"t{suffix}")


def test_a_line_separator_within_a_caption_does_not_end_its_line(tmp_path: Path) -> None:
    entry = {"image": "a.png", "text": "left\u2028upper"}
    (tmp_path / "t.jsonl").write_text(json.dumps(entry, ensure_ascii=False), encoding="utf-8")
    assert [c.text for c in read_captions(tmp_path / "t.jsonl")] == [entry["text"]]


def test_a_table_without_rows_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Image,Description\n")
    with pytest.raises(UserError, match="no rows"):
        read_captions(tmp_path / "t.csv")


@pytest.mark.real_data
def test_the_real_tables_have_their_known_number_of_rows(real_data: Path) -> None:
    def rows(name: str) -> int:
        return len(read_captions(real_data / name))

    assert rows("qata_text/train.csv") + rows("qata_text/test.csv") == 9258
    assert rows("qata_text/sgseg_annotation.json") == 9258
    assert rows("lvit_monuseg_text/Train_text.xlsx") == 24
    assert rows("mosmed_images_sample/Train_Val_text.xlsx") == 25
    mosmed = sorted((real_data / "mosmed_text").glob("*.csv"))
    assert [len(read_captions(file)) for file in mosmed] == [273, 2183, 273]


@pytest.mark.parametrize(
    ("cell", "split"),
    [
        *(("Training ", "train"), ("valid", "val"), ("Validation", "val"), ("TESTING", "test")),
        ("dev", ""),
    ],
)
def test_a_caption_tables_splits_go_by_the_names_a_manifests_do(
    tmp_path: Path, cell: str, split: str
) -> None:
    write_table(tmp_path / "t.csv", [("a.png", "left", cell)], ("Image", "text", "split"))
    assert [c.split for c in read_captions(tmp_path / "t.csv")] == [split]


# --- as spreadsheets save them -------------------------------------------------------------------

TEXT = "Image;Description\r\nmask_a.png;Läsion, links\r\nmask_b.png;rechts\r\n"
WANTED = [("mask_a.png", "Läsion, links"), ("mask_b.png", "rechts")]


@pytest.mark.parametrize(
    ("separator", "encoding", "head"),
    [
        (";", "utf-8", ""),
        (";", "utf-8-sig", "sep=;\r\n"),
        ("|", "utf-8", "sep=|\n"),
        ("\t", "utf-8", ""),
        ("\t", "utf-16", ""),  # "Unicode text"
        (";", "utf-16-be", "\ufeff"),
    ],
)
def test_text_is_read_as_excel_saves_it(
    tmp_path: Path, separator: str, encoding: str, head: str
) -> None:
    text = head + TEXT.replace(";", separator)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert [(c.name, c.text) for c in read_captions(tmp_path / "t.csv")] == WANTED
    assert [row.line for row in read_rows(tmp_path / "t.csv")] == [2, 3]


def test_the_line_ends_of_an_old_mac_are_line_ends(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(TEXT.replace("\r\n", "\r").encode())
    assert [(c.name, c.text) for c in read_captions(tmp_path / "t.csv")] == WANTED


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("cp1252", ""),
        ("mac-roman", ""),
        ("utf-16-le", ""),
        ("utf-32-le", ""),
        ("utf-32-le", "\ufeff"),  # begins with the mark of UTF-16
        ("utf-32-be", "\ufeff"),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json"])
def test_text_in_another_encoding_is_named_and_not_guessed(
    tmp_path: Path, encoding: str, mark: str, name: str
) -> None:
    (tmp_path / name).write_bytes((mark + TEXT).encode(encoding))
    with pytest.raises(UserError, match="UTF-8") as error:
        read_captions(tmp_path / name)
    cause, remedy = str(error.value).splitlines()
    assert name in cause
    assert "UTF-8" in remedy


@pytest.mark.parametrize(
    ("name", "data", "remedy"),
    [
        ("t.csv", b"PK\x03\x04" + b"\0" * 40, "name it .xlsx"),
        ("t.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 40, "without a password"),
        ("t.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 40, "without a password"),
        ("t.xlsx", TEXT.encode(), "name it .csv"),
        ("t.xls", b"", "save other workbooks as .xlsx"),
        ("t.tsv", TEXT.encode(), "name separated text .csv"),
        ("t.jsonl", b'{"image": "a.png", "text": "x"}\n{"image"\n', "one object a line"),
    ],
)
def test_a_table_under_a_wrong_name_is_told_the_right_one(
    tmp_path: Path, name: str, data: bytes, remedy: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=name) as error:
        read_rows(tmp_path / name)
    assert remedy in str(error.value).splitlines()[1]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json"])
def test_what_unicode_calls_a_line_end_is_part_of_a_caption(
    tmp_path: Path, mark: str, name: str
) -> None:
    row = {"image": "a.png", "text": f"left{mark}upper"}
    text = {
        "t.csv": f"image,text\n{row['image']},{row['text']}\n",
        "t.jsonl": json.dumps(row, ensure_ascii=False) + "\n",
        "t.json": json.dumps({"train": [row]}, ensure_ascii=False),
    }[name]
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert [c.text for c in read_captions(tmp_path / name)] == [row["text"]]
