"""NIfTI files (.nii, .nii.gz) as volumes in the patient's axes."""

from __future__ import annotations

import zlib
from contextlib import AbstractContextManager
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import aff2axcodes
from nibabel.spatialimages import HeaderDataError

from datamodules.files.volumes import Affine, Volume, canonical, check_orientation, shape_text
from textseg.errors import UserError, refusing

_BROKEN = (OSError, EOFError, ValueError, MemoryError, zlib.error, ImageFileError, HeaderDataError)


def read_nifti(path: Path) -> Volume:
    """Read a .nii or .nii.gz file; values keep its type, or are float32 where the file scales them.

    Raises:
        UserError: the file is broken or cut short, not a 3-D volume of finite numbers, or says
            nothing certain of its orientation.
    """
    image = _open_nifti(path)
    with _reading(path):
        values = np.asarray(image.dataobj)
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


def _reading(path: Path) -> AbstractContextManager[None]:
    cause = f"{path} cannot be read as a NIfTI volume"
    return refusing(_BROKEN, cause, "download or export the file again")


def _open_nifti(path: Path) -> nibabel.Nifti1Image:
    """The header, checked for three axes."""
    if not path.name.casefold().endswith((".nii", ".nii.gz")):
        raise UserError(f"{path} is not named .nii or .nii.gz", "name a NIfTI file")
    with _reading(path):
        image = nibabel.load(path, mmap=False)
    assert isinstance(image, nibabel.Nifti1Image)
    shape = image.shape
    if len(shape) < 3 or min(shape) < 1 or any(side > 1 for side in shape[3:]):
        raise UserError(
            f"{path} is {shape_text(shape)}, not a 3-D volume",
            "split a series in time, or channels, into one file each",
        )
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
    return next(iter(forms.values()))
