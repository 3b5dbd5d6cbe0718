"""Volumes of a hospital, from files to files: sliced, trained on, segmented, on their own grid.

SimpleITK, where it is installed, is a second reader of the sources, the pictures and the results.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import textseg
from datamodules.volumes.opened import Volumes
from datamodules.volumes.slicing import slice_volumes
from tests.datamodules.scan_files import (
    ORIENTATIONS,
    SHAPE,
    block,
    ras_affine,
    scan_values,
    write_nifti,
    write_series,
)
from tests.thresholds import between_pixels
from tests.tiny_run import SMALL, call, only, write_experiment
from textseg.preprocess import read_image
from textseg.segment import segment
from textseg.segment.network import Segmenter

TEXT = "the bright block"
SERIES = {"falling": False, "rising": True}  # the order of the slices' numbers along the patient
NAMES = (*ORIENTATIONS, *SERIES)


@dataclass(frozen=True)
class Trip:
    """What was made on the way: the sources, the set, the network, the results of the sources."""

    sources: Path
    sliced: Path
    net: Segmenter
    results: Path


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory) -> Trip:
    home = tmp_path_factory.mktemp("home")
    sources = home / "sources"
    for seed, codes in enumerate(ORIENTATIONS):
        write_nifti(sources / f"images/{codes}.nii.gz", scan_values(seed), codes)
    for seed, (name, rising) in enumerate(SERIES.items(), start=len(ORIENTATIONS)):
        write_series(sources / f"images/{name}", scan_values(seed), rising=rising)
    for name in NAMES:
        write_nifti(sources / f"labels/{name}.nii.gz", block())
    sliced = slice_volumes(
        sources, home / "sliced", window="abdomen", labels={1: "block"}, caption=TEXT
    )
    settings = {"image_size": 32, "cache": None, "num_workers": 0, "batch_size": 8}
    data = {"class_path": "ManifestDataModule", "init_args": settings}
    experiment = write_experiment(home, model=SMALL, data=data)
    done = call("fit", "--config", experiment, "--data.root", sliced, cwd=home)
    assert done.status == 0, done.err
    checkpoint = str(only(home / "runs/tiny") / "checkpoints/best.ckpt")
    # After an epoch no probability is far from another: 0.5 would cut no picture in two.
    net, pictures = textseg.load(checkpoint), sorted((sliced / "images").iterdir())
    threshold = between_pixels(np.stack([net.segment(one, TEXT).probs for one in pictures]))
    given: dict[str, Any] = {"ckpt_path": checkpoint, "threshold": threshold}
    given |= {"output": str(home / "out"), "open_volumes": Volumes}
    results = segment(str(sources / "images"), TEXT, **given) / "volumes"
    return Trip(sources, sliced, textseg.load(checkpoint, threshold=threshold), results)


def rows_of(sliced: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (sliced / "manifest.jsonl").open(encoding="utf-8")]


def slice_by_slice(trip: Trip, name: str) -> dict[int, np.ndarray]:
    """The masks [H, W] of a volume's pictures in the set, each segmented as a picture alone."""
    return {
        row["attributes"]["slice"]: trip.net.segment(trip.sliced / row["image"], TEXT).mask
        for row in rows_of(trip.sliced)
        if row["case_id"] == name
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_volumes_result_is_that_of_its_pictures_voxel_by_voxel(trip: Trip, name: str) -> None:
    masks = slice_by_slice(trip, name)
    assert list(masks) == [1, 2, 3]
    result = nibabel.as_closest_canonical(nibabel.load(trip.results / f"{name}.nii.gz"))
    np.testing.assert_allclose(result.affine, ras_affine(), atol=1e-5)
    voxels = np.asarray(result.dataobj)
    assert voxels.shape == SHAPE
    for z, mask in masks.items():
        assert 0 < mask.sum() < mask.size
        for row, column in np.ndindex(mask.shape):  # the front above, the patient's left at left
            assert voxels[column, SHAPE[1] - 1 - row, z] == mask[row, column]


@pytest.mark.parametrize("name", NAMES)
def test_simpleitk_reads_the_result_beside_its_source(trip: Trip, name: str) -> None:
    sitk = pytest.importorskip("SimpleITK")
    source = _read_by_simpleitk(sitk, trip.sources / "images" / name)
    result = sitk.ReadImage(str(trip.results / f"{name}.nii.gz"))
    axes = [sitk.DICOMOrient(image, "LPS") for image in (source, result)]
    assert axes[0].GetSize() == axes[1].GetSize() == SHAPE
    for what in ("GetOrigin", "GetSpacing", "GetDirection"):
        wanted, found = (getattr(image, what)() for image in axes)
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    if name in ORIENTATIONS:  # as it is stored, too
        np.testing.assert_allclose(result.GetDirection(), source.GetDirection(), atol=1e-6)
    # [z, y, x], x to the patient's left and y to the back; pictures have the left at their left.
    values, voxels = (sitk.GetArrayFromImage(image)[:, :, ::-1] for image in axes)
    np.testing.assert_array_equal(values[2], _hung(NAMES.index(name)))
    for z, mask in slice_by_slice(trip, name).items():
        gray = np.rint(np.clip((values[z] + 160.0) / 400, 0, 1) * 255)
        picture = read_image(trip.sliced / f"images/{name}_z{z:03d}.png")
        np.testing.assert_array_equal(picture[..., 0], gray)
        np.testing.assert_array_equal(voxels[z], mask)


def _hung(seed: int) -> np.ndarray:
    """Slice 2 of a source with the front above and the patient's left at the left."""
    return scan_values(seed)[:, ::-1, 2].T


def _read_by_simpleitk(sitk: Any, path: Path) -> Any:
    """A NIfTI volume, or the series of a folder."""
    if not path.is_dir():
        return sitk.ReadImage(f"{path}.nii.gz")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return reader.Execute()
