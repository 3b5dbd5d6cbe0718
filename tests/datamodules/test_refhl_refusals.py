"""What the builder of referring sets refuses, and what it points out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from datamodules.refhl_seg.builder import build_refhl
from datamodules.refhl_seg.summary import format_summary, read_summary
from tests.datamodules.contract import refused
from tests.datamodules.liver_volumes import write_liver_volumes
from tests.datamodules.reading import rows_of
from tests.datamodules.refhl_sets import box, draw, drawn_set


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for number in range(3):
        draw(tmp_path / "source", number, [box(30, 30, 7, -40)])
    return tmp_path / "source"


def edit(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write a volume again; not memory-mapped, as it would be cut off below its own reader."""
    image = nibabel.load(path, mmap=False)
    nibabel.save(nibabel.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), path)


def refuse(source: Path, *values: str, **settings: Any) -> None:
    with refused(*values):
        build_refhl(source, source.parent / "built", **settings)
    assert not (source.parent / "built").exists()


def test_labels_without_their_volume_are_named(three: Path) -> None:
    (three / "volume-1.nii").unlink()
    refuse(three, "1 labels", "segmentation-1.nii")


def test_volumes_without_labels_are_named(three: Path) -> None:
    (three / "segmentation-2.nii").unlink()
    refuse(three, "1 volumes", "volume-2.nii")


def test_a_number_that_occurs_twice_is_refused(three: Path) -> None:
    (three / "again").mkdir()
    (three / "again" / "volume-1.nii").write_bytes((three / "volume-1.nii").read_bytes())
    refuse(three, "volume-1.nii", "again/volume-1.nii")


def test_a_mask_of_another_shape_is_refused(three: Path) -> None:
    edit(three / "segmentation-1.nii", lambda values: values[:-1])
    refuse(three, "100x100x1", "99x100x1")


def test_a_set_without_any_lesion_is_refused(tmp_path: Path) -> None:
    with refused("3 volumes", "label 2"):
        drawn_set(tmp_path, [])


def test_healthy_cases_are_counted_and_two_others_are_too_few(three: Path) -> None:
    draw(three, 1, [])
    refuse(three, "2 of 3 cases")
    draw(three, 7, [box(30, 30, 7, -40)])
    built = build_refhl(three, three.parent / "built")
    assert read_summary(built)["cases_without_lesion"] == 1
    assert read_summary(built)["cases"] == 3


@pytest.mark.parametrize("wrong", [255, 3, 1.5])
def test_labels_that_mean_nothing_known_are_named(three: Path, wrong: float) -> None:
    edit(
        three / "segmentation-1.nii",
        lambda values: np.where(values == 2, np.float32(wrong), values.astype(np.float32)),
    )
    refuse(three, f"segmentation-1.nii holds {wrong}", "0, 1, 2")


def test_lesions_without_a_liver_are_refused(three: Path) -> None:
    draw(three, 1, [box(30, 30, 7, -40)], liver=0)
    refuse(three, "segmentation-1.nii", "label 2", "label 1")


def test_a_broken_volume_is_named(three: Path) -> None:
    path = three / "volume-2.nii"
    path.write_bytes(path.read_bytes()[:4000])
    refuse(three, "volume-2.nii")


def test_values_that_are_not_hounsfield_units_are_refused(three: Path) -> None:
    edit(three / "volume-0.nii", lambda values: values + np.int16(1024))
    refuse(three, "volume-0.nii", "Hounsfield", "24")


def test_vessels_are_not_taken_for_the_liver(tmp_path: Path) -> None:
    source = tmp_path / "Task08_HepaticVessel"
    write_liver_volumes(source, cases=3, layout="msd")
    file = source / "dataset.json"
    description = json.loads(file.read_text())
    description["labels"] = {"0": "background", "1": "Vessel", "2": "Tumour"}
    file.write_text(json.dumps(description))
    refuse(source, "1 (Vessel)", "liver_label=1", "null")
    built = build_refhl(source, tmp_path / "built", liver_label=None)
    assert all({"place", "density"}.isdisjoint(row["attributes"]) for row in rows_of(built))
    file.unlink()
    for path in source.glob("*/liver_*"):
        path.rename(path.with_name(path.name.replace("liver", "hepaticvessel")))
    (tmp_path / "two").mkdir()
    refuse(source.rename(tmp_path / "two" / "renamed"), "Task08", "vessels", "liver_label=1")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layout": "ircad"}, "layout='ircad'"),
        ({"layout": "msd"}, "imagesTr"),
        ({"min_lesion_pixels": 0}, "min_lesion_pixels=0"),
        ({"slices_per_case": 0}, "slices_per_case=0"),
        ({"window_width": 0.0}, "window_width=0"),
        ({"window_width": float("inf")}, "window_width=inf"),
        ({"window_center": float("nan")}, "window_center=nan"),
        ({"window_center": 1e6}, "next to nothing"),
        ({"image_size": 999_999}, "image_size=999999"),
        ({"image_size": 16}, "image_size=16"),
        ({"seed": -1}, "seed=-1"),
        ({"liver_label": 2}, "liver_label are both 2"),
    ],
)
def test_settings_out_of_range_are_refused(
    three: Path, wrong: dict[str, Any], message: str
) -> None:
    refuse(three, message, **wrong)


def test_a_folder_without_volumes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    refuse(tmp_path / "source", "volume-<n>.nii", "imagesTr")
    refuse(tmp_path / "nowhere", "source=")


def test_a_liver_on_the_patients_left_is_pointed_out(three: Path) -> None:
    column = np.arange(100)[:, None, None]  # from the patient's left
    edit(three / "volume-1.nii", lambda values: np.where(column < 15, np.int16(-1000), values))
    built = build_refhl(three, three.parent / "built")
    assert read_summary(built)["liver_on_the_left"] == ["volume-1"]
    assert "volume-1" in format_summary(read_summary(built))
