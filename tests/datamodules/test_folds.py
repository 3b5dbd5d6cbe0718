"""Folds of a cross-validation: who is in which, how even they are, and what is refused."""

from __future__ import annotations

import csv
import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

from datamodules import ManifestDataModule, MosMedDataModule
from datamodules.base.folds import STRATA, divide, in_fold, rows_to_divide, write_folds
from datamodules.commands import divide_dataset
from datamodules.records import Record
from tests.datamodules.contract import refused
from tests.datamodules.manifest_tables import save

PARTS = ("train", "val", "test")


def write_dataset(
    root: Path, patients: int = 12, *, cases: bool = True, empty: int = 4
) -> ManifestDataModule:
    """Two pictures a patient, of which the first `empty` patients' second has no lesion."""
    rows: list[dict[str, Any]] = []
    for patient in range(patients):
        for number in range(2):
            name = f"{patient}_{number}.png"
            mask = np.zeros((32, 32), np.uint8)
            side = 0 if number and patient < empty else 4 + patient
            mask[:side, :side] = 255
            for folder, pixels in (("images", mask // 2), ("masks", mask)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / folder / name)
            row = {"image": f"images/{name}", "mask": f"masks/{name}", "text": f"lesion {name}"}
            row["split"] = PARTS[patient % 3]
            rows.append(row | ({"case_id": f"p{patient}"} if cases else {}))
    save(root / "manifest.csv", rows)
    return make(root)


def make(root: Path, **settings: Any) -> ManifestDataModule:
    defaults = {"image_size": 32, "batch_size": 4, "num_workers": 0, "cache": None}
    return ManifestDataModule(str(root), **{**defaults, **settings})


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_each_patient_is_tested_once_with_all_rows_and_folds_hold_equal_strata(
    tmp_path: Path,
) -> None:
    file = divide_dataset(write_dataset(tmp_path), tmp_path, 4, 0)
    rows = table(file)
    assert len(rows) == 24
    tested: dict[str, set[str]] = defaultdict(set)
    for fold in range(1, 5):
        parts: dict[str, set[str]] = {part: set() for part in PARTS}
        for row in rows:
            parts[row[f"fold{fold}"]].add(row["patient"])
        assert len(parts["test"]) == 3
        assert len(parts["val"]) in (1, 2), "a sixth of nine"
        assert len(set.union(*parts.values())) == 12, "nobody is in two parts"
        for patient in parts["test"]:
            tested[patient].add(f"fold{fold}")
        strata = Counter(row["stratum"] for row in rows if row[f"fold{fold}"] == "test")
        assert strata["none"] == 1
    assert {len(folds) for folds in tested.values()} == {1}


def test_strata_are_thirds_of_the_lesions_by_their_share(tmp_path: Path) -> None:
    rows = table(divide_dataset(write_dataset(tmp_path), tmp_path, 3, 0))
    sizes = [(int(row["patient"][1:]), row["stratum"]) for row in rows if row["stratum"] != "none"]
    assert Counter(name for _, name in sizes) == {"small": 8, "medium": 6, "large": 6}
    ranks = [STRATA.index(name) for _, name in sorted(sizes, key=lambda one: one[0])]
    assert ranks == sorted(ranks)


def test_equal_data_and_seeds_give_equal_tables_wherever_they_lie(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", cases=False)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    with pytest.warns(UserWarning, match="24 of 24"):
        first, second, other = (
            divide_dataset(make(tmp_path / name), tmp_path, 3, seed)
            for name, seed in (("one", 0), ("two", 0), ("one", 1))
        )
    assert first == second
    assert other != first
    assert {row["patient"] for row in table(first)} == {
        f"images/{patient}_{number}.png" for patient in range(12) for number in range(2)
    }


@pytest.mark.parametrize("seed", range(4))
def test_folds_are_as_even_as_those_of_scikit_learn(seed: int) -> None:
    """Patients with 1 to 9 rows of four kinds that are unlike in number."""
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(60), generator.integers(1, 10, 60))
    kind = generator.choice(4, len(patient), p=[0.06, 0.14, 0.3, 0.5])
    counts = np.zeros((60, 5), dtype=np.int64)
    np.add.at(counts, (patient, kind), 1)
    counts[:, -1] = 1
    ours = divide(counts, 5, seed=[seed])[patient]
    theirs = np.zeros_like(ours)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    for fold, (_, test) in enumerate(splitter.split(kind, kind, patient)):
        theirs[test] = fold

    def unevenness(fold: NDArray[np.int64]) -> float:
        held = np.array([np.bincount(kind[fold == one], minlength=4) for one in range(5)])
        return float((held / np.bincount(kind)).std(axis=0).mean())

    assert unevenness(ours) < max(1.5 * unevenness(theirs), 0.02)
    assert np.bincount(divide(counts, 5, seed=[seed])).tolist() == pytest.approx([12] * 5, abs=3)


def test_a_datamodule_in_a_fold_yields_its_rows_and_reads_the_same_cache(tmp_path: Path) -> None:
    whole = write_dataset(tmp_path)
    file = divide_dataset(whole, tmp_path, 3, 0)
    caches = set()
    for fold in (1, 2):
        data = make(tmp_path, folds=str(file), fold=fold, cache=str(tmp_path / "cache"))
        data.prepare_data()
        data.setup()
        for part in PARTS:
            wanted = {row["case"] for row in table(file) if row[f"fold{fold}"] == part}
            assert {record.case for record in data.records(part)} == wanted
        cached = data.cached_rows("test")
        assert cached is not None
        caches.add(cached.folder)
    assert len(caches) == 1


def test_equal_names_of_two_splits_are_told_apart() -> None:
    rows = {split: [Record(Path(split), None, "", "0__0", "", 0)] for split in PARTS}
    rows["val"].append(Record(Path("other"), None, "", "1__1", "", 1))
    names = [row.case for row in rows_to_divide(rows)]
    assert names == ["train_0__0", "val_0__0", "1__1", "test_0__0"]


def test_two_studies_of_one_patient_are_not_divided() -> None:
    data = MosMedDataModule()
    names = [f"Jun_radiopaedia_29_86490_{n}_case{15 + n}_7.png" for n in (0, 1)]
    rows = [Record(Path(name), None, "", name, name, 0) for name in [*names, "x.png"]]
    one, other, unknown = map(data.patient_of, rows)
    assert one == other != ""
    assert unknown == ""


def test_strata_with_fewer_patients_than_folds_are_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"none \(1\)"):
        divide_dataset(write_dataset(tmp_path, empty=1), tmp_path, 3, 0)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folds", "seed", "values"),
    [(1, 0, ("folds=1",)), (13, 0, ("folds=13", "12 patients")), (3, -1, ("seed=-1",))],
)
def test_a_division_that_cannot_be_is_refused(
    folds: int, seed: int, values: tuple[str, ...], tmp_path: Path
) -> None:
    data = write_dataset(tmp_path)
    with refused(*values):
        divide_dataset(data, tmp_path, folds, seed)


