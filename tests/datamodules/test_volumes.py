"""Orientation is compared with nibabel's affine arithmetic, voxel by voxel, and with anatomy."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless

from datamodules.files.volumes import (
    Volume,
    axial_picture,
    canonical,
    check_same_grid,
    read_dicom_series,
    read_nifti,
)
from textseg.errors import UserError

SHAPE = (4, 5, 6)
SPACING = (0.5, 0.75, 2.0)
EVERY_ORIENTATION = [
    "".join(codes)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*axes)
]


def ras() -> tuple[np.ndarray, np.ndarray]:
    """Values [4, 5, 6] int16, all different, and their affine."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-10, 20, 30)
    return np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), affine


def stored_as(codes: str) -> nibabel.Nifti1Image:
    values, affine = ras()
    image = nibabel.Nifti1Image(values, affine)
    return image.as_reoriented(
        ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes)),
    )


def save(path: Path, image: nibabel.Nifti1Image | None = None) -> Path:
    nibabel.save(stored_as("RAS") if image is None else image, path)
    return path


def tilted(degrees: float) -> np.ndarray:
    """The RAS affine turned about the axis from foot to head."""
    _, affine = ras()
    turn = np.eye(4)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn[:2, :2] = [[c, -s], [s, c]]
    return turn @ affine


# --- NIfTI


@pytest.mark.parametrize("codes", EVERY_ORIENTATION)
def test_every_storage_order_reads_as_the_same_volume(tmp_path: Path, codes: str) -> None:
    path = save(tmp_path / "volume.nii.gz", stored_as(codes))
    assert "".join(nibabel.aff2axcodes(nibabel.load(path).affine)) == codes
    values, affine = ras()
    volume = read_nifti(path)
    assert volume.values.dtype == np.int16
    np.testing.assert_array_equal(volume.values, values)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    np.testing.assert_allclose(volume.spacing, SPACING)


def test_a_voxel_keeps_its_place_in_the_patient_when_slightly_oblique() -> None:
    values, _ = ras()
    affine = tilted(100)  # 90 degrees of storage order and 10 of obliquity
    volume = canonical(values, affine)
    assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")
    for index in np.ndindex(*SHAPE):
        there = np.argwhere(volume.values == values[index])[0]
        np.testing.assert_allclose(volume.affine @ [*there, 1], affine @ [*index, 1])


def test_the_picture_starts_at_the_patients_left_front() -> None:
    values, affine = ras()
    picture = axial_picture(values, 2)
    assert picture.shape == (SHAPE[1], SHAPE[0])
    for row, column in np.ndindex(*picture.shape):
        x, y, z = np.argwhere(values == picture[row, column])[0]
        right, anterior, _, _ = affine @ [x, y, z, 1]
        assert right == pytest.approx(-10 + column * SPACING[0])
        assert anterior == pytest.approx(20 + (SHAPE[1] - 1 - row) * SPACING[1])
        assert z == 2


def test_scaled_values_are_what_the_header_says(tmp_path: Path) -> None:
    values, affine = ras()
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_slope_inter(2.0, -1024.0)
    path = save(tmp_path / "scaled.nii", image)
    raw = nibabel.load(path).dataobj.get_unscaled()
    volume = read_nifti(path)
    assert volume.values.dtype == np.float32
    np.testing.assert_array_equal(volume.values, raw * 2.0 - 1024)


def test_a_fourth_axis_of_one_is_no_axis(tmp_path: Path) -> None:
    values, affine = ras()
    path = save(tmp_path / "v.nii", nibabel.Nifti1Image(values[..., None], affine))
    np.testing.assert_array_equal(read_nifti(path).values, values)


