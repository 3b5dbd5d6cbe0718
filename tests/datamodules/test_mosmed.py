from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.mosmed.datamodule import MosMedDataModule, study
from tests.datamodules import trees
from tests.datamodules.contract import DataModuleContract, refused
from tests.datamodules.trees import HEALTHY, MOSMED, mosmed_rows, mosmed_text, write_table

SPLITS = ("train", "val", "test")
LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "kaggle": (trees.mosmed_kaggle, "kaggle"),
    "kaggle, workbooks": (trees.mosmed_workbooks, "kaggle"),
    "lvit": (trees.mosmed_lvit, "lvit"),
    "lvit, RecLMIS's names": (trees.mosmed_reclmis, "lvit"),
    "mmiunet": (trees.mosmed_mmiunet, "mmiunet"),
    "prepared": (trees.mosmed_prepared, "prepared"),
}
pytestmark = pytest.mark.filterwarnings("ignore:split=(official|lists). of the studies")


def make(root: Path, captions: Path | None = None, **settings: Any) -> MosMedDataModule:
    defaults = {"image_size": 64, "batch_size": 4, "num_workers": 0, "cache": None}
    return MosMedDataModule(
        str(root), None if captions is None else str(captions), **{**defaults, **settings}
    )


def names(datamodule: MosMedDataModule, split: str) -> set[str]:
    return {record.image.stem for record in datamodule.records(split)}


class TestContract(DataModuleContract):
    choices: ClassVar = {
        "split": ("official", "study", "lists"),
        "layout": ("kaggle", "lvit", "mmiunet"),
    }
    phantom_rows = (8, 1, 1)

    def make(self, folder: Path, **settings: Any) -> MosMedDataModule:
        if not (folder / "frames").exists():
            trees.mosmed_kaggle(folder)
        return make(folder, **settings)


# --- layouts


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("asked", [False, True])
def test_every_layout_gives_the_same_rows(tmp_path: Path, name: str, asked: bool) -> None:
    write, layout = LAYOUTS[name]
    datamodule = make(write(tmp_path), layout=layout if asked else "auto")
    datamodule.setup()
    for split in SPLITS:
        assert names(datamodule, split) == set(MOSMED[split])
        for record in datamodule.records(split):
            assert record.text == mosmed_text(record.image.stem)
            assert record.mask is not None
            assert record.mask.name == record.image.name
            assert record.mask.parent.name in ("masks", "labelcol", "GTs")
            assert record.image.parent.name in ("frames", "images", "img", "Images")


def test_the_captions_may_lie_elsewhere(tmp_path: Path) -> None:
    trees.mosmed_kaggle(tmp_path / "images")
    for file in (tmp_path / "images").glob("*.csv"):
        (tmp_path / "text").mkdir(exist_ok=True)
        file.rename(tmp_path / "text" / file.name)
    with refused("train_text_mosmeddata", "images"):
        make(tmp_path / "images").setup()
    assert names(make(tmp_path / "images", tmp_path / "text"), "val") == set(MOSMED["val"])


def test_one_table_with_a_split_column_will_do(tmp_path: Path) -> None:
    trees.mosmed_kaggle(tmp_path)
    rows = [(*row, split) for split in SPLITS for row in mosmed_rows(MOSMED[split])]
    write_table(tmp_path / "all.csv", rows, ("Image", "text", "split"))
    assert names(make(tmp_path, tmp_path / "all.csv"), "test") == set(MOSMED["test"])


def test_no_known_layout_lists_what_was_looked_for(tmp_path: Path) -> None:
    known = ("frames+masks", "Train_Folder", "GTs", "{train}/{images+masks}")
    with refused("MosMedData+", str(tmp_path), *known):
        make(tmp_path).setup()


