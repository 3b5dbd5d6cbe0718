"""MedCLIPSeg's layout: names by two columns, published lists, altered captions, no val."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest

from datamodules import MedCLIPSegDataModule
from datamodules.audit import audit
from datamodules.commands import detect_dataset
from datamodules.medclipseg.layouts import DATASETS
from datamodules.medclipseg.phantoms import write_medclipseg
from tests.datamodules.busi_files import ROWS, make, save, text_of, write_busi
from tests.datamodules.contract import DataModuleContract, refused
from tests.datamodules.trees import write_pair


def names(datamodule: MedCLIPSegDataModule, split: str) -> list[str]:
    return [record.image.name for record in datamodule.records(split)]


class TestContract(DataModuleContract):
    choices: ClassVar = {"split": ("published",)}
    phantom_rows = (8, 1, 1)

    def make(self, folder: Path, **settings: Any) -> MedCLIPSegDataModule:
        if not (folder / "Prompts_Folder").exists():
            write_busi(folder)
        defaults = {"image_size": 64, "batch_size": 4, "num_workers": 0}
        return MedCLIPSegDataModule(str(folder), **{**defaults, **settings})


# --- rows


def test_rows_are_those_of_the_tables_and_captions_lose_their_newline(tmp_path: Path) -> None:
    datamodule = make(write_busi(tmp_path))
    datamodule.setup()
    number = 0
    for split, count in ROWS.items():
        home = tmp_path / f"{split.title()}_Folder"
        for row, record in enumerate(datamodule.records(split)):
            assert record.image == home / f"img/{number}.png"
            assert record.mask == home / f"label/{number}_segmentation.png"
            assert (record.text, record.row) == (text_of(number), row)
            assert (record.case, record.case_id) == (f"{number}__{row}", "")
            number += 1
        assert row + 1 == count


def test_names_are_found_in_another_case_and_without_extension_or_mask_prefix(
    tmp_path: Path,
) -> None:
    write_busi(tmp_path)
    home = tmp_path / "Test_Folder"
    (home / "img/13.png").rename(home / "img/SCAN.PNG")
    (home / "label/13_segmentation.png").rename(home / "label/scan.png")
    rows = [("scan", "One tumor.\n", "mask_scan.png")]
    save(tmp_path, "Test_text_original", rows)
    for name in ("14", "15", "16"):
        (home / f"img/{name}.png").unlink()
    datamodule = make(tmp_path)
    datamodule.setup("test")
    [record] = datamodule.records("test")
    assert (record.image.name, record.mask and record.mask.name) == ("SCAN.PNG", "scan.png")


def test_a_picture_of_another_split_is_not_taken_for_one_of_the_same_name(tmp_path: Path) -> None:
    write_busi(tmp_path)
    shutil.copy(tmp_path / "Test_Folder/img/13.png", tmp_path / "Train_Folder/img/13.png")
    (tmp_path / "Test_Folder/img/13.png").unlink()
    with refused("1 captions", "Test_Folder/img/13.png"):
        make(tmp_path).setup("test")


def test_the_subject_of_covid19s_names_is_the_case(tmp_path: Path) -> None:
    home = tmp_path / "Covid19"
    write_busi(home)
    stem = "sub-S00007_ses-E00001_run-1_bp-chest_vp-ap_dx"
    write_pair(home / f"Test_Folder/img/{stem}.png", home / f"Test_Folder/label/mask_{stem}.png")
    rows = [(f"mask_{stem}.png", "Unilateral.\n", f"mask_{stem}.png")]
    save(home, "Test_text_original", rows)
    [record] = make(home).read_records(home)["test"]
    assert record.case_id == "sub-S00007"
    assert (record.image.name, record.mask and record.mask.name) == (
        f"{stem}.png",
        f"mask_{stem}.png",
    )


def test_a_caption_or_name_that_is_empty_is_named(tmp_path: Path) -> None:
    write_busi(tmp_path)
    save(tmp_path, "Val_text", [("10.png", "a", "10_segmentation.png"), ("11.png", "", "x")])
    with refused("Val_text.xlsx, row 3", "Description"):
        make(tmp_path).setup("fit")
    save(tmp_path, "Val_text", [("10.png", "a", ""), ("11.png", "b", "x")])
    with refused("Val_text.xlsx, row 2", "Ground Truth"):
        make(tmp_path).setup("fit")


# --- where it lies


def test_root_may_be_the_folder_that_holds_the_dataset(tmp_path: Path) -> None:
    write_busi(tmp_path / "data/BUSI")
    assert names(make(tmp_path / "data"), "test") == names(make(tmp_path / "data/BUSI"), "test")


def test_of_several_datasets_one_must_be_chosen(tmp_path: Path) -> None:
    for name in ("BUSI", "UDIAT", "notes"):
        write_busi(tmp_path / name)
    with refused(f"root={tmp_path}", "BUSI, UDIAT"):
        make(tmp_path).setup("test")
    assert detect_dataset(tmp_path) is MedCLIPSegDataModule


def test_another_folder_is_told_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "Train_Folder/img").mkdir(parents=True)
    with refused(f"root={tmp_path}", "Train_Folder", "label", *DATASETS):
        make(tmp_path).setup("test")


def test_tables_may_lie_elsewhere_and_must_be_a_folder(tmp_path: Path) -> None:
    write_busi(tmp_path / "BUSI")
    (tmp_path / "BUSI/Prompts_Folder").rename(tmp_path / "tables")
    datamodule = make(tmp_path / "BUSI", tmp_path / "tables")
    assert [len(datamodule.records(split)) for split in ROWS] == list(ROWS.values())
    with refused("captions=", "Val_text.xlsx"):
        make(tmp_path / "BUSI", tmp_path / "tables/Val_text.xlsx").setup("fit")
    with refused("Train_text", "Test_text_original", str(tmp_path / "BUSI")):
        make(tmp_path / "BUSI").setup("test")


# --- datasets for tests alone


def test_a_dataset_without_validation_rows_is_tested_on_and_not_trained_on(tmp_path: Path) -> None:
    save(write_busi(tmp_path, splits=("train", "test")), "Val_text", [])
    datamodule = make(tmp_path)
    datamodule.setup("test")
    assert len(datamodule.records("test")) == ROWS["test"]
    with refused("val", "10 train, 0 val, 4 test"):
        make(tmp_path).setup("fit")


def test_pictures_of_a_split_without_a_table_are_said_to_be_unused(tmp_path: Path) -> None:
    (write_busi(tmp_path) / "Prompts_Folder/Train_text.xlsx").unlink()
    datamodule = make(tmp_path)
    with pytest.warns(UserWarning, match="Train_Folder: 10 images are not used"):
        datamodule.setup("test")
    assert len(datamodule.records("test")) == ROWS["test"]


# --- published lists of some of the rows


def test_a_list_takes_its_rows_of_train_and_val_and_leaves_test_whole(tmp_path: Path) -> None:
    write_busi(tmp_path)
    save(tmp_path, "Train_text_25", [(f"{n}.png", "x\n", f"{n}_segmentation.png") for n in (2, 7)])
    save(tmp_path, "Val_text_25", [("11.png", "y\n", "11_segmentation.png")])
    datamodule = make(tmp_path, percent=25)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        datamodule.setup()
    assert names(datamodule, "train") == ["2.png", "7.png"]
    assert names(datamodule, "val") == ["11.png"]
    assert len(datamodule.records("test")) == ROWS["test"]


def test_an_image_in_no_table_is_named_with_a_list_as_well(tmp_path: Path) -> None:
    write_busi(tmp_path)
    for split, number in (("Train", 2), ("Val", 11)):
        row = (f"{number}.png", "x\n", f"{number}_segmentation.png")
        save(tmp_path, f"{split}_text_10", [row])
    write_pair(tmp_path / "Train_Folder/img/stray.png", tmp_path / "Train_Folder/label/stray.png")
    for percent in (10, 100):
        with refused("1 images", "stray.png"):
            make(tmp_path, percent=percent).setup("fit")


def test_a_list_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    write_busi(tmp_path / "ClinicDB")
    with refused("percent=10", "Train_text_10", "none", "BTMRI, BUSI"):
        make(tmp_path, percent=10).setup("fit")
    save(tmp_path / "ClinicDB", "Train_text_50", [("2.png", "x", "2_segmentation.png")])
    with refused("percent=10", "lists there: 50"):
        make(tmp_path, percent=10).setup("fit")
    with refused("percent=11", "25"):
        make(tmp_path, percent=11)


# --- altered captions


def test_altered_captions_are_matched_by_their_pictures(tmp_path: Path) -> None:
    write_busi(tmp_path)
    pairs = [(f"{n}.png", f"{n}_segmentation.png") for n in (16, 13, 15, 14)]
    rows = [(image, f"vague {image}", mask) for image, mask in pairs]
    save(tmp_path, "Test_text_underdescriptive", rows)
    save(tmp_path, "Test_text_contradictory", [*rows[:2], (rows[2][0], " ", rows[2][2])])
    datamodule = make(tmp_path)
    with pytest.warns(UserWarning, match="Test_text_contradictory.*2 of 4"):
        altered = datamodule.altered_captions()
    assert list(altered) == ["contradictory", "underdescriptive"]
    by_case = {record.case: f"vague {record.image.name}" for record in datamodule.records("test")}
    assert altered["underdescriptive"] == by_case
    assert altered["contradictory"] == {c: t for c, t in by_case.items() if c[:2] in ("16", "13")}


def test_a_dataset_without_altered_captions_has_none(tmp_path: Path) -> None:
    assert make(write_busi(tmp_path)).altered_captions() == {}


# --- audit


def test_an_audit_says_which_lists_and_altered_captions_are_not_published(tmp_path: Path) -> None:
    full, bare = tmp_path / "mine", tmp_path / "EUS"
    write_medclipseg(full, train=8, val=2, test=3, image_size=32)
    write_busi(bare)
    facts = [audit(make(folder, image_size=32)).facts for folder in (full, bare)]
    changes = ("contradictory", "missing_location", "overdescriptive", "underdescriptive")
    assert facts[0]["altered test captions"] == dict.fromkeys(changes, 3)
    assert facts[0]["lists of some of the rows"] == "10 %, 25 %, 50 %"
    assert {facts[1][name] for name in ("altered test captions", "lists of some of the rows")} == {
        "none published"
    }


def test_an_audit_finds_one_picture_under_two_names_also_across_splits(tmp_path: Path) -> None:
    write_busi(tmp_path)
    for name in ("Train_Folder/img/3.png", "Test_Folder/img/14.png"):
        shutil.copy(tmp_path / "Train_Folder/img/0.png", tmp_path / name)
    found = {f.where: (f.kind, f.severity, f.split) for f in audit(make(tmp_path)).findings}
    assert found == {
        "Train_Folder/img/3.png": ("duplicate image", "warning", "train"),
        "Test_Folder/img/14.png": ("duplicate image across splits", "warning", "train, test"),
    }
