"""cases.csv: what is written is read back, and what was edited is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.run_folder import case_row
from textseg.errors import UserError
from textseg.runs import read_cases, write_cases

ROWS = [case_row(number, 0.5, 6) for number in range(6)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_cases(tmp_path / "cases.csv", ROWS)
    return tmp_path / "cases.csv"


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    defined = replace(
        ROWS[0],
        hd95=1 / 3,
        nsd=0.1,
        diagonal=9.5,
        surface_unit="mm",
        lesions_matched=0,
        caption='a "b",\nc',
    )
    write_cases(tmp_path / "cases.csv", [defined, ROWS[1]])
    assert read_cases(tmp_path / "cases.csv") == [defined, ROWS[1]]
    assert (tmp_path / "cases.csv").read_bytes().endswith(b"9000,,,,,small,2,,,,right,outlines\r\n")


def test_an_empty_pair_scores_one_or_with_lvits_protocol_nothing(tmp_path: Path) -> None:
    blank = replace(ROWS[0], dice=0.0, intersection=0, predicted=0, true=0)
    write_cases(tmp_path / "cases.csv", [blank])
    assert read_cases(tmp_path / "cases.csv", "lvit") == [blank]
    with pytest.raises(UserError, match="lesion_number=1"):
        read_cases(tmp_path / "cases.csv")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (r"intersection", "overlap", "columns intersection"),
        (r"caption", "text", "columns caption"),
        (r"c__1,", "c__0,", "1 cases"),
        (r"(c__0.*),9000,.*\n", r"\1\n", "line 2: pixels=None"),
        (r"(c__0.*,)\d+,100,100,", r"\g<1>7,6,8,", "line 2: 7 pixels"),
        (r"(c__0.*,100,100,)9000", r"\g<1>90", "100 true, of 90"),
        (r"(c__0,p0,p0,left lung,)", r"\g<1>-", "line 2: dice=-0.5"),
        (r"(c__0,p0,p0,left lung,)0.5", r"\g<1>inf", "line 2: dice='inf'"),
        (r"c__0,p0,p0", "c__0,p0,p1", "line 2: case='c__0' with case_id='p0' has patient='p1'"),
        (r"small", "tiny", "line 2: lesion_size='tiny'"),
        (r"(small),1,", r"\1,0,", "line 2: lesion_number=0 with 100 true pixels"),
        (r"(small),1,", r"\1,one,", "line 2: lesion_number='one'"),
        (r"(small,1,),,,", r"\g<1>1,2,0,", "line 2: 2 of 1 lesions"),
        (r"(?s)\n.*", "\n", "no case"),
    ],
)
def test_a_broken_or_edited_table_is_refused(table: Path, old: str, new: str, named: str) -> None:
    before = table.read_text().replace("\r\n", "\n")
    after = re.sub(old, new, before, count=1)
    assert after != before, "an example that changes nothing"
    table.write_text(after)
    with pytest.raises(UserError) as caught:
        read_cases(table)
    cause, _, remedy = str(caught.value).partition("\n")
    assert named in cause
    assert str(table) in cause
    assert "textseg test" in remedy
