"""What other tests rely on in the liver volumes, read back with nibabel and scipy alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from datamodules.files.nifti import read_nifti
from datamodules.files.volumes import axial_picture, check_same_grid
from tests.datamodules.liver_volumes import write_liver_volumes

CASES, SIZE, SLICES = 16, 96, 10
EVERYWHERE = np.ones((3, 3, 3))


@pytest.fixture(scope="module")
def lits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lits") / "new" / "folder"
    write_liver_volumes(folder, cases=CASES, layout="lits", image_size=SIZE, slices=SLICES)
    return folder


def pair(folder: Path, number: int) -> tuple[nibabel.Nifti1Image, nibabel.Nifti1Image]:
    """Volume and labels in nibabel's closest canonical order."""
    image, labels = (
        nibabel.as_closest_canonical(nibabel.load(folder / f"{kind}-{number}.nii"))
        for kind in ("volume", "segmentation")
    )
    return image, labels


class Found(NamedTuple):
    """A tumor read back: volume in mm3, HU above the liver, place right of and before its axis."""

    volume: float
    contrast: float
    right: float
    front: float


def tumors(folder: Path, number: int) -> list[Found]:
    image, labels = pair(folder, number)
    values, truth = np.asarray(image.dataobj), np.asarray(labels.dataobj)
    liver = np.median(values[truth == 1])
    organ = nibabel.affines.apply_affine(labels.affine, np.argwhere(truth > 0)).mean(axis=0)
    parts, count = ndimage.label(truth == 2, EVERYWHERE)
    found = []
    for part in range(1, count + 1):
        where = nibabel.affines.apply_affine(labels.affine, np.argwhere(parts == part))
        right, front, _ = where.mean(axis=0) - organ
        size = len(where) * abs(np.linalg.det(labels.affine[:3, :3]))
        found.append(Found(size, values[parts == part].mean() - liver, right, front))
    return found


def test_cases_are_stored_in_four_directions_and_show_the_same_anatomy(lits: Path) -> None:
    codes = Counter()
    for n in range(CASES):
        stored = nibabel.load(lits / f"volume-{n}.nii")
        codes["".join(nibabel.aff2axcodes(stored.affine))] += 1
        values, labels = (read_nifti(lits / f"{k}-{n}.nii") for k in ("volume", "segmentation"))
        check_same_grid(values, labels, Path("volume"), Path("segmentation"))
        np.testing.assert_allclose(values.spacing, (360 / SIZE, 360 / SIZE, 100 / SLICES))
        middle = SLICES // 2
        bone = np.argwhere(axial_picture(values.values, middle) > 300).mean(axis=0)
        organ = np.argwhere(axial_picture(labels.values, middle) > 0).mean(axis=0)
        assert bone[0] > 0.6 * SIZE  # the spine is at the bottom
        assert organ[1] > 0.6 * SIZE  # the patient's right is the picture's right
    assert codes == dict.fromkeys(("RAS", "LPS", "LAS", "RPI"), CASES // 4)


def test_every_number_of_tumors_from_one_to_four_occurs(lits: Path) -> None:
    counts = Counter(len(tumors(lits, n)) for n in range(CASES))
    assert set(counts) == {1, 2, 3, 4}


def test_tumors_lie_within_the_liver_and_touch_nothing_else(lits: Path) -> None:
    for n in range(CASES):
        truth = np.asarray(pair(lits, n)[1].dataobj)
        around = ndimage.binary_dilation(truth == 2, EVERYWHERE[..., :1]) & (truth != 2)
        assert (truth[around] == 1).all()


def test_sizes_densities_and_places_are_told_apart_without_doubt(lits: Path) -> None:
    ball = 4 / 3 * np.pi
    for n in range(CASES):
        traits = []
        found = tumors(lits, n)
        for size, contrast, right, front in found:
            radius = (size / ball) ** (1 / 3)
            assert radius < 12 or radius > 15
            assert abs(contrast) > 30
            assert min(abs(right), abs(front)) > 5
            traits.append((radius > 13, contrast > 0, right > 0, front > 0))
        assert len(set(traits)) == len(found)
        if len(found) > 1:
            assert {trait[0] for trait in traits} == {True, False}


def test_msd_files_are_those_its_description_names(tmp_path: Path, lits: Path) -> None:
    write_liver_volumes(tmp_path, cases=3, layout="msd", image_size=SIZE, slices=SLICES)
    description = json.loads((tmp_path / "dataset.json").read_text())
    assert description["labels"] == {"0": "background", "1": "liver", "2": "cancer"}
    assert description["numTraining"] == len(description["training"]) == 3
    named = {"dataset.json", "imagesTr/._liver_0.nii.gz"}
    for number, entry in enumerate(description["training"]):
        named |= {entry["image"][2:], entry["label"][2:]}
        image = nibabel.load(tmp_path / entry["image"])
        labels = nibabel.load(tmp_path / entry["label"])
        same = nibabel.load(lits / f"volume-{number}.nii")
        np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(same.dataobj))
        np.testing.assert_allclose(labels.affine, same.affine)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == named
