from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch

from datamodules.refhl_seg.datamodule import RefHLSegDataModule
from tests.datamodules.contract import DataModuleContract, refused
from tests.datamodules.trees import write_pair

SPLIT_OF = {"case1": "train", "case2": "train", "case3": "val", "case4": "test"}
PLACES = ("upper left", "lower right")

Entry = dict[str, Any]


def entries(folder: Path) -> list[Entry]:
    """Two slices a case and two lesions a slice; images of all cases have the same names."""
    rows: list[Entry] = []
    for seed, (case, split) in enumerate(SPLIT_OF.items()):
        for slice_ in (1, 2):
            for lesion, where in enumerate(PLACES):
                image = f"images/{case}/slice{slice_}.png"
                mask = f"masks/{case}/slice{slice_}_{lesion}.png"
                write_pair(folder / image, folder / mask, seed=10 * seed + 2 * slice_ + lesion)
                text = f"the lesion in the {where} of {case}, slice {slice_}"
                rows.append(
                    {"image": image, "mask": mask, "text": text, "case_id": case, "split": split}
                )
    return rows


def write(folder: Path, rows: list[Entry], name: str = "manifest.jsonl") -> Path:
    file = folder / name
    if name.endswith(".xlsx"):
        pd.DataFrame(rows).to_excel(file, index=False)
    elif name.endswith(".csv"):
        with file.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def make(folder: Path, captions: Path | None = None, **settings: Any) -> RefHLSegDataModule:
    defaults = {"image_size": 64, "batch_size": 4, "num_workers": 0}
    return RefHLSegDataModule(
        str(folder), None if captions is None else str(captions), **{**defaults, **settings}
    )


class TestContract(DataModuleContract):
    choices: ClassVar = {"split": ("manifest",)}
    phantom_rows = (8, 1, 2)

    def make(self, folder: Path, **settings: Any) -> RefHLSegDataModule:
        if not (folder / "manifest.jsonl").exists():
            write(folder, entries(folder))
        return make(folder, **settings)


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest.csv", "manifest.xlsx", "other.csv"])
def test_all_forms_of_the_manifest_read_alike(tmp_path: Path, name: str) -> None:
    rows = entries(tmp_path)
    file = write(tmp_path, rows, name)
    datamodule = make(tmp_path, file if name == "other.csv" else None)
    datamodule.setup()
    assert [len(datamodule.records(split)) for split in ("train", "val", "test")] == [8, 4, 4]
    for split in ("train", "val", "test"):
        for record in datamodule.records(split):
            row = rows[record.row]
            assert (record.image, record.mask) == (tmp_path / row["image"], tmp_path / row["mask"])
            assert (record.text, record.case_id) == (row["text"], row["case_id"])
            assert record.case == f"{record.image.stem}__{record.row}"


def test_expressions_of_one_image_share_its_id_and_not_their_case(tmp_path: Path) -> None:
    write(tmp_path, entries(tmp_path))
    batch = next(iter(make(tmp_path).test_dataloader()))
    assert batch["image_id"][0] == batch["image_id"][1] != batch["image_id"][2]
    assert batch["case"][0] != batch["case"][1]
    assert not torch.equal(batch["mask"][0], batch["mask"][1])


def test_images_of_one_name_in_two_folders_have_two_ids(tmp_path: Path) -> None:
    write(tmp_path, entries(tmp_path))
    dataset = make(tmp_path, augmentation="none").train_dataloader().dataset
    assert dataset.records[0].image.name == dataset.records[4].image.name  # type: ignore[attr-defined]
    assert dataset[0]["image_id"] != dataset[4]["image_id"]


def test_image_ids_do_not_depend_on_how_root_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, entries(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    absolute = next(iter(make(tmp_path).test_dataloader()))["image_id"]
    for root in ("..", "../../" + tmp_path.name, "../here/.."):
        relative = next(iter(make(Path(root)).test_dataloader()))["image_id"]
        assert torch.equal(absolute, relative)
        assert len(set(relative.tolist())) == 2


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("0.8 0.7", (0.8, 0.7)),
        ([0.8, 0.7], (0.8, 0.7)),
        (0.5, (0.5, 0.5)),
        ("[0.8, 0.7]", (0.8, 0.7)),
    ],
)
def test_spacing_may_be_text_a_list_or_one_number(
    tmp_path: Path, written: Any, read: tuple[float, float]
) -> None:
    rows = [
        {**row, "spacing": written, "lesion_id": 3, "attributes": {}} for row in entries(tmp_path)
    ]
    write(tmp_path, rows)
    batch = next(iter(make(tmp_path).test_dataloader()))
    torch.testing.assert_close(batch["spacing"][0], torch.tensor(read))


def test_unknown_spacing_is_nan(tmp_path: Path) -> None:
    write(tmp_path, entries(tmp_path))
    assert all(math.isnan(x) for x in next(iter(make(tmp_path).test_dataloader()))["spacing"][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, ["manifest.jsonl, entry 1", "split='dev'"]),
        ({"text": " "}, ["entry 1", "'text'"]),
        ({"case_id": ""}, ["entry 1", "'case_id'"]),
        ({"spacing": "wide"}, ["entry 1", "spacing='wide'"]),
        ({"spacing": -1}, ["entry 1", "spacing=-1"]),
        ({"label": 1}, ["label"]),
        ({"image": "../elsewhere.png"}, ["entry 1", "'../elsewhere.png'", "root="]),
        ({"mask": "/etc/passwd"}, ["entry 1", "'/etc/passwd'", "root="]),
        ({"mask": "masks/../../x.png"}, ["entry 1", "masks/../../x.png", "root="]),
        ({"case_id": "case4"}, ["1 case_ids", "case4 (test, train)"]),
        ({"image": "images/none.png"}, ["1 captions", "images/none"]),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: Entry, message: list[str]) -> None:
    rows = entries(tmp_path)
    rows[0] |= change
    write(tmp_path, rows)
    with refused(*message):
        make(tmp_path).setup("fit")


def test_an_entry_that_leads_out_and_back_or_through_a_link_is_accepted(tmp_path: Path) -> None:
    rows = entries(tmp_path / "disk")
    root = tmp_path / "root"
    root.mkdir()
    (root / "images").symlink_to(tmp_path / "disk/images")
    (root / "masks").symlink_to(tmp_path / "disk/masks")
    rows[0]["image"] = f"../root/{rows[0]['image']}"
    rows[1]["image"] = str(root / rows[1]["image"])
    write(root, rows)
    make(root).setup()


def test_a_missing_column_or_manifest_is_named(tmp_path: Path) -> None:
    with refused("manifest.jsonl", "manifest.csv", "manifest.xlsx"):
        make(tmp_path).setup("fit")
    rows = [{k: v for k, v in row.items() if k != "case_id"} for row in entries(tmp_path)]
    write(tmp_path, rows, "manifest.csv")
    with refused("manifest.csv", "case_id"):
        make(tmp_path).setup("fit")
    with refused("none.csv"):
        make(tmp_path, tmp_path / "none.csv").setup("fit")


@pytest.mark.parametrize(
    ("text", "problem"), [("left \ud800 lesion", "surrogate"), ("left " * 30_000, "150000")]
)
def test_a_caption_that_cannot_be_written_down_is_refused(
    tmp_path: Path, text: str, problem: str
) -> None:
    rows = entries(tmp_path)
    rows[3]["text"] = text
    write(tmp_path, rows)
    with refused(problem, "case1/slice2.png"):
        make(tmp_path).setup("fit")
