from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from datamodules.duke_breast_mri.datamodule import DukeBreastMRIDataModule, phantom_cases
from datamodules.duke_breast_mri.layouts import patient_split
from datamodules.duke_breast_mri.phantoms import write_duke_mamamia
from datamodules.duke_breast_mri.sheets import read_mamamia
from datamodules.files.manifest import write_manifest
from tests.datamodules.contract import DataModuleContract, refused
from tests.datamodules.duke_files import (
    PATIENTS,
    SHAPE,
    SPACING,
    TUMOR_SLICES,
    Patient,
    make,
    picture,
    picture_side,
    records,
    text_side,
    tumor,
    volume,
    write_clinical,
    write_mamamia,
)


class TestContract(DataModuleContract):
    """Over MAMA-MIA's volumes, sliced beforehand: slices of its own would lie in the cache too."""

    choices: ClassVar = {
        **{"split": ("patient", "official", "manifest"), "layout": ("mamamia", "tcia", "slices")},
        **{"phases": ("post1",), "captions_from": ("clinical", "oracle"), "slices": ("tumor",)},
    }
    phantom_rows = (11, 6, 6)  # of four patients

    def make(self, folder: Path, **settings: Any) -> DukeBreastMRIDataModule:
        volumes = folder / "volumes"
        if not volumes.exists():
            write_mamamia(volumes, PATIENTS)
        sliced = DukeBreastMRIDataModule(str(volumes), cache=str(folder / "sliced"))
        sliced.read_records(volumes)
        (slices,) = (folder / "sliced").iterdir()
        return make(slices, **{"cache": str(folder / "cache"), **settings})


# --- MAMA-MIA


