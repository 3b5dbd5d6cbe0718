"""Columns of a table that `textseg segment` reads, and those that it does not."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.segment.refusals import message
from textseg.errors import UserError
from textseg.segment.rows import read_rows


@pytest.fixture
def table(tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "t.csv"


def texts(table: Path, columns: str, cells: str, text: str | None = None) -> list[str | None]:
    table.write_text(f"image,{columns}\na.png,{cells}\na.png,{cells}\n")
    return [row.text for row in read_rows(table, text, None)]


def test_columns_that_are_not_read_are_said_once(table: Path) -> None:
    with pytest.warns(UserWarning, match=r"t\.csv.*: case_id, texts$") as said:
        assert texts(table, "case_id,text,texts", "1,left,right") == ["left", "left"]
    assert len(said) == 1
    with pytest.warns(UserWarning, match=r"t\.csv.*: mask$"):
        assert texts(table, "mask", "m.png", "left") == ["left", "left"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert texts(table, "Caption", "left") == ["left", "left"]


@pytest.mark.parametrize(
    ("column", "meant"), [("texts", "text"), ("Captions", "caption"), ("sentense", "sentence")]
)
@pytest.mark.parametrize("text", [None, "left"])
def test_a_misspelled_column_of_texts_is_not_passed_over(
    table: Path, column: str, meant: str, text: str | None
) -> None:
    with pytest.raises(UserError) as error:
        texts(table, column, "right", text)
    cause, remedy = message(error)
    assert repr(column) in cause
    assert meant in remedy


def test_two_columns_of_text_are_read_where_they_are_equal(table: Path) -> None:
    assert texts(table, "text,caption", "left,left") == ["left", "left"]
    with pytest.raises(UserError) as error:
        texts(table, "text,caption", "left,right")
    assert "text, caption" in message(error)[0]
