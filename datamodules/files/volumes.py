"""Volumes turned so that each index axis has a known direction in the patient.

World coordinates are RAS millimeters: x to the patient's right, y to anterior, z to superior.
Nothing is resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray

from textseg.errors import UserError

Array = NDArray[Any]
Affine = NDArray[np.float64]

MAX_OBLIQUITY = 20.0  # degrees; beyond, an axis can no longer be called by one name
SAME_GRID = 0.25  # of a voxel's shortest side; headers are rounded differently by each tool


@dataclass(frozen=True)
class Volume:
    """A volume whose axes are the patient's.

    Args:
        values: [X, Y, Z]; x grows to the patient's right, y to anterior, z to superior.
        spacing: mm between voxels along x, y and z.
        affine: [4, 4], from indices into `values` to RAS mm.
    """

    values: Array
    spacing: tuple[float, float, float]
    affine: Affine


def canonical(values: Array, affine: Affine, *, where: str = "the volume") -> Volume:
    """Flip and permute the axes until they run to the patient's right, anterior and superior.

    Args:
        values: [I, J, K], axes of any direction.
        affine: [4, 4], from indices to RAS mm.
        where: the file, for messages.

    Raises:
        UserError: an axis is more than 20 degrees from every direction of the patient.
    """
    turn = check_orientation(affine, where)
    turned = affine @ inv_ornt_aff(turn, values.shape)
    x, y, z = np.linalg.norm(turned[:3, :3], axis=0).tolist()
    return Volume(apply_orientation(values, turn), (x, y, z), turned)


def as_stored(values: Array, affine: Affine) -> Array:
    """Turn back what `canonical` turned.

    Args:
        values: [X, Y, Z], on the grid that `canonical` gave.
        affine: [4, 4] of the volume as it is stored, which `canonical` was given.

    Returns:
        [I, J, K].
    """
    turn = ornt_transform(axcodes2ornt("RAS"), io_orientation(affine))
    return np.ascontiguousarray(apply_orientation(values, turn))


def axial_picture(values: Array, z: int) -> Array:
    """Show slice z of [X, Y, Z] as [rows, columns]: row 0 is anterior, column 0 patient's LEFT.

    Radiologists hang it the other way round. So hung, a word's side ("left breast") is the
    picture's side, as everywhere in the suite.
    """
    return np.ascontiguousarray(values[:, ::-1, z].T)


def set_axial_picture(values: Array, z: int, picture: Array) -> None:
    """Write a picture [rows, columns] into slice z of [X, Y, Z], where `axial_picture` reads it."""
    values[:, ::-1, z] = picture.T


def check_same_grid(image: Volume, mask: Volume, image_path: Path, mask_path: Path) -> None:
    """Check that a mask's voxels are the image's.

    Raises:
        UserError: the shapes differ, or a corner lies a quarter of a voxel or more elsewhere.
    """
    if image.values.shape != mask.values.shape:
        raise UserError(
            f"{image_path} is {shape_text(image.values.shape)} but {mask_path} is "
            f"{shape_text(mask.values.shape)} (voxels to the right, anterior, superior)",
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


def check_orientation(affine: Affine, where: str) -> Array:
    """Find which axis runs in which direction of the patient.

    Args:
        affine: [4, 4], from indices to RAS mm.
        where: the file, for messages.

    Returns:
        nibabel's orientation array [3, 2].

    Raises:
        UserError: the affine is singular, or an axis is more than 20 degrees from every direction.
    """
    steps = affine[:3, :3]
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(steps) < 3:
        raise UserError(
            f"{where}: the affine {_rows(affine)} gives no position in the patient",
            "export the volume again with its orientation",
        )
    turn = io_orientation(affine)
    along = np.abs(steps / np.linalg.norm(steps, axis=0))[turn[:, 0].astype(int), range(3)]
    angle = float(np.degrees(np.arccos(np.clip(along, 0, 1)).max()))
    if angle > MAX_OBLIQUITY:
        raise UserError(
            f"{where}: the volume is oblique by {angle:.0f} degrees, and at most "
            f"{MAX_OBLIQUITY:.0f} can be set right by flips",
            "resample it to an axial grid first",
        )
    return turn


def shape_text(shape: Sequence[int]) -> str:
    """Format a shape as 24x20x6."""
    return "x".join(str(side) for side in shape)


def _rows(affine: Affine) -> str:
    """The first three rows on one line."""
    return "; ".join(" ".join(f"{value:.5g}" for value in row) for row in affine[:3])