@pytest.fixture(scope="module")
def mamamia(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mamamia(tmp_path_factory.mktemp("duke") / "mamamia", PATIENTS)


def test_every_tumor_slice_of_every_patient_is_a_row_and_no_other(mamamia: Path) -> None:
    found = Counter(record.case_id for record in records(make(mamamia)))
    assert found == {patient.duke: len(TUMOR_SLICES) for patient in PATIENTS}


def test_the_side_in_words_is_the_side_in_the_picture_however_nifti_is_stored(
    mamamia: Path,
) -> None:
    sides = {patient.duke: patient.side for patient in PATIENTS}
    for record in records(make(mamamia)):
        assert text_side(record.text) == sides[record.case_id]
        assert picture_side(picture(record.mask)) == sides[record.case_id]


def test_pictures_are_the_first_phase_after_contrast_and_masks_the_experts(mamamia: Path) -> None:
    by_number = {patient.duke: patient for patient in PATIENTS}
    for record in records(make(mamamia)):
        patient = by_number[record.case_id]
        values = volume(patient, "post1").astype(float)
        z = int(re.search(r"_z(\d+)", record.image.stem)[1])  # type: ignore[index]
        # rows from anterior, columns from the patient's left: both against the array's growth
        expected = values[:, ::-1, z].T
        low, high = np.percentile(values, (0.5, 99.5))
        expected = np.rint(np.clip((expected - low) / (high - low), 0, 1) * 255)
        assert np.abs(picture(record.image) - expected).max() <= 1
        outline = tumor(patient)[:, ::-1, z].T
        assert np.array_equal(picture(record.mask), outline * np.uint8(255))
        assert record.spacing == pytest.approx((SPACING[1], SPACING[0]))


def test_subtraction_is_a_channel_with_a_scale_of_its_own(mamamia: Path) -> None:
    patient = PATIENTS[0]
    pre, post = (volume(patient, phase).astype(float) for phase in ("pre", "post1"))
    for record in records(make(mamamia, phases="pre_post1_subtraction")):
        if record.case_id != patient.duke:
            continue
        z = int(re.search(r"_z(\d+)", record.image.stem)[1])  # type: ignore[index]
        for channel, values in enumerate((pre, post, post - pre)):
            low, high = np.percentile(values, (0.5, 99.5))
            expected = np.clip((values[:, ::-1, z].T - low) / (high - low), 0, 1) * 255
            assert np.abs(picture(record.image)[..., channel] - expected).max() <= 1


def test_all_slices_can_be_asked_for(mamamia: Path) -> None:
    found = records(make(mamamia, slices="all"))
    assert len(found) == len(PATIENTS) * SHAPE[2]
    empty = [record for record in found if not picture(record.mask).any()]
    assert len(empty) == len(PATIENTS) * (SHAPE[2] - len(TUMOR_SLICES))


def test_volumes_are_sliced_once_and_again_when_a_caption_changes(tmp_path: Path) -> None:
    root = write_mamamia(tmp_path / "mamamia", PATIENTS)
    before = {r.image: r.image.stat().st_mtime_ns for r in records(make(root))}
    assert {r.image: r.image.stat().st_mtime_ns for r in records(make(root))} == before
    changed = [Patient(1, "left", "L 3", "RAS"), *PATIENTS[1:]]
    write_clinical(root / "Clinical_and_Other_Features.xlsx", changed)
    texts = {r.text for r in records(make(root)) if r.case_id == "DUKE_001"}
    assert {text.split(";")[0] for text in texts} == {"Left breast, 3 o'clock"}


def test_runs_with_other_sheets_keep_each_others_slices(tmp_path: Path) -> None:
    root = write_mamamia(tmp_path / "mamamia", PATIENTS, clinical=False)
    for name, position in (("one", "L 9 medial"), ("two", "L 3")):
        (tmp_path / name).mkdir()
        changed = [Patient(1, "left", position), *PATIENTS[1:]]
        write_clinical(tmp_path / name / "Clinical_and_Other_Features.xlsx", changed)
    first = records(make(root, captions=str(tmp_path / "one")))
    written = {record.image: record.image.stat().st_mtime_ns for record in first}
    second = records(make(root, captions=str(tmp_path / "two")))
    assert {r.text for r in first} != {r.text for r in second}
    assert {image: image.stat().st_mtime_ns for image in written} == written


def test_slices_lie_under_the_home_folder_if_cache_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    found = records(make(write_mamamia(tmp_path / "mamamia", PATIENTS), cache="~/x"))
    assert all(r.image.is_relative_to(tmp_path / "home" / "x") for r in found)
    assert not (tmp_path / "~").exists()


def test_without_tcias_sheet_no_side_is_said_and_one_warning_tells_why(tmp_path: Path) -> None:
    root = write_mamamia(tmp_path / "mamamia", PATIENTS, clinical=False)
    with pytest.warns(UserWarning, match="captions name no side"):
        found = records(make(root))
    assert {record.text for record in found} == {
        "Multifocal, triple-negative, grade 3 breast tumour."
    }


def test_the_sheets_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    root = write_mamamia(tmp_path / "mamamia", PATIENTS, clinical=False)
    sheets = tmp_path / "sheets"
    sheets.mkdir()
    write_clinical(sheets / "clinical_and_other_features.XLSX", PATIENTS)
    for record in records(make(root, captions=str(sheets))):
        assert text_side(record.text) == picture_side(picture(record.mask))


# --- splits


def test_no_patient_is_in_two_splits_and_who_else_is_there_does_not_matter(
    mamamia: Path, tmp_path: Path
) -> None:
    datamodule = make(mamamia)
    datamodule.setup()
    homes = {
        split: {r.case_id for r in datamodule.records(split)} for split in ("train", "val", "test")
    }
    assert homes == {
        "train": {"DUKE_001", "DUKE_003", "DUKE_005", "DUKE_006"},
        "val": {"DUKE_004", "DUKE_013"},
        "test": {"DUKE_002", "DUKE_007"},
    }
    fewer = make(write_mamamia(tmp_path / "fewer", PATIENTS[:4]))
    fewer.setup()
    for split, patients in homes.items():
        assert {r.case_id for r in fewer.records(split)} == patients & {
            p.duke for p in PATIENTS[:4]
        }


def test_a_patient_has_the_same_split_in_both_releases() -> None:
    for number in range(1, 923):
        split = patient_split(f"Breast_MRI_{number:03d}")
        assert patient_split(f"DUKE_{number:03d}") == patient_split(f"duke_{number:03d}") == split


@pytest.mark.real_data
def test_about_70_15_15_percent_of_the_real_patients_are_in_the_splits(real_data: Path) -> None:
    both = Counter(patient_split(f"Breast_MRI_{n:03d}") for n in range(1, 923))
    assert both == {"train": 640, "val": 144, "test": 138}
    info = read_mamamia(real_data / "duke_tables" / "clinical_and_imaging_info.xlsx")
    masked = Counter(patient_split(f"DUKE_{n:03d}") for n in info)
    assert masked == {"train": 207, "val": 40, "test": 44}


def write_splits(root: Path, train: list[int], test: list[int]) -> None:
    names = [[f"DUKE_{n:03d}" for n in numbers] for numbers in (train, test)]
    lines = ["train_split,test_split"]
    lines += [f"{a},{b}" for a, b in zip(names[0], [*names[1], *[""] * 9], strict=False)]
    (root / "train_test_splits.csv").write_text("\n".join([*lines, "ISPY1_1001,NACT_01", ""]))


def test_official_follows_mamamias_lists_with_validation_taken_from_training(
    tmp_path: Path,
) -> None:
    root = write_mamamia(tmp_path / "mamamia", PATIENTS)
    write_splits(root, train=[2, 4, 5, 7, 13], test=[1, 3, 6])
    datamodule = make(root, split="official")
    datamodule.setup()
    assert {r.case_id for r in datamodule.records("test")} == {"DUKE_001", "DUKE_003", "DUKE_006"}
    assert {r.case_id for r in datamodule.records("val")} == {"DUKE_004", "DUKE_013"}
    assert {r.case_id for r in datamodule.records("train")} == {
        *("DUKE_002", "DUKE_005", "DUKE_007"),
    }


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([1, 2, 3, 4, 5, 6, 7], [13, 1], ["split=official", "1 patients", "DUKE_001"]),
        ([1, 2, 3, 4, 5, 6], [13], ["split=official", "1 patients", "DUKE_007"]),
        ([1, 2, 3], [], ["3", "train_split", "0", "test_split"]),
    ],
)
def test_official_refuses_lists_that_do_not_fit(
    tmp_path: Path, train: list[int], test: list[int], message: list[str]
) -> None:
    root = write_mamamia(tmp_path / "mamamia", PATIENTS)
    write_splits(root, train, test)
    with refused(*message):
        make(root, split="official").setup()


