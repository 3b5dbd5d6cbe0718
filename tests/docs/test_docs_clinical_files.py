"""docs/clinical_files.md: its commands run on phantoms, one after the other."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest

from datamodules.files.dicom_seg import COPIED
from datamodules.volumes.windows import NAMED
from tests.datamodules.scan_files import scan_values, write_nifti, write_series
from tests.datamodules.test_slice_volumes import labels
from tests.docs.page import read_page
from tests.tiny_run import SMALL, Outcome, call, only, write_experiment

PAGE = read_page("clinical_files.md")
CASES = 4


@dataclass(frozen=True)
class Followed:
    """What following the page left."""

    home: Path
    outcomes: dict[str, Outcome]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    home = tmp_path_factory.mktemp("home")
    for k in range(1, CASES):
        write_nifti(home / f"volumes/images/p{k:03d}.nii.gz", scan_values(k), "LPS")
    write_series(home / f"volumes/images/p{CASES:03d}", scan_values(CASES))
    for k in range(1, CASES + 1):
        write_nifti(home / f"volumes/labels/p{k:03d}.nii.gz", labels())
    (captions,) = (text for _, language, text in PAGE.blocks if language == "csv")
    (home / "captions.csv").write_text(captions)
    settings = {"image_size": 32, "cache": None, "num_workers": 0, "batch_size": 8}
    data = {"class_path": "ManifestDataModule", "init_args": settings}
    write_experiment(home, "my_data", model=SMALL, data=data)
    outcomes = {
        name: call(*PAGE.command(name), cwd=home)
        for name in ("slice", "slice with captions", "fit")
    }
    assert outcomes["fit"].status == 0, outcomes["fit"].err
    run = only(home / "runs/my_data").relative_to(home)
    outcomes["segment"] = call(*PAGE.command("segment", {"RUN": run}), cwd=home)
    outcomes["dicom-seg"] = call(*PAGE.command("dicom-seg", {"RUN": run}), cwd=home)
    return Followed(home, outcomes)


def test_every_command_of_the_page_is_tested(followed: Followed) -> None:
    assert PAGE.named("bash") == list(followed.outcomes)
    failed = {name: done.err for name, done in followed.outcomes.items() if done.status != 0}
    failed.pop("dicom-seg", None)  # where highdicom is not installed
    assert failed == {}


def test_the_set_has_the_captions_that_the_page_gives(followed: Followed) -> None:
    def texts(name: str) -> set[str]:
        lines = (followed.home / name / "manifest.jsonl").read_text().splitlines()
        return {json.loads(line)["text"] for line in lines}

    assert texts("sliced") == {"the left block in CT", "the right block in CT"}
    assert texts("sliced_with_captions") == {
        "a bright block on the left",
        "the block on the right",
    }
    assert "no caption in the table" in followed.outcomes["slice with captions"].out


def test_a_volume_is_segmented_under_the_window_of_its_training(followed: Followed) -> None:
    assert "center 40, width 400" in followed.outcomes["segment"].out
    out = followed.home / "segmented"
    source = nibabel.load(followed.home / "volumes/images/p001.nii.gz")
    result = nibabel.load(out / "volumes/p001.nii.gz")
    assert result.shape == source.shape
    np.testing.assert_array_equal(result.affine, source.affine)
    assert len(list((out / "overlays").iterdir())) == 4
    with (out / "found.csv").open() as lines:
        columns = csv.DictReader(lines).fieldnames
    assert columns is not None
    assert ", ".join(columns) in PAGE.text


def test_a_dicom_seg_is_written_where_highdicom_is_there_and_asked_for_where_it_is_not(
    followed: Followed,
) -> None:
    done = followed.outcomes["dicom-seg"]
    try:
        import highdicom  # noqa: F401
    except ImportError:
        assert done.status == 2
        assert "textseg[dicom-seg]" in done.message()[1]
    else:
        assert done.status == 0, done.err
        assert (followed.home / "segmented_2/volumes/p004.dcm").is_file()
        assert all(name in done.out for name in COPIED)


def test_the_page_lists_what_is_copied_and_every_named_window() -> None:
    words = " ".join(PAGE.text.split())
    assert ", ".join(COPIED) in words
    for name, (center, width) in NAMED.items():
        assert f"`{name}` ({center:g}, {width:g})" in words
