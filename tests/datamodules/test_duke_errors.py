from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.datamodules.contract import refused
from tests.datamodules.duke_files import (
    PATIENTS,
    SCANNERS,
    SHAPE,
    TUMOR_SLICES,
    make,
    records,
    save_nifti,
    tumor,
    write_info,
    write_mamamia,
    write_tcia,
)


@pytest.fixture(scope="module")
def mamamia(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mamamia(tmp_path_factory.mktemp("duke") / "mamamia", PATIENTS)


def spoilt(tmp_path: Path) -> Path:
    return write_mamamia(tmp_path / "mamamia", PATIENTS)


@pytest.mark.parametrize(
    "gone",
    [
        "images/DUKE_003/duke_003_0001.nii.gz",
        "segmentations/expert/duke_003.nii.gz",
        "images/DUKE_003",
    ],
)
def test_an_incomplete_patient_is_named_or_skipped(tmp_path: Path, gone: str) -> None:
    root = spoilt(tmp_path)
    path = root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    expected = gone if gone.endswith("gz") else f"{gone}/duke_003_0001.nii.gz"
    with refused("1 captions", expected):
        make(root).setup()
    with pytest.warns(UserWarning, match="on_missing=skip"):
        found = records(make(root, on_missing="skip"))
    assert {r.case_id for r in found} == {p.duke for p in PATIENTS} - {"DUKE_003"}


def test_volumes_named_in_upper_case_are_found(tmp_path: Path) -> None:
    root = spoilt(tmp_path)
    for name in ("images/DUKE_003/duke_003_0001.nii.gz", "segmentations/expert/duke_003.nii.gz"):
        file = root / name
        file.rename(file.with_name(file.name.replace("duke", "DUKE")))
    assert len(records(make(root))) == len(PATIENTS) * len(TUMOR_SLICES)


def test_a_sheet_given_where_a_folder_is_wanted_is_named(tmp_path: Path) -> None:
    root = spoilt(tmp_path)
    sheet = root / "Clinical_and_Other_Features.xlsx"
    with refused("captions=", "Features.xlsx"):
        make(root, captions=str(sheet)).setup()


def test_a_phase_that_is_not_used_need_not_be_there(tmp_path: Path) -> None:
    root = spoilt(tmp_path)
    (root / "images/DUKE_003/duke_003_0000.nii.gz").unlink()
    assert len(records(make(root))) == len(PATIENTS) * len(TUMOR_SLICES)
    with refused("duke_003_0000.nii.gz"):
        make(root, phases="pre_post1_subtraction").setup()


def test_a_patient_in_no_sheet_is_named(tmp_path: Path) -> None:
    root = spoilt(tmp_path)
    write_info(root / "clinical_and_imaging_info.xlsx", PATIENTS[:-1])
    with refused("1 images", "images/DUKE_013"):
        make(root).setup()


def test_automatic_masks_are_never_taken_for_the_experts(tmp_path: Path) -> None:
    root = spoilt(tmp_path)
    shutil.rmtree(root / "segmentations" / "expert")
    with refused("segmentations/expert", "segmentations/automatic"):
        make(root).setup()


def test_a_cut_off_volume_names_its_file_and_how_to_go_on(tmp_path: Path) -> None:
    root = spoilt(tmp_path)
    file = root / "images/DUKE_005/duke_005_0001.nii.gz"
    file.write_bytes(file.read_bytes()[:300])
    with refused("DUKE_005", "duke_005_0001.nii.gz", "on_missing=skip"):
        make(root).setup()
    assert not list((tmp_path / "mamamia-cache").glob("duke_mamamia*")), "nothing half-written"


def test_a_broken_header_is_an_error(tmp_path: Path) -> None:
    root = spoilt(tmp_path)
    file = root / "segmentations/expert/duke_005.nii.gz"
    header = bytearray(gzip.decompress(file.read_bytes()))
    header[344:348] = b"oops"  # NIfTI's magic
    header[0:4] = b"\0\0\0\0"
    file.write_bytes(gzip.compress(bytes(header)))
    with refused("DUKE_005", "expert/duke_005.nii.gz"):
        make(root).setup()


def test_a_mask_of_another_shape_names_both_shapes(tmp_path: Path) -> None:
    root = spoilt(tmp_path)
    patient = PATIENTS[0]
    save_nifti(
        tumor(patient)[:-2].astype(np.uint8),
        root / "segmentations/expert/duke_001.nii.gz",
        patient.stored,
    )
    with refused("24x20x6", "22x20x6"):
        make(root).setup()


def test_an_empty_mask_is_an_error(tmp_path: Path) -> None:
    root = spoilt(tmp_path)
    save_nifti(np.zeros(SHAPE, np.uint8), root / "segmentations/expert/duke_001.nii.gz", "RAS")
    with refused("DUKE_001", "duke_001.nii.gz"):
        make(root).setup()


def test_a_missing_dicom_slice_names_its_neighbors(tmp_path: Path) -> None:
    root = write_tcia(tmp_path / "tcia", SCANNERS[:1], skip=3)
    with refused("1-002.dcm", "1-004.dcm"):
        make(root).setup()


def test_a_box_is_refused_where_the_first_file_is_gone(tmp_path: Path) -> None:
    """No gap betrays it, and every slice of the box would be one off."""
    root = write_tcia(tmp_path / "tcia", SCANNERS[:1], skip=1)
    with refused("1-002.dcm", "slice 1"):
        make(root).setup()


def test_a_box_beyond_the_series_is_an_error(tmp_path: Path) -> None:
    root = write_tcia(tmp_path / "tcia", SCANNERS[:1], skip=6)
    for series in root.glob("manifest-*/*/*/*/*"):
        (series / "1-005.dcm").unlink()
        (series / "1-006.dcm").unlink(missing_ok=True)
    with refused("Breast_MRI_001", "20 x 24 x 4"):
        make(root).setup()


@pytest.mark.parametrize("write", [write_mamamia, write_tcia])
def test_a_cache_that_cannot_be_written_says_which_setting_chooses_another(
    tmp_path: Path, write: Any
) -> None:
    (tmp_path / "file").write_text("")
    root = write(tmp_path / "data", PATIENTS[:1])
    with refused("file", "cache=FOLDER"):
        make(root, cache=str(tmp_path / "file")).setup()


def test_a_phase_that_the_mapping_does_not_know_is_named(tmp_path: Path) -> None:
    root = write_tcia(tmp_path / "tcia", SCANNERS)
    lost = next(root.glob("manifest-*/*/Breast_MRI_002/*/*.1"))
    lost.rename(lost.with_name("9.9"))
    with refused("1 captions", "Breast_MRI_002/post_1"):
        make(root).setup()


@pytest.mark.parametrize(
    "table",
    [
        "Annotation_Boxes.xlsx",
        "Clinical_and_Other_Features.xlsx",
        "Breast-Cancer-MRI-filepath_filename-mapping.xlsx",
    ],
)
def test_a_missing_sheet_is_named(tmp_path: Path, table: str) -> None:
    root = write_tcia(tmp_path / "tcia", SCANNERS[:1])
    (root / table).unlink()
    with refused(table):
        make(root).setup()


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ({"split": "manifest"}, ["split=manifest", "mamamia"]),
        ({"layout": "tcia"}, ["layout=tcia"]),
        ({"captions": "/nowhere"}, ["captions=/nowhere"]),
    ],
)
def test_a_wrong_setting_is_named(
    mamamia: Path, settings: dict[str, Any], values: list[str]
) -> None:
    with refused(*values):
        make(mamamia, **settings).setup()


def test_official_needs_mamamia(tmp_path: Path) -> None:
    root = write_tcia(tmp_path / "tcia", SCANNERS[:1])
    with refused("split=official", "tcia"):
        make(root, split="official").setup()


def test_a_folder_of_something_else_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with refused("manifest.jsonl", "images/", "Breast_MRI_001"):
        make(tmp_path / "other").setup()