# --- oracle


def test_oracle_captions_come_from_the_mask_and_say_so_in_text_and_case(mamamia: Path) -> None:
    clinical = {record.image: record for record in records(make(mamamia))}
    for record in records(make(mamamia, captions_from="oracle")):
        assert record.text.startswith("Oracle from the mask: one tumour area")
        assert f" {picture_side(picture(record.mask))} half" in record.text
        assert record.case == f"{clinical[record.image].case}_oracle"
        assert "racle" not in clinical[record.image].text


# --- prepared slices


def write_slices(root: Path, cases: dict[str, str]) -> Path:
    """Two slices of each case, with the case's split."""
    root.mkdir(parents=True)
    rows = []
    for case, split in cases.items():
        for z in range(2):
            name = f"{case}_{z}.png"
            Image.fromarray(np.full((32, 40), 40 + z, np.uint8)).save(root / name)
            Image.fromarray(np.eye(32, 40, dtype=bool)).save(root / f"mask_{name}")
            rows.append(
                {
                    "image": name,
                    "mask": f"mask_{name}",
                    "text": f"Left breast, {z} cm.",
                    "case_id": case,
                    "split": split,
                }
            )
    write_manifest(root, rows)
    return root


def test_prepared_slices_are_divided_by_patient_or_as_their_manifest_says(tmp_path: Path) -> None:
    told = {"DUKE_001": "test", "DUKE_002": "train", "DUKE_004": "val"}
    root = write_slices(tmp_path / "slices", told)
    table = root / "manifest.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    unsplit = [json.dumps({k: v for k, v in row.items() if k != "split"}) for row in rows]
    for split, expected in (
        ("manifest", told),
        ("patient", {"DUKE_001": "train", "DUKE_002": "test", "DUKE_004": "val"}),
    ):
        datamodule = make(root, split=split)
        assert len(records(datamodule)) == 6
        assert {
            r.case_id: part for part in ("train", "val", "test") for r in datamodule.records(part)
        } == expected
        assert datamodule.mask_source == ""
        table.write_text("\n".join(unsplit))


def test_a_split_column_that_patient_would_overrule_is_refused(tmp_path: Path) -> None:
    told = {"DUKE_001": "test", "DUKE_002": "test", "DUKE_004": "val"}
    root = write_slices(tmp_path / "slices", told)
    with refused("split=patient", "1 of 3", "DUKE_001 (test)"):
        make(root).setup()
    own = write_slices(tmp_path / "own", {case: patient_split(case) for case in told})
    assert len(records(make(own))) == 6


def test_prepared_slices_may_have_their_manifest_elsewhere(tmp_path: Path) -> None:
    told = {"DUKE_001": "test", "DUKE_002": "train", "DUKE_004": "val"}
    root = write_slices(tmp_path / "slices", told)
    (tmp_path / "table.jsonl").write_bytes((root / "manifest.jsonl").read_bytes())
    (root / "manifest.jsonl").unlink()
    datamodule = make(root, captions=str(tmp_path / "table.jsonl"), split="manifest")
    assert len(records(datamodule)) == 6


# --- phantoms


def test_phantoms_of_both_makers_have_the_tumor_on_the_side_that_the_caption_names(
    tmp_path: Path,
) -> None:
    root = tmp_path / "phantoms"
    write_duke_mamamia(root, cases=12, image_size=32)
    sided = 0
    for record in records(make(root)):
        found = re.match("(Left|Right) breast", record.text)
        if found:
            sided += 1
            assert found[1].lower() == picture_side(picture(record.mask)), record.case
    assert sided > 30


def test_synthesize_writes_about_as_many_training_slices_as_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    datamodule = DukeBreastMRIDataModule(synthesize=24, image_size=64, batch_size=4, num_workers=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = records(datamodule)
    assert 16 <= len(datamodule.records("train")) <= 48
    assert all(record.text.endswith("tumour.") for record in found)
    assert Path("data/phantoms").is_dir()
    assert json.loads((found[0].image.parents[1] / "manifest.jsonl").read_text().splitlines()[0])


def test_phantom_patients_reach_every_split() -> None:
    for rows in (1, 24, 320):
        splits = Counter(patient_split(f"DUKE_{n:03d}") for n in range(1, phantom_cases(rows) + 1))
        assert set(splits) == {"train", "val", "test"}
        assert splits["train"] * 6 >= rows