def test_two_patients_are_too_few_to_train_to_validate_and_to_test(tmp_path: Path) -> None:
    data = write_dataset(tmp_path, patients=2)
    with refused("folds=2", "2 patients"):
        divide_dataset(data, tmp_path, 2, 0)
    data = write_dataset(tmp_path / "three", patients=3)
    with pytest.warns(UserWarning, match="none"):
        assert divide_dataset(data, tmp_path, 3, 0).is_file()
    with refused("folds=2", "1 patient"):
        divide_dataset(data, tmp_path, 2, 0)


def test_rows_that_cannot_be_divided_are_named(tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    rows = rows_to_divide(data.read_records(tmp_path))
    patients = [row.case_id for row in rows]
    settings: dict[str, Any] = {"root": tmp_path, "folds": 3, "seed": 0}
    with refused("0_0.png", "p0", "px"):
        same = [rows[0], replace(rows[1], image=rows[0].image), *rows[2:]]
        write_folds(tmp_path, same, ["p0", "px", *patients[2:]], **settings)
    with refused(rows[0].case):
        write_folds(tmp_path, [replace(rows[0], mask=None), *rows[1:]], patients, **settings)
    with refused(rows[1].case):
        write_folds(
            tmp_path, [replace(rows[0], case=rows[1].case), *rows[1:]], patients, **settings
        )


def test_missing_files_are_an_error_or_left_out(tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    (tmp_path / "masks/3_0.png").unlink()
    with refused("3_0.png", "on_missing"):
        divide_dataset(data, tmp_path, 3, 0)
    skipping = make(tmp_path, on_missing="skip")
    with pytest.warns(UserWarning, match="left out"):
        file = divide_dataset(skipping, tmp_path, 3, 0)
    assert len(table(file)) == 23
    data = make(tmp_path, on_missing="skip", folds=str(file), fold=1)
    with pytest.warns(UserWarning, match="left out"):
        data.setup()
    assert sum(len(data.records(part)) for part in PARTS) == 23


@pytest.mark.parametrize("settings", [{"fold": 1}, {"folds": "x.csv"}, {"folds": "x", "fold": 0}])
def test_a_fold_needs_its_table_and_is_counted_from_one(settings: dict[str, Any]) -> None:
    with refused("fold"):
        ManifestDataModule("x", **settings)


def test_a_table_of_other_rows_or_folds_is_refused(tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    file = divide_dataset(data, tmp_path, 3, 0)
    splits = data.read_records(tmp_path)
    with refused(file.name, "fold4"):
        in_fold(splits, file, 4)
    with refused("absent.csv"):
        in_fold(splits, tmp_path / "absent.csv", 1)
    lines = file.read_text().splitlines()
    first = lines[1].split(",")
    changed = {
        "fewer": (lines[:-1], [lines[-1].split(",")[0]]),
        "more": ([*lines, lines[1].replace(first[0], "nobody")], ["nobody"]),
        "twice": ([*lines, lines[1]], [first[0], f"line {len(lines) + 1}"]),
        "unknown": ([*lines[:-1], lines[-1].rsplit(",", 3)[0] + ",a,b,c"], ["fold1='a'"]),
    }
    for name, (content, values) in changed.items():
        other = tmp_path / f"{name}.csv"
        other.write_text("\n".join(content))
        with refused(other.name, *values):
            in_fold(splits, other, 1)


def test_a_patient_in_two_parts_is_refused(tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    file = divide_dataset(data, tmp_path, 3, 0)
    rows = table(file)
    row = next(row for row in rows if row["fold1"] == "test")
    row["fold1"] = "train"
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with refused(file.name, row["patient"], "fold 1"):
        in_fold(data.read_records(tmp_path), file, 1)
