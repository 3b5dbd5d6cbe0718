"""Duke-Breast-Cancer-MRI as TCIA has it: DICOM series, boxes for masks, and folders of any name."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests.datamodules.duke_files import (
    PATIENTS,
    SCANNERS,
    SHAPE,
    TUMOR_SLICES,
    make,
    picture,
    picture_side,
    records,
    text_side,
    tumor,
    write_mamamia,
    write_tcia,
)


@pytest.fixture(scope="module")
def tcia(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tcia(tmp_path_factory.mktemp("duke") / "tcia", SCANNERS)


def test_the_side_in_words_is_the_side_in_the_picture_for_ge_and_siemens(tcia: Path) -> None:
    sides = {patient.tcia: patient.side for patient in SCANNERS}
    for record in records(make(tcia)):
        assert text_side(record.text) == sides[record.case_id]
        assert picture_side(picture(record.mask)) == sides[record.case_id]


@pytest.mark.parametrize("reversed_numbers", [False, True])
def test_boxes_fall_on_the_tumor_and_slices_keep_their_place(
    tmp_path: Path, reversed_numbers: bool
) -> None:
    root = write_tcia(tmp_path / "tcia", SCANNERS)
    for file in root.rglob("*.dcm") if reversed_numbers else ():
        data = pydicom.dcmread(file)
        data.InstanceNumber = SHAPE[2] + 1 - data.InstanceNumber
        data.save_as(file)
    by_name = {patient.tcia: patient for patient in SCANNERS}
    found = records(make(root))
    assert Counter(r.case_id for r in found) == {p.tcia: len(TUMOR_SLICES) for p in SCANNERS}
    for record in found:
        z = int(re.search(r"_z(\d+)", record.image.stem)[1])  # type: ignore[index]
        outline = tumor(by_name[record.case_id])[:, ::-1, z].T  # this tumor is a block
        assert np.array_equal(picture(record.mask) > 0, outline)
        assert picture(record.image)[outline].min() == 255 > picture(record.image)[~outline].max()


def test_a_series_overwritten_in_place_is_sliced_again(tmp_path: Path) -> None:
    root = write_tcia(tmp_path / "tcia", SCANNERS)
    old = [picture(r.image) for r in records(make(root))]
    folders = {folder: folder.stat().st_mtime_ns for folder in root.rglob("*") if folder.is_dir()}
    for file in root.rglob("*.dcm"):
        data = pydicom.dcmread(file)
        data.PixelData = (255 - data.pixel_array).tobytes()
        file.write_bytes(b"")  # the same file, whatever pydicom does
        data.save_as(file)
    assert {folder: folder.stat().st_mtime_ns for folder in folders} == folders
    for was, record in zip(old, records(make(root)), strict=True):
        assert np.abs((255 - was) - picture(record.image).astype(int)).max() <= 1


def test_root_may_start_further_in_and_folders_may_have_descriptive_names(tmp_path: Path) -> None:
    root = write_tcia(tmp_path / "tcia", SCANNERS)
    collection = root / "manifest-1654" / "Duke-Breast-Cancer-MRI"
    expected = {(r.case_id, r.text) for r in records(make(root))}
    for start in (collection, collection.parent):
        found = records(make(start, captions=str(root)))
        assert {(r.case_id, r.text) for r in found} == expected
    for series in sorted(collection.glob("*/*/*")):
        number = series.name[-1]  # the mapping sheet has a slash for what is left out here
        series.rename(series.with_name(f"{number}.000000-Ph{number}ax dyn-0"))
    for study in sorted(collection.glob("*/*")):
        study.rename(study.with_name("01-01-1990-NA-MRI-9"))
    assert {(r.case_id, r.text) for r in records(make(root))} == expected


def test_weak_masks_are_flagged_in_the_module_and_in_every_case(tcia: Path, tmp_path: Path) -> None:
    weak, outlined = make(tcia), make(write_mamamia(tmp_path / "mamamia", PATIENTS[:4]))
    assert all("box" in record.case for record in records(weak))
    assert weak.mask_source == "boxes"
    assert not any("box" in record.case for record in records(outlined))
    assert outlined.mask_source == ""


def test_sliced_boxes_stay_flagged_when_used_as_prepared_slices(tcia: Path) -> None:
    folder = records(make(tcia))[0].image.parents[1]
    again = make(folder, split="manifest", layout="slices", cache=None)
    assert len(records(again)) == len(records(make(tcia)))
    assert again.mask_source == "boxes"


def test_both_releases_of_a_patient_give_the_same_pictures(tmp_path: Path) -> None:
    nifti = records(make(write_mamamia(tmp_path / "m", PATIENTS)))
    dicom = records(make(write_tcia(tmp_path / "t", PATIENTS)))
    pictures = {(r.case_id[-3:], r.image.stem.split("_z")[1][:3]): r for r in dicom}
    assert len(nifti) == len(pictures)
    for record in nifti:
        other = pictures[record.case_id[-3:], record.image.stem.split("_z")[1][:3]]
        assert np.array_equal(picture(record.image), picture(other.image))
        assert record.spacing == pytest.approx(other.spacing)