@pytest.mark.parametrize(
    "file",
    [
        *("CT-0/study_0001.nii.gz", "COVID19_1110/studies/CT-4/study_1109.nii.gz"),
        *("masks/study_0255_mask.nii.gz", "MosMedData/masks/study_0255_mask.nii"),
    ],
)
@pytest.mark.parametrize("layout", ["auto", "kaggle"])
def test_the_older_dataset_of_volumes_is_refused_by_name(
    tmp_path: Path, file: str, layout: Any
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    with refused(str(tmp_path / file).split("/study_")[0], "MosMedData,", "MosMedData+", "frames/"):
        make(tmp_path, layout=layout).setup()


def test_volumes_beside_the_slices_do_not_disturb(tmp_path: Path) -> None:
    trees.mosmed_kaggle(tmp_path)
    (tmp_path / "CT-1").mkdir()
    assert names(make(tmp_path), "train") == set(MOSMED["train"])


# --- quirks


def test_the_faint_rim_is_no_lesion_and_an_empty_mask_is_accepted(tmp_path: Path) -> None:
    datamodule = make(trees.mosmed_kaggle(tmp_path), augmentation="none", image_size=32)
    dataset = datamodule.train_dataloader().dataset
    areas = {}
    for index, record in enumerate(datamodule.records("train")):
        with Image.open(str(record.mask)) as mask:
            solid = np.asarray(mask.resize((32, 32), Image.Resampling.NEAREST))[..., 0] == 255
        sample = dataset[0, index]  # type: ignore[index]
        assert torch.equal(sample["mask"][0], torch.from_numpy(solid).byte())
        areas[record.image.stem] = int(solid.sum())
    assert areas.pop(HEALTHY) == 0
    assert all(areas.values())


def test_a_missing_file_is_named_as_the_table_spells_it(tmp_path: Path) -> None:
    trees.mosmed_lvit(tmp_path)
    base = tmp_path / "datasets/MosMedDataPlus"
    (base / "Test_Folder/img/Morozov_study_0298_9.png").unlink()
    (base / "Train_Folder/labelcol/bjorke_1.png").unlink()
    named = ("Test_Folder/img/Morozov_study_0298_9.png", "Train_Folder/labelcol/bjorke_1.png")
    with refused("2 captions", *named):
        make(tmp_path).setup()
    with pytest.warns(UserWarning, match="1 captions"):
        assert len(make(tmp_path, on_missing="skip").records("test")) == 2


def test_an_image_without_a_caption_is_named(tmp_path: Path) -> None:
    trees.mosmed_kaggle(tmp_path)
    trees.write_mosmed_images(tmp_path, [HEALTHY], "frames", "masks")
    (tmp_path / f"frames/{HEALTHY}.png").rename(tmp_path / "frames/bjorke_99.png")
    with refused("1 images", "frames/bjorke_99.png"):
        make(tmp_path).setup()


# --- splits and studies


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Morozov_study_0255_11.png", "Morozov_study_0255"),
        ("Jun_coronacases_case10_100.png", "Jun_coronacases_case10"),
        ("Jun_radiopaedia_10_85902_1_case11_10.png", "Jun_radiopaedia_10_85902_1_case11"),
        ("frames\\jun_coronacases_case1_7", "Jun_coronacases_case1"),
        ("bjorke_12.png", "bjorke_12"),
        ("slice_12.png", ""),
        ("Morozov_study_0255.png", ""),
        ("xMorozov_study_0255_11.png", ""),
    ],
)
def test_case_id_is_the_study_that_a_name_tells(name: str, expected: str) -> None:
    assert study(name) == expected


def test_official_warns_of_the_studies_that_its_splits_share(tmp_path: Path) -> None:
    datamodule = make(trees.mosmed_kaggle(tmp_path))
    with pytest.warns(UserWarning, match="split=official") as caught:
        datamodule.setup()
    told = [str(w.message) for w in caught if "split=official" in str(w.message)]
    assert len(told) == 1
    assert "7 in train, 4 in val, 3 in test" in told[0]
    for *values, part in (
        ("Jun_coronacases_case1", "1 of the 4 val rows", "train and val share 1"),
        ("Morozov_study_0255", "1 of the 3 test rows", "train and test share 1"),
        ("Jun_coronacases_case8", "1 of the 3 test rows", "val and test share 1"),
    ):
        [clause] = [clause for clause in told[0].split("; ") if part in clause]
        assert all(value in clause for value in values)


