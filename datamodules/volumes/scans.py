"""Scans of any accepted kind as pictures, and masks of those pictures back on the scan's grid.

A scan is a NIfTI volume, a DICOM series, one DICOM slice, or a DICOM picture without a position in
the patient. Pictures of a volume are axial: row 0 is anterior and column 0 the patient's left, so
that a word's side is the picture's side. Slices count from 0 at the patient's feet. A single file
that is not axial is one picture, as viewers show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.files.dicom import (
    Series,
    find_pictures,
    has_position,
    read_dicom_picture,
    read_dicom_slices,
    read_header,
)
from datamodules.files.nifti import read_stored_nifti
from datamodules.files.volumes import (
    Affine,
    Array,
    Volume,
    as_stored,
    axial_picture,
    canonical,
    set_axial_picture,
)
from datamodules.volumes.sources import LeftOut
from textseg.errors import UserError
from textseg.tables import files_below, is_dicom, is_nifti

COARSE = 1.5  # times: pixels so much longer than wide show that slices were not axial

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scan:
    """What was read of one scan.

    Args:
        files: a NIfTI file, or the DICOM file of each stored slice.
        volume: on the patient's axes; None of a picture, whose values are `flat`.
        flat: [H, W], or [H, W, 3] uint8 in color; None of a volume.
        affine: [4, 4] of the array as it is stored, to RAS mm; None where it has no position. A
            DICOM series is stored as [columns, rows, slices] here.
        spacing: mm between the rows and between the columns of a picture; None where unknown.
        step: mm between pictures; None where unknown.
        window: center and width that the file gives; None where it gives none.
        inverted: whether the largest value is black.
        left_out: files of a series' folder that are none of its slices, each with the reason.
    """

    files: tuple[Path, ...]
    volume: Volume | None = None
    flat: Array | None = None
    affine: Affine | None = None
    spacing: tuple[float, float] | None = None
    step: float | None = None
    window: tuple[float, float] | None = None
    inverted: bool = False
    left_out: tuple[LeftOut, ...] = ()

    @property
    def values(self) -> Array:
        """All values, of any shape."""
        return self._content

    @property
    def slices(self) -> int:
        """The number of pictures."""
        return 1 if self.volume is None else self.volume.values.shape[2]

    @property
    def in_color(self) -> bool:
        """Whether a picture has colors, which no window changes."""
        return self.volume is None and self._content.ndim == 3

    @property
    def coarse(self) -> bool:
        """Whether slices were acquired in planes that are not axial."""
        if self.volume is None:
            return False
        x, y, z = self.volume.spacing
        return max(x, y) > COARSE * min(x, y) and max(x, y) > z

    def picture(self, z: int) -> Array:
        """The values of one picture, [H, W] or [H, W, 3]."""
        return self._content if self.volume is None else axial_picture(self.volume.values, z)

    def slice_files(self) -> list[Path | None]:
        """The DICOM file of each picture; None where pictures cut across files, and of NIfTI."""
        if is_nifti(self.files[0]):
            return [None] * self.slices
        if len(self.files) == 1 or self.affine is None:
            return [self.files[0]]
        numbers = np.broadcast_to(np.arange(len(self.files)), (1, 1, len(self.files)))
        turned = canonical(numbers, self.affine).values
        if turned.shape[:2] != (1, 1):
            return [None] * self.slices
        return [self.files[k] for k in turned[0, 0].tolist()]

    def stored_mask(self, masks: Mapping[int, Mask]) -> NDArray[np.uint8]:
        """Masks of pictures as one array in the order in which the scan is stored.

        Args:
            masks: by the picture's number; of others nothing is foreground.

        Returns:
            0 and 1: [I, J, K], or [H, W] of a picture without a position.
        """
        if self.volume is None:
            flat = masks[0].astype(np.uint8)
            return flat if self.affine is None else flat.T[:, :, None]
        assert self.affine is not None
        drawn = np.zeros(self.volume.values.shape, dtype=np.uint8)
        for z, mask in masks.items():
            set_axial_picture(drawn, z, mask)
        return as_stored(drawn, self.affine)

    @property
    def _content(self) -> Array:
        content = self.flat if self.volume is None else self.volume.values
        assert content is not None
        return content


def read_scan(path: Path, *, channel: int | None = None, files: Sequence[Path] = ()) -> Scan:
    """Read a NIfTI volume, a DICOM file, or the folder of one DICOM series.

    Args:
        path: of the file or folder.
        channel: which one of a NIfTI file of several; None where it has one.
        files: those of a folder that are the series; by default all that are DICOM.

    Raises:
        UserError: it cannot be read, or a folder holds more than one series.
    """
    if path.is_dir():
        if files:
            return _series(path, files)
        found, left_out = find_series(path)
        return replace(_series(path, found), left_out=tuple(left_out))
    if is_nifti(path):
        values, affine = read_stored_nifti(path, channel)
        return _volume((path,), canonical(values, affine, where=str(path)), affine)
    if has_position(read_header(path)):
        return _series(path, [path])
    picture = read_dicom_picture(path)
    return Scan(
        (path,),
        flat=picture.values,
        spacing=picture.spacing,
        window=picture.window,
        inverted=picture.inverted,
    )


def find_series(folder: Path) -> tuple[list[Path], list[LeftOut]]:
    """The files of the one DICOM series of a folder, and the files that are none of its slices.

    They may lie in folders within it.

    Raises:
        UserError: the folder holds no series, or more than one.
    """
    files = list(files_below(folder))
    dicom = [file for file in files if is_dicom(file)]
    series, unusable = find_pictures(dicom)
    if len(series) != 1:
        raise UserError(
            f"{folder} holds {len(series)} DICOM series", "keep one series in a folder of its own"
        )
    others = [(file, "not DICOM") for file in files if file not in set(dicom)]
    return series[0], unusable + others


def _series(path: Path, files: Sequence[Path]) -> Scan:
    series = read_dicom_slices(files)
    affine = series.affine[:, [1, 0, 2, 3]]  # [columns, rows, slices], as converters store it
    values = series.values.swapaxes(0, 1)
    if len(series.files) == 1 and not _is_axial(affine):
        spacing = np.linalg.norm(series.affine[:3, :2], axis=0).tolist()
        flat = series.values[..., 0]
        scan = Scan(series.files, flat=flat, affine=affine, spacing=(spacing[0], spacing[1]))
    else:
        scan = _volume(series.files, canonical(values, affine, where=str(path)), affine)
    return replace(scan, step=_known_step(series, scan), window=series.window)


def _is_axial(affine: Affine) -> bool:
    """Whether the third axis runs from foot to head more than in any other direction."""
    return int(np.abs(affine[:3, 2]).argmax()) == 2


def _known_step(series: Series, scan: Scan) -> float | None:
    """mm between pictures; of a single slice, what its header says."""
    return series.step if len(series.files) == 1 else scan.step


def _volume(files: tuple[Path, ...], volume: Volume, affine: Affine) -> Scan:
    x, y, z = volume.spacing
    return Scan(files, volume=volume, affine=affine, spacing=(y, x), step=z)
