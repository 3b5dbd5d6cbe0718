"""Volumes from NIfTI and DICOM, turned so that each index axis has a known direction.

World coordinates are RAS millimetres: x to the patient's right, y to anterior, z to superior. DICOM
counts x and y the other way (LPS); it is turned here and nowhere else. Nothing is resampled.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from pydicom.errors import BytesLengthException, InvalidDicomError

from textseg.errors import UserError, first_line

Array = NDArray[Any]
Affine = NDArray[np.float64]
Triple = tuple[float, float, float]

MOST_OBLIQUE = 20.0  # degrees; beyond, an axis can no longer be called by one name
WIDEST_STEP = 1.5  # of the median step; at 2 a slice is missing
NEAREST_STEP = 0.5  # of the median step; at 0 two slices lie in one place
SAME_PLACE = 0.01  # mm
SAME_GRID = 0.25  # of a voxel's shortest side; headers are rounded differently by each tool
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Volume:
    """A volume whose axes are the patient's.

    Args:
        values: [X, Y, Z]; x grows to the patient's right, y to anterior, z to superior.
        spacing: mm between voxels along x, y and z.
        affine: [4, 4], from indices into `values` to RAS mm.
    """

    values: Array
    spacing: Triple
    affine: Affine


@dataclass(frozen=True)
class Series:
    """A DICOM series as it is stored.

    Args:
        values: [rows, columns, slices] float32, rescaled, slices in the order of their numbers.
        affine: [4, 4], from (row, column, slice) to RAS mm.
        files: each slice's file.
    """

    values: Array
    affine: Affine
    files: tuple[Path, ...]


# --- orientation


def canonical(values: Array, affine: Affine, *, where: str = "the volume") -> Volume:
    """Flip and permute the axes until they run to the patient's right, anterior and superior.

    Args:
        values: [I, J, K], axes of any direction.
        affine: [4, 4], from indices to RAS mm.
        where: the file, for messages.

    Raises:
        UserError: an axis is more than 20 degrees from every direction of the patient.
    """
    turn = _turn(affine, where)
    turned = affine @ inv_ornt_aff(turn, values.shape)
    return Volume(apply_orientation(values, turn), _spacing(turned), turned)


def axial_picture(values: Array, z: int) -> Array:
    """Slice z of [X, Y, Z] as [rows, columns]: row 0 is anterior, column 0 the patient's LEFT.

    Radiologists hang it the other way round. So hung, a word's side ("left breast") is the
    picture's side, as everywhere in the suite.
    """
    return np.ascontiguousarray(values[:, ::-1, z].T)


def check_same_grid(image: Volume, mask: Volume, image_path: Path, mask_path: Path) -> None:
    """The mask's voxels are the image's.

    Raises:
        UserError: the shapes differ, or a corner lies a quarter of a voxel or more elsewhere.
    """
    if image.values.shape != mask.values.shape:
        raise UserError(
            f"{image_path} is {_times(image.values.shape)} but {mask_path} is "
            f"{_times(mask.values.shape)} (voxels to the right, anterior, superior)",
            "take the mask that was drawn on this image, or resample it to the image's grid",
        )
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(image.values.shape) - 1)
    moved = np.c_[corners, np.ones(8)] @ (image.affine - mask.affine).T
    apart = float(np.linalg.norm(moved[:, :3], axis=1).max())
    if apart >= SAME_GRID * min(image.spacing):
        raise UserError(
            f"{image_path} and {mask_path} lie up to {apart:.3g} mm apart in the patient: their "
            f"affines are {_rows(image.affine)} and {_rows(mask.affine)}",
            "take the mask that was drawn on this image, or copy the image's affine to the mask if "
            "they agree voxel by voxel",
        )


def _turn(affine: Affine, where: str) -> Array:
    """nibabel's orientation [3, 2] of a sound affine."""
    steps = affine[:3, :3]
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(steps) < 3:
        raise UserError(
            f"{where}: the affine {_rows(affine)} gives no place in the patient",
            "export the volume again with its orientation",
        )
    turn = io_orientation(affine)
    along = np.abs(steps / np.linalg.norm(steps, axis=0))[turn[:, 0].astype(int), range(3)]
    angle = float(np.degrees(np.arccos(np.clip(along, 0, 1)).max()))
    if angle > MOST_OBLIQUE:
        raise UserError(
            f"{where}: the volume is oblique by {angle:.0f} degrees, and at most "
            f"{MOST_OBLIQUE:.0f} can be mended by flips",
            "resample it to an axial grid first",
        )
    return turn


