"""DICOM series are compared with pydicom's own pixels and with nibabel's arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless

from datamodules.files.dicom import read_dicom_series
from datamodules.files.volumes import axial_picture, canonical
from textseg.errors import UserError

COLUMNS_ROWS = {  # ImageOrientationPatient, and the axes of (row, column) in nibabel's letters
    "siemens": ((1, 0, 0, 0, 1, 0), ("P", "L")),
    "ge": ((-1, 0, 0, 0, -1, 0), ("A", "R")),
}
ROWS, COLUMNS, SLICES = 3, 5, 4


def dicom(path: Path, number: int, z: float, **changes: Any) -> pydicom.Dataset:
    """A slice [3, 5] int16 of random values; `changes` set elements, None removes one."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"1.2.3.{number}"
    dataset.SeriesInstanceUID = "1.2.3"
    dataset.InstanceNumber = number
    dataset.Rows, dataset.Columns = ROWS, COLUMNS
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-7, -9, z]
    dataset.PixelSpacing = [0.5, 0.75]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    values = np.random.default_rng(number).integers(-500, 500, (ROWS, COLUMNS), dtype=np.int16)
    dataset.PixelData = values.tobytes()
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def raw(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(-500, 500, (ROWS, COLUMNS), dtype=np.int16)


def series(folder: Path, count: int = SLICES, step: float = 2.0, **changes: Any) -> Path:
    for number in range(1, count + 1):
        dicom(folder / f"1-{number:03d}.dcm", number, 100 + step * number, **changes)
    return folder


@pytest.mark.parametrize("maker", COLUMNS_ROWS)
@pytest.mark.parametrize("step", [2.0, -2.0])
def test_a_series_is_raw_and_its_affine_true(tmp_path: Path, maker: str, step: float) -> None:
    orientation, (down, across) = COLUMNS_ROWS[maker]
    series(tmp_path, step=step, ImageOrientationPatient=list(orientation))
    read = read_dicom_series(tmp_path)
    assert read.values.shape == (ROWS, COLUMNS, SLICES)
    for number in range(SLICES):
        np.testing.assert_array_equal(read.values[..., number], raw(number + 1))
    names = nibabel.aff2axcodes(read.affine)
    assert names == (down, across, "S" if step > 0 else "I")
    # DICOM PS3.3 C.7.6.2.1.1, whose x grows to the left and y to posterior
    row, column, number = 2, 3, 1
    left = -7 + orientation[0] * 0.75 * column
    posterior = -9 + orientation[4] * 0.5 * row
    place = read.affine @ [row, column, number, 1]
    np.testing.assert_allclose(place[:3], [-left, -posterior, 100 + step * (number + 1)])


def test_a_dark_spot_on_the_patients_left_ends_in_the_pictures_left_for_both_makers(
    tmp_path: Path,
) -> None:
    for maker, (orientation, _) in COLUMNS_ROWS.items():
        stored = np.zeros((ROWS, COLUMNS), np.int16)
        # the patient's left front: the last column of Siemens' first row, the reverse for GE
        stored[(0, -1) if maker == "siemens" else (-1, 0)] = 9
        folder = tmp_path / maker
        folder.mkdir()
        series(folder, ImageOrientationPatient=list(orientation), PixelData=stored.tobytes())
        read = read_dicom_series(folder)
        picture = axial_picture(canonical(read.values, read.affine).values, 0)
        assert np.argwhere(picture == 9).tolist() == [[0, 0]]


def test_values_are_rescaled_slice_by_slice(tmp_path: Path) -> None:
    for number in (1, 2):
        path = tmp_path / f"1-{number}.dcm"
        dicom(path, number, 2.0 * number, RescaleSlope=number, RescaleIntercept=-1024)
    values = read_dicom_series(tmp_path).values
    np.testing.assert_array_equal(values[..., 0], raw(1) - 1024.0)
    np.testing.assert_array_equal(values[..., 1], raw(2) * 2.0 - 1024)


def test_numbers_order_the_slices_whatever_their_width(tmp_path: Path) -> None:
    for number in (9, 10, 11):
        dicom(tmp_path / f"1-{number}.dcm", number, 2.0 * number, InstanceNumber=None)
    (tmp_path / "._1-10.dcm").write_bytes(b"left by a Mac")
    (tmp_path / "LICENSE").write_text("CC BY-NC")
    values = read_dicom_series(tmp_path).values
    np.testing.assert_array_equal(values, np.stack([raw(9), raw(10), raw(11)], axis=-1))


def test_names_order_the_slices_where_instance_numbers_do_not(tmp_path: Path) -> None:
    for number, instance in ((1, 2), (2, 1), (3, 3)):
        dicom(tmp_path / f"1-{number}.dcm", number, 2.0 * number, InstanceNumber=instance)
    values = read_dicom_series(tmp_path).values
    np.testing.assert_array_equal(values, np.stack([raw(1), raw(2), raw(3)], axis=-1))


def test_names_order_the_slices_where_instance_numbers_run_against_them(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        dicom(tmp_path / f"1-{number}.dcm", number, 2.0 * number, InstanceNumber=4 - number)
    series = read_dicom_series(tmp_path)
    np.testing.assert_array_equal(series.values, np.stack([raw(1), raw(2), raw(3)], axis=-1))
    assert (series.affine @ [0, 0, 2, 1])[2] == 6.0


def test_instance_numbers_order_the_slices_where_names_do_not(tmp_path: Path) -> None:
    for number, name in ((1, "9f"), (2, "3a"), (3, "7c")):
        dicom(tmp_path / f"{name}.dcm", number, 2.0 * number)
    values = read_dicom_series(tmp_path).values
    np.testing.assert_array_equal(values, np.stack([raw(1), raw(2), raw(3)], axis=-1))


def test_slices_numbered_against_their_places_are_refused(tmp_path: Path) -> None:
    for number, z in ((1, 4.0), (2, 2.0), (3, 6.0)):
        dicom(tmp_path / f"1-{number}.dcm", number, z)
    with pytest.raises(UserError, match="neither the files' names nor the instance numbers"):
        read_dicom_series(tmp_path)


def test_a_missing_slice_is_named_by_its_neighbors(tmp_path: Path) -> None:
    series(tmp_path, count=8)
    (tmp_path / "1-004.dcm").unlink()
    with pytest.raises(UserError, match=r"missing between .*1-003\.dcm and .*1-005\.dcm: .* 4 mm"):
        read_dicom_series(tmp_path)


def test_slightly_uneven_steps_are_no_missing_slice(tmp_path: Path) -> None:
    for number, z in enumerate((0.0, 2.0, 4.6, 6.6), start=1):
        dicom(tmp_path / f"1-{number}.dcm", number, z)
    assert read_dicom_series(tmp_path).values.shape == (ROWS, COLUMNS, 4)


def test_two_phases_in_one_folder_are_refused(tmp_path: Path) -> None:
    for number in range(1, 7):
        dicom(tmp_path / f"1-{number}.dcm", number, 2.0 * ((number - 1) % 3))
    with pytest.raises(UserError, match="more than one acquisition"):
        read_dicom_series(tmp_path)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SeriesInstanceUID", "1.2.4"),
        ("PixelSpacing", [0.5, 0.8]),
        ("ImageOrientationPatient", [-1, 0, 0, 0, -1, 0]),
        ("Rows", 5),
    ],
)
def test_slices_of_another_series_are_refused(tmp_path: Path, keyword: str, value: Any) -> None:
    series(tmp_path)
    dicom(tmp_path / "1-005.dcm", 5, 110, **{keyword: value})
    with pytest.raises(UserError, match=rf"1-005\.dcm are not of one series: {keyword}"):
        read_dicom_series(tmp_path)


