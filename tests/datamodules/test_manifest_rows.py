"""What rows of a manifest may lack, what is refused, altered captions and spacings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules import RefHLSegDataModule
from datamodules.files.manifest import MANIFEST_NAMES, read_manifest, write_manifest
from tests.datamodules.manifest_tables import ROWS, counts, divided, lenient, save, without
from tests.tiny_run import write_refhl
from textseg.errors import UserError

# --- what a row may lack -----------------------------------------------------------------------


def test_without_the_column_split_rows_are_undivided_or_refused(tmp_path: Path) -> None:
    assert counts(lenient(tmp_path, ROWS)) == {"unsplit": 4}
    with pytest.raises(UserError, match="missing: split"):
        read_manifest(tmp_path, None)


def test_without_the_column_case_id_no_patient_is_known_or_it_is_refused(tmp_path: Path) -> None:
    splits = lenient(tmp_path, without(divided(), "case_id"))
    assert {record.case_id for rows in splits.values() for record in rows} == {""}
    with pytest.raises(UserError, match="missing: case_id"):
        read_manifest(tmp_path, None)


@pytest.mark.parametrize("column", ["split", "case_id"])
def test_a_column_that_is_filled_in_some_rows_must_be_filled_in_all(
    tmp_path: Path, column: str
) -> None:
    rows = divided()
    rows[2][column] = ""
    with pytest.raises(UserError, match=rf"row 4 .*: '{column}' is empty"):
        lenient(tmp_path, rows)


@pytest.mark.parametrize("empty", [False, True])
def test_of_a_table_without_masks_all_rows_are_for_prediction(tmp_path: Path, empty: bool) -> None:
    for rows in (divided(), ROWS):
        bare = [{**row, "mask": ""} for row in rows] if empty else without(rows, "mask")
        splits = lenient(tmp_path, bare)
        assert counts(splits) == {"predict": 4}
        assert all(record.mask is None for record in splits["predict"])


def test_a_row_of_split_predict_needs_no_mask_and_others_do(tmp_path: Path) -> None:
    rows = divided()
    rows[3] |= {"split": "predict", "mask": ""}
    assert counts(lenient(tmp_path, rows)) == {"train": 2, "val": 1, "predict": 1}
    rows[2]["mask"] = ""
    with pytest.raises(UserError, match=r"row 4 .*: 'mask' is empty\n.*split=predict"):
        lenient(tmp_path, rows)


def test_the_strict_reader_knows_no_rows_without_truth(tmp_path: Path) -> None:
    rows = divided()
    rows[3]["split"] = "predict"
    with pytest.raises(UserError, match=r"split='predict'\nwrite one of train, val, test$"):
        read_manifest(tmp_path, save(tmp_path / "m.csv", rows))


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["image", "mask", "text"])
@pytest.mark.parametrize("value", [["a", "b"], 5, {"p0": "a"}])
def test_a_cell_that_is_not_one_string_is_refused(tmp_path: Path, column: str, value: Any) -> None:
    rows = divided()
    rows[1][column] = value
    with pytest.raises(UserError, match=rf"entry 2: {column}=.* is not one string\n.*one row"):
        read_manifest(tmp_path, save(tmp_path / "m.jsonl", rows))


def test_an_image_in_two_splits_is_refused_whatever_its_case_is_called(tmp_path: Path) -> None:
    rows = divided()
    rows[3]["image"] = "i/../i/a.png"
    with pytest.raises(UserError, match=r"1 images are in more than one split: i/a\.png \(test, t"):
        read_manifest(tmp_path, save(tmp_path / "m.csv", rows))


def test_images_of_one_name_in_two_folders_may_be_in_two_splits(tmp_path: Path) -> None:
    rows = divided()
    rows[3]["image"] = "j/a.png"
    assert counts(read_manifest(tmp_path, save(tmp_path / "m.csv", rows)))["test"] == 1


def test_a_manifest_without_rows_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text("image,mask,text,case_id,split\n")
    with pytest.raises(UserError, match="has no rows"):
        read_manifest(tmp_path, file)


def test_a_workbook_in_which_numbers_are_numbers_is_read_as_text(tmp_path: Path) -> None:
    rows = [{**row, "case_id": int(row["case_id"]), "spacing": 0.5} for row in divided()]
    splits = read_manifest(tmp_path, save(tmp_path / "m.xlsx", rows))
    assert [record.case_id for record in splits["train"]] == ["1", "1"]
    assert splits["test"][0].spacing == (0.5, 0.5)


def test_rows_after_empty_ones_are_named_by_their_line(tmp_path: Path) -> None:
    head = "image,mask,text,case_id,split,spacing\n\na.png,b.png,left,1,train,\n,,,,,\n"
    for row, fault in (
        ("c.png,d.png,left,1,dev,", "split='dev'"),
        ("c.png,,left,1,train,", "'mask' is empty"),
        ("c.png,d.png,left,,train,", "'case_id' is empty"),
        ("c.png,d.png,left,1,train,wide", "spacing='wide'"),
        ("../c.png,d.png,left,1,train,", "lies outside"),
    ):
        file = tmp_path / "manifest.csv"
        file.write_text(head + row + "\n")
        with pytest.raises(UserError, match=rf"manifest\.csv, row 5 .*{fault}"):
            read_manifest(tmp_path, None)


@pytest.mark.parametrize("column", ["image", "mask"])
@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        ("a" * 256, "has 256 bytes"),
        ("images/" + "é" * 128 + "/a.png", "has 269 bytes"),
        ("a/" * 2100 + "a.png", "has 4205 bytes"),
        ("a\0.png", "holds a NUL"),
    ],
)
def test_what_no_file_can_be_called_is_a_users_mistake(
    tmp_path: Path, column: str, cell: str, fault: str
) -> None:
    save(tmp_path / "manifest.jsonl", [divided()[0] | {column: cell}])
    with pytest.raises(UserError, match=rf"manifest\.jsonl, entry 1: .*{fault}"):
        read_manifest(tmp_path, None)


def test_a_name_as_long_as_file_systems_take_is_read(tmp_path: Path) -> None:
    save(tmp_path / "manifest.jsonl", [divided()[0] | {"image": "i/" + "a" * 255}])
    [record] = read_manifest(tmp_path, None)["train"]
    assert not record.image.is_file()  # no OSError


# --- altered captions --------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFEST_NAMES)
def test_columns_of_altered_captions_are_read_by_the_name_of_their_set(
    tmp_path: Path, name: str
) -> None:
    changed = {
        "text_vague": ["a lesion", "", "", "lesions"],
        "Text-Missing place": ["", "", "x", ""],
    }
    rows = [
        {**row, **{column: texts[number] for column, texts in changed.items()}}
        for number, row in enumerate(divided())
    ]
    save(tmp_path / name, rows)
    splits = read_manifest(tmp_path, None)
    found = {record.case: dict(record.altered) for part in splits.values() for record in part}
    wanted = {"a__0": {"vague": "a lesion"}, "a__1": {}, "b__2": {"missing_place": "x"}}
    assert found == wanted | {"c__3": {"vague": "lesions"}}


def test_altered_captions_are_given_by_set_and_case_and_normalized_as_the_true_ones_are(
    tmp_path: Path,
) -> None:
    root = write_refhl(tmp_path)
    table = root / "manifest.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    tests = [number for number, row in enumerate(rows) if row["split"] == "test"]
    rows[tests[0]]["text_vague"] = "a  lesion ,small"
    rows[tests[2]]["text_vague"] = rows[tests[2]]["text"]
    rows[0]["text_vague"] = "of a training row"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cases = [f"{Path(rows[number]['image']).stem}__{number}" for number in tests]
    for normalized, text in ((False, "a  lesion ,small"), (True, "a lesion, small.")):
        data = RefHLSegDataModule(str(root), cache=None, normalize_captions=normalized)
        given = data.altered_captions()
        own = data.records("test")[2].text
        assert given == {"vague": {cases[0]: text, cases[2]: own}}
        assert data.altered_captions("val") == {}


def test_two_columns_of_one_set_are_refused(tmp_path: Path) -> None:
    rows = [{**row, "text_vague": "a", "Text Vague": "b"} for row in divided()]
    with pytest.raises(UserError, match="text_vague"):
        lenient(tmp_path, rows)


def test_an_altered_caption_is_one_string(tmp_path: Path) -> None:
    rows = [{**row, "text_vague": ["a", "b"]} for row in divided()]
    with pytest.raises(UserError, match="text_vague"):
        read_manifest(tmp_path, save(tmp_path / "m.jsonl", rows))


# --- spacing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "separator", "wanted"),
    [
        ("1,5", ";", (1.5, 1.5)),
        ("0,8 0,75", ";", (0.8, 0.75)),
        ("0,8 0,75", "\t", (0.8, 0.75)),
        ("0.8 0.75", ";", (0.8, 0.75)),
        ("0.8, 0.75", ",", (0.8, 0.75)),
        ("0.8,0.75", ",", (0.8, 0.75)),
        ("[1,2]", ",", (1.0, 2.0)),
        ("1, 2", ",", (1.0, 2.0)),
        ("2", ",", (2.0, 2.0)),
    ],
)
def test_a_comma_is_a_decimal_one_where_none_separates_cells(
    tmp_path: Path, cell: str, separator: str, wanted: tuple[float, float]
) -> None:
    rows = [{**row, "spacing": cell} for row in divided()]
    splits = read_manifest(tmp_path, save(tmp_path / "m.csv", rows, separator))
    assert {record.spacing for part in splits.values() for record in part} == {wanted}


@pytest.mark.parametrize("name", ["m.csv", "m.xlsx", "m.jsonl"])
@pytest.mark.parametrize("cell", ["1,5", "0,8", "1,5 1,5", "1,5,2"])
def test_a_comma_in_doubt_is_refused(tmp_path: Path, name: str, cell: str) -> None:
    rows = [{**row, "spacing": cell} for row in divided()]
    with pytest.raises(UserError, match=rf"spacing='{cell}'") as error:
        read_manifest(tmp_path, save(tmp_path / name, rows))
    assert "0.8" in str(error.value).splitlines()[1]


@pytest.mark.parametrize("mark", ["\u2028", "\u0085"])
def test_a_caption_with_a_line_separator_is_written_and_read(tmp_path: Path, mark: str) -> None:
    rows = [{**row, "text": f"{row['text']}{mark}x"} for row in divided()]
    splits = read_manifest(tmp_path, write_manifest(tmp_path, rows))
    texts = [record.text for part in splits.values() for record in part]
    assert texts == [row["text"] for row in rows]
