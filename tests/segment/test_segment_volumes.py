"""`textseg segment` of volumes: the voxels of each slice alone, on the volume's own grid.

Results are opened by nibabel beside their source, and DICOM SEG by highdicom and pydicom.
"""

from __future__ import annotations

import csv
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
import yaml
from PIL import Image

import textseg
from datamodules.files import dicom_seg
from datamodules.files.dicom_seg import COPIED
from datamodules.volumes.opened import Volumes
from tests.datamodules.scan_files import (
    ORIENTATIONS,
    PATIENT,
    PRIVATE,
    SHAPE,
    SPACING,
    header,
    ras_affine,
    scan_values,
    write_nifti,
    write_series,
)
from tests.datamodules.test_scans import hung
from tests.segment.refusals import message
from tests.thresholds import between_pixels
from tests.tiny_run import call
from textseg.errors import PartialError, UserError
from textseg.segment import segment
from textseg.segment.network import Segmenter
from textseg.segment.slice_numbers import chosen_slices
from textseg.segment.volume_text import ranges, volumes_text

TEXT = "the bright block"
VOXEL_ML = float(np.prod(SPACING)) / 1000


@pytest.fixture(scope="module")
def checkpoint(image_only: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image-only network whose masks of the phantom have both values."""
    folder = tmp_path_factory.mktemp("varied")
    shutil.copytree(Path(image_only).parent, folder, dirs_exist_ok=True)
    net = textseg.load(image_only)
    probs = np.stack([net.segment(gray(z)).probs for z in range(SHAPE[2])]).astype(np.float64)
    stored = torch.load(image_only, weights_only=True)
    bias = stored["state_dict"]["network.segmentation_head.0.bias"]
    bias -= between_pixels(np.log(probs / (1 - probs)))
    torch.save(stored, folder / "best.ckpt")
    return str(folder / "best.ckpt")


@pytest.fixture(scope="module")
def net(checkpoint: str) -> Segmenter:
    return textseg.load(checkpoint)


def gray(z: int, seed: int = 0) -> np.ndarray:
    """Slice z of the phantom in the abdominal window, [H, W] uint8."""
    return np.rint(np.clip((hung(scan_values(seed), z) + 160) / 400, 0, 1) * 255).astype(np.uint8)


@cache
def slice_by_slice(net: Segmenter, slices: range = range(SHAPE[2])) -> np.ndarray:
    """The masks of single pictures, put back voxel by voxel: [X, Y, Z] bool."""
    found = np.zeros(SHAPE, bool)
    for z in slices:
        mask = net.segment(gray(z)).mask
        for row, column in np.argwhere(mask):
            found[column, SHAPE[1] - 1 - row, z] = True
    return found


def run(path: Path, checkpoint: str, **settings: Any) -> Path:
    given: dict[str, Any] = {"window": "abdomen", "open_volumes": Volumes, **settings}
    return segment(str(path), TEXT, ckpt_path=checkpoint, output=str(path.parent / "out"), **given)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "found.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


# --- the round trip


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_nifti_volume_comes_back_on_its_own_grid_with_the_voxels_of_its_slices(
    net: Segmenter, checkpoint: str, tmp_path: Path, codes: str
) -> None:
    path = write_nifti(tmp_path / "p1.nii.gz", scan_values(), codes)
    out = run(path, checkpoint)
    source, result = nibabel.load(path), nibabel.load(out / "volumes/p1.nii.gz")
    assert result.shape == source.shape
    assert result.get_data_dtype() == np.uint8
    for form in ("sform", "qform"):
        affines = [getattr(image, f"get_{form}")(coded=True) for image in (source, result)]
        np.testing.assert_array_equal(affines[0][0], affines[1][0])
        assert affines[0][1] == affines[1][1]
    assert b"P-001" not in result.header["descrip"].tobytes()
    wanted = slice_by_slice(net)
    assert 0.1 < wanted.mean() < 0.9
    np.testing.assert_array_equal(nibabel.as_closest_canonical(result).dataobj, wanted)


@pytest.mark.parametrize("rising", [False, True])
def test_a_dicom_series_comes_back_as_nifti_where_it_lies_in_the_patient(
    net: Segmenter, checkpoint: str, tmp_path: Path, rising: bool
) -> None:
    path = write_series(tmp_path / "ct", scan_values(), rising=rising)
    out = run(path, checkpoint)
    result = nibabel.as_closest_canonical(nibabel.load(out / "volumes/ct.nii.gz"))
    np.testing.assert_allclose(result.affine, ras_affine(), atol=1e-5)
    np.testing.assert_array_equal(result.dataobj, slice_by_slice(net))
    content = (out / "volumes.json").read_text() + (out / "found.csv").read_text()
    values = [*PATIENT.values(), *PRIVATE.values()]
    assert not [value for value in values if len(value) > 2 and value in content]


def test_only_the_chosen_slices_are_segmented_and_that_is_said(
    net: Segmenter, checkpoint: str, tmp_path: Path
) -> None:
    out = run(write_nifti(tmp_path / "p1.nii", scan_values()), checkpoint, slices="1,3-4")
    result = np.asarray(nibabel.load(out / "volumes/p1.nii.gz").dataobj)
    wanted = slice_by_slice(net).copy()
    wanted[..., [0, 2, 5]] = False
    np.testing.assert_array_equal(result, wanted)
    overlays = sorted(path.name for path in (out / "overlays").iterdir())
    assert overlays == [f"p1_z00{z}.png" for z in (1, 3, 4)]
    assert [row["slice"] for row in table(out)] == ["1", "3", "4", "all"]
    assert "of its 6 slices only 1,3-4" in volumes_text(out)


def test_the_table_has_areas_and_volumes_of_every_slice(
    net: Segmenter, checkpoint: str, tmp_path: Path
) -> None:
    out = run(write_series(tmp_path / "ct", scan_values()), checkpoint)
    pixels = slice_by_slice(net).sum(axis=(0, 1))
    rows = table(out)
    assert [row["slice"] for row in rows] == [*map(str, range(SHAPE[2])), "all"]
    for row, count in zip(rows, [*pixels, pixels.sum()], strict=True):
        assert row["file"] == str(tmp_path / "ct")
        assert int(row["area_pixels"]) == count
        assert float(row["area_mm2"]) == pytest.approx(count * SPACING[0] * SPACING[1], abs=0.01)
        assert float(row["volume_ml"]) == pytest.approx(count * VOXEL_ML, abs=1e-4)
    assert {row["unknown_words"] for row in rows} == {""}  # the network reads none
    assert Path(rows[0]["slice_file"]).name == "IM0006"  # the feet come last
    assert f"{pixels.sum() * VOXEL_ML:.2f} ml in" in volumes_text(out)


def test_one_slice_and_a_radiograph_are_volumes_of_one_picture(
    net: Segmenter, checkpoint: str, tmp_path: Path
) -> None:
    folder = write_series(tmp_path / "ct", scan_values())
    wanted = slice_by_slice(net, range(2, 3))[..., 2]
    out = run(folder / "IM0004", checkpoint)
    result = nibabel.as_closest_canonical(nibabel.load(out / "volumes/IM0004.nii.gz"))
    np.testing.assert_array_equal(np.asarray(result.dataobj)[..., 0], wanted)
    plain = header(1, "1.2", hung(scan_values(), 2))
    del plain.PixelSpacing
    plain.save_as(tmp_path / "cr.dcm", enforce_file_format=True)
    out = run(tmp_path / "cr.dcm", checkpoint)
    mask = np.asarray(Image.open(out / "volumes/cr.png"))
    np.testing.assert_array_equal(mask, 255 * net.segment(gray(2)).mask)
    (row, whole) = table(out)
    assert (row["area_mm2"], whole["volume_ml"]) == ("", "")


# --- DICOM SEG


def test_a_dicom_seg_refers_to_its_source_and_takes_over_only_what_is_listed(
    net: Segmenter, checkpoint: str, tmp_path: Path
) -> None:
    highdicom = pytest.importorskip("highdicom")
    folder = write_series(tmp_path / "ct", scan_values())
    out = run(folder, checkpoint, volume_format="dicom-seg")
    path = out / "volumes/ct.dcm"
    found = highdicom.seg.segread(path)
    sources = {str(f.SOPInstanceUID): f for f in map(pydicom.dcmread, folder.iterdir())}
    assert found.SegmentSequence[0].SegmentLabel == TEXT
    planes = found.get_pixels_by_source_instance(list(sources), ignore_spatial_locations=False)
    wanted = slice_by_slice(net)
    for plane, source in zip(planes[..., 0], sources.values(), strict=True):
        z = round((source.ImagePositionPatient[2] - 100) / SPACING[2])
        np.testing.assert_array_equal(plane, wanted[::-1, ::-1, z].T)
    stored = pydicom.dcmread(path)
    assert stored.SOPClassUID == pydicom.uid.SegmentationStorage
    assert {name: str(stored[name].value) for name in COPIED} == PATIENT
    assert stored.FrameOfReferenceUID == "1.2.3.4.5"
    content = path.read_bytes()
    assert not [value for value in PRIVATE.values() if value.encode() in content]
    referred = {i.ReferencedSOPInstanceUID for i in stored.ReferencedSeriesSequence[0][0x0008114A]}
    assert referred == sources.keys()
    assert all(name in volumes_text(out) for name in COPIED)


def test_a_radiograph_has_a_dicom_seg_and_a_file_without_numbers_has_none(
    net: Segmenter, checkpoint: str, tmp_path: Path
) -> None:
    highdicom = pytest.importorskip("highdicom")
    plain = header(1, "1.2", hung(scan_values(), 2))
    del plain.FrameOfReferenceUID, plain.PatientName
    plain.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    with pytest.raises(UserError, match=r"ct\.dcm lacks what DICOM SEG must refer to"):
        run(tmp_path / "ct.dcm", checkpoint, volume_format="dicom-seg")
    shutil.rmtree(tmp_path / "out")
    plain.SOPClassUID, plain.Modality = pydicom.uid.ComputedRadiographyImageStorage, "CR"
    plain.save_as(tmp_path / "cr.dcm", enforce_file_format=True)
    out = run(tmp_path / "cr.dcm", checkpoint, volume_format="dicom-seg")
    found = highdicom.seg.segread(out / "volumes/cr.dcm")
    plane = found.get_pixels_by_source_instance([plain.SOPInstanceUID])[0, ..., 0]
    np.testing.assert_array_equal(plane, net.segment(gray(2)).mask)
    del plain.StudyInstanceUID
    plain.save_as(tmp_path / "anonymous.dcm", enforce_file_format=True)
    with pytest.raises(UserError, match=r"anonymous\.dcm has no StudyInstanceUID"):
        run(tmp_path / "anonymous.dcm", checkpoint, volume_format="dicom-seg")


@pytest.mark.parametrize("text", ["", "左侧病灶", "x" * 300])
def test_a_dicom_seg_of_any_text_and_of_nothing_found_is_read(tmp_path: Path, text: str) -> None:
    highdicom = pytest.importorskip("highdicom")
    folder = write_series(tmp_path / "ct", scan_values())
    files = sorted(folder.iterdir())
    frames = np.zeros((len(files), SHAPE[1], SHAPE[0]), np.uint8)
    named = dicom_seg.SegmentText(text, "TMC", "0.1")
    path = dicom_seg.write_dicom_seg(tmp_path / "seg.dcm", files, frames, named)
    found = highdicom.seg.segread(path)
    assert found.SegmentSequence[0].SegmentLabel == (text[:64] or "finding")
    uids = [pydicom.dcmread(file).SOPInstanceUID for file in files]
    assert not found.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True).any()


def test_a_missing_highdicom_says_what_to_install(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_seg, "find_spec", lambda name: None)
    folder = write_series(tmp_path / "ct", scan_values())
    with pytest.raises(UserError, match="highdicom") as error:
        run(folder, checkpoint, volume_format="dicom-seg")
    assert "textseg[dicom-seg]" in message(error)[1]
    assert not (tmp_path / "out").exists()


# --- folders, windows, settings


def test_a_folder_of_volumes_is_gone_through_and_all_that_is_left_out_is_named(
    checkpoint: str, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    write_nifti(folder / "a.nii.gz", scan_values())
    (folder / "b.nii.gz").write_bytes(b"broken")
    write_nifti(folder / "c.nii", scan_values(1)[..., :2])
    (folder / "notes.txt").write_text("")
    with pytest.raises(PartialError, match=r"2 of 3 volumes.*b\.nii\.gz") as partial:
        run(folder, checkpoint, slices="2-3")
    out = partial.value.written
    assert [path.name for path in (out / "volumes").iterdir()] == ["a.nii.gz"]
    said = volumes_text(out)
    report = json.loads((out / "volumes.json").read_text())
    left_out = {Path(entry["file"]).name: entry["reason"] for entry in report["left_out"]}
    assert left_out.keys() == {"b.nii.gz", "c.nii", "notes.txt"}
    assert "0-1" in left_out["c.nii"]
    assert all(name in said for name in left_out)
    done = call(*("segment", folder, TEXT, "--ckpt", checkpoint, "--window", "bone"), cwd=tmp_path)
    assert done.status == 1
    assert " ml in " in done.out
    assert "1 of 3" in done.message()[0]
    (folder / "a.nii.gz").unlink()
    with pytest.raises(UserError, match=r"none of 2 volumes.*c\.nii"):
        run(folder, checkpoint, slices="2-3")


def test_a_volume_without_a_window_takes_that_of_the_data_it_was_trained_on(
    checkpoint: str, tmp_path: Path
) -> None:
    path = write_nifti(tmp_path / "p1.nii.gz", scan_values())
    with pytest.raises(UserError, match="header") as error:
        run(path, checkpoint, window=None)
    assert "abdomen" in message(error)[1]
    trained = shutil.copytree(Path(checkpoint).parent, tmp_path / "run")
    settings = yaml.safe_load((trained / "config.yaml").read_text())
    settings["data"]["init_args"]["root"] = str(tmp_path / "set")
    (trained / "config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/slices.json").write_text(json.dumps({"window": "60,300"}))
    out = run(path, str(trained / "best.ckpt"), window=None)
    assert "center 60, width 300" in volumes_text(out)
    (tmp_path / "set/slices.json").write_text('{"window": 40}')
    with pytest.raises(UserError, match=r"slices\.json") as error:
        run(path, str(trained / "best.ckpt"), window=None)
    assert "--window" in message(error)[1]
    (tmp_path / "set").rename(tmp_path / "moved")
    with (
        pytest.warns(UserWarning, match=f"{tmp_path / 'set'}.*--window"),
        pytest.raises(UserError, match="header"),
    ):
        run(path, str(trained / "best.ckpt"), window=None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"slices": "5-7"}, "'5-7'.*0-5"),
        ({"slices": "top"}, "'top'"),
        ({"slices": "4-2"}, "'4-2'"),
        ({"window": "40"}, "window='40'"),
        ({"volume_format": "png"}, "volume_format='png'"),
        ({"volume_format": "dicom-seg"}, "p1.nii"),
        ({"root": "."}, "root='.'"),
        ({"probabilities": True}, "probabilities=True"),
        ({"open_volumes": None}, "open_volumes"),
        ({"channel": 1}, "channel 1"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_written(
    checkpoint: str, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    path = write_nifti(tmp_path / "p1.nii", scan_values())
    with pytest.raises(UserError, match=words):
        run(path, checkpoint, **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings", [{"slices": "1"}, {"window": "lung"}, {"volume_format": "dicom-seg"}]
)
def test_a_setting_of_volumes_is_not_ignored_for_pictures(
    checkpoint: str, tmp_path: Path, settings: dict[str, str]
) -> None:
    Image.fromarray(gray(2)).save(tmp_path / "a.png")
    ((name, value),) = settings.items()
    with pytest.raises(UserError, match=f"{name}='{value}'"):
        segment(str(tmp_path / "a.png"), ckpt_path=checkpoint, **settings)


@pytest.mark.parametrize(
    ("written", "slices"),
    [("all", [0, 1, 2, 3]), ("3,0", [0, 3]), ("1-2, 2", [1, 2]), ("[1,3]", [1, 3])],
)
def test_slices_are_numbers_and_ranges(written: str, slices: list[int]) -> None:
    assert chosen_slices(written, 4) == slices


def test_a_range_without_end_is_refused_before_it_is_counted() -> None:
    chosen_slices("2-9999999999", None)
    with pytest.raises(UserError, match="no '2-9999999999'"):
        chosen_slices("2-9999999999", 4)


def test_numbers_are_written_as_ranges() -> None:
    assert ranges([0, 2, 3, 4, 7, 8]) == "0,2-4,7-8"


def test_the_command_segments_a_volume_and_says_what_it_found(
    checkpoint: str, tmp_path: Path
) -> None:
    path = write_nifti(tmp_path / "p1.nii.gz", scan_values())
    done = call(
        *("segment", path, TEXT, "--ckpt", checkpoint, "--window", "40,400", "--slices", "2"),
        cwd=tmp_path,
    )
    assert done.status == 0, done.err
    assert "window: center 40, width 400" in done.out
    assert " ml in " in done.out
    assert (tmp_path / "segmented/volumes/p1.nii.gz").is_file()


# --- real volumes


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "window"),
    [("example_ct_sm", "abdomen"), ("example_ct", "abdomen"), ("example_mr_sm", "percentiles")],
)
def test_real_volumes_come_back_on_their_grid(
    checkpoint: str, real_data: Path, tmp_path: Path, name: str, window: str
) -> None:
    path = tmp_path / f"{name}.nii.gz"
    shutil.copy(real_data / f"totalsegmentator_ct/{name}.nii.gz", path)
    out = run(path, checkpoint, window=window, slices="3-6")
    source, result = nibabel.load(path), nibabel.load(out / f"volumes/{name}.nii.gz")
    assert result.shape == source.shape
    np.testing.assert_array_equal(result.affine, source.affine)
    voxels = np.asarray(nibabel.as_closest_canonical(result).dataobj)
    assert not voxels[..., [0, 1, 2, 7]].any()
    row = table(out)[0]
    assert int(row["area_pixels"]) == voxels[..., 3].sum()
    size = source.header.get_zooms()
    assert float(row["area_mm2"]) == pytest.approx(voxels[..., 3].sum() * size[0] * size[1], 1e-4)


@pytest.mark.real_data
def test_a_real_organ_drawn_by_its_mask_lies_where_the_overlay_shows_it(
    real_data: Path, tmp_path: Path
) -> None:
    """A stand-in network that knows the liver: its masks come back as the liver's own voxels."""
    folder = real_data / "totalsegmentator_ct"
    volumes = Volumes(folder / "example_ct_sm.nii.gz", window="abdomen")
    opened = volumes.open(volumes.files[0])
    truth = Volumes(folder / "example_seg_fast/liver.nii.gz", window="0.5,1")
    shown = truth.open(truth.files[0])
    masks = {z: shown.picture(z) > 127 for z in range(opened.slices)}
    sides = [np.argwhere(mask)[:, 1].mean() for mask in masks.values() if mask.any()]
    assert np.mean(sides) > opened.picture(0).shape[1] / 2  # the patient's right is on the right
    texts = {"label": "liver", "network": "none", "version": "0"}
    result = volumes.write(opened, tmp_path, "liver", masks, **texts)
    liver = nibabel.load(folder / "example_seg_fast/liver.nii.gz")
    np.testing.assert_array_equal(
        np.asarray(nibabel.load(result).dataobj) > 0, np.asarray(liver.dataobj) > 0
    )
