"""The liver phantoms are read back with nibabel, scipy and arithmetic of the test's own."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from datamodules.files.volumes import axial_picture, check_same_grid, read_nifti
from tests.datamodules.liver_volumes import write_liver_volumes
from textseg.errors import UserError

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
    """A tumour read back: volume in mm3, HU above the liver, place right of and before its axis."""

    volume: float
    contrast: float
    right: float
    front: float


def tumours(folder: Path, number: int) -> list[Found]:
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


def test_lits_files_are_numbered_from_0_in_pairs(lits: Path) -> None:
    expected = {f"{kind}-{n}.nii" for kind in ("volume", "segmentation") for n in range(CASES)}
    assert {p.name for p in lits.iterdir()} == expected


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


def test_gray_values_are_hounsfield_units(lits: Path) -> None:
    for n in range(4):
        image, labels = pair(lits, n)
        values, truth = np.asarray(image.dataobj), np.asarray(labels.dataobj)
        assert image.get_data_dtype() == np.int16
        assert values.min() == -1000
        assert 90 < np.median(values[truth == 1]) < 120
        assert 4 < values[truth == 1].std() < 12
        assert set(np.unique(truth)) == {0, 1, 2}


def test_every_number_of_tumours_from_one_to_four_occurs(lits: Path) -> None:
    counts = Counter(len(tumours(lits, n)) for n in range(CASES))
    assert set(counts) == {1, 2, 3, 4}


def test_many_slices_show_several_tumours(lits: Path) -> None:
    several = total = 0
    for n in range(CASES):
        parts, _ = ndimage.label(np.asarray(pair(lits, n)[1].dataobj) == 2, EVERYWHERE)
        for z in range(SLICES):
            shown = len(set(np.unique(parts[..., z])) - {0})
            total += shown > 0
            several += shown > 1
    assert several / total > 0.3


def test_tumours_lie_within_the_liver_and_touch_nothing_else(lits: Path) -> None:
    for n in range(CASES):
        truth = np.asarray(pair(lits, n)[1].dataobj)
        around = ndimage.binary_dilation(truth == 2, EVERYWHERE[..., :1]) & (truth != 2)
        assert (truth[around] == 1).all()


def test_sizes_densities_and_places_are_told_apart_without_doubt(lits: Path) -> None:
    ball = 4 / 3 * np.pi
    for n in range(CASES):
        traits = []
        found = tumours(lits, n)
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


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_a_case_depends_on_seed_and_number_alone(tmp_path: Path) -> None:
    for name, cases, seed in (("a", 2, 3), ("b", 3, 3), ("c", 2, 4)):
        write_liver_volumes(
            tmp_path / name, cases=cases, layout="lits", image_size=32, slices=8, seed=seed
        )
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a.items() <= b.items()
    assert set(a) == set(c)
    assert not set(a.values()) & set(c.values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cases": 0}, "cases=0"),
        ({"slices": 5}, "slices=5"),
        ({"image_size": 16}, "image_size=16"),
        ({"seed": -1}, "seed=-1"),
        ({"layout": "ircad"}, "layout='ircad'"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(
    tmp_path: Path, wrong: dict[str, object], message: str
) -> None:
    settings: dict[str, object] = {"cases": 1, "layout": "lits", **wrong}
    with pytest.raises(UserError, match=message):
        write_liver_volumes(tmp_path / "new", **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="not an empty folder"):
        write_liver_volumes(tmp_path, cases=1, layout="msd")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
