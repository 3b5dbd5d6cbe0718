"""MedCLIPSeg's real files: BUSI whole, and the tables of other datasets without their images."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules import ManifestDataModule, QaTaCov19DataModule
from datamodules.audit import audit
from datamodules.files.manifest import write_manifest
from tests.datamodules.busi_files import ROWS, make
from tests.models.tiny import tiny
from textseg.metrics.scores import dice


def sheet(file: Path) -> pd.DataFrame:
    return pd.read_excel(file, dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def busi(real_data: Path) -> Path:
    return real_data / "busi_medclipseg/BUSI"


@pytest.mark.real_data
def test_real_busi_is_read_as_its_workbooks_and_folders_are(busi: Path) -> None:
    datamodule = make(busi)
    datamodule.setup()
    empty = Counter[str]()
    for split, count in {"train": 624, "val": 78, "test": 78}.items():
        stem = "Test_text_original" if split == "test" else f"{split.title()}_text"
        table = sheet(busi / f"Prompts_Folder/{stem}.xlsx")
        records = datamodule.records(split)
        assert len(records) == count
        assert [r.image.name for r in records] == list(table["Image"])
        assert [r.mask.name for r in records if r.mask] == list(table["Ground Truth"])
        assert [f"{r.text}\n" for r in records] == list(table["Description"])
        for record in records:
            assert record.mask is not None
            with Image.open(record.mask) as mask:
                nothing = not (np.asarray(mask) > 127).any()
            assert nothing == record.text.startswith("No tumor")
            empty[split] += nothing
    assert empty.total() == 133
    assert empty["test"] == 13


@pytest.mark.real_data
@pytest.mark.parametrize(("percent", "rows"), [(10, (62, 7)), (25, (156, 19)), (50, (312, 39))])
def test_real_lists_have_their_rows(busi: Path, percent: Any, rows: tuple[int, int]) -> None:
    datamodule = make(busi, percent=percent)
    records = datamodule.read_records(busi)
    assert [len(records[split]) for split in ("train", "val", "test")] == [*rows, 78]
    assert datamodule.all_images(busi) == []


@pytest.mark.real_data
def test_real_altered_captions_belong_to_their_pictures(busi: Path) -> None:
    datamodule = make(busi)
    altered = datamodule.altered_captions()
    for change in ("contradictory", "missing_location", "overdescriptive", "underdescriptive"):
        table = sheet(busi / f"Prompts_Folder/Test_text_{change}.xlsx")
        texts = dict(zip(table["Image"], table["Description"], strict=True))
        assert altered[change] == {
            r.case: texts[r.image.name].strip() for r in datamodule.records("test")
        }
    assert len(altered) == 4


@pytest.mark.slow
@pytest.mark.real_data
def test_an_audit_of_real_busi_finds_the_picture_under_two_names(busi: Path) -> None:
    result = audit(make(busi))
    copies = [f for f in result.findings if f.kind.startswith("duplicate image")]
    twins = {"Train_Folder/img/145_malignant.png", "Train_Folder/img/433_benign.png"}
    assert any({f.where, f.detail.split()[4]} == twins for f in copies)
    assert result.exit_status == 0
    assert result.facts["rows"] == {"train": 624, "val": 78, "test": 78}
    assert result.facts["lists of some of the rows"] == "10 %, 25 %, 50 %"
    assert result.facts["share of test captions that occur in train"] == pytest.approx(
        0.78, abs=0.01
    )


def write_busi_manifest(folder: Path, busi: Path) -> ManifestDataModule:
    """The same rows, from the workbooks by pandas, with paths below the folder above BUSI."""
    rows = []
    for split in ROWS:
        stem = "Test_text_original" if split == "test" else f"{split.title()}_text"
        home = f"BUSI/{split.title()}_Folder"
        for image, text, mask in sheet(busi / f"Prompts_Folder/{stem}.xlsx").itertuples(
            index=False
        ):
            row = {"image": f"{home}/img/{image}", "mask": f"{home}/label/{mask}"}
            rows.append({**row, "text": text.strip(), "case_id": "", "split": split})
    file = write_manifest(folder, rows)
    settings = {"image_size": 32, "batch_size": 26, "num_workers": 0, "cache": None}
    return ManifestDataModule(str(busi.parent), str(file), **settings)


@pytest.mark.slow
@pytest.mark.real_data
def test_busi_and_a_manifest_of_it_have_the_same_rows_and_the_same_scores(
    busi: Path, tmp_path: Path
) -> None:
    manifest, published = (
        write_busi_manifest(tmp_path, busi),
        make(busi, batch_size=26, image_size=32),
    )
    scores = []
    for datamodule in (manifest, published):
        network = tiny("TMCA", datamodule.captions("train"), max_tokens=32)
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
        )
        trainer.test(network, datamodule, verbose=False)
        scores.append(network.test_cases.compute())
    for split in ROWS:
        rows = [
            [(r.image, r.mask, r.text, r.case_id) for r in datamodule.records(split)]
            for datamodule in (manifest, published)
        ]
        assert rows[0] == rows[1]
        assert len(rows[0]) in (624, 78)
    by_manifest, by_reader = (dice(rows) for rows in scores)
    assert len(set(by_reader.tolist())) > 10, "a network that says one thing shows nothing"
    assert np.array_equal(by_manifest, by_reader)
    nothing = scores[0].true == 0
    told = [r.text.startswith("No tumor") for r in published.records("test")]
    assert nothing.tolist() == told, "cases with and without a lesion stand apart"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "rows", "shares", "changes"),
    [
        ("BTMRI", (2738, 1321, 1005), [10, 25, 50], 4),
        ("ClinicDB", (490, 61, 61), [], 4),
        ("Covid19", (5716, 1429, 2113), [10, 25, 50], 0),
    ],
)
def test_real_tables_without_images_give_their_rows(
    real_data: Path,
    tmp_path: Path,
    name: str,
    rows: tuple[int, ...],
    shares: list[int],
    changes: int,
) -> None:
    for split in ROWS:
        for kind in ("img", "label"):
            (tmp_path / f"{split.title()}_Folder/{kind}").mkdir(parents=True)
    captions = real_data / f"medclipseg_text/{name}/Prompts_Folder"
    datamodule = make(tmp_path, captions)
    records = datamodule.read_records(tmp_path)
    assert tuple(len(records[split]) for split in ROWS) == rows
    assert {len(r.altered) for r in records["test"]} == {changes}
    for percent in shares[:1]:
        part = make(tmp_path, captions, percent=percent).read_records(tmp_path)["train"]
        assert len(part) == rows[0] * percent // 100
        assert {r.image for r in part} <= {r.image for r in records["train"]}
    if name == "Covid19":
        with (real_data / "qata_text/official_split.csv").open(newline="") as lines:
            listed = Counter((row["image"], row["split"]) for row in csv.DictReader(lines))
        stems = [(r.image.name, split) for split in ("train", "val") for r in records[split]]
        assert Counter((n.removeprefix("mask_"), split) for n, split in stems) == listed


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:left out")
def test_the_official_qata_split_follows_a_list_of_two_columns(real_data: Path) -> None:
    root, captions = real_data / "qata_images_sample", real_data / "qata_text"
    datamodule = QaTaCov19DataModule(str(root), str(captions), split="official", on_missing="skip")
    records = datamodule.read_records(root)
    with (captions / "official_split.csv").open(newline="") as lines:
        listed = {row["image"]: row["split"] for row in csv.DictReader(lines)}
    found = {r.image.name: split for split in ("train", "val") for r in records[split]}
    assert found == listed
    assert [len(records[split]) for split in ROWS] == [5716, 1429, 2113]
