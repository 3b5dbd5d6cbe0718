"""DICOM series and single pictures as arrays, in the order in which slices are stored.

DICOM counts x to the patient's left and y to posterior (LPS); this is turned to RAS here and
nowhere else. Lengths are millimeters.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian

from datamodules.files.volumes import Affine, Array
from textseg.errors import UserError, first_line, reason_of, refusing
from textseg.limits import PIXELS, VOXELS

MAX_STEP = 1.5  # of the median step; at 2 a slice is missing
MIN_STEP = 0.5  # of the median step; at 0 two slices coincide
SAME_POSITION = 0.01  # mm
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Series:
    """A DICOM series as it is stored.

    Args:
        values: [rows, columns, slices] float32, rescaled, slices in the order of their numbers.
        affine: [4, 4], from (row, column, slice) to RAS mm.
        files: each slice's file.
        step: mm between slices; None of a single slice that does not say how thick it is.
        window: center and width that the middle slice's header gives; None where it gives none.
    """

    values: Array
    affine: Affine
    files: tuple[Path, ...]
    step: float | None
    window: tuple[float, float] | None


@dataclass(frozen=True)
class DicomPicture:
    """A DICOM file without a position in the patient, such as a radiograph.

    Args:
        values: [rows, columns] float32, rescaled; or [rows, columns, 3] uint8 of a color picture.
        inverted: whether the largest value is black.
        spacing: mm between rows and between columns; of a radiograph without calibration, at the
            detector. None where the file gives none.
        window: center and width that the header gives; None where it gives none.
    """

    values: Array
    inverted: bool
    spacing: tuple[float, float] | None
    window: tuple[float, float] | None


@dataclass(frozen=True)
class _Slice:
    """A file of a series: its pixels, still encoded, and its geometry. Lengths are mm, LPS."""

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


_LENGTHS = {"ImageOrientationPatient": 6, "ImagePositionPatient": 3, "PixelSpacing": 2}
_THICKNESS = "SliceThickness"
_DEEPEST = 8  # bytes of a pixel, with the elements beside it
_META_START = 144  # preamble, mark and the length of the elements about the file, bytes


def read_dicom_series(folder: Path) -> Series:
    """Read one series of single-frame .dcm files from its folder, neither flipped nor turned.

    Slices follow the numbers in the files' names, or the instance numbers where the names do not
    run along the patient. The two may run against each other.

    Raises:
        UserError: a file is broken, not a gray picture, of another series or of another shape; a
            slice is missing or is there twice; or the orientation is not given.
    """
    slices = [_read_slice(file) for file in _dicom_files(folder)]
    if len(slices) < 2:
        raise UserError(
            f"{folder} holds {len(slices)} slice(s), and a volume needs two or more",
            "complete the download, or name the series' folder",
        )
    return _series(slices)


def read_dicom_slices(files: Sequence[Path]) -> Series:
    """Read the files of one series, which may be a single slice, as `read_dicom_series` does.

    Raises:
        UserError: as `read_dicom_series` does.
    """
    return _series([_read_slice(file) for file in sorted(files, key=_name_numbers)])


def _series(slices: list[_Slice]) -> Series:
    _check_alike(slices)
    if len(slices) > 1:
        _check_steps(slices)
    ordered = _in_order(slices)
    VOXELS.check(len(ordered) * math.prod(ordered[0].size), ordered[0].file.parent)
    values = np.empty((len(ordered), *ordered[0].size), dtype=np.float32)
    for number, item in enumerate(ordered):
        values[number] = _pixels(item)
    of_slices = tuple(item.file for item in ordered)
    step = _step(ordered)
    affine = _series_affine(ordered, step or 1.0)
    window = _window(ordered[len(ordered) // 2].dataset)
    return Series(np.moveaxis(values, 0, -1), affine, of_slices, step, window)


def read_header(file: Path) -> pydicom.Dataset:
    """Read a DICOM file's elements without its pixels.

    Raises:
        UserError: it is no DICOM file, or is broken.
    """
    with _reading(file):
        return _dataset(file, stop_before_pixels=True)


def has_position(dataset: pydicom.Dataset) -> bool:
    """Tell whether a header places its picture in the patient."""
    return all(dataset.get(keyword) for keyword in _LENGTHS)


def find_pictures(files: Iterable[Path]) -> tuple[list[list[Path]], list[tuple[Path, str]]]:
    """Sort DICOM files into series, and pictures without a position in the patient.

    Args:
        files: of one folder, or of several.

    Returns:
        the files of each series, or a single picture, by name; and the files that cannot be used,
        each with the reason.
    """
    groups: dict[str, list[Path]] = {}
    left_out: list[tuple[Path, str]] = []
    for file in sorted(files, key=_name_numbers):
        try:
            header = read_header(file)
            with _reading(file):
                frames = int(header.get("NumberOfFrames") or 1)
                # Elements are decoded when they are asked for, and one of them may be spoiled.
                rows, modality = header.get("Rows"), header.get("Modality")
                series, placed = str(header.get("SeriesInstanceUID")), has_position(header)
        except UserError as error:
            left_out.append((file, reason_of(error)))
            continue
        if not rows:
            left_out.append((file, f"holds no picture (Modality {modality})"))
        elif frames > 1:
            left_out.append((file, f"has {frames} frames (Modality {modality})"))
        else:
            key = series if placed else str(file)
            groups.setdefault(key, []).append(file)
    return list(groups.values()), left_out


def read_dicom_picture(file: Path) -> DicomPicture:
    """Read one file as a picture, as viewers show it, wherever it lies in the patient.

    Raises:
        UserError: the file is broken, of several frames, or neither gray nor of 8-bit color.
    """
    with _reading(file):
        dataset = _dataset(file)
        kind = str(dataset.get("PhotometricInterpretation"))
        frames = int(dataset.get("NumberOfFrames") or 1)
        slope = next(iter(_floats(dataset, "RescaleSlope")), 1.0)
        intercept = next(iter(_floats(dataset, "RescaleIntercept")), 0.0)
        lengths = _floats(dataset, "PixelSpacing") or _floats(dataset, "ImagerPixelSpacing")
        color = kind.startswith(("RGB", "YBR")) and dataset.get("BitsAllocated") == 8
    gray = kind in ("MONOCHROME1", "MONOCHROME2")
    if "PixelData" not in dataset or frames > 1 or not (gray or color):
        with _reading(file):
            modality = dataset.get("Modality")
        raise UserError(
            f"{file} is not one picture (Modality {modality}, "
            f"PhotometricInterpretation {kind}, NumberOfFrames {frames})",
            "export single frames, gray or RGB",
        )
    values = _decoded(dataset, file)
    if gray:
        values = values * np.float32(slope) + np.float32(intercept)
    sound = len(lengths) == 2 and min(lengths) > 0
    spacing = (lengths[0], lengths[1]) if sound else None
    return DicomPicture(values, kind == "MONOCHROME1", spacing, _window(dataset))


def _window(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    """The first window that a header gives."""
    try:
        center, width = (_floats(dataset, f"Window{name}") for name in ("Center", "Width"))
    except Exception:  # what pydicom raises for a spoiled element has no common base
        return None
    return (center[0], width[0]) if center and width and width[0] > 0 else None


def _reading(file: Path) -> AbstractContextManager[None]:
    # What pydicom raises for spoiled bytes has no common base: struct.error, zlib.error and more.
    return refusing(Exception, f"{file} cannot be read as DICOM", "download the file again")


def _dicom_files(folder: Path) -> list[Path]:
    """The .dcm files of a folder, by the numbers in their names."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", "name the folder of a DICOM series")
    files = (f for f in folder.iterdir() if f.suffix.casefold() == ".dcm")
    return sorted((f for f in files if not f.name.startswith(".")), key=_name_numbers)


