"""The reader of manifests, strict as for RefHL-Seg and lenient as for your own data."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from datamodules import RefHLSegDataModule
from datamodules.files.manifest import MANIFEST_NAMES, find_manifest, read_manifest, write_manifest
from tests.tiny_run import write_refhl
from textseg.errors import UserError

Entry = dict[str, Any]

ROWS: list[Entry] = [
    {"image": "i/a.png", "mask": "m/a.png", "text": "left lesion", "case_id": "1"},
    {"image": "i/a.png", "mask": "m/a2.png", "text": "right, small; lesion", "case_id": "1"},
    {"image": "i/b.png", "mask": "m/b.png", "text": "Läsion links", "case_id": "2"},
    {"image": "i/c.png", "mask": "m/c.png", "text": "two lesions", "case_id": "3"},
]
SPLITS = ("train", "train", "val", "test")


def divided() -> list[Entry]:
    return [{**row, "split": split} for row, split in zip(ROWS, SPLITS, strict=True)]


def without(rows: list[Entry], *columns: str) -> list[Entry]:
    return [{k: v for k, v in row.items() if k not in columns} for row in rows]


def renamed(rows: list[Entry], names: Mapping[str, str]) -> list[Entry]:
    return [{names.get(k, k): v for k, v in row.items()} for row in rows]


def save(file: Path, rows: list[Entry], separator: str = ",") -> Path:
    """The rows as the suffix of `file` asks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".xlsx":
        pd.DataFrame(rows).to_excel(file, index=False)
    else:
        with file.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.DictWriter(lines, list(rows[0]), delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    return file


def lenient(root: Path, rows: list[Entry], name: str = "manifest.csv") -> dict[str, list[Any]]:
    file = save(root / name, rows)
    return read_manifest(root, file, needs_split=False, lenient=True)


def counts(splits: Mapping[str, list[Any]]) -> dict[str, int]:
    return {split: len(rows) for split, rows in splits.items() if rows}


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