def test_names_without_a_study_are_counted_in_the_warning(tmp_path: Path) -> None:
    rename_one(trees.mosmed_kaggle(tmp_path))
    with pytest.warns(UserWarning, match="1 names"):
        make(tmp_path).setup()


def rename_one(root: Path) -> None:
    for folder in ("frames", "masks"):
        (root / folder / "bjorke_81.png").rename(root / folder / "new.png")
    file = root / "Val_text_MosMedData+ 1(in).csv"
    file.write_text(file.read_text().replace("bjorke_81", "new"))


def many(root: Path, cases: int = 40) -> Path:
    """Three slices each of many studies, dealt to LViT's tables by slice."""
    listed: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for case in range(cases):
        for number, split in enumerate(SPLITS):
            name = f"Morozov_study_{case:04d}_{number}"
            listed[split].append((f"{name}.png", f"text {case} {number}"))
    (root / "frames").mkdir(parents=True)
    (root / "masks").mkdir()
    for split, rows in listed.items():
        write_table(root / f"{split}.csv", rows)
    return root


def test_study_puts_no_study_into_two_splits_and_drops_no_row(tmp_path: Path) -> None:
    records = make(many(tmp_path), split="study").read_records(tmp_path)
    cases = {
        split: {r.image.name.rsplit("_", 1)[0] for r in rows} for split, rows in records.items()
    }
    for one, other in combinations(SPLITS, 2):
        assert not cases[one] & cases[other]
    assert {len(r) for r in cases.values()} <= set(range(1, 40))
    assert sum(len(rows) for rows in records.values()) == 3 * 40


def test_where_a_study_goes_does_not_depend_on_the_others(tmp_path: Path) -> None:
    def homes(root: Path) -> dict[str, str]:
        records = make(root, split="study").read_records(root)
        return {r.case_id: split for split, rows in records.items() for r in rows}

    all_of_them, some = homes(many(tmp_path / "all")), homes(many(tmp_path / "some", 25))
    assert some == {case: all_of_them[case] for case in some}
    assert len(some) == 25


def test_study_keeps_one_radiopaedia_entry_together(tmp_path: Path) -> None:
    many(tmp_path, 10)
    rows = [
        (f"Jun_radiopaedia_{a}_{b}_{c}_case{k}_5.png", f"text {a} {k}")
        for a in range(30)
        for b, c, k in ((1, 0, 2 * a), (2, 1, 2 * a + 1))
    ]
    write_table(tmp_path / "train.csv", rows)
    records = make(tmp_path, split="study").read_records(tmp_path)
    entries = {
        split: {r.image.name.split("_")[2] for r in rows if "radio" in r.image.name}
        for split, rows in records.items()
    }
    assert sum(map(len, entries.values())) == 30
    assert len(set().union(*entries.values())) == 30


def test_study_refuses_names_that_tell_no_study(tmp_path: Path) -> None:
    rename_one(trees.mosmed_kaggle(tmp_path))
    with refused("split=study", "1 of 16", "new.png"):
        make(tmp_path, split="study").setup()


def test_lists_follow_the_prepared_lists(tmp_path: Path) -> None:
    datamodule = make(trees.mosmed_prepared(tmp_path), split="lists")
    with pytest.warns(UserWarning, match="split=lists"):
        datamodule.setup()
    pool = [name for split in MOSMED.values() for name in split]
    for number, split in enumerate(SPLITS):
        assert names(datamodule, split) == set(pool[number::3])
        assert {r.image.parent.parent.name for r in datamodule.records(split)} == {split}


def test_lists_that_are_missing_or_incomplete_are_named(tmp_path: Path) -> None:
    trees.mosmed_prepared(tmp_path)
    write_table(tmp_path / "mosmed_val_split.csv", [("bjorke_1.png",)], ("Image",))
    with refused("split=lists", "6 captions"):
        make(tmp_path, split="lists").setup()
    (tmp_path / "mosmed_val_split.csv").unlink()
    with refused("split=lists", "mosmed_val_split.csv"):
        make(tmp_path, split="lists").setup()


