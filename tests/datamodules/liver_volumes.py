"""Abdominal CT phantoms in three dimensions, in the layouts of LiTS and of MSD Task03_Liver.

Lengths are RAS millimetres about the middle of the field of view: x to the patient's right, y to
anterior, z to superior. Tumors can be told apart by size, density and place: radii leave a gap
between small and large, contrast with the liver is several noise sigmas, centers keep
`PLACE_MARGIN` from the planes through the liver's center, and no two in a volume agree in all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import nibabel
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from datamodules.phantoms.common import new_folder, random_stream

Array = NDArray[Any]
Point = tuple[float, float, float]
Layout = Literal["lits", "msd"]

FIELD_OF_VIEW = (360.0, 360.0, 100.0)  # mm
STORED = ("RAS", "LPS", "LAS", "RPI")  # nibabel's letters, in turn
LIVER, TUMOR = 1, 2

RADIUS = {"small": (8.0, 10.0), "large": (16.0, 19.0)}  # mm, in the slice
HEIGHT = 1.2  # radius along z over radius in the slice
CONTRAST = {"hypodense": (-55.0, -38.0), "hyperdense": (38.0, 55.0)}  # HU
PLACE_MARGIN = 9.0  # mm between a center and the liver's mid-planes
SPREAD = 14.0  # mm above or below the liver's center, so that slices show several
GAP = 9.0  # mm between two tumors: over two voxels at 96 x 96 pixels
RIM = 8.0  # mm of liver around a tumor: a voxel at 96 x 96 pixels, corners included
LIVER_RADII = (78.0, 72.0, 62.0)
NOISE = 8.0  # sigma, HU

AIR, FAT, MUSCLE, BONE = -1000.0, -100.0, 55.0, 420.0
BODY = ((0.0, 0.0), (165.0, 125.0))
FAT_RIM = 14.0
ORGANS = (  # center and radii in the slice, HU
    ((0.0, -72.0), (24.0, 20.0), BONE),  # spine
    ((14.0, -42.0), (9.0, 9.0), 160.0),  # vena cava
    ((-16.0, -42.0), (11.0, 11.0), 190.0),  # aorta
    ((-95.0, -38.0), (32.0, 45.0), 118.0),  # spleen
    ((-70.0, 50.0), (42.0, 30.0), 30.0),  # stomach
)


class Tumor(NamedTuple):
    """An ellipsoid: center and radii in mm, HU above the liver's."""

    center: Point
    radii: Point
    contrast: float


class Abdomen(NamedTuple):
    """Volumes [X, Y, Z] on the canonical grid: HU int16, and labels 0, 1 (liver), 2 (tumor)."""

    values: Array
    labels: Array


def write_liver_volumes(
    folder: Path,
    *,
    cases: int,
    layout: Layout,
    image_size: int = 96,
    slices: int = 10,
    seed: int = 0,
) -> None:
    """Write CT phantoms with a liver and one to four tumors in it.

    `lits` has `volume-<n>.nii` and `segmentation-<n>.nii`; `msd` has `imagesTr/liver_<n>.nii.gz`,
    `labelsTr/liver_<n>.nii.gz` and `dataset.json`, and beside the first image the `._` file that a
    Mac leaves in archives. Numbers count from 0. Values are Hounsfield units, labels 1 (liver) and
    2 (tumor). Cases are stored in different directions, as their headers say.

    Args:
        folder: a new or empty folder.
        cases: volumes.
        layout: lits or msd.
        image_size: rows and columns of a slice, which is 360 mm wide.
        slices: of a volume; they always span 100 mm. A small tumor is at least 19 mm high.
        seed: the same seed writes the same volumes.

    """
    folder = new_folder(folder)
    images, labels = (folder, folder) if layout == "lits" else _msd_folders(folder)
    for number in range(cases):
        drawn = draw_abdomen(random_stream(seed, 0, number, 9), (image_size, image_size, slices))
        if layout == "lits":
            names = f"volume-{number}.nii", f"segmentation-{number}.nii"
        else:
            names = f"liver_{number}.nii.gz", f"liver_{number}.nii.gz"
        codes = STORED[number % len(STORED)]
        _save(images / names[0], drawn.values, codes)
        _save(labels / names[1], drawn.labels, codes)
    if layout == "msd":
        _describe_msd(folder, cases)


# --- files


def _msd_folders(folder: Path) -> tuple[Path, Path]:
    images, labels = folder / "imagesTr", folder / "labelsTr"
    images.mkdir()
    labels.mkdir()
    (images / "._liver_0.nii.gz").write_bytes(b"\x00\x05\x16\x07")  # AppleDouble's first bytes
    return images, labels


