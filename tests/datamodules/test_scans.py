"""Scans as pictures and back: against numpy's own indexing of the phantom, and nibabel."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from datamodules.volumes.opened import Volumes
from datamodules.volumes.scans import read_scan
from datamodules.volumes.windows import Window, parse_window, window_for
from tests.datamodules.contract import refused
from tests.datamodules.scan_files import (
    BLOCK,
    INTERCEPT,
    ORIENTATIONS,
    SHAPE,
    SLOPE,
    SPACING,
    block,
    header,
    ras_affine,
    scan_values,
    write_nifti,
    write_series,
)
from textseg.segment.volumes import holds_volumes

WINDOW = {"WindowCenter": [40, 50], "WindowWidth": [400, 80]}


def hung(values: np.ndarray, z: int) -> np.ndarray:
    """Slice z of [X, Y, Z] with the front above and the patient's left on the left."""
    x, y, _ = values.shape
    return np.array([[values[c, y - 1 - r, z] for c in range(x)] for r in range(y)])


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_nifti_volume_in_any_orientation_gives_the_same_pictures(
    tmp_path: Path, codes: str
) -> None:
    scan = read_scan(write_nifti(tmp_path / "a.nii.gz", scan_values(), codes))
    assert scan.slices == SHAPE[2]
    np.testing.assert_allclose(scan.spacing, (SPACING[1], SPACING[0]), rtol=1e-6)
    assert scan.step == pytest.approx(SPACING[2])
    for z in range(scan.slices):
        np.testing.assert_array_equal(scan.picture(z), hung(scan_values(), z))


@pytest.mark.parametrize("rising", [False, True])
def test_a_dicom_series_in_either_order_gives_hounsfield_units_and_the_same_pictures(
    tmp_path: Path, rising: bool
) -> None:
    scan = read_scan(write_series(tmp_path / "ct", scan_values(), rising=rising, **WINDOW))
    assert scan.window == (40, 400)
    assert scan.step == pytest.approx(SPACING[2])
    for z in range(SHAPE[2]):
        np.testing.assert_array_equal(scan.picture(z), hung(scan_values(), z))
    names = [path.name for path in scan.slice_files() if path is not None]
    in_order = [f"IM{n:04d}" for n in range(1, SHAPE[2] + 1)]
    assert names == (in_order if rising else in_order[::-1])


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_masks_of_pictures_come_back_to_the_voxels_of_the_file(tmp_path: Path, codes: str) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", scan_values(), codes)
    scan = read_scan(path)
    masks = {z: scan.picture(z) == 200 for z in (1, 2)}
    wanted = np.asarray(nibabel.load(path).dataobj) == 200
    labels = write_nifti(tmp_path / "m.nii.gz", block(), codes)
    third = np.asarray(nibabel.load(labels).dataobj).astype(bool)
    stored = scan.stored_mask(masks)
    assert stored.shape == wanted.shape
    assert stored.sum() == wanted.sum() * 2 // 3  # two of the block's three slices
    assert not (stored.astype(bool) & ~third).any()


def test_masks_of_a_series_lie_where_its_affine_says(tmp_path: Path) -> None:
    scan = read_scan(write_series(tmp_path / "ct", scan_values()))
    stored = scan.stored_mask({z: scan.picture(z) == 200 for z in range(SHAPE[2])})
    assert scan.affine is not None
    there = nibabel.affines.apply_affine(scan.affine, np.argwhere(stored))
    wanted = nibabel.affines.apply_affine(ras_affine(), np.argwhere(block()))
    np.testing.assert_allclose(sorted(map(tuple, there.round(3))), sorted(map(tuple, wanted)))


