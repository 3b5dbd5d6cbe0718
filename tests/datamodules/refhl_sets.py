"""Referring sets read back word by word and voxel by voxel, and CT volumes drawn by hand."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from PIL import Image
from scipy import ndimage

from datamodules.refhl_seg.builder import build_refhl
from tests.datamodules.reading import pixels, rows_of

TOUCHING = np.ones((3, 3))

LIVER = (slice(20, 80), slice(20, 80))  # of 100 x 100 pixels of 2 mm, from anterior and left


class Grid(NamedTuple):
    """A volume sorted by world coordinates: [rows from anterior, columns from left, z upwards]."""

    values: np.ndarray
    spacing: tuple[float, float, float]  # mm between rows, columns and slices


def by_world(path: Path) -> Grid:
    image = nibabel.load(path)
    index = np.indices(image.shape).reshape(3, -1)
    world = image.affine[:3, :3] @ index + image.affine[:3, 3:]
    steps = np.abs(image.affine[:3, :3]).max(axis=1)  # mm along x, y and z
    x, y, z = np.rint((world - world.min(axis=1, keepdims=True)) / steps[:, None]).astype(int)
    values = np.empty((y.max() + 1, x.max() + 1, z.max() + 1))
    values[y.max() - y, x, z] = np.asarray(image.dataobj, dtype=float).ravel()
    return Grid(values, (steps[1], steps[0], steps[2]))


WORDS = {
    "size": {"small": "small", "little": "small", "large": "large", "big": "large"},
    "density": {
        **dict.fromkeys(("hypodense", "hypoattenuating", "dark"), "hypodense"),
        **dict.fromkeys(("hyperdense", "hyperattenuating", "dense"), "hyperdense"),
        **dict.fromkeys(("isodense", "isoattenuating"), "isodense"),
    },
    "vertical": {"upper": "upper", "top": "upper", "lower": "lower", "bottom": "lower"},
    "side": {"left": "left", "right": "right"},
    "rank": {"only": "only", "larger": "largest", "largest": "largest"}
    | {"smaller": "smallest", "smallest": "smallest"},
    "number": {"two": 2, "three": 3, "four": 4, "five": 5},
}
FILLER = {"the", "lesion", "lesions", "liver", "in", "at", "of", "part", "and"} | {
    "this",
    "slice",
    "shown",
}


def read(text: str) -> dict[str, Any]:
    """What an expression says; an unknown word fails."""
    said: dict[str, Any] = {}
    for word in text.replace(",", "").split():
        kinds = [kind for kind, words in WORDS.items() if word in words]
        assert kinds or word in FILLER, f"{word!r} in {text!r}"
        for kind in kinds:
            assert kind not in said
            said[kind] = WORDS[kind][word]
    assert said, text
    return said


def measure(values: Grid, labels: Grid, z: int) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Mask and description of every component of label 2 in a slice."""
    gray, drawn = values.values[..., z], labels.values[..., z]
    parts, count = ndimage.label(drawn == 2, TOUCHING)
    areas = ndimage.sum_labels(drawn == 2, parts, range(1, count + 1))
    middle = np.array(ndimage.center_of_mass(drawn > 0))
    found = []
    for k in range(1, count + 1):
        mask = parts == k
        row, column = np.array(ndimage.center_of_mass(mask)) - middle
        pixel = labels.spacing[0] * labels.spacing[1]
        contrast = gray[mask].mean() - np.median(gray[drawn == 1])
        area = areas[k - 1]
        ranks = {count == 1: "only", (areas <= area).all() and count > 1: "largest"}
        ranks |= {(areas >= area).all() and count > 1: "smallest"}
        alike = "isodense" if abs(contrast) < 10 else None
        found.append(
            (
                mask,
                {
                    "size": "small" if area * pixel < np.pi * 12.5**2 else "large",
                    "density": alike or ("hypodense" if contrast < 0 else "hyperdense"),
                    "vertical": "upper" if row < 0 else "lower",
                    "side": "left" if column < 0 else "right",
                    "rank": ranks.get(True),
                    "number": count,
                },
            )
        )
    return found


def sources(source: Path, case: str) -> tuple[Path, Path]:
    if (source / "imagesTr").is_dir():
        return source / "imagesTr" / f"{case}.nii.gz", source / "labelsTr" / f"{case}.nii.gz"
    return source / f"{case}.nii", source / f"{case.replace('volume', 'segmentation')}.nii"


def check_all_true(source: Path, built: Path) -> int:
    """Every expression fits its own mask's component and no other; returns how many there are."""
    groups = defaultdict(list)
    for row in rows_of(built):
        groups[row["case_id"]].append(row)
    number = 0
    for case, rows in groups.items():
        values, labels = (by_world(path) for path in sources(source, case))
        for row in rows:
            found_z = re.fullmatch(rf"images/{case}_z(\d+)\.png", row["image"])
            assert found_z is not None
            found = measure(values, labels, int(found_z[1]))
            said = read(row["text"])
            fits = [mask for mask, lesion in found if said.items() <= lesion.items()]
            assert len(fits) == 1, f"{row['text']!r} fits {len(fits)} of {found}"
            mask = pixels(built / row["mask"])
            assert set(np.unique(mask)) == {0, 255}
            if mask.shape == fits[0].shape:
                np.testing.assert_array_equal(mask > 0, fits[0])
            else:
                small = Image.fromarray(fits[0].astype(np.float32)).resize(mask.shape[::-1])
                assert (np.asarray(small) > 0.5)[mask > 0].mean() > 0.6
            np.testing.assert_allclose(
                row["spacing"],
                np.array(values.spacing[:2]) * fits[0].shape / mask.shape,
                rtol=1e-3,
            )
            number += 1
    return number


def draw(
    folder: Path,
    number: int,
    boxes: list[tuple[slice, slice, float]],
    *,
    liver: int = 1,
    steps: tuple[float, float] = (2.0, 2.0),
) -> None:
    """A case of one slice with boxes: rows, columns, HU above a liver of 100 HU."""
    gray, labels = np.full((100, 100), -1000.0), np.zeros((100, 100))
    gray[5:95, 5:95] = -100
    gray[LIVER], labels[LIVER] = 100, liver
    for rows, columns, contrast in boxes:
        gray[rows, columns], labels[rows, columns] = 100 + contrast, 2
    affine = np.diag([*steps, 5.0, 1.0])
    folder.mkdir(exist_ok=True)
    for kind, values in (("volume", gray), ("segmentation", labels)):
        ras = values[::-1].T[..., None].astype(np.int16)  # row 0 is anterior, column 0 left
        nibabel.save(nibabel.Nifti1Image(ras, affine), folder / f"{kind}-{number}.nii")


def box(row: int, column: int, side: int, contrast: float) -> tuple[slice, slice, float]:
    """A square by its center and side in pixels."""
    half = side // 2
    return (
        slice(row - half, row - half + side),
        slice(column - half, column - half + side),
        contrast,
    )


def drawn_set(tmp_path: Path, boxes: list[tuple[slice, slice, float]], **settings: Any) -> Path:
    """One set of three like cases."""
    for number in range(3):
        draw(tmp_path / "source", number, boxes)
    return build_refhl(tmp_path / "source", tmp_path / "built", **settings)