def _spacing(affine: Affine) -> Triple:
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return x, y, z


def _times(shape: Sequence[int]) -> str:
    return "x".join(str(side) for side in shape)


def _rows(affine: Affine) -> str:
    """The first three rows on one line."""
    return "; ".join(" ".join(f"{value:.5g}" for value in row) for row in affine[:3])


# --- NIfTI


def read_nifti(path: Path) -> Volume:
    """A .nii or .nii.gz file; values keep the file's type, float32 where the file scales them.

    Raises:
        UserError: the file is broken or cut short, not a 3-D volume of finite numbers, or says
            nothing certain of its orientation.
    """
    image = _open_nifti(path)
    try:
        values = np.asarray(image.dataobj)
    except (OSError, EOFError, ValueError, MemoryError, zlib.error) as error:
        raise _unreadable(path, error) from error
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    if values.dtype.kind not in "biuf":
        raise UserError(
            f"{path} holds {image.get_data_dtype()}, not plain numbers",
            "export the volume as gray values or labels",
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(
            f"{path}: {np.count_nonzero(~np.isfinite(values))} voxels are not finite numbers",
            "replace them by the background's value",
        )
    return canonical(values.reshape(values.shape[:3]), _affine(image, path), where=str(path))


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read as a NIfTI volume ({first_line(error)})",
        "download or export the file again",
    )


def _open_nifti(path: Path) -> nibabel.Nifti1Image:
    """The header, checked for three axes."""
    if not path.name.casefold().endswith((".nii", ".nii.gz")):
        raise UserError(f"{path} is not named .nii or .nii.gz", "name a NIfTI file")
    try:
        image = nibabel.load(path, mmap=False)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise _unreadable(path, error) from error
    assert isinstance(image, nibabel.Nifti1Image)
    shape = image.shape
    if len(shape) < 3 or min(shape) < 1 or any(side > 1 for side in shape[3:]):
        raise UserError(
            f"{path} is {_times(shape)}, not a 3-D volume",
            "split a series in time, or channels, into one file each",
        )
    return image


def _affine(image: nibabel.Nifti1Image, path: Path) -> Affine:
    """From the header's sform, or its qform where that alone is given."""
    forms = {}
    for name, get in (("sform", image.get_sform), ("qform", image.get_qform)):
        try:
            affine, code = get(coded=True)
        except (HeaderDataError, ValueError) as error:
            raise _unreadable(path, error) from error
        if code:
            forms[name] = np.asarray(affine, dtype=np.float64)
    if not forms:
        raise UserError(
            f"{path}: the header gives no orientation (sform_code and qform_code are 0), so that "
            "left and right are unknown",
            "convert it again from DICOM, or set the header's sform if you know how the array lies",
        )
    for affine in forms.values():
        _turn(affine, str(path))
    named = {name: "".join(aff2axcodes(affine)) for name, affine in forms.items()}
    if len(set(named.values())) > 1:
        raise UserError(
            f"{path}: the header's sform says {named['sform']} but its qform says {named['qform']}",
            "find out which of them is true and set the other's code to 0",
        )
    return next(iter(forms.values()))


# --- DICOM


@dataclass(frozen=True)
class _Slice:
    """A file of a series: its pixels, still encoded, and what places them. Lengths are mm, LPS."""

    file: Path
    dataset: pydicom.Dataset
    series: str
    number: int | None
    size: tuple[int, int]
    orientation: tuple[float, ...]
    position: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    slope: float
    intercept: float