def _name_numbers(file: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", file.stem)], file.name


def _read_slice(file: Path) -> _Slice:
    """Read one file, which must have gray values and a position in the patient."""
    with _reading(file):
        dataset = _dataset(file)
        kind = str(dataset.get("PhotometricInterpretation"))
        frames = int(dataset.get("NumberOfFrames") or 1)
        geometry = {keyword: _floats(dataset, keyword) for keyword in _LENGTHS}
        number = dataset.get("InstanceNumber")
        item = _Slice(
            file=file,
            dataset=dataset,
            series=str(dataset.get("SeriesInstanceUID")),
            number=None if number is None else int(number),
            size=(int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)),
            orientation=geometry["ImageOrientationPatient"],
            position=geometry["ImagePositionPatient"],
            pixel_spacing=geometry["PixelSpacing"],
            slope=next(iter(_floats(dataset, "RescaleSlope")), 1.0),
            intercept=next(iter(_floats(dataset, "RescaleIntercept")), 0.0),
        )
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
    for keyword, value in geometry.items():
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
    """Each slice's position along the slices' normal in mm, [slices]."""
    normal = np.cross(slices[0].orientation[:3], slices[0].orientation[3:])
    return np.array([item.position for item in slices]) @ normal


def _check_steps(slices: list[_Slice]) -> None:
    """No slice is missing and none is there twice, in whatever order they are numbered."""
    depths = _depths(slices)
    along = np.argsort(depths, kind="stable")
    steps = np.diff(depths[along])
    median = float(np.median(steps))
    near, far = int(steps.argmin()), int(steps.argmax())
    if steps[near] < max(SAME_POSITION, MIN_STEP * median):
        one, other = (slices[k].file for k in along[near : near + 2])
        raise UserError(
            f"{one} and {other} lie {steps[near]:.3g} mm apart in a series with steps of "
            f"{float(steps.max()):.3g} mm: more than one acquisition shares the folder",
            "keep each contrast phase in a folder of its own",
        )
    if steps[far] > MAX_STEP * median:
        one, other = (slices[k].file for k in along[far : far + 2])
        raise UserError(
            f"a slice is missing between {one} and {other}: they lie {steps[far]:.3g} mm apart, "
            f"the others {median:.3g} mm",
            "download the series again",
        )


