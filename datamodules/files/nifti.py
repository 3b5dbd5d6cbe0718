"""NIfTI files (.nii, .nii.gz) as volumes in the patient's axes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from nibabel.orientations import aff2axcodes

from datamodules.files.volumes import (
    Affine,
    Array,
    Volume,
    canonical,
    check_orientation,
    shape_text,
)
from datamodules.records import unlikely_spacing
from textseg.errors import UserError, refusing
from textseg.limits import VOXELS

_MILLIMETERS = {"meter": 1000.0, "micron": 0.001}  # of units of length; others are or mean mm
# The fields of a header that say where the voxels lie.
_GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def read_nifti(path: Path, channel: int | None = None) -> Volume:
    """Read a .nii or .nii.gz file; values keep its type, or are float32 where the file scales them.

    Args:
        path: of the file.
        channel: which one of a file of several, along its fourth axis, counted from 0.

    Raises:
        UserError: the file is broken or cut short, not a 3-D volume of finite numbers, or says
            nothing certain of its orientation; or it has more voxels than `textseg.limits` allows.
    """
    values, affine = read_stored_nifti(path, channel)
    return canonical(values, affine, where=str(path))


def read_stored_nifti(path: Path, channel: int | None = None) -> tuple[Array, Affine]:
    """Values [I, J, K] of a file in its own order, and their affine to RAS mm.

    Raises:
        UserError: as `read_nifti` does.
    """
    image = _open_nifti(path, channel)
    with _reading(path):
        data = image.dataobj
        values = np.asarray(data if channel is None else data[..., channel])
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
    return values.reshape(values.shape[:3]), _affine(image, path)


def read_slabs(path: Path) -> Iterator[Array]:
    """Yield a file's values [I, J], one after the other along its third axis, as they are stored.

    Raises:
        UserError: as `read_nifti` does where the file is broken or no 3-D volume.
    """
    shape = _open_nifti(path, None).shape
    with _reading(path):  # open, or each slab of a packed file would be unpacked from the start
        image: Any = nibabel.load(path, mmap=False, keep_file_open=True)
    for k in range(shape[2]):
        with _reading(path):
            yield np.asarray(image.dataobj[:, :, k]).reshape(shape[:2])


def write_nifti_like(path: Path, values: Array, source: Path) -> None:
    """Write a volume on another's grid, with its affines bit for bit and nothing else of it.

    Args:
        path: .nii or .nii.gz.
        values: [I, J, K], in the order in which `source` is stored.
        source: a NIfTI file; further axes of length 1 are kept.
    """
    header: Any = nibabel.load(source).header
    shape = header.get_data_shape()
    single = all(side == 1 for side in shape[3:])
    image = nibabel.Nifti1Image(values.reshape(shape if single else values.shape), None)
    for field in _GEOMETRY:
        image.header[field] = header[field]
    image.header["pixdim"][4:] = 1
    nibabel.save(image, path)


def write_nifti(path: Path, values: Array, affine: Affine) -> None:
    """Write a volume [I, J, K] with its affine to RAS mm, as .nii or .nii.gz."""
    image = nibabel.Nifti1Image(values, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _reading(path: Path) -> AbstractContextManager[None]:
    cause = f"{path} cannot be read as a NIfTI volume"
    # What nibabel raises for spoiled bytes has no common base.
    return refusing(Exception, cause, "download or export the file again")


def _open_nifti(path: Path, channel: int | None) -> nibabel.Nifti1Image:
    """The header, checked for three axes, and a fourth where a channel of it is asked for."""
    if not path.name.casefold().endswith((".nii", ".nii.gz")):
        raise UserError(f"{path} is not named .nii or .nii.gz", "name a NIfTI file")
    with _reading(path):
        image = nibabel.load(path, mmap=False)
    assert isinstance(image, nibabel.Nifti1Image)
    shape = image.shape
    further = shape[3:] if channel is None else shape[4:]
    if len(shape) < 3 or min(shape) < 1 or any(side > 1 for side in further):
        raise UserError(
            f"{path} is {shape_text(shape)}, not a 3-D volume",
            "choose one channel, or split a series in time into one file each",
        )
    if channel is not None and (len(shape) < 4 or not 0 <= channel < shape[3]):
        raise UserError(
            f"{path} is {shape_text(shape)} and has no channel {channel}",
            "the fourth axis counts channels, from 0",
        )
    VOXELS.check(math.prod(map(int, shape[:3])), path)
    return image


def _affine(image: nibabel.Nifti1Image, path: Path) -> Affine:
    """From the header's sform, or its qform where that alone is given."""
    forms = {}
    for name, get in (("sform", image.get_sform), ("qform", image.get_qform)):
        with _reading(path):
            affine, code = get(coded=True)
        if code:
            forms[name] = np.asarray(affine, dtype=np.float64)
    if not forms:
        raise UserError(
            f"{path}: the header gives no orientation (sform_code and qform_code are 0), so that "
            "left and right are unknown",
            "convert it again from DICOM, or set the header's sform if you know how the array lies",
        )
    for affine in forms.values():
        check_orientation(affine, str(path))
    named = {name: "".join(aff2axcodes(affine)) for name, affine in forms.items()}
    if len(set(named.values())) > 1:
        raise UserError(
            f"{path}: the header's sform says {named['sform']} but its qform says {named['qform']}",
            "find out which of them is true and set the other's code to 0",
        )
    return _in_millimeters(next(iter(forms.values())), image, path)


def _in_millimeters(affine: Affine, image: nibabel.Nifti1Image, path: Path) -> Affine:
    """An affine in the header's unit, as one in millimeters, which no unit means."""
    with _reading(path):
        unit = image.header.get_xyzt_units()[0]
    scaled = np.diag([*[_MILLIMETERS.get(unit, 1.0)] * 3, 1.0]) @ affine
    sides = np.linalg.norm(scaled[:3, :3], axis=0).tolist()
    if unlikely_spacing(sides):
        shown = " x ".join(f"{side:.3g}" for side in sides)
        rank_zero_warn(
            f"{path} has voxels of {shown} mm (its header's unit: {unit}); if that is another one, "
            "correct the header, or areas and volumes are wrong by powers of ten"
        )
    return scaled