# what pydicom raises beside the built-in errors of a broken element
_PYDICOM_ERRORS = (AttributeError, BytesLengthException, InvalidDicomError, NotImplementedError)
_LENGTHS = {"ImageOrientationPatient": 6, "ImagePositionPatient": 3, "PixelSpacing": 2}


def read_dicom_series(source: Path | Sequence[Path]) -> Series:
    """One series of single-frame DICOM files, neither flipped nor turned.

    Slices follow the numbers in the files' names, or the instance numbers where the names do not
    run along the patient. The two may run against each other.

    Args:
        source: a folder (its .dcm files) or the files.

    Raises:
        UserError: a file is broken, not a gray picture, of another series or of another shape; a
            slice is missing or is there twice; or the orientation is not given.
    """
    files = _dicom_files(source) if isinstance(source, Path) else list(source)
    slices = [_read_slice(file) for file in files]
    if len(slices) < 2:
        raise UserError(
            f"{source} holds {len(slices)} slice(s), and a volume needs two or more",
            "complete the download, or name the series' folder",
        )
    _check_alike(slices)
    _check_steps(slices)
    ordered = _in_order(slices)
    values = np.empty((len(ordered), *ordered[0].size), dtype=np.float32)
    for number, item in enumerate(ordered):
        values[number] = _pixels(item)
    of_slices = tuple(item.file for item in ordered)
    return Series(np.moveaxis(values, 0, -1), _series_affine(ordered), of_slices)


