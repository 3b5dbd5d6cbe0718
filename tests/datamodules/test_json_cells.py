"""Numbers in the JSON forms: one patient is one name, however the number is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.files.manifest import read_manifest
from tests.datamodules.contract import refused
from textseg.tables import parse_json, read_rows


def line(case: str, split: str) -> str:
    """A line of a manifest, in which the patient is written as it stands here."""
    picture = f'"image": "{split}.png", "mask": "m.png", "text": "left"'
    return f'{{{picture}, "case_id": {case}, "split": "{split}"}}\n'


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *(("1.0", 1), ("-0.0", 0), ("1e2", 100), ("1.5", 1.5), ("NaN", None), ("7", 7)),
        *(('"1.0"', "1.0"), ("[2.0, NaN]", [2, None]), ('{"a": 3.0}', {"a": 3})),
    ],
)
def test_a_number_is_read_as_a_spreadsheet_shows_it(
    tmp_path: Path, written: str, read: Any
) -> None:
    (tmp_path / "t.jsonl").write_text(f'{{"cell": {written}}}\n')
    (tmp_path / "t.json").write_text(f'{{"test": [{{"cell": {written}}}]}}')
    for name in ("t.jsonl", "t.json"):
        cell = read_rows(tmp_path / name)[0]["cell"]
        assert (cell, type(cell)) == (read, type(read))


def test_a_patient_is_one_whether_a_whole_number_has_a_point_or_not(tmp_path: Path) -> None:
    file = tmp_path / "manifest.jsonl"
    file.write_text(line("1", "train") + line("1.0", "test") + line("2", "val"))
    with refused("manifest.jsonl", "1 (test, train)"):
        read_manifest(tmp_path, file)


def test_a_patient_that_is_no_number_is_an_empty_cell(tmp_path: Path) -> None:
    file = tmp_path / "manifest.jsonl"
    file.write_text(line("1", "train") + line("NaN", "test"))
    with refused("manifest.jsonl, entry 2", "'case_id' is empty"):
        read_manifest(tmp_path, file)


@pytest.mark.parametrize("written", ["Infinity", "-Infinity", "1e999"])
def test_an_infinite_number_is_refused_with_its_line(tmp_path: Path, written: str) -> None:
    (tmp_path / "t.jsonl").write_text(f'{{"case_id": 1}}\n{{"case_id": {written}}}\n')
    with refused("t.jsonl", "line 2", written):
        read_rows(tmp_path / "t.jsonl")
    (tmp_path / "t.json").write_text(f'{{"test": [{{"case_id": {written}}}]}}')
    with refused("t.json", written):
        read_rows(tmp_path / "t.json")


def test_what_python_writes_is_read_back() -> None:
    values = {"a": [1, 2.5, "3.0", None, True]}
    assert parse_json(json.dumps(values)) == values
