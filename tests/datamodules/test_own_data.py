"""Your own data: what the tables of others lack, who is tested on, and who is only predicted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from datamodules import ManifestDataModule, RefHLSegDataModule
from tests.datamodules.contract import DataModuleContract, refused
from tests.datamodules.manifest_tables import save, without
from tests.datamodules.trees import write_pair

Entry = dict[str, Any]

SPLIT_OF = {"p1": "train", "p2": "train", "p3": "val", "p4": "test"}
ALL = ("train", "val", "test", "predict")


def entries(folder: Path, *, cases: Sequence[str] = tuple(SPLIT_OF)) -> list[Entry]:
    """Two images a patient and two expressions an image, with the files they name."""
    rows: list[Entry] = []
    for seed, case in enumerate(cases):
        for number in (1, 2):
            for lesion, where in enumerate(("upper left", "lower right")):
                image, mask = f"images/{case}_{number}.png", f"masks/{case}_{number}_{lesion}.png"
                write_pair(folder / image, folder / mask, seed=10 * seed + 2 * number + lesion)
                text = f"the lesion in the {where} of {case}, picture {number}"
                row = {"image": image, "mask": mask, "text": text, "case_id": case}
                rows.append({**row, "split": SPLIT_OF.get(case, "train")})
    return rows


def make(folder: Path, rows: list[Entry] | None = None, **settings: Any) -> ManifestDataModule:
    if rows is not None:
        save(folder / "manifest.csv", rows)
    defaults = {"image_size": 64, "batch_size": 4, "num_workers": 0, "cache": None}
    return ManifestDataModule(str(folder), **{**defaults, **settings})


def sizes(datamodule: ManifestDataModule, *splits: str) -> list[int]:
    return [len(datamodule.records(split)) for split in splits or ALL]


class TestContract(DataModuleContract):
    choices: ClassVar = {"split": ("manifest", "random", "all_test")}
    phantom_rows = (8, 1, 2)

    def make(self, folder: Path, **settings: Any) -> ManifestDataModule:
        file = folder / "manifest.csv"
        return make(folder, None if file.exists() else entries(folder), **settings)


def test_a_strict_manifest_reads_as_for_refhl_seg(tmp_path: Path) -> None:
    own = make(tmp_path, entries(tmp_path))
    refhl = RefHLSegDataModule(str(tmp_path), image_size=64, num_workers=0, cache=None)
    for split in ALL:
        assert own.records(split) == refhl.records(split)


def test_the_manifest_may_lie_outside_root(tmp_path: Path) -> None:
    rows = entries(tmp_path / "data")
    file = save(tmp_path / "tables/mine.xlsx", rows)
    assert sizes(make(tmp_path / "data", captions=str(file))) == [8, 4, 4, 4]


# --- splits ------------------------------------------------------------------------------------


def test_without_splits_nothing_is_divided_unasked(tmp_path: Path) -> None:
    datamodule = make(tmp_path, without(entries(tmp_path), "split"))
    with refused("split", "split=random", "split=all_test"):
        datamodule.setup("fit")


def test_random_keeps_patients_together_and_covers_every_row_once(tmp_path: Path) -> None:
    cases = [f"patient {n}" for n in range(40)]
    rows = without(entries(tmp_path, cases=cases), "split")
    datamodule = make(tmp_path, rows, split="random")
    found = {split: datamodule.records(split) for split in ("train", "val", "test")}
    homes = {case: {s for s in found for r in found[s] if r.case_id == case} for case in cases}
    assert all(len(home) == 1 for home in homes.values())
    assert sorted(r.row for part in found.values() for r in part) == list(range(160))


def test_random_depends_on_the_patient_alone(tmp_path: Path) -> None:
    """Not on the seed, the order or who else is there: a test patient stays one."""
    rows = without(entries(tmp_path, cases=[f"patient {n}" for n in range(30)]), "split")

    def homes(rows: list[Entry], **settings: Any) -> dict[str, str]:
        datamodule = make(tmp_path, rows, split="random", **settings)
        splits = ("train", "val", "test")
        return {r.case_id: split for split in splits for r in datamodule.records(split)}

    whole = homes(rows)
    fewer = homes(rows[::-1][:80], seed=7)
    assert len(fewer) == 20
    assert fewer.items() <= whole.items()


def test_random_divides_many_patients_70_15_15(tmp_path: Path) -> None:
    rows = [
        {"image": f"{n}.png", "mask": f"m{n}.png", "text": "x", "case_id": f"case {n}"}
        for n in range(2000)
    ]
    datamodule = make(tmp_path, rows, split="random")
    parts = datamodule.read_records(tmp_path)
    found = [len(parts[split]) for split in ("train", "val", "test")]
    # Three standard deviations of a binomial are 61 and 48.
    assert abs(found[0] - 1400) < 61
    assert abs(found[1] - 300) < 48
    assert sum(found) == 2000


def test_random_without_patients_divides_images_and_says_when_that_is_wrong(
    tmp_path: Path,
) -> None:
    rows = without(entries(tmp_path, cases=[f"p{n}" for n in range(30)]), "split", "case_id")
    datamodule = make(tmp_path, rows, split="random")
    with pytest.warns(UserWarning, match="case_id.*split=random"):
        datamodule.setup()
    images = [{r.image for r in datamodule.records(s)} for s in ("train", "val", "test")]
    assert sum(map(len, images)) == len(set.union(*images)) == 60


def test_random_with_patients_warns_of_nothing(tmp_path: Path) -> None:
    rows = without(entries(tmp_path, cases=[f"p{n}" for n in range(30)]), "split")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(tmp_path, rows, split="random").setup()


def test_random_does_not_overrule_splits_that_were_written_down(tmp_path: Path) -> None:
    with refused("split=random", "manifest.csv", "split=manifest"):
        make(tmp_path, entries(tmp_path), split="random").setup("fit")


def test_random_refuses_an_image_of_two_patients(tmp_path: Path) -> None:
    rows = without(entries(tmp_path), "split")
    rows[1]["case_id"] = "p9"
    with refused("1 images", "case_id", "p1_1.png (p1, p9"):
        make(tmp_path, rows, split="random").setup("fit")


@pytest.mark.parametrize("divided", [True, False])
def test_all_test_tests_on_every_row_with_a_mask_in_order(tmp_path: Path, divided: bool) -> None:
    rows = entries(tmp_path)
    rows = rows if divided else without(rows, "split")
    rows[3] |= {"mask": ""} | ({"split": "predict"} if divided else {})
    datamodule = make(tmp_path, rows, split="all_test")
    datamodule.setup("test")
    assert [r.row for r in datamodule.records("test")] == [n for n in range(16) if n != 3]
    assert [r.row for r in datamodule.records("predict")] == [3]
    with refused("manifest.csv", "train"):
        datamodule.setup("fit")


def test_a_manifest_of_test_rows_alone_is_enough_for_a_test(tmp_path: Path) -> None:
    rows = [row for row in entries(tmp_path) if row["split"] == "test"]
    datamodule = make(tmp_path, rows)
    datamodule.prepare_data()
    datamodule.setup("test")
    assert len(list(datamodule.test_dataloader())) == 1
    assert sizes(datamodule, "test", "predict") == [4, 4]


def test_a_fit_on_test_rows_alone_says_what_the_manifest_has(tmp_path: Path) -> None:
    rows = [row for row in entries(tmp_path) if row["split"] == "test"]
    with refused("manifest.csv", "train", "4 test"):
        make(tmp_path, rows).setup("fit")


# --- prediction --------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["absent", "empty"])
@pytest.mark.parametrize("cache", [None, "cache"])
def test_images_and_texts_alone_are_enough_to_predict(
    tmp_path: Path, column: str, cache: str | None
) -> None:
    rows = without(entries(tmp_path), "split", "case_id", "mask")
    rows = [{**row, "mask": ""} for row in rows] if column == "empty" else rows
    datamodule = make(tmp_path, rows, cache=cache and str(tmp_path / cache))
    datamodule.prepare_data()
    datamodule.setup("predict")
    batches = list(datamodule.predict_dataloader())
    assert [text for batch in batches for text in batch["text"]] == [row["text"] for row in rows]
    assert all("mask" not in batch for batch in batches)
    assert {record.mask for record in datamodule.records("predict")} == {None}


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_images_and_texts_alone_are_not_enough_for_more(tmp_path: Path, stage: str) -> None:
    datamodule = make(tmp_path, without(entries(tmp_path), "mask"))
    with refused("manifest.csv", "16 predict"):
        datamodule.setup(stage)


@pytest.mark.parametrize("first", ["test", "predict"])
@pytest.mark.parametrize("cache", [None, "cache"])
def test_rows_for_prediction_are_predicted_and_test_rows_tested(
    tmp_path: Path, first: str, cache: str | None
) -> None:
    rows = entries(tmp_path)
    for row in rows[:2]:
        row |= {"split": "predict", "mask": ""}
    datamodule = make(tmp_path, rows, cache=cache and str(tmp_path / cache))
    datamodule.setup(first)
    loaders = {"test": datamodule.test_dataloader, "predict": datamodule.predict_dataloader}
    for split, loader in loaders.items():
        texts = [text for batch in loader() for text in batch["text"]]
        assert texts == [rows[record.row]["text"] for record in datamodule.records(split)]
    assert [r.row for r in datamodule.records("predict")] == [0, 1]
    assert [r.row for r in datamodule.records("test")] == [12, 13, 14, 15]


def test_a_missing_image_of_a_prediction_is_named(tmp_path: Path) -> None:
    rows = without(entries(tmp_path), "mask")
    (tmp_path / rows[0]["image"]).unlink()
    with refused("2 captions", "images/p1_1.png"):
        make(tmp_path, rows).setup("predict")
    kept = make(tmp_path, rows, on_missing="skip")
    with pytest.warns(UserWarning, match="on_missing=skip"):
        assert sizes(kept, "predict") == [14]


# --- strata ------------------------------------------------------------------------------------


def with_columns(rows: list[Entry], **columns: Sequence[object]) -> list[Entry]:
    """The rows with further columns, whose values repeat."""
    return [
        row | {name: values[n % len(values)] for name, values in columns.items()}
        for n, row in enumerate(rows)
    ]


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.xlsx", "manifest.jsonl"])
def test_columns_that_strata_names_are_classes_of_the_rows(tmp_path: Path, name: str) -> None:
    columns = {"Scanner Type": ["A", " B  c "], "grade": [1, 2, None, 1], "lesion_id": ["x", "y"]}
    save(tmp_path / name, with_columns(entries(tmp_path), **columns))
    datamodule = make(tmp_path, strata=["scanner_type", "grade", "lesion_id"])
    datamodule.setup("test")
    assert datamodule.strata_of("test") == {
        "scanner_type": ["A", "B c"] * 2,
        "grade": ["1", "2", "not given", "1"],
        "lesion_id": ["x", "y"] * 2,
    }
    assert make(tmp_path).strata_of("test") == {}


def test_a_stratum_that_no_column_gives_is_refused_with_the_columns_there_are(
    tmp_path: Path,
) -> None:
    rows = with_columns(entries(tmp_path), scanner=["A"])
    with refused("'scaner'", "manifest.csv", "scanner"):
        make(tmp_path, rows, strata=["scaner"]).setup("test")
    for name in ("text", "Split", "size"):
        with refused("strata", name):
            make(tmp_path, strata=[name])


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("num_workers", -1), ("seed", -1), ("seed", 2**63)],
)
def test_numbers_that_torch_would_refuse_later_are_refused(
    tmp_path: Path, name: str, value: int
) -> None:
    with refused(f"{name}={value}"):
        make(tmp_path, **{name: value})


def test_what_a_setting_lists_twice_is_refused(tmp_path: Path) -> None:
    for name, values in (("strata", ["scanner", "scanner"]), ("mask_values", [1, 2, 1])):
        with refused(name, f"{values[0]!r} twice"):
            make(tmp_path, **{name: values})
    rows = with_columns(entries(tmp_path), scanner=["A"])
    with refused("'scanner'", "manifest.csv twice", "'Scanner'"):
        make(tmp_path, rows, strata=["scanner", "Scanner"]).setup("test")


def test_a_column_with_a_class_for_each_row_is_refused(tmp_path: Path) -> None:
    rows = with_columns(entries(tmp_path) * 2, age=range(31))
    with refused("'age'", "31 classes"):
        make(tmp_path, rows, strata=["age"]).setup("test")