def test_one_slice_of_a_series_is_a_scan_of_its_thickness(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct", scan_values())
    scan = read_scan(folder / "IM0004")  # from the head, so slice 2 of 0 to 5
    assert (scan.slices, scan.step) == (1, SPACING[2])
    np.testing.assert_array_equal(scan.picture(0), hung(scan_values(), 2))
    assert scan.affine is not None
    np.testing.assert_allclose((scan.affine @ [0, 0, 0, 1])[2], 100 + 2 * SPACING[2])
    thick = header(1, "1.2", hung(scan_values(), 0), SliceThickness=None)
    thick.ImagePositionPatient, thick.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    thick.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    assert read_scan(tmp_path / "x.dcm").step is None


def test_a_slice_that_is_not_axial_is_one_picture_as_it_is_stored(tmp_path: Path) -> None:
    stored = scan_values()[:, :, 2].T
    dataset = header(1, "1.2", stored)
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [0, 1, 0, 0, 0, -1]
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    scan = read_scan(tmp_path / "x.dcm")
    np.testing.assert_array_equal(scan.picture(0), stored)
    mask = stored == 200
    np.testing.assert_array_equal(scan.stored_mask({0: mask})[..., 0].T, mask)


def radiograph(path: Path, picture: np.ndarray, **changes: Any) -> Path:
    dataset = header(1, "1.2", picture, **WINDOW)
    del dataset.PixelSpacing, dataset.SliceThickness
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(("kind", "black"), [("MONOCHROME1", 255), ("MONOCHROME2", 0)])
def test_a_radiograph_is_shown_as_viewers_do(tmp_path: Path, kind: str, black: int) -> None:
    picture = scan_values()[:, :, 2].T
    changes = {"PhotometricInterpretation": kind, "ImagerPixelSpacing": [0.2, 0.1]}
    path = radiograph(tmp_path / "cr.dcm", picture, **changes)
    volumes = Volumes(path)
    opened = volumes.open(volumes.files[0])
    gray = np.rint(np.clip((picture + 160) / 400, 0, 1) * 255)
    np.testing.assert_array_equal(opened.picture(0), np.abs(black - gray))
    assert opened.spacing == (0.2, 0.1)
    assert opened.step is None


def test_a_color_picture_keeps_its_colors(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    path = radiograph(
        tmp_path / "us.dcm",
        scan_values()[:, :, 0],
        **{"Rows": 9, "Columns": 7, "SamplesPerPixel": 3, "PlanarConfiguration": 0},
        **{"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0},
        PhotometricInterpretation="RGB",
        PixelData=colors.tobytes() + b"\0",
    )
    volumes = Volumes(path)
    opened = volumes.open(volumes.files[0])
    np.testing.assert_array_equal(opened.picture(0), colors)
    assert opened.window == ""


def test_a_file_of_several_channels_gives_the_one_that_is_asked_for(tmp_path: Path) -> None:
    values = np.stack([scan_values(0), scan_values(1)], axis=-1)
    image = nibabel.Nifti1Image(values, ras_affine())
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(
        read_scan(tmp_path / "a.nii", channel=1).picture(3), hung(scan_values(1), 3)
    )
    with refused("a.nii", "40x32x6x2", "channel"):
        read_scan(tmp_path / "a.nii")
    with refused("a.nii", "channel 2"):
        read_scan(tmp_path / "a.nii", channel=2)


def test_slices_acquired_in_another_plane_are_called_coarse(tmp_path: Path) -> None:
    scan = read_scan(write_nifti(tmp_path / "a.nii", scan_values()))
    assert not scan.coarse
    image = nibabel.Nifti1Image(scan_values(), np.diag([5.0, 0.8, 0.8, 1.0]))
    nibabel.save(image, tmp_path / "sagittal.nii")
    assert read_scan(tmp_path / "sagittal.nii").coarse


# --- windows


@pytest.mark.parametrize(
    ("written", "window"),
    [
        ("40,400", (40, 400)),
        (" -600 1500 ", (-600, 1500)),
        ("40.5/80", (40.5, 80)),
        ("Lung", (-600, 1500)),
    ],
)
def test_a_window_is_two_numbers_or_a_name(written: str, window: tuple[float, float]) -> None:
    assert parse_window(written) == Window(*window)


@pytest.mark.parametrize("written", ["", "40", "1,2,3", "40,0", "40,-400", "nan,4", "liver"])
def test_anything_else_is_no_window(written: str) -> None:
    with refused(f"window={written!r}", "abdomen"):
        parse_window(written)


def test_percentiles_are_numpys_and_the_header_is_the_files(tmp_path: Path) -> None:
    values = scan_values()
    low, high = np.percentile(values, (0.5, 99.5))
    window = window_for("percentiles", values, None, "a")
    assert (window.center - window.width / 2, window.center + window.width / 2) == (low, high)
    assert window_for("header", values, (50, 90), "a") == Window(50, 90)
    with refused("a.nii", "header", "percentiles"):
        window_for("header", values, None, "a.nii")


@pytest.mark.parametrize("values", [[0, 1], [3000, 4000], [-3000, -2000]])
def test_a_window_that_shows_nothing_of_the_values_is_refused(values: list[int]) -> None:
    with refused("a.nii", values[0], values[1], -160, 240):
        window_for(Window(40, 400), np.array(values), None, "a.nii")


# --- what lies in a folder


def test_a_folder_gives_its_volumes_and_names_the_rest(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", scan_values())
    write_nifti(tmp_path / "a.nii", scan_values())
    (tmp_path / "._a.nii").write_bytes(b"left by a Mac")
    write_series(tmp_path, scan_values(), **WINDOW)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "broken.dcm").write_text("<html>")
    (tmp_path / "below").mkdir()
    report = header(1, "1.2", scan_values()[:, :, 0], Modality="SR")
    del report.Rows
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    frames = header(1, "1.2", scan_values()[:, :, 0], Modality="SEG", NumberOfFrames=3)
    frames.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    volumes = Volumes(tmp_path)
    assert [file.name for file in volumes.files] == ["a", "a_2", tmp_path.name]
    assert len(volumes.files[2].files) == SHAPE[2]
    left_out = {path.name: reason for path, reason in volumes.left_out}
    assert left_out.keys() == {"notes.txt", "broken.dcm", "below", "report.dcm", "seg.dcm"}
    assert "SR" in left_out["report.dcm"]
    assert "3 frames" in left_out["seg.dcm"]


def smooth(levels: int) -> np.ndarray:
    """An image without noise and of few values: gray that rises along two axes."""
    ramp = np.add.outer(np.arange(SHAPE[0]), np.arange(SHAPE[1])) % levels
    return np.repeat(ramp[..., None], SHAPE[2], axis=2)


LABELS = {
    "liver": block(),  # of any name
    "organs": block().astype(np.float32) * 117,
    "nothing": block() * 0,
    "case_seg": smooth(4).astype(np.int16),  # no areas, but called so
}
IMAGES = {
    "ct": scan_values(),
    "mask_of_what": scan_values(),  # values below 0, whatever it is called
    "few": smooth(7).astype(np.uint8),
    "share": block() / np.float32(3),
    "bytes": np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8),
}


def test_labels_in_a_folder_are_left_out_with_their_names_and_number(tmp_path: Path) -> None:
    for name, values in (LABELS | IMAGES).items():
        write_nifti(tmp_path / "all" / f"{name}.nii.gz", values)
    with pytest.warns(UserWarning, match=f"{len(LABELS)} of {len(LABELS | IMAGES)} volumes") as one:
        volumes = Volumes(tmp_path / "all")
    assert {file.name for file in volumes.files} == IMAGES.keys()
    assert {file.name.removesuffix(".nii.gz") for file, _ in volumes.left_out} == LABELS.keys()
    assert all(f"{name}.nii.gz" in str(one[0].message) for name in LABELS)
    alone = tmp_path / "all/liver.nii.gz"
    assert [file.path for file in Volumes(alone).files] == [alone], "it was given itself"


def test_a_folder_of_labels_alone_says_that_they_are_some(tmp_path: Path) -> None:
    write_nifti(tmp_path / "one/liver.nii", block())
    with pytest.warns(UserWarning, match="1 of 1"), refused("liver.nii: labels"):
        Volumes(tmp_path / "one")


def test_two_series_of_a_folder_are_two_volumes(tmp_path: Path) -> None:
    write_series(tmp_path / "one", scan_values(), **WINDOW)
    for path in write_series(tmp_path / "two", scan_values(1), **WINDOW).iterdir():
        path.rename(tmp_path / "one" / f"second_{path.name}")
    volumes = Volumes(tmp_path / "one")
    assert [len(file.files) for file in volumes.files] == [SHAPE[2], SHAPE[2]]
    pictures = [volumes.open(file).picture(3) for file in volumes.files]
    assert not np.array_equal(*pictures)


def test_series_in_folders_within_a_folder_are_read_as_archives_export_them(
    tmp_path: Path,
) -> None:
    study = tmp_path / "study"
    write_series(study / "ST1/SE1", scan_values(), **WINDOW)
    write_series(study / "ST1/SE2", scan_values(1), **WINDOW)
    (study / "ST1/SE2/report.pdf").write_text("")
    (study / "ST1/again").symlink_to(study)
    (study / "._ST1").write_bytes(b"left by a Mac")
    write_nifti(study / "ST1/a.nii", scan_values())
    write_nifti(study / "segmentations/liver.nii.gz", scan_values())
    assert holds_volumes(study)
    volumes = Volumes(study)
    assert [file.name for file in volumes.files] == ["ST1_SE1", "ST1_SE2"]
    assert [file.path for file in volumes.files] == [study / "ST1/SE1", study / "ST1/SE2"]
    for file, seed in zip(volumes.files, (0, 1), strict=True):
        alone = Volumes(file.path)
        pictures = [one.open(one.files[n]).picture(3) for one, n in ((volumes, seed), (alone, 0))]
        np.testing.assert_array_equal(*pictures)
    assert {path.relative_to(study).as_posix() for path, _ in volumes.left_out} == {
        "segmentations",
        "ST1/a.nii",
        "ST1/SE2/report.pdf",
    }
    assert not holds_volumes(study / "ST1/SE2/report.pdf")
    write_series(study / "ST1", scan_values(2), **WINDOW)
    assert [file.name for file in Volumes(study).files] == ["ST1", "ST1_SE1", "ST1_SE2"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"form": "png"}, "volume_format='png'"),
        ({"window": "liver"}, "window='liver'"),
        ({"form": "dicom-seg"}, "a.nii"),
        ({"channel": 3}, "channel 3"),
    ],
)
def test_a_wrong_setting_of_volumes_is_named(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    path = write_nifti(tmp_path / "a.nii", scan_values())
    with refused(words):
        volumes = Volumes(path, **{"window": "abdomen", **settings})
        volumes.open(volumes.files[0])


def test_a_folder_without_volumes_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with refused(tmp_path, "notes.txt"):
        Volumes(tmp_path)
    with refused("absent.nii"):
        Volumes(tmp_path / "absent.nii")


def test_the_phantom_is_even_so_that_its_dicom_files_hold_it_exactly() -> None:
    stored = (scan_values() - INTERCEPT) / SLOPE
    np.testing.assert_array_equal(stored, stored.astype(np.int16))
    assert (scan_values()[BLOCK] == 200).all()


def test_a_window_of_hounsfield_units_over_other_values_is_warned_of() -> None:
    shifted = np.linspace(0, 2400, 50)
    with pytest.warns(UserWarning, match=r"mr.nii holds values from 0 to 2400, none below 0"):
        window_for(parse_window("abdomen"), shifted, None, "mr.nii")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        window_for(parse_window("abdomen"), shifted - 1024, None, "ct.nii")
        window_for(parse_window("1200,2400"), shifted, None, "mr.nii")
        window_for("percentiles", shifted, None, "mr.nii")
