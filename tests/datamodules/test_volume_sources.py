"""Volumes and labels in the Decathlon's and nnU-Net's forms, and other layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.refhl_seg.builder import build_refhl
from datamodules.refhl_seg.summary import format_summary, read_summary
from datamodules.volumes.dataset_json import read_description
from datamodules.volumes.sources import check_complete, find_source
from tests.datamodules.contract import refused
from tests.datamodules.liver_volumes import write_liver_volumes
from tests.datamodules.test_refhl_builder import rows_of

MSD = {"labels": {"0": "background", "1": "liver", "2": "tumour"}, "modality": {"0": "CT"}}
NNUNET = {
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "channel_names": {"0": "CT"},
    "file_ending": ".nii.gz",
}


def tree(base: Path, images: list[str], labels: list[str], /, **description: Any) -> Path:
    """Empty files of these names, with a dataset.json."""
    for folder, names in (("imagesTr", images), ("labelsTr", labels)):
        (base / folder).mkdir(parents=True)
        for name in names:
            (base / folder / name).touch()
    if description:
        (base / "dataset.json").write_text(json.dumps(description))
    return base


def cases(source: Path, **settings: Any) -> dict[str, tuple[str, str, int | None]]:
    found = find_source(source, ("msd",), **settings)
    check_complete(found)
    return {case.name: (case.image.name, case.labels.name, case.channel) for case in found.cases}


# --- dataset.json


@pytest.mark.parametrize("content", [MSD, NNUNET])
def test_labels_are_read_in_either_direction(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    read = read_description(tmp_path)
    assert read.regions == {"liver": (1,), "tumour": (2,)}
    assert read.names == {1: "liver", 2: "tumour"}
    assert read.channels == {0: "CT"}


def test_nested_regions_and_what_is_to_be_ignored(tmp_path: Path) -> None:
    labels = {"background": 0, "whole organ": [1, 2], "tumour": 2, "ignore": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    read = read_description(tmp_path)
    assert read.regions == {"whole organ": (1, 2), "tumour": (2,)}
    assert read.names == {1: "whole organ", 2: "tumour"}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"labels": ["liver"]}',
        '{"labels": {"liver": "one"}}',
        '{"labels": {"1": "a", "2": "a"}}',
    ],
)
def test_a_description_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with refused(tmp_path / "dataset.json", "background"):
        read_description(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_description_is_read_as_editors_save_it(tmp_path: Path, encoding: str) -> None:
    content = {**NNUNET, "labels": {"background": 0, "Läsion": 1}}
    text = json.dumps(content, ensure_ascii=False)
    (tmp_path / "dataset.json").write_text(text, encoding=encoding)
    assert read_description(tmp_path).regions == {"Läsion": (1,)}


def test_volumes_of_another_format_are_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({**NNUNET, "file_ending": ".nrrd"}))
    with refused("dataset.json", ".nrrd", ".nii.gz"):
        read_description(tmp_path)


# --- files


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("folder", ["Dataset003_Liver", "Task03_Liver", "."])
def test_the_channels_number_is_cut_off_the_name(tmp_path: Path, ending: str, folder: str) -> None:
    names = [f"liver_{k:03d}" for k in range(3)]
    tree(
        tmp_path / folder,
        [f"{name}_0000{ending}" for name in names] + [f"._{names[0]}_0000{ending}"],
        [name + ending for name in names],
        **NNUNET,
    )
    assert cases(tmp_path) == {
        name: (f"{name}_0000{ending}", name + ending, None) for name in names
    }


def test_four_digits_that_belong_to_the_name_stay(tmp_path: Path) -> None:
    tree(tmp_path, ["scan_0001.nii", "scan_0002.nii"], ["scan_0001.nii", "scan_0002.nii"])
    assert list(cases(tmp_path)) == ["scan_0001", "scan_0002"]


@pytest.mark.parametrize("channel", [1, "1", "0001", "t2W"])
def test_one_of_several_files_is_chosen_by_number_or_name(tmp_path: Path, channel: Any) -> None:
    names = {"channel_names": {"0": "FLAIR", "1": "T2w"}, "labels": NNUNET["labels"]}
    images = [f"b{k}_{c:04d}.nii.gz" for k in (1, 2) for c in (0, 1)]
    tree(tmp_path, images, ["b1.nii.gz", "b2.nii.gz"], **names)
    wanted = {f"b{k}": (f"b{k}_0001.nii.gz", f"b{k}.nii.gz", None) for k in (1, 2)}
    assert cases(tmp_path, channel=channel) == wanted
    for wrong in (None, 2, "T1"):
        with refused("0 (FLAIR), 1 (T2w)", "" if wrong is None else wrong):
            cases(tmp_path, channel=wrong)


def test_a_channel_in_the_files_fourth_axis_is_passed_on(tmp_path: Path) -> None:
    modality = {"modality": {"0": "FLAIR", "1": "T1w"}, "labels": MSD["labels"]}
    tree(tmp_path, ["BRATS_001.nii.gz"], ["BRATS_001.nii.gz"], **modality)
    name = "BRATS_001.nii.gz"
    assert cases(tmp_path, channel="T1w") == {"BRATS_001": (name, name, 1)}
    with refused("1 (T1w)"):
        cases(tmp_path)


def test_what_is_not_used_is_named_with_its_reason(tmp_path: Path) -> None:
    images = ["a_0000.nii", "a_0001.nii", "b_0000.nii", "c_0000.nii", "d_0001.nii", "e.mha"]
    tree(tmp_path, images, ["a.nii", "b.nii", "d.nii", "z.nii"], **NNUNET)
    (tmp_path / "imagesTs").mkdir()
    (tmp_path / "imagesTs/t_0000.nii").touch()
    found = find_source(tmp_path, ("msd",), channel=0)
    assert [case.name for case in found.cases] == ["a", "b"]
    reasons = {path.name: reason for path, reason in found.left_out}
    assert reasons == {
        "e.mha": "not a .nii or .nii.gz file",
        "t_0000.nii": "imagesTs is not read",
        "d_0001.nii": "no channel 0",
        "c_0000.nii": "volumes without labels",
        "d.nii": "labels without a volume",
        "z.nii": "labels without a volume",
    }
    with refused("1 volumes without labels", "c_0000.nii"):
        check_complete(found)


def test_several_datasets_below_a_folder_are_not_guessed_between(tmp_path: Path) -> None:
    for name in ("Task03_Liver", "Dataset003_Liver"):
        tree(tmp_path / name, ["a.nii"], ["a.nii"])
    with refused("Task03_Liver", "Dataset003_Liver"):
        cases(tmp_path)


def test_a_case_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, ["a_0000.nii", "a_0000.nii.gz"], ["a.nii"])
    with refused("a_0000.nii", "a_0000.nii.gz"):
        cases(tmp_path)


def test_images_and_labels_of_ones_own_and_totalsegmentators_cases(tmp_path: Path) -> None:
    own, cases_of = tmp_path / "own", tmp_path / "total"
    for name in ("images/p1.nii.gz", "images/p2/1.dcm", "labels/p1.nii", "labels/p2/liver.nii"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).touch()
    found = find_source(own, ("msd", "lits", "folders", "cases"))
    assert [case.name for case in found.cases] == ["p1", "p2"]
    assert found.cases[1].labels.is_dir()
    for name in ("s1/ct.nii.gz", "s1/segmentations/liver.nii.gz", "s2/segmentations/liver.nii.gz"):
        (cases_of / name).parent.mkdir(parents=True, exist_ok=True)
        (cases_of / name).touch()
    found = find_source(cases_of, ("msd", "lits", "folders", "cases"))
    assert [(case.name, case.image.name) for case in found.cases] == [("s1", "ct.nii.gz")]
    assert [reason for _, reason in found.left_out] == ["labels without a volume"]
    with refused("channel='CT'"):
        find_source(own, ("folders",), channel="CT")
    with refused("imagesTr", "segmentations"):
        find_source(tmp_path, ("msd", "cases"))


# --- files that no layout takes


def touched(base: Path, names: str) -> Path:
    """Empty files of these names below a folder."""
    for name in names.split():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).touch()
    return base


@pytest.mark.parametrize(
    ("files", "taken", "left_out"),
    [
        (
            "volume-1.nii segmentation-1.nii b/VOLUME-2.NII b/segmentation-2.nii.gz volume_4.nii "
            "b/volume-5a.nii other.nii.gz ._volume-6.nii notes.txt",
            ["volume-1", "volume-2"],
            ["b/volume-5a.nii", "other.nii.gz", "volume_4.nii"],
        ),
        (
            "s1/ct.nii.gz s1/segmentations/liver.nii.gz s1/pet.nii.gz s2/ct.nii.gz s3/scan/1.dcm "
            "s4/meta.csv stray.nii.gz",
            ["s1"],
            ["s1/pet.nii.gz", "s2", "s3", "stray.nii.gz"],
        ),
        ("ct.nii segmentations/a.nii segmentations/b.nii mr2.nii", ["{}"], ["mr2.nii"]),
        (
            "images/a.nii labels/a.nii imagesVal/b.nii c.nii.gz",
            ["a"],
            ["c.nii.gz", "imagesVal/b.nii"],
        ),
        (
            "Task03/imagesTr/a.nii Task03/labelsTr/a.nii Task03/b.nii Task05/imagesTr/c.nii",
            ["a"],
            ["Task03/b.nii", "Task05/imagesTr/c.nii"],
        ),
    ],
)
def test_every_volume_that_is_not_taken_is_named(
    tmp_path: Path, files: str, taken: list[str], left_out: list[str]
) -> None:
    found = find_source(touched(tmp_path, files), ("msd", "lits", "folders", "cases"))
    assert [case.name for case in found.cases] == [name.format(tmp_path.name) for name in taken]
    assert sorted(str(path.relative_to(tmp_path)) for path, _ in found.left_out) == left_out
    assert all(reason for _, reason in found.left_out)


def test_cases_of_dataset_json_that_are_not_there_are_named(tmp_path: Path) -> None:
    touched(tmp_path, "imagesTr/s_1.nii.gz labelsTr/s_1.nii.gz imagesTr/s_2.nii labelsTr/s_2.nii")
    entries = [
        {"image": f"./imagesTr/s_{n}.nii.gz", "label": f"./labelsTr/s_{n}.nii.gz"}
        for n in (1, 2, 3)
    ]
    listed: dict[str, Any] = {"labels": {"0": "background", "1": "liver"}, "training": entries}
    description = tmp_path / "dataset.json"
    description.write_text(json.dumps({**listed, "numTraining": 3}))
    found = find_source(tmp_path, ("msd",))
    assert [case.name for case in found.cases] == ["s_1", "s_2"]
    assert [(path.name, reason) for path, reason in found.left_out] == [
        ("s_3.nii.gz", "listed in dataset.json and not there")
    ]
    description.write_text(json.dumps({"labels": {"background": 0, "liver": 1}, "numTraining": 5}))
    [(path, reason)] = find_source(tmp_path, ("msd",)).left_out
    assert path == description
    assert "numTraining: 5" in reason
    assert "2 labels" in reason
    for odd in ({"training": 4}, {"training": [3, {}]}, {"numTraining": "many"}):
        description.write_text(json.dumps({"labels": {"background": 0, "liver": 1}, **odd}))
        assert find_source(tmp_path, ("msd",)).left_out == []


def test_an_empty_folder_of_a_case_is_named(tmp_path: Path) -> None:
    touched(tmp_path, "s1/ct.nii.gz s1/segmentations/liver.nii.gz")
    (tmp_path / "s2").mkdir()
    assert [path.name for path, _ in find_source(tmp_path, ("cases",)).left_out] == ["s2"]


def test_linked_folders_of_volumes_are_read(tmp_path: Path) -> None:
    touched(tmp_path / "disk", "volume-1.nii segmentation-1.nii")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/batch").symlink_to(tmp_path / "disk")
    assert [case.name for case in find_source(tmp_path / "source", ("lits",)).cases] == ["volume-1"]


# --- the builder of a referring set


def test_a_referring_set_names_the_volumes_that_it_does_not_take(tmp_path: Path) -> None:
    source = tmp_path / "lits"
    write_liver_volumes(source, cases=3, layout="lits", image_size=64, slices=6)
    built = build_refhl(source, tmp_path / "built")
    assert read_summary(built)["left_out"] == []
    touched(source, "volume_4.nii other.nii.gz")
    summary = read_summary(build_refhl(source, tmp_path / "built"))  # built anew
    assert [Path(e["what"]).name for e in summary["left_out"]] == ["other.nii.gz", "volume_4.nii"]
    assert "volume_4.nii" in format_summary(summary)


def test_a_referring_set_is_the_same_from_nnunets_form(tmp_path: Path) -> None:
    msd = tmp_path / "msd/Task03_Liver"
    write_liver_volumes(msd, cases=3, layout="msd", image_size=64, slices=6)
    nnunet = tmp_path / "nnunet/Dataset003_Liver"
    nnunet.mkdir(parents=True)
    for part, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        (nnunet / part).mkdir()
        for path in (msd / part).glob("liver_*"):
            name = path.name.replace(".nii.gz", f"{suffix}.nii.gz")
            (nnunet / part / name).write_bytes(path.read_bytes())
    (nnunet / "dataset.json").write_text(json.dumps(NNUNET))
    built = [build_refhl(source.parent, source.parent / "built") for source in (msd, nnunet)]
    assert rows_of(built[0]) == rows_of(built[1])
    with refused("channel='MR'", "0 (CT)"):
        build_refhl(nnunet, tmp_path / "other", channel="MR")