def _describe_msd(folder: Path, cases: int) -> None:
    pairs = [
        {"image": f"./imagesTr/liver_{n}.nii.gz", "label": f"./labelsTr/liver_{n}.nii.gz"}
        for n in range(cases)
    ]
    description = {
        "name": "LIVER",
        "description": "Liver and cancer segmentation, a phantom made by textseg",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "numTraining": cases,
        "numTest": 0,
        "training": pairs,
        "test": [],
    }
    text = json.dumps(description, indent=1) + "\n"
    (folder / "dataset.json").write_text(text, encoding="utf-8")


def _save(path: Path, values: Array, codes: str) -> None:
    """A canonical volume, stored with its axes in the direction of `codes`."""
    steps = _steps(values.shape)
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * step for n, step in zip(values.shape, steps, strict=True)]
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(codes)))
    image = nibabel.Nifti1Image(values, affine).as_reoriented(turn)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    nibabel.save(image, path)


def _steps(shape: tuple[int, ...]) -> list[float]:
    return [extent / n for extent, n in zip(FIELD_OF_VIEW, shape, strict=True)]


# --- phantom


def draw_abdomen(rng: np.random.Generator, shape: tuple[int, int, int]) -> Abdomen:
    """A liver on the patient's right with its tumors, on a grid of `shape`."""
    liver = (float(rng.uniform(58, 64)), float(rng.uniform(2, 10)), 0.0)
    liver_gray = float(rng.uniform(95, 115))
    tumors = _draw_tumors(rng, liver, int(rng.integers(1, 5)))
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, _steps(shape), strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)

    def column(center: tuple[float, float], radii: tuple[float, float]) -> Array:
        inside = np.hypot((x - center[0]) / radii[0], (y - center[1]) / radii[1]) < 1
        return np.broadcast_to(inside, shape)

    values = np.full(shape, AIR)
    labels = np.zeros(shape, dtype=np.uint8)
    (wide, deep) = BODY[1]
    values[column(*BODY)] = FAT
    values[column(BODY[0], (wide - FAT_RIM, deep - FAT_RIM))] = MUSCLE
    for center, radii, gray in ORGANS:
        values[column(center, radii)] = gray
    organ = _inside(x, y, z, liver, LIVER_RADII)
    labels[organ] = LIVER
    values[organ] = liver_gray
    for tumor in tumors:
        found = _inside(x, y, z, tumor.center, tumor.radii)
        labels[found] = TUMOR
        values[found] = liver_gray + tumor.contrast
    values[values > AIR] += NOISE * rng.standard_normal(int((values > AIR).sum()))
    return Abdomen(values.round().astype(np.int16), labels)


def _inside(x: Array, y: Array, z: Array, center: Point, radii: Point) -> Array:
    parts = [((a - c) / r) ** 2 for a, c, r in zip((x, y, z), center, radii, strict=True)]
    return parts[0] + parts[1] + parts[2] < 1


def _draw_tumors(rng: np.random.Generator, liver: Point, number: int) -> list[Tumor]:
    """`number` tumors, drawn again until all have room."""
    for _ in range(200):
        tumors: list[Tumor] = []
        traits: set[tuple[str, str, bool, bool]] = set()
        for index in range(number):
            # both sizes wherever there are two
            size = ("large", "small")[index] if index < 2 else str(rng.choice(list(RADIUS)))
            density = str(rng.choice(list(CONTRAST)))
            radius = float(rng.uniform(*RADIUS[size]))
            radii = (radius, radius * float(rng.uniform(0.9, 1.0)), radius * HEIGHT)
            center = _place(rng, liver, radii, tumors)
            if center is None:
                break
            traits.add((size, density, center[0] > liver[0], center[1] > liver[1]))
            tumors.append(Tumor(center, radii, float(rng.uniform(*CONTRAST[density]))))
        if len(traits) == number:
            return [tumors[k] for k in rng.permutation(number)]
    raise AssertionError("the liver has no room for the tumors: its radii are too short")


def _place(
    rng: np.random.Generator, liver: Point, radii: Point, others: list[Tumor]
) -> Point | None:
    """The first of 48 random centers where a tumor fits into the liver, or None."""
    for _ in range(48):
        sides = np.where(rng.random(2) < 0.5, -1, 1)
        x, y = sides * rng.uniform(PLACE_MARGIN, np.array(LIVER_RADII[:2]))
        z = rng.uniform(-SPREAD, SPREAD)
        # radii so shortened give up to a millimetre more room than there is; RIM covers it
        room = np.array(LIVER_RADII) - radii - RIM
        fits = float((np.array([x, y, z]) / room) @ (np.array([x, y, z]) / room)) < 1
        center = (liver[0] + float(x), liver[1] + float(y), liver[2] + float(z))
        apart = all(
            np.hypot(center[0] - other.center[0], center[1] - other.center[1])
            > radii[0] + other.radii[0] + GAP
            for other in others
        )
        if fits and apart:
            return center
    return None