def _cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def _patch(path: Path, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def cut_gzip(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 999, SHAPE, dtype=np.int16)
    path = save(folder / "cut.nii.gz", nibabel.Nifti1Image(noise, np.eye(4)))
    _cut(path, 0.6)
    return path


def cut_plain(folder: Path) -> Path:
    path = save(folder / "cut.nii")
    _cut(path, 0.8)
    return path


def spoilt_gzip(folder: Path) -> Path:
    path = save(folder / "spoilt.nii.gz")
    _patch(path, 30, b"\xff" * 40)
    return path


def not_gzip(folder: Path) -> Path:
    path = folder / "page.nii.gz"
    path.write_text("<html>Sign in to download</html>")
    return path


def empty(folder: Path) -> Path:
    path = folder / "empty.nii.gz"
    path.write_bytes(gzip.compress(b""))
    return path


def bad_magic(folder: Path) -> Path:
    path = save(folder / "magic.nii")
    _patch(path, 344, b"XYZ\0")
    return path


def negative_side(folder: Path) -> Path:
    path = save(folder / "negative.nii")
    _patch(path, 42, np.int16(-4).tobytes())  # dim[1]
    return path


def unknown_type(folder: Path) -> Path:
    path = save(folder / "type.nii")
    _patch(path, 70, np.int16(999).tobytes())  # datatype
    return path


def absent(folder: Path) -> Path:
    return folder / "absent.nii.gz"


@pytest.mark.parametrize(
    "spoil",
    [cut_gzip, cut_plain, spoilt_gzip, not_gzip, empty, bad_magic, unknown_type, absent],
)
def test_a_broken_file_is_named(tmp_path: Path, spoil: Callable[[Path], Path]) -> None:
    path = spoil(tmp_path)
    with pytest.raises(UserError, match="cannot be read as a NIfTI volume") as caught:
        read_nifti(path)
    assert str(path) in str(caught.value)
    assert "again" in str(caught.value)


def test_a_negative_side_is_refused_from_the_header_alone(tmp_path: Path) -> None:
    path = negative_side(tmp_path)
    with pytest.raises(UserError, match=r"negative\.nii is -4x5x6, not a 3-D volume"):
        read_nifti(path)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 2)])
def test_only_three_axes_make_a_volume(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4))
    path = save(tmp_path / "v.nii.gz", image)
    with pytest.raises(UserError, match="x".join(map(str, shape)) + ", not a 3-D volume"):
        read_nifti(path)


def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "volume.mgz"
    nibabel.save(nibabel.MGHImage(np.zeros(SHAPE, np.float32), np.eye(4)), path)
    with pytest.raises(UserError, match=r"volume\.mgz is not named \.nii or \.nii\.gz"):
        read_nifti(path)


def test_colors_are_not_a_volume(tmp_path: Path) -> None:
    colors = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    path = save(tmp_path / "rgb.nii", nibabel.Nifti1Image(colors, np.eye(4)))
    with pytest.raises(UserError, match="not plain numbers"):
        read_nifti(path)


def test_voxels_without_a_number_are_counted(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.float32)
    values[0, 0, :2] = (np.nan, np.inf)
    path = save(tmp_path / "nan.nii", nibabel.Nifti1Image(values, np.eye(4)))
    with pytest.raises(UserError, match="2 voxels are not finite"):
        read_nifti(path)


@pytest.mark.parametrize(
    ("sform", "qform", "message"),
    [
        (0, 0, "no orientation"),
        (1, 1, "sform says RAS but its qform says LAS"),
    ],
)
def test_a_header_uncertain_of_left_and_right_is_refused(
    tmp_path: Path, sform: int, qform: int, message: str
) -> None:
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4))
    image.set_sform(np.eye(4), sform)
    image.set_qform(np.diag([-1.0, 1, 1, 1]), qform)
    path = save(tmp_path / "v.nii", image)
    with pytest.raises(UserError, match=message):
        read_nifti(path)