def test_rounding_does_not_make_another_series(tmp_path: Path) -> None:
    series(tmp_path)
    dicom(tmp_path / "1-005.dcm", 5, 110, ImageOrientationPatient=[1, 1e-5, 0, 0, 1, 0])
    assert read_dicom_series(tmp_path).values.shape[-1] == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PixelData": None}, "has no pixel data"),
        ({"ImageOrientationPatient": None}, "ImageOrientationPatient is None"),
        ({"PixelSpacing": [0.5]}, r"PixelSpacing is 0\.5"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient is None"),
        ({"PixelSpacing": None}, "PixelSpacing is None"),
        ({"PhotometricInterpretation": "RGB"}, "not one gray slice"),
        ({"NumberOfFrames": 3}, "not one gray slice"),
        ({"PixelData": b"\0" * 10}, "cannot be decoded"),
    ],
)
def test_a_slice_that_cannot_be_used_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    series(tmp_path)
    dicom(tmp_path / "1-003.dcm", 3, 106, **changes)
    with pytest.raises(UserError, match=message) as caught:
        read_dicom_series(tmp_path)
    assert str(tmp_path / "1-003.dcm") in str(caught.value)


def test_a_compressed_series_without_decoder_says_which(tmp_path: Path) -> None:
    for number in (1, 2):
        path = tmp_path / f"1-{number}.dcm"
        dataset = dicom(path, number, 2.0 * number)
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        dataset.PixelData = pydicom.encaps.encapsulate([b"not really a picture"])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(UserError, match=r"1-1\.dcm.*JPEG 2000[\s\S]*decoder"):
        read_dicom_series(tmp_path)


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    series(tmp_path)
    file = tmp_path / "1-002.dcm"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"1-002\.dcm"):
        read_dicom_series(tmp_path)


@pytest.mark.parametrize("found", [b"-9.0\\104.0", b"MONOCHROME2 "])
def test_a_header_with_a_spoilt_element_is_named(tmp_path: Path, found: bytes) -> None:
    series(tmp_path)
    path = tmp_path / "1-002.dcm"
    content = path.read_bytes()
    assert content.count(found) == 1
    path.write_bytes(content.replace(found, b"?" * len(found)))
    with pytest.raises(UserError, match=r"1-002\.dcm (cannot be read as|is not one gray)"):
        read_dicom_series(tmp_path)


def test_a_file_that_is_not_dicom_is_named(tmp_path: Path) -> None:
    series(tmp_path)
    (tmp_path / "1-002.dcm").write_text("<html>")
    with pytest.raises(UserError, match=r"1-002\.dcm cannot be read as DICOM"):
        read_dicom_series(tmp_path)


@pytest.mark.parametrize("count", [0, 1])
def test_a_volume_needs_two_slices(tmp_path: Path, count: int) -> None:
    series(tmp_path, count=count)
    with pytest.raises(UserError, match=f"holds {count} slice"):
        read_dicom_series(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent is not a folder"):
        read_dicom_series(tmp_path / "absent")