def _dicom_files(folder: Path) -> list[Path]:
    """The .dcm files of a folder, by the numbers in their names."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", "name the folder of a DICOM series")
    found = (f for f in folder.iterdir() if f.suffix.casefold() == ".dcm")
    return sorted((f for f in found if not f.name.startswith(".")), key=_name_numbers)


def _name_numbers(file: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", file.stem)], file.name


def _read_slice(file: Path) -> _Slice:
    """One file that has gray values and a place in the patient."""
    try:
        dataset = pydicom.dcmread(file)
        kind = str(dataset.get("PhotometricInterpretation"))
        frames = int(dataset.get("NumberOfFrames") or 1)
        place = {keyword: _floats(dataset, keyword) for keyword in _LENGTHS}
        number = dataset.get("InstanceNumber")
        item = _Slice(
            file=file,
            dataset=dataset,
            series=str(dataset.get("SeriesInstanceUID")),
            number=None if number is None else int(number),
            size=(int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)),
            orientation=place["ImageOrientationPatient"],
            position=place["ImagePositionPatient"],
            pixel_spacing=place["PixelSpacing"],
            slope=next(iter(_floats(dataset, "RescaleSlope")), 1.0),
            intercept=next(iter(_floats(dataset, "RescaleIntercept")), 0.0),
        )
    except (OSError, EOFError, LookupError, TypeError, ValueError, *_PYDICOM_ERRORS) as error:
        raise UserError(
            f"{file} cannot be read as DICOM ({first_line(error)})", "download the file again"
        ) from error
    if "PixelData" not in dataset:
        raise UserError(
            f"{file} has no pixel data", "leave it out: the folder must hold one series of slices"
        )
    if kind != "MONOCHROME2" or frames > 1:
        raise UserError(
            f"{file} is not one gray slice (PhotometricInterpretation {kind}, NumberOfFrames "
            f"{frames})",
            "export the series as single-frame MONOCHROME2 files",
        )
    for keyword, value in place.items():
        if len(value) != _LENGTHS[keyword] or not np.isfinite(value).all():
            raise UserError(
                f"{file}: {keyword} is {dataset.get(keyword)}, so that its orientation is unknown",
                "take the original series; derived pictures often lose it",
            )
    return item


def _floats(dataset: pydicom.Dataset, keyword: str) -> tuple[float, ...]:
    value = dataset.get(keyword)
    return () if value is None else tuple(float(v) for v in np.atleast_1d(value))


def _check_alike(slices: list[_Slice]) -> None:
    """All are of one series and on one grid; directions and spacing agree to a thousandth."""
    first = slices[0]
    for item in slices[1:]:
        pairs: dict[str, tuple[Any, Any]] = {
            "SeriesInstanceUID": (first.series, item.series),
            "Rows and Columns": (first.size, item.size),
            "ImageOrientationPatient": (first.orientation, item.orientation),
            "PixelSpacing": (first.pixel_spacing, item.pixel_spacing),
        }
        for name, (wanted, value) in pairs.items():
            numbers = name in _LENGTHS
            if value != wanted and not (numbers and np.allclose(wanted, value, atol=1e-3)):
                raise UserError(
                    f"{first.file} and {item.file} are not of one series: {name} is {wanted} and "
                    f"{value}",
                    "keep each series in a folder of its own",
                )


def _depths(slices: list[_Slice]) -> Affine:
    """Each slice's place along the slices' normal in mm, [slices]."""
    normal = np.cross(slices[0].orientation[:3], slices[0].orientation[3:])
    return np.array([item.position for item in slices]) @ normal


def _check_steps(slices: list[_Slice]) -> None:
    """No slice is missing and none is there twice, in whatever order they are numbered."""
    depths = _depths(slices)
    along = np.argsort(depths, kind="stable")
    steps = np.diff(depths[along])
    median = float(np.median(steps))
    near, far = int(steps.argmin()), int(steps.argmax())
    if steps[near] < max(SAME_PLACE, NEAREST_STEP * median):
        one, other = (slices[k].file for k in along[near : near + 2])
        raise UserError(
            f"{one} and {other} lie {steps[near]:.3g} mm apart in a series with steps of "
            f"{float(steps.max()):.3g} mm: more than one acquisition shares the folder",
            "keep each contrast phase in a folder of its own",
        )
    if steps[far] > WIDEST_STEP * median:
        one, other = (slices[k].file for k in along[far : far + 2])
        raise UserError(
            f"a slice is missing between {one} and {other}: they lie {steps[far]:.3g} mm apart, "
            f"the others {median:.3g} mm",
            "download the series again",
        )


def _in_order(slices: list[_Slice]) -> list[_Slice]:
    """By name, or else by instance number: the first that runs along the patient.

    Names come first because TCIA's boxes count slices by file.
    """
    orders = [sorted(slices, key=lambda item: _name_numbers(item.file))]
    if all(item.number is not None for item in slices):
        orders.append(sorted(slices, key=lambda item: item.number or 0))
    for order in orders:
        steps = np.diff(_depths(order))
        if (steps > 0).all() or (steps < 0).all():
            return order
    raise UserError(
        f"{slices[0].file.parent}: neither the files' names nor the instance numbers follow the "
        "slices' positions (ImagePositionPatient)",
        "download the series again; if several series share the folder, separate them",
    )


def _series_affine(ordered: list[_Slice]) -> Affine:
    """From (row, column, slice) to RAS mm."""
    first, last = ordered[0], ordered[-1]
    between_rows, between_columns = first.pixel_spacing
    along_columns = np.multiply(first.orientation[:3], between_columns)
    along_rows = np.multiply(first.orientation[3:], between_rows)
    step = np.subtract(last.position, first.position) / (len(ordered) - 1)
    affine = np.eye(4)
    affine[:3] = LPS_TO_RAS @ np.stack([along_rows, along_columns, step, first.position], axis=1)
    return affine


def _pixels(item: _Slice) -> Array:
    """Rescaled values [rows, columns]."""
    try:
        stored = item.dataset.pixel_array
    except (LookupError, TypeError, ValueError, RuntimeError, *_PYDICOM_ERRORS) as error:
        syntax = item.dataset.file_meta.get("TransferSyntaxUID")
        raise UserError(
            f"{item.file}: the pixels cannot be decoded (transfer syntax "
            f"{getattr(syntax, 'name', syntax)}: {first_line(error)})",
            "download the file again if it is cut short; if it is compressed, install a decoder "
            "(pip install pylibjpeg[all]) or decompress the series, for example with dcmdjpeg",
        ) from error
    return stored * np.float32(item.slope) + np.float32(item.intercept)
