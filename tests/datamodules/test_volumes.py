"""Orientation is compared with nibabel's affine arithmetic, voxel by voxel, and with anatomy."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from datamodules.files.nifti import read_nifti
from datamodules.files.volumes import (
    Volume,
    axial_picture,
    canonical,
    check_same_grid,
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
    with pytest.raises(UserError, match="affine"):
        read_nifti(path)


def test_a_flat_affine_is_refused() -> None:
    with pytest.raises(UserError, match="affine"):
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


@pytest.mark.parametrize(("unit", "to_mm"), [("meter", 1000), ("micron", 0.001), ("mm", 1), (0, 1)])
def test_lengths_are_in_the_unit_of_the_header(tmp_path: Path, unit: Any, to_mm: float) -> None:
    image = stored_as("LPS")
    plain = read_nifti(save(tmp_path / "plain.nii", image))
    affine = np.diag([1 / to_mm] * 3 + [1.0]) @ image.affine
    other = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
    other.header.set_xyzt_units(unit)
    volume = read_nifti(save(tmp_path / "other.nii", other))
    np.testing.assert_allclose(volume.spacing, plain.spacing, rtol=1e-5)
    np.testing.assert_allclose(volume.affine, plain.affine, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("factor", [0.001, 1000.0])
def test_voxels_of_a_size_that_none_has_are_warned_of(tmp_path: Path, factor: float) -> None:
    image = stored_as("RAS")
    affine = np.diag([factor] * 3 + [1.0]) @ image.affine
    path = save(tmp_path / "odd.nii", nibabel.Nifti1Image(np.asarray(image.dataobj), affine))
    with pytest.warns(UserWarning, match=r"odd.nii has voxels of .* mm .*powers of ten"):
        read_nifti(path)