def _in_order(slices: list[_Slice]) -> list[_Slice]:
    """The first order that runs along the patient; by name first, as TCIA's boxes count."""
    orders = [slices]
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


def _step(ordered: list[_Slice]) -> float | None:
    """mm between slices; of a single one, its thickness where that is given."""
    if len(ordered) > 1:
        depths = _depths(ordered)
        return abs(float(depths[-1] - depths[0])) / (len(ordered) - 1)
    names = ("SpacingBetweenSlices", _THICKNESS)
    with _reading(ordered[0].file):
        lengths = [_floats(ordered[0].dataset, name) for name in names]
    return next((length[0] for length in lengths if length and length[0] > 0), None)


def _series_affine(ordered: list[_Slice], thickness: float) -> Affine:
    """From (row, column, slice) to RAS mm; `thickness` is of a single slice."""
    first, last = ordered[0], ordered[-1]
    between_rows, between_columns = first.pixel_spacing
    along_columns = np.multiply(first.orientation[:3], between_columns)
    along_rows = np.multiply(first.orientation[3:], between_rows)
    if len(ordered) > 1:
        step = np.subtract(last.position, first.position) / (len(ordered) - 1)
    else:
        step = np.cross(first.orientation[:3], first.orientation[3:]) * thickness
    affine = np.eye(4)
    affine[:3] = LPS_TO_RAS @ np.stack([along_rows, along_columns, step, first.position], axis=1)
    return affine


def _pixels(item: _Slice) -> Array:
    """Rescaled values [rows, columns]."""
    stored = _decoded(item.dataset, item.file)
    return stored * np.float32(item.slope) + np.float32(item.intercept)


def _dataset(file: Path, **options: Any) -> pydicom.Dataset:
    """Read a file with pydicom, which inflates a deflated one as a whole."""
    about = pydicom.filereader.read_file_meta_info(file)
    if about.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        most = _DEEPEST * PIXELS.most
        start = _META_START + int(about.FileMetaInformationGroupLength)
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(
            file.read_bytes()[start:], most + 1
        )
        if len(inflated) > most:
            PIXELS.check(len(inflated), f"{file}, which is deflated,")
    return pydicom.dcmread(file, **options)


def _decoded(dataset: pydicom.Dataset, file: Path) -> Array:
    """Values as they are stored: [rows, columns], or [rows, columns, 3] in RGB."""
    with _reading(file):
        PIXELS.check(int(dataset.get("Rows") or 0) * int(dataset.get("Columns") or 0), file)
    try:
        stored: Array = dataset.pixel_array
    except Exception as error:  # of decoders, which share no base either
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        raise UserError(
            f"{file}: the pixels cannot be decoded (transfer syntax "
            f"{getattr(syntax, 'name', syntax)}: {first_line(error)})",
            "download the file again if it is cut short; if it is compressed, install a decoder "
            "(pip install pylibjpeg[all]) or decompress the series, for example with dcmdjpeg",
        ) from error
    return stored