def test_an_image_in_two_tables_is_refused(tmp_path: Path) -> None:
    trees.mosmed_mmiunet(tmp_path)
    table = tmp_path / "data/MosMedDataPlus/prompt/test.csv"
    write_table(table, mosmed_rows([*MOSMED["test"], "bjorke_1"]))
    with refused("1 images", "train", "test", "bjorke_1"):
        make(tmp_path).setup()


# --- the real text and sample


def real_rows(real_data: Path, split: str) -> dict[str, str]:
    """The table read by hand: two cells a line, no quotes."""
    [file] = (real_data / "mosmed_text").glob(f"{split.title()}_text*.csv")
    header, *lines = file.read_text().splitlines()
    assert header == "Image;text"
    assert not any('"' in line for line in lines)
    return dict(line.split(";") for line in lines)


def real(real_data: Path, **settings: Any) -> MosMedDataModule:
    return make(
        real_data / "mosmed_images_sample",
        real_data / "mosmed_text",
        on_missing="skip",
        **settings,
    )


@pytest.mark.real_data
def test_all_real_captions_are_read_with_their_text(real_data: Path) -> None:
    records = real(real_data).read_records(real_data / "mosmed_images_sample")
    for split, count in zip(SPLITS, (2183, 273, 273), strict=True):
        assert {r.image.name: r.text for r in records[split]} == real_rows(real_data, split)
        assert len(records[split]) == count
        assert all(record.case_id for record in records[split])


@pytest.mark.real_data
def test_the_real_tables_share_one_three_and_three_studies(real_data: Path) -> None:
    groups = {
        split: {
            re.sub(r"(case\d+|study_\d+)_\d+\.png", r"\1", n) for n in real_rows(real_data, split)
        }
        for split in SPLITS
    }
    shared = [len(groups[a] & groups[b]) for a, b in combinations(SPLITS, 2)]
    assert ([len(groups[s]) for s in SPLITS], shared) == ([138, 20, 18], [1, 3, 3])
    with pytest.warns(UserWarning, match="split=official") as caught:
        real(real_data).read_records(real_data / "mosmed_images_sample")
    [message] = [str(w.message) for w in caught]
    assert "138 in train, 20 in val, 18 in test" in message
    assert re.findall(r"share (\d+)", message) == ["1", "3", "3"]
    # Few studies, but large ones: two thirds of the official test rows.
    assert "with 183 of the 273 test rows" in message


@pytest.mark.real_data
def test_study_divides_the_real_text_about_80_10_10(real_data: Path) -> None:
    records = real(real_data, split="study").read_records(real_data / "mosmed_images_sample")
    assert [len(records[split]) for split in SPLITS] == [2215, 275, 239]
    for split in SPLITS:
        sources = {r.case_id.split("_case")[0].split("_")[1] for r in records[split]}
        assert {"coronacases", "radiopaedia", "study"} <= sources
        assert any(r.case_id.startswith("bjorke") for r in records[split])


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:left out")
def test_the_real_pairs_load_with_their_text_and_without_the_rim(real_data: Path) -> None:
    datamodule = real(real_data, image_size=512, augmentation="none")
    texts = real_rows(real_data, "train")
    files = sorted((real_data / "mosmed_images_sample/frames").iterdir())
    dataset = datamodule.train_dataloader().dataset
    records = datamodule.records("train")
    assert sorted(record.image for record in records) == files
    assert len(files) == 27
    rims = []
    for index, record in enumerate(records):
        sample = dataset[0, index]  # type: ignore[index]
        assert sample["text"] == texts[record.image.name]
        with Image.open(record.image) as image:
            gray = np.asarray(image)[..., 0]
        assert np.array_equal(sample["image"][0].numpy(), gray)
        with Image.open(record.image.parents[1] / "masks" / record.image.name) as mask:
            values = np.asarray(mask)[..., 0]
        assert set(np.unique(values)) == {0, 12, 17, 21, 255}
        assert np.array_equal(sample["mask"][0].numpy(), values == 255)
        rims.append((values > 0).sum() / (values == 255).sum() - 1)
    assert np.median(rims) == pytest.approx(0.167, abs=5e-4)
    assert (min(rims), max(rims)) == pytest.approx((0.039, 0.424), abs=5e-4)
