"""`textseg data slice`: pictures, masks and captions against numpy's indexing of the phantoms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.own_data import ManifestDataModule
from datamodules.volumes.slicing import slice_volumes
from datamodules.volumes.summary import format_summary, read_summary
from tests.datamodules.contract import refused
from tests.datamodules.scan_files import (
    ORIENTATIONS,
    SHAPE,
    SPACING,
    block,
    ras_affine,
    scan_values,
    write_nifti,
    write_series,
)
from tests.datamodules.test_scans import hung

REGIONS = {1: "left block", 2: "right_block"}


def labels(*, mirrored: bool = True) -> np.ndarray:
    """The block, and, as label 2, its mirror image on the patient's right."""
    drawn = block()
    return np.where(drawn[::-1] > 0, 2, drawn).astype(np.uint8) if mirrored else drawn


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four NIfTI volumes, each stored otherwise, a DICOM series, and a label map for each."""
    root = tmp_path / "volumes"
    for k, codes in enumerate(ORIENTATIONS):
        write_nifti(root / f"images/p{k}.nii.gz", scan_values(k), codes)
        write_nifti(root / f"labels/p{k}.nii.gz", labels(), codes)
    write_series(root / "images/p4", scan_values(4), WindowCenter=40, WindowWidth=400)
    write_nifti(root / "labels/p4.nii", labels())
    return root


def rows_of(built: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (built / "manifest.jsonl").open(encoding="utf-8")]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image).astype(int)


def build(source: Path, **settings: Any) -> Path:
    given = {"window": "abdomen", "labels": REGIONS, **settings}
    return slice_volumes(source, source.parent / "built", **given)


def left_out(built: Path) -> dict[str, str]:
    return {Path(e["what"]).name: e["reason"] for e in read_summary(built)["left_out"]}


def test_every_volume_gives_its_windowed_slices_with_the_words_side_as_the_pictures(
    source: Path,
) -> None:
    built = build(source)
    rows = rows_of(built)
    assert len(rows) == 5 * 3 * 2
    for row in rows:
        seed, z = int(row["case_id"][1:]), row["attributes"]["slice"]
        values = hung(scan_values(seed), z)
        gray = np.rint(np.clip((values + 160) / 400, 0, 1) * 255)
        np.testing.assert_array_equal(pixels(built / row["image"]), gray)
        label = {"left block": 1, "right block": 2}[row["text"]]
        np.testing.assert_array_equal(
            pixels(built / row["mask"]), 255 * (hung(labels(), z) == label)
        )
        side = np.argwhere(pixels(built / row["mask"]))[:, 1].mean() < (SHAPE[0] - 1) / 2
        assert side == ("left" in row["text"])
        assert row["spacing"] == [SPACING[1], SPACING[0]]
        assert row["image"] == f"images/{row['case_id']}_z{z:03d}.png"
    assert {row["attributes"]["slice"] for row in rows} == {1, 2, 3}
    named = {row[kind] for row in rows for kind in ("image", "mask")}
    assert named == {f"{p.parent.name}/{p.name}" for p in built.glob("*/*.png")}


def test_the_manifests_module_reads_a_built_set_and_no_case_is_in_two_splits(source: Path) -> None:
    built = build(source)
    data = ManifestDataModule(str(built), image_size=32, num_workers=0, cache=None)
    data.setup()
    splits = {name: {r.case_id for r in data.records(name)} for name in ("train", "val", "test")}
    assert [len(splits[name]) for name in ("train", "val", "test")] == [3, 1, 1]
    assert set.union(*splits.values()) == {f"p{k}" for k in range(5)}
    assert data.records("test")[0].spacing == (SPACING[1], SPACING[0])
    summary = read_summary(built)
    assert (summary["cases"], summary["pictures"], summary["rows"]) == (5, 15, 30)
    assert summary["rows_by_region"] == {"left block": 15, "right_block": 15}
    assert "30 rows" in format_summary(summary)


def test_a_window_of_the_header_is_each_files_own(source: Path) -> None:
    for k in range(3):  # two NIfTI volumes and the series stay; the former have no window
        for part in ("images", "labels"):
            (source / part / f"p{k}.nii.gz").unlink()
    built = build(source, window="header")
    assert {row["case_id"] for row in rows_of(built)} == {"p4"}
    assert {row["split"] for row in rows_of(built)} == {"test"}
    summary = read_summary(built)
    assert summary["windows"] == {"p4": "center 40, width 400"}
    assert list(left_out(built)) == ["p3"]
    assert "too few" in format_summary(summary)


def test_a_file_for_each_region_names_it(source: Path) -> None:
    folder = source / "labels/p0"
    (source / "labels/p0.nii.gz").unlink()
    write_nifti(folder / "spleen.nii.gz", block(), "LPS")
    write_nifti(folder / "liver.nii.gz", block()[::-1])
    write_nifti(folder / "empty.nii.gz", block() * 0)
    (folder / "broken.nii.gz").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    built = build(source)
    texts = {row["text"]: row for row in rows_of(built) if row["case_id"] == "p0"}
    assert texts.keys() == {"spleen", "liver"}
    z = texts["spleen"]["attributes"]["slice"]
    np.testing.assert_array_equal(
        pixels(built / texts["spleen"]["mask"]), 255 * (hung(block(), z) == 1)
    )
    assert left_out(built).keys() == {"broken.nii.gz", "notes.txt"}
    built = build(source, regions=["left block", "spleen"])
    assert {row["lesion_id"] for row in rows_of(built)} == {"left block", "spleen"}
    with refused("regions=['spleen', 'livr']: there is no livr", "left block, liver"):
        build(source, regions=["spleen", "livr"])


def test_nnunets_form_brings_names_and_channels(tmp_path: Path) -> None:
    base = tmp_path / "volumes/Dataset001_Block"
    for k in range(2):
        for channel in (0, 1):
            write_nifti(base / f"imagesTr/p{k}_{channel:04d}.nii", scan_values(10 * channel + k))
        write_nifti(base / f"labelsTr/p{k}.nii", labels())
    description = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "both": [1, 2], "right": 2},
        "file_ending": ".nii",
    }
    (base / "dataset.json").write_text(json.dumps(description))
    built = build(base.parent, labels=None, channel="T2", window="percentiles")
    rows = rows_of(built)
    areas = {row["text"]: np.count_nonzero(pixels(built / row["mask"])) for row in rows}
    assert areas == {"both": 200, "right": 100}
    low, high = np.percentile(scan_values(11), (0.5, 99.5))
    (row,) = [r for r in rows if r["image"] == "images/p1_z001.png" and r["text"] == "right"]
    gray = np.rint(np.clip((hung(scan_values(11), 1) - low) / (high - low), 0, 1) * 255)
    np.testing.assert_allclose(pixels(built / row["image"]), gray, atol=1)
    assert {row["split"] for row in rows} == {"test"}


def test_a_template_or_a_table_gives_the_captions(source: Path) -> None:
    built = build(source, caption="the {region} in CT")
    assert {r["text"] for r in rows_of(built)} == {"the left block in CT", "the right block in CT"}
    table = source.parent / "captions.csv"
    table.write_text(
        "case_id;slice;region;text\n"
        "P0;;left block;bright, on the left\n"
        "p0;2;left block;its middle\n"
        ";;right_block;on the right\n"
        "p9;;;for nobody\n"
    )
    built = build(source, captions=str(table))
    found = {(r["case_id"], r["attributes"]["slice"], r["text"]) for r in rows_of(built)}
    wanted = {(f"p{k}", z, "on the right") for k in range(5) for z in (1, 2, 3)}
    wanted |= {("p0", z, "bright, on the left") for z in (1, 2, 3)} | {("p0", 2, "its middle")}
    assert found == wanted
    without = [e["what"] for e in read_summary(built)["left_out"]]
    assert len(without) == 4 * 3 + 1
    assert "p1_z002, left block" in without
    assert any("row 5" in what for what in without)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("region,texts\nliver,x\n", "text"),
        ("text,patient\nx,p1\n", "patient"),
        ("text,slice\nx,two\n", "slice='two'"),
        ("text,slice\nx,1.5\n", "slice='1.5'"),
        ("text,region\n,liver\n", "row 2"),
        ("text\n", "no rows"),
    ],
)
def test_a_table_of_captions_at_fault_is_refused(
    source: Path, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "c.csv").write_text(content)
    with refused("c.csv", words):
        build(source, captions=str(tmp_path / "c.csv"))


def test_slices_lie_apart_and_small_regions_have_no_row(source: Path) -> None:
    built = build(source, distance=9.0)  # 5 mm a slice: every second, of 1 to 3
    assert {row["attributes"]["slice"] for row in rows_of(built)} == {2}
    built = build(source, distance=10.0)
    assert {row["attributes"]["slice"] for row in rows_of(built)} == {2}
    assert len(rows_of(build(source, min_pixels=100))) == 30
    with refused("min_pixels", "p0"):
        build(source, min_pixels=101)


def test_what_does_not_fit_is_left_out_and_named_and_the_rest_goes_on(source: Path) -> None:
    (source / "images/p0.nii.gz").write_bytes(b"broken")
    write_nifti(source / "labels/p1.nii.gz", labels()[:-1])
    write_nifti(source / "images/p7.nii.gz", scan_values())
    write_nifti(source / "images/p8.nii.gz", np.clip(scan_values(), 0, 1))  # scaled
    write_nifti(source / "labels/p8.nii.gz", labels())
    (source / "labels/readme.txt").write_text("")
    (source / "images/p4/LICENSE").write_text("")
    (source / "p9.nii.gz").write_text("")
    extra = labels()
    extra[0, 0, 0] = 9
    write_nifti(source / "labels/p2.nii.gz", extra, ORIENTATIONS[2])
    built = build(source)
    assert {row["case_id"] for row in rows_of(built)} == {"p2", "p3", "p4"}
    reasons = left_out(built)
    names = {"p0", "p1", "p7.nii.gz", "p8", "readme.txt", "p2.nii.gz", "LICENSE", "p9.nii.gz"}
    assert reasons.keys() == names
    assert "p0.nii.gz" in reasons["p0"]
    assert "39x32x6" in reasons["p1"]
    text = format_summary(read_summary(built))
    assert all(name in text for name in reasons)
    assert any(e["what"].startswith("label 9 of") for e in read_summary(built)["left_out"])


def test_numbers_without_names_and_names_without_numbers_are_refused(source: Path) -> None:
    with refused("labels/p0.nii.gz", "{1: liver"):
        build(source, labels=None)
    with refused("regions=['kidney']", "left block, right_block"):
        build(source, regions=["kidney"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": "40"}, "window='40'"),
        ({"min_pixels": 0}, "min_pixels=0"),
        ({"distance": -1}, "distance=-1"),
        ({"caption": " "}, "caption=' '"),
        ({"caption": "the {Region}"}, "{Region}"),
        ({"labels": {1: " ", 2: "b"}}, "labels: 1"),
        ({"distance": float("inf")}, "distance=inf"),
        ({"channel": 1}, "channel=1"),
        ({"regions": ["left block", "left block"]}, "'left block' twice"),
        ({"captions": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_a_wrong_setting_is_named(source: Path, settings: dict[str, Any], words: str) -> None:
    with refused(words):
        build(source, **settings)
    assert not (source.parent / "built").exists()


def test_a_build_is_kept_until_its_source_or_a_setting_changes(source: Path) -> None:
    built = build(source)
    before = (built / "manifest.jsonl").stat().st_ino
    assert (build(source) / "manifest.jsonl").stat().st_ino == before
    write_series(source / "images/p4", scan_values(5))
    assert (build(source) / "manifest.jsonl").stat().st_ino != before
    with refused("output="):
        slice_volumes(source, source, window="abdomen", labels=REGIONS)


def test_a_series_may_lie_in_folders_within_its_cases(source: Path) -> None:
    flat = rows_of(build(source))
    (source / "images/p4").rename(source / "SE1")
    (source / "images/p4/ST1").mkdir(parents=True)
    (source / "SE1").rename(source / "images/p4/ST1/SE1")
    assert rows_of(build(source)) == flat
    write_series(source / "images/p4/ST1/SE2", scan_values(5))
    built = build(source)  # two series: not guessed between
    assert {row["case_id"] for row in rows_of(built)} == {"p0", "p1", "p2", "p3"}
    assert "2 DICOM series" in (built / "slices.json").read_text()


def test_the_phantom_lies_at_the_patients_left() -> None:
    center = np.argwhere(block()).mean(axis=0)
    middle = (np.array(SHAPE) - 1) / 2
    assert (ras_affine() @ [*center, 1])[0] < (ras_affine() @ [*middle, 1])[0]  # x to the right