def test_the_qform_serves_where_it_alone_is_given(tmp_path: Path) -> None:
    values, affine = ras()
    image = nibabel.Nifti1Image(values[::-1], None)
    mirrored = affine @ np.array([[-1, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    image.set_qform(mirrored, 1)
    path = save(tmp_path / "v.nii", image)
    np.testing.assert_array_equal(read_nifti(path).values, values)


def test_an_affine_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "v.nii")
    _patch(path, 280, np.float32(np.nan).tobytes())  # srow_x[0]
    with pytest.raises(UserError, match="gives no place in the patient"):
        read_nifti(path)


def test_a_flat_affine_is_refused() -> None:
    with pytest.raises(UserError, match="gives no place in the patient"):
        canonical(ras()[0], np.diag([1.0, 1, 0, 1]))


def test_obliquity_is_accepted_to_20_degrees_and_named_beyond(tmp_path: Path) -> None:
    values, _ = ras()
    canonical(values, tilted(19))
    path = save(tmp_path / "oblique.nii", nibabel.Nifti1Image(values, tilted(33)))
    with pytest.raises(UserError, match=r"oblique\.nii: the volume is oblique by 33 degrees"):
        read_nifti(path)


# --- grids


def moved(volume: Volume, by: float) -> Volume:
    affine = volume.affine.copy()
    affine[0, 3] += by
    return Volume(volume.values, volume.spacing, affine)


def test_a_mask_must_lie_on_the_images_grid() -> None:
    image, mask = Path("image.nii"), Path("mask.nii")
    volume = canonical(*ras())
    check_same_grid(volume, moved(volume, 0.01), image, mask)
    with pytest.raises(UserError, match=r"image\.nii and mask\.nii lie up to 0\.5 mm apart") as far:
        check_same_grid(volume, moved(volume, 0.5), image, mask)
    assert "0.5 0 0 -10" in str(far.value)
    assert "0.5 0 0 -9.5" in str(far.value)
    smaller = Volume(volume.values[1:], volume.spacing, volume.affine)
    with pytest.raises(UserError, match=r"image\.nii is 4x5x6 but mask\.nii is 3x5x6"):
        check_same_grid(volume, smaller, image, mask)


# --- DICOM

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


def test_numbers_order_the_slices_whatever_their_width_and_the_order_given(tmp_path: Path) -> None:
    for number in (9, 10, 11):
        dicom(tmp_path / f"1-{number}.dcm", number, 2.0 * number, InstanceNumber=None)
    (tmp_path / "._1-10.dcm").write_bytes(b"left by a Mac")
    (tmp_path / "LICENSE").write_text("CC BY-NC")
    for source in (tmp_path, [tmp_path / f"1-{n}.dcm" for n in (11, 9, 10)]):
        values = read_dicom_series(source).values
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
    _cut(tmp_path / "1-002.dcm", 0.97)
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


# --- real volumes


def world_center(image: nibabel.Nifti1Image, mask: np.ndarray) -> np.ndarray:
    """Mean place in RAS mm, by nibabel alone."""
    return nibabel.affines.apply_affine(image.affine, np.argwhere(mask)).mean(axis=0)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["example_ct_sm", "example_ct", "example_mr_sm", "example_seg_mr"])
def test_real_volumes_agree_with_nibabels_closest_canonical(real_data: Path, name: str) -> None:
    path = real_data / "totalsegmentator_ct" / f"{name}.nii.gz"
    expected = nibabel.as_closest_canonical(nibabel.load(path))
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.values, np.asarray(expected.dataobj))
    np.testing.assert_allclose(volume.affine, expected.affine)
    np.testing.assert_allclose(volume.spacing, expected.header.get_zooms()[:3], rtol=1e-6)


@pytest.mark.real_data
def test_real_organs_lie_where_anatomy_puts_them(real_data: Path) -> None:
    folder = real_data / "totalsegmentator_ct"
    body = read_nifti(folder / "example_ct_sm.nii.gz").values > -500
    center = {}
    for organ in ("liver", "spleen", "vertebrae_L1", "kidney_left", "kidney_right"):
        path = folder / "example_seg_fast" / f"{organ}.nii.gz"
        mask = read_nifti(path).values > 0
        z = int(mask.sum(axis=(0, 1)).argmax())
        frame = np.argwhere(axial_picture(body, z))
        row, column = np.argwhere(axial_picture(mask, z)).mean(axis=0)
        top, left = frame.min(axis=0)
        bottom, right = frame.max(axis=0)
        center[organ] = ((row - top) / (bottom - top), (column - left) / (right - left))
    assert center["liver"][1] > 0.55
    assert center["kidney_right"][1] > 0.55
    assert center["spleen"][1] < 0.45
    assert center["kidney_left"][1] < 0.45
    assert center["vertebrae_L1"][0] > 0.5


@pytest.mark.real_data
@pytest.mark.parametrize("codes", ["LPS", "PIR", "ASL"])
def test_a_real_organ_keeps_its_place_when_stored_otherwise(
    real_data: Path, tmp_path: Path, codes: str
) -> None:
    image = nibabel.load(real_data / "totalsegmentator_ct" / "example_seg_fast" / "liver.nii.gz")
    turned = image.as_reoriented(
        ornt_transform(nibabel.io_orientation(image.affine), axcodes2ornt(codes))
    )
    volume = read_nifti(save(tmp_path / "liver.nii.gz", turned))
    expected = world_center(image, np.asarray(image.dataobj) > 0)
    indices = np.argwhere(volume.values > 0).mean(axis=0)
    np.testing.assert_allclose((volume.affine @ [*indices, 1])[:3], expected, atol=1e-3)
