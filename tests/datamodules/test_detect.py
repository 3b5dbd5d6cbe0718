from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules import (
    DukeBreastMRIDataModule,
    ManifestDataModule,
    MedCLIPSegDataModule,
    MosMedDataModule,
    QaTaCov19DataModule,
    TextSegDataModule,
)
from datamodules.commands import detect_dataset
from datamodules.duke_breast_mri.phantoms import write_duke_mamamia
from datamodules.medclipseg.phantoms import write_medclipseg
from datamodules.mosmed.phantoms import write_mosmed
from datamodules.qata_cov19.phantoms import write_qata
from datamodules.refhl_seg.phantoms import write_refhl
from tests.datamodules import trees
from tests.datamodules.contract import refused
from tests.datamodules.duke_files import Patient, write_tcia

Writer = Callable[[Path], object]

TREES: dict[str, tuple[Writer, type[TextSegDataModule]]] = {
    **{
        f"qata: {write.__name__}": (write, QaTaCov19DataModule)
        for write in (
            *(trees.kaggle, trees.kaggle_workbooks, trees.raw_workbooks, trees.lvit, trees.sgseg),
            *(trees.languide, trees.languide_lower, trees.prepared, trees.prepared_nested),
        )
    },
    **{
        write.__name__: (write, MosMedDataModule)
        for write in (
            *(trees.mosmed_kaggle, trees.mosmed_workbooks, trees.mosmed_lvit),
            *(trees.mosmed_reclmis, trees.mosmed_mmiunet, trees.mosmed_prepared),
        )
    },
    "qata phantoms": (
        lambda root: write_qata(root / "data", train=4, test=1, image_size=32),
        QaTaCov19DataModule,
    ),
    "mosmed phantoms": (
        lambda root: write_mosmed(root / "data", train=4, val=1, test=1, image_size=48),
        MosMedDataModule,
    ),
    "medclipseg phantoms": (
        lambda root: write_medclipseg(root / "data", train=2, val=1, test=1, image_size=32),
        MedCLIPSegDataModule,
    ),
    "refhl phantoms": (
        lambda root: write_refhl(root / "data", train=1, val=1, test=1, image_size=32),
        ManifestDataModule,
    ),
    "mamamia phantoms": (
        lambda root: write_duke_mamamia(root / "data", cases=1, image_size=32, slices=8),
        DukeBreastMRIDataModule,
    ),
    "tcia": (lambda root: write_tcia(root, [Patient(1)]), DukeBreastMRIDataModule),
}


@pytest.mark.parametrize("name", TREES)
def test_every_tree_is_recognized_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    write, expected = TREES[name]
    write(tmp_path)
    root = tmp_path / "data" if "phantoms" in name else tmp_path
    before = sorted(tmp_path.rglob("*"))
    assert detect_dataset(root) is expected
    assert sorted(tmp_path.rglob("*")) == before


def test_trees_that_both_read_are_told_apart_by_their_files(tmp_path: Path) -> None:
    """The same folders for both; only names differ."""
    for name, stem, expected in (
        ("a", "covid_1", QaTaCov19DataModule),
        ("b", "sub-S00001_ses-E00001_run-1_bp-chest_vp-ap_dx", QaTaCov19DataModule),
        ("c", "bjorke_7", MosMedDataModule),
        ("d", "Jun_coronacases_case1_99", MosMedDataModule),
        ("e", "Morozov_study_0255_11", MosMedDataModule),
    ):
        folder = tmp_path / name / "Train_Folder"
        trees.write_pair(folder / f"img/{stem}.png", folder / f"labelcol/mask_{stem}.png")
        assert detect_dataset(tmp_path / name) is expected


@pytest.mark.parametrize("stems", [["patient_1"], ["covid_1", "bjorke_1"]])
def test_names_of_neither_or_of_both_are_refused(tmp_path: Path, stems: list[str]) -> None:
    for stem in stems:
        trees.write_pair(
            tmp_path / f"train/images/{stem}.png", tmp_path / f"train/masks/{stem}.png"
        )
    fitting = ("QaTaCov19DataModule", "MosMedDataModule") if len(stems) == 2 else ("covid_1",)
    known = ("qata", "mosmed", "duke", "refhl", "medclipseg", "manifest")
    with refused(str(tmp_path), *fitting, *known):
        detect_dataset(tmp_path)


def test_two_datasets_below_one_root_are_refused(tmp_path: Path) -> None:
    trees.lvit(tmp_path)
    trees.mosmed_lvit(tmp_path)
    with refused("MosMedDataModule", "QaTaCov19DataModule"):
        detect_dataset(tmp_path)


def test_images_and_segmentations_of_others_are_not_taken_for_duke(tmp_path: Path) -> None:
    trees.write_pair(tmp_path / "images/a.png", tmp_path / "segmentations/a.png")
    with refused(str(tmp_path)):
        detect_dataset(tmp_path)


def test_an_empty_folder_is_told_what_was_looked_for(tmp_path: Path) -> None:
    with refused(
        "manifest.jsonl", "Breast_MRI_001", "covid_1", "bjorke_", "Prompts_Folder", "anns"
    ):
        detect_dataset(tmp_path)


@pytest.mark.parametrize("file", ["images/a.nii.gz", "p1/ST1/IM0001"])
def test_a_folder_of_volumes_is_told_how_to_make_a_set_of_it(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_bytes(bytes(128) + b"DICM")
    with refused(str(tmp_path), Path(file).name, "textseg data slice"):
        detect_dataset(tmp_path)
    with refused("manifest.csv", Path(file).name, "textseg data slice"):
        ManifestDataModule(str(tmp_path)).setup("fit")


def test_mosmeddatas_volumes_are_told_from_mosmeddata_plus(tmp_path: Path) -> None:
    (tmp_path / "CT-0").mkdir()
    with refused("CT-0", "1110", "MosMedData+"):
        detect_dataset(tmp_path)
