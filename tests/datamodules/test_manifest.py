"""Formats and columns of manifests, read strictly as for RefHL-Seg or leniently as your own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest

from datamodules.files.manifest import MANIFEST_NAMES, find_manifest, read_manifest, write_manifest
from tests.datamodules.manifest_tables import ROWS, Entry, counts, divided, lenient, save, without
from textseg.errors import UserError


def renamed(rows: list[Entry], names: Mapping[str, str]) -> list[Entry]:
    return [{names.get(k, k): v for k, v in row.items()} for row in rows]


# --- formats -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "separator"),
    [("m.jsonl", ""), ("m.csv", ","), ("m.csv", ";"), ("m.xlsx", "")],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, separator: str) -> None:
    file = save(tmp_path / name, divided(), separator)
    splits = read_manifest(tmp_path, file)
    assert list(splits) == ["train", "val", "test"]
    found = [(split, record) for split in splits for record in splits[split]]
    for (split, record), row in zip(found, divided(), strict=True):
        assert split == row["split"]
        assert (record.image, record.mask) == (tmp_path / row["image"], tmp_path / row["mask"])
        assert (record.text, record.case_id) == (row["text"], row["case_id"])
    assert [record.row for _, record in found] == [0, 1, 2, 3]
    assert [record.case for _, record in found] == ["a__0", "a__1", "b__2", "c__3"]


@pytest.mark.parametrize("name", MANIFEST_NAMES)
def test_a_manifest_in_root_is_found_by_its_name(tmp_path: Path, name: str) -> None:
    save(tmp_path / name, divided())
    assert find_manifest(tmp_path, None) == tmp_path / name
    assert counts(read_manifest(tmp_path, None)) == {"train": 2, "val": 1, "test": 1}


def test_a_root_without_a_manifest_names_all_that_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_manifest(tmp_path, None)
    assert all(name in str(error.value) for name in (*MANIFEST_NAMES, str(tmp_path), "captions"))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    more = {"lesion_id": 3, "spacing": [0.5, 0.75], "attributes": {"size": "small"}}
    file = write_manifest(tmp_path, [{**row, **more} for row in divided()])
    assert file == tmp_path / "manifest.jsonl"
    splits = read_manifest(tmp_path, None)
    records = [record for rows in splits.values() for record in rows]
    assert [record.text for record in records] == [row["text"] for row in ROWS]
    assert {record.spacing for record in records} == {(0.5, 0.75)}
    assert b"\r" not in file.read_bytes()
    assert "Läsion" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("wrong", [{"split": "dev"}, {"label": 1}, {"spacing": float("nan")}])
def test_our_writer_refuses_what_our_reader_would(tmp_path: Path, wrong: Entry) -> None:
    with pytest.raises((AssertionError, ValueError)):
        write_manifest(tmp_path, [{**divided()[0], **wrong}])
    assert not (tmp_path / "manifest.jsonl").exists()


# --- columns -----------------------------------------------------------------------------------


def test_column_names_are_read_without_regard_to_case_spaces_and_hyphens(tmp_path: Path) -> None:
    names = {"image": "Image", "mask": " MASK", "text": "Text", "case_id": "Case ID"}
    rows = renamed(divided(), {**names, "split": "Split"})
    splits = read_manifest(tmp_path, save(tmp_path / "m.jsonl", rows))
    assert splits["val"][0].case_id == "2"


@pytest.mark.parametrize(
    ("written", "split"),
    [("Train", "train"), ("valid", "val"), ("Validation", "val"), (" testing ", "test")],
)
def test_common_spellings_of_splits_are_understood(
    tmp_path: Path, written: str, split: str
) -> None:
    rows = [{**ROWS[0], "split": written}]
    assert counts(read_manifest(tmp_path, save(tmp_path / "m.jsonl", rows))) == {split: 1}


@pytest.mark.parametrize("name", ["caption", "Description", "SENTENCE"])
def test_only_a_lenient_reader_takes_another_name_for_text(tmp_path: Path, name: str) -> None:
    rows = renamed(divided(), {"text": name})
    assert lenient(tmp_path, rows)["test"][0].text == "two lesions"
    with pytest.raises(UserError, match=f"unknown: {name}; missing: text"):
        read_manifest(tmp_path, None)


def test_text_goes_before_caption(tmp_path: Path) -> None:
    rows = [{**row, "caption": "something else"} for row in divided()]
    with pytest.warns(UserWarning, match="not read: caption"):
        assert lenient(tmp_path, rows)["test"][0].text == "two lesions"


def test_two_columns_for_one_of_ours_are_refused(tmp_path: Path) -> None:
    both = [{**row, "Text": "b"} for row in divided()]
    with pytest.raises(UserError, match=r"2 columns for text: text, Text"):
        lenient(tmp_path, both, "m.jsonl")
    either = [{**row, "caption": "a", "sentence": "b"} for row in without(divided(), "text")]
    with pytest.raises(UserError, match=r"2 columns for text: caption, sentence"):
        lenient(tmp_path, either)


def test_other_columns_are_named_in_one_warning_and_refused_by_the_strict_reader(
    tmp_path: Path,
) -> None:
    rows = [{**row, "scanner": "x", "image_id": 4, "age": 60} for row in divided()]
    with pytest.warns(UserWarning, match="not read: scanner, image_id, age$") as caught:
        lenient(tmp_path, rows)
    assert len([w for w in caught if "not read" in str(w.message)]) == 1
    with pytest.raises(UserError, match="unknown: scanner, image_id, age"):
        read_manifest(tmp_path, None)


def test_no_warning_is_given_of_a_table_that_has_only_known_columns(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lenient(tmp_path, divided())


@pytest.mark.parametrize(
    ("column", "written"),
    [
        ("split", "spilt"),
        ("split", "splits"),
        ("split", "subset"),
        ("case_id", "caseid"),
        ("case_id", "Patient ID"),
        ("case_id", "subject"),
        ("spacing", "spacings"),
        ("spacing", "pixel_spacing"),
        ("mask", "masks"),
        ("mask", "ground_truth"),
        ("image", "images"),
        ("image", "filename"),
        ("text", "texts"),
    ],
)
def test_a_column_that_is_meant_for_one_of_ours_is_not_ignored(
    tmp_path: Path, column: str, written: str
) -> None:
    rows = [{**row, "spacing": "1 1"} for row in divided()]
    with pytest.raises(UserError) as error:
        lenient(tmp_path, renamed(rows, {column: written}))
    cause, remedy = str(error.value).splitlines()
    assert repr(written) in cause
    assert f"did you mean {column}?" in remedy


@pytest.mark.parametrize("written", ["patient", "subset", "spilt"])
def test_a_column_like_one_of_ours_may_stand_beside_it(tmp_path: Path, written: str) -> None:
    with pytest.warns(UserWarning, match=f"not read: {written}"):
        lenient(tmp_path, [{**row, written: "x"} for row in divided()])


def test_an_empty_column_without_a_name_is_what_a_spreadsheet_leaves(tmp_path: Path) -> None:
    file = save(tmp_path / "m.csv", divided())
    file.write_text("".join(line + ",\n" for line in file.read_text().splitlines()))
    assert counts(read_manifest(tmp_path, file)) == {"train": 2, "val": 1, "test": 1}
    file.write_text(file.read_text().replace(",val,", ",val,x"))
    with pytest.raises(UserError, match="unknown"):
        read_manifest(tmp_path, file)


@pytest.mark.parametrize("column", ["image", "text"])
def test_a_lacking_column_is_named_with_what_is_accepted(tmp_path: Path, column: str) -> None:
    with pytest.raises(UserError, match=f"missing: {column}") as error:
        lenient(tmp_path, without(divided(), column))
    assert "image, text" in str(error.value).splitlines()[1]
