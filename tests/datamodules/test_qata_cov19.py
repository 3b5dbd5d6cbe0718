from __future__ import annotations

import csv
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

import datamodules
from datamodules.base.rows import _generator_digest
from datamodules.captions.modes import key
from datamodules.qata_cov19.datamodule import QaTaCov19DataModule, subject
from tests.datamodules import trees
from tests.datamodules.contract import DataModuleContract, refused
from tests.datamodules.trees import TEST, TRAIN, rows_of, text_of, write_pair, write_table

LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "kaggle": (trees.kaggle, "kaggle"),
    "kaggle, workbooks inside": (trees.kaggle_workbooks, "kaggle"),
    "kaggle, workbooks beside": (trees.raw_workbooks, "kaggle"),
    "lvit": (trees.lvit, "lvit"),
    "lvit, train and val in one table": (trees.lvit_joint, "lvit"),
    "languide": (trees.languide, "languide"),
    "languide, lower case": (trees.languide_lower, "languide"),
    "sgseg": (trees.sgseg, "sgseg"),
    "prepared": (trees.prepared, "prepared"),
    "prepared, nested": (trees.prepared_nested, "prepared"),
}
FIRST80 = sorted(f"mask_{name.casefold()}.png" for name in TRAIN)[:8]


def make(root: Path, captions: Path | None = None, **settings: Any) -> QaTaCov19DataModule:
    defaults = {"image_size": 64, "batch_size": 4, "num_workers": 0}
    return QaTaCov19DataModule(
        str(root), None if captions is None else str(captions), **{**defaults, **settings}
    )


def names(datamodule: QaTaCov19DataModule, split: str) -> set[str]:
    return {record.image.stem.casefold() for record in datamodule.records(split)}


def lower(stems: list[str]) -> set[str]:
    return {stem.casefold() for stem in stems}


class TestContract(DataModuleContract):
    choices: ClassVar = {
        "split": ("first80", "official", "subject"),
        "layout": ("kaggle", "lvit", "sgseg"),
    }
    phantom_rows = (8, 2, 2)

    def make(self, folder: Path, **settings: Any) -> QaTaCov19DataModule:
        if not (folder / "train.csv").exists():
            trees.kaggle(folder)
        return make(folder, **settings)


# --- layouts


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("asked", [False, True])
def test_every_layout_gives_the_same_rows(tmp_path: Path, name: str, asked: bool) -> None:
    write, layout = LAYOUTS[name]
    datamodule = make(write(tmp_path), layout=layout if asked else "auto")
    datamodule.setup()
    assert names(datamodule, "train") == {n.removeprefix("mask_")[:-4] for n in FIRST80}
    assert names(datamodule, "train") | names(datamodule, "val") == lower(TRAIN)
    assert names(datamodule, "test") == lower(TEST)
    texts = {name.casefold(): text_of(name) for name in TRAIN + TEST}
    for split in ("train", "val", "test"):
        for record in datamodule.records(split):
            stem = record.image.stem.casefold()
            assert record.text == texts[stem]
            assert record.mask is not None
            assert record.mask.name.casefold() == f"mask_{stem}.png"


@pytest.mark.parametrize("start", ["", "QaTa-COV19", "QaTa-COV19/QaTa-COV19-v2"])
def test_root_may_start_further_in_and_version_1_is_never_taken(tmp_path: Path, start: str) -> None:
    trees.kaggle(tmp_path)
    datamodule = make(tmp_path / start, captions=tmp_path)
    assert all("QaTa-COV19-v1" not in str(r.image) for r in datamodule.records("train"))
    with refused("QaTa-COV19-v2", str(tmp_path)):
        make(tmp_path / "QaTa-COV19/QaTa-COV19-v1", captions=tmp_path).setup()


def test_captions_may_be_sgsegs_json_over_kaggles_images(tmp_path: Path) -> None:
    trees.kaggle(tmp_path / "images")
    trees.sgseg(tmp_path / "sgseg")
    datamodule = make(tmp_path / "images", tmp_path / "sgseg/prompts/annotation.json")
    datamodule.setup()
    assert names(datamodule, "train") | names(datamodule, "val") == lower(TRAIN)


def test_a_file_that_does_not_name_splits_is_refused(tmp_path: Path) -> None:
    trees.kaggle(tmp_path)
    with refused("train.csv", "split"):
        make(tmp_path, tmp_path / "train.csv").setup()


# --- splits


@pytest.mark.parametrize(
    "write",
    [
        *(trees.lvit, trees.lvit_joint, trees.kaggle_workbooks, trees.raw_workbooks),
        trees.kaggle_split_list,
    ],
)
def test_official_follows_lvits_lists(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    datamodule = make(write(tmp_path), split="official")
    datamodule.setup()
    assert names(datamodule, "val") == lower(TRAIN[::3])
    assert names(datamodule, "train") == lower(TRAIN) - lower(TRAIN[::3])
    assert names(datamodule, "test") == lower(TEST)


def test_official_without_lists_says_where_they_come_from(tmp_path: Path) -> None:
    files = ("Train_ID.xlsx", "Val_ID.xlsx", "official_split.csv")
    with refused("split=official", *files, "LViT"):
        make(trees.kaggle(tmp_path), split="official").setup()


def test_official_lists_must_cover_every_caption(tmp_path: Path) -> None:
    trees.raw_workbooks(tmp_path)
    write_table(tmp_path / "Val_ID.xlsx", [["mask_covid_1.png"]], ["Image"])
    with refused("split=official", "3 captions"):
        make(tmp_path, split="official").setup()


def test_an_official_split_list_must_cover_every_caption_and_name_known_splits(
    tmp_path: Path,
) -> None:
    file = trees.kaggle_split_list(tmp_path) / "official_split.csv"
    rows = [tuple(line.split(",")) for line in file.read_text("utf-8-sig").split()]
    write_table(file, rows[1:-6], rows[0])
    with refused("split=official", "2 captions"):
        make(tmp_path, split="official").setup()
    write_table(file, [*rows[1:3], (rows[3][0], "dev"), *rows[4:]], rows[0])
    with refused("official_split.csv, row 4", "split='dev'"):
        make(tmp_path, split="official").setup()
    write_table(file, rows[1:], ("image", "part"))
    with refused("official_split.csv", "split", "image, part"):
        make(tmp_path, split="official").setup()


def test_subject_puts_no_patient_in_two_splits(tmp_path: Path) -> None:
    datamodule = make(trees.kaggle(tmp_path), split="subject")
    patients = {
        split: {r.case_id or r.image.stem for r in datamodule.records(split)}
        for split in ("train", "val")
    }
    assert not patients["train"] & patients["val"]
    assert names(datamodule, "train") | names(datamodule, "val") == lower(TRAIN)


def test_captions_decide_membership_before_missing_images_are_left_out(tmp_path: Path) -> None:
    before = names(make(trees.kaggle(tmp_path)), "val")
    folder = tmp_path / "QaTa-COV19/QaTa-COV19-v2/Train Set/Images"
    for name in TRAIN[:5]:
        (folder / f"{name}.png").unlink()
    datamodule = make(tmp_path, on_missing="skip")
    with pytest.warns(UserWarning, match="5 captions"):
        datamodule.setup("fit")
    assert names(datamodule, "val") == before


def test_case_id_is_the_patient_where_the_name_tells(tmp_path: Path) -> None:
    assert subject("mask_sub-s12345_ses-e1_run-1_bp-chest_cr.png") == "sub-S12345"
    assert subject("covid_12.png") == ""


# --- mistakes that must end before training


def train_set(root: Path) -> Path:
    return root / "QaTa-COV19/QaTa-COV19-v2/Train Set"


def test_an_unset_or_wrong_root_is_named(tmp_path: Path) -> None:
    with refused("root", "synthesize=true"):
        QaTaCov19DataModule().setup("fit")
    with refused("root=", "nowhere"):
        make(tmp_path / "nowhere").setup("fit")


def test_no_known_layout_lists_what_was_looked_for(tmp_path: Path) -> None:
    known = ("Train Set", "Train_Folder", "images/train", "GTs", "train_subset")
    with refused(str(tmp_path), *known):
        make(tmp_path).setup("fit")


def test_missing_tables_list_what_was_looked_for(tmp_path: Path) -> None:
    trees.kaggle(tmp_path)
    (tmp_path / "test.csv").unlink()
    with refused(str(tmp_path), "test_text_for_covid19"):
        make(tmp_path).setup("fit")
    with refused("captions=", "elsewhere"):
        make(tmp_path, tmp_path / "elsewhere").setup("fit")


def test_captions_without_images_are_counted_and_named(tmp_path: Path) -> None:
    trees.kaggle(tmp_path)
    (train_set(tmp_path) / "Images/covid_10.png").unlink()
    (train_set(tmp_path) / "Ground-truths/mask_covid_3.png").unlink()
    with refused("2 captions", "Images/covid_10.png", "mask_covid_3.png"):
        make(tmp_path).setup("fit")


def test_images_without_captions_are_counted_and_named(tmp_path: Path) -> None:
    trees.kaggle(tmp_path)
    write_pair(
        train_set(tmp_path) / "Images/stray.png",
        train_set(tmp_path) / "Ground-truths/mask_stray.png",
    )
    datamodule = make(tmp_path)
    for _ in range(2):  # a second attempt does not forget
        with refused("1 images", "stray.png"):
            datamodule.setup("fit")


def test_skip_warns_once_with_both_counts(tmp_path: Path) -> None:
    trees.kaggle(tmp_path)
    (train_set(tmp_path) / "Images/covid_10.png").rename(train_set(tmp_path) / "Images/new.png")
    datamodule = make(tmp_path, on_missing="skip")
    with pytest.warns(UserWarning, match=r"on_missing=skip.*1 captions.*1 images"):
        datamodule.setup("fit")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        datamodule.setup("fit")
    assert len(datamodule.records("train")) + len(datamodule.records("val")) == len(TRAIN) - 1


def test_nothing_left_is_an_error_even_with_skip(tmp_path: Path) -> None:
    trees.kaggle(tmp_path)
    write_table(tmp_path / "train.csv", [("x.png", "a"), ("y.png", "b")])
    warned = pytest.warns(UserWarning, match="2 captions")
    with warned, refused("split=first80", "train", str(tmp_path)):
        make(tmp_path, on_missing="skip").setup("fit")


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    path = train_set(trees.kaggle(tmp_path)) / "Images/covid_10.png"
    path.write_bytes(path.read_bytes()[:200])
    with refused("1 of 8 rows", "train", "covid_10.png"):
        make(tmp_path).setup("fit")


def test_a_mask_of_another_size_names_both_files_and_sizes(tmp_path: Path) -> None:
    path = train_set(trees.kaggle(tmp_path)) / "Ground-truths/mask_covid_10.png"
    Image.new("L", (40, 32)).save(path)
    with refused("Images/covid_10.png", "48x48", "mask_covid_10.png", "32x40"):
        make(tmp_path).setup("fit")


def test_an_unknown_column_and_an_empty_caption_are_named(tmp_path: Path) -> None:
    trees.kaggle(tmp_path)
    write_table(tmp_path / "train.csv", rows_of(TRAIN), ("Image", "Words"))
    with refused("train.csv", "Image, Words", "description"):
        make(tmp_path).setup("fit")
    write_table(tmp_path / "train.csv", [*rows_of(TRAIN[:3]), ("mask_covid_25.png", "")])
    with refused("train.csv, row 5", "Description"):
        make(tmp_path).setup("fit")


@pytest.mark.parametrize("size", [100, [64, 100], 0, [64, 64, 64]])
def test_image_size_must_be_divisible_by_32(tmp_path: Path, size: Any) -> None:
    with refused("image_size"):
        make(trees.kaggle(tmp_path), image_size=size).setup("fit")


@pytest.mark.parametrize("entry", ["../secret.png", "/etc/secret.png", "C:\\secret.png"])
def test_an_entry_that_leads_out_of_root_is_refused(tmp_path: Path, entry: str) -> None:
    trees.kaggle(tmp_path)
    write_table(tmp_path / "train.csv", [*rows_of(TRAIN), (entry, "left")])
    with refused("train.csv, row 12", repr(entry)):
        make(tmp_path, on_missing="skip").setup("fit")


def test_messages_have_one_line_of_cause_and_one_of_remedy(tmp_path: Path) -> None:
    trees.kaggle(tmp_path)
    for path in (train_set(tmp_path) / "Images").iterdir():
        path.write_bytes(b"no image")
    with refused("8 of 8 rows") as error:
        make(tmp_path).setup("fit")
    cause = str(error.value).splitlines()[0]
    assert len(set(re.findall(r"covid_\d+\.png|sub-[\w-]+\.png", cause))) == 5


# --- settings


def test_normalize_captions_applies_before_caption_mode(tmp_path: Path) -> None:
    trees.kaggle(tmp_path)
    rows = [(image, text.replace("lung", " lung ")) for image, text in rows_of(TRAIN)]
    write_table(tmp_path / "train.csv", rows)
    texts = make(tmp_path, normalize_captions=True).captions("train")
    assert set(texts) <= {text_of(name) for name in TRAIN}


def test_phantoms_are_built_once_whole_and_read_like_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    datamodule = QaTaCov19DataModule("nowhere", synthesize=8, image_size=64, num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()
    assert len(datamodule.records("train")) == 8
    built = list((tmp_path / "data/phantoms").iterdir())
    stamp = built[0].stat().st_mtime_ns
    QaTaCov19DataModule(synthesize=8).prepare_data()
    assert list((tmp_path / "data/phantoms").iterdir()) == built
    assert built[0].stat().st_mtime_ns == stamp


def test_phantoms_are_written_anew_after_a_change_of_any_module_that_may_draw(
    tmp_path: Path,
) -> None:
    package = tmp_path / "datamodules"
    shutil.copytree(Path(datamodules.__file__).parent, package)
    before = _generator_digest(QaTaCov19DataModule, package)
    drawing = [*package.rglob("phantoms.py"), *package.glob("phantoms/*.py")]
    drawing += [package / "duke_breast_mri/breast.py"]
    assert len(drawing) >= 8
    for source in drawing:
        text = source.read_text("utf-8")
        source.write_text(f"{text}\n", "utf-8")
        assert _generator_digest(QaTaCov19DataModule, package) != before
        source.write_text(text, "utf-8")
    assert _generator_digest(QaTaCov19DataModule, package) == before


def test_an_interrupted_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(QaTaCov19DataModule):
        def write_phantoms(self, folder: Path, rows: int) -> None:
            (folder / "half").write_text("")
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        Interrupted(synthesize=True).prepare_data()
    assert list((tmp_path / "data/phantoms").iterdir()) == []


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 10, 33, 320])
def test_synthesize_counts_training_images(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = []
    monkeypatch.setattr(
        "datamodules.qata_cov19.phantoms.write_qata",
        lambda folder, train, test: pools.append(train),
    )
    QaTaCov19DataModule().write_phantoms(tmp_path, rows)
    assert int(0.8 * pools[0]) == rows


# --- the real sample


def real(real_data: Path, captions: str = "qata_text", **settings: Any) -> QaTaCov19DataModule:
    settings = {"on_missing": "skip", "cache": None, **settings}
    return make(real_data / "qata_images_sample", real_data / captions, **settings)


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:left out")
def test_the_real_sample_agrees_with_its_manifest(real_data: Path) -> None:
    datamodule = real(real_data)
    datamodule.setup()
    expected: dict[str, dict[str, str]] = {"train": {}, "val_last20pct": {}, "test": {}}
    with (real_data / "qata_images_sample/sample_manifest.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            expected[row["split"]][row["image"]] = row["text"]
    for split, rows in zip(("train", "val", "test"), expected.values(), strict=True):
        assert {r.image.name: r.text for r in datamodule.records(split)} == rows
    assert [len(rows) for rows in expected.values()] == [640, 160, 200]


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:left out")
def test_all_1000_real_pairs_load_with_their_own_text(real_data: Path) -> None:
    datamodule = real(real_data, image_size=224, augmentation="none")
    datamodule.setup()
    loaders = {
        "train": datamodule.train_dataloader(),
        "val_last20pct": datamodule.val_dataloader(),
        "test": datamodule.test_dataloader(),
    }
    samples = {
        (split, sample["case"].rsplit("__", 1)[0]): sample
        for split, loader in loaders.items()
        for sample in map(loader.dataset.__getitem__, range(len(loader.dataset)))  # type: ignore
    }
    base = real_data / "qata_images_sample/QaTa-COV19/QaTa-COV19-v2"
    with (real_data / "qata_images_sample/sample_manifest.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(samples) == 1000
    for row in rows:
        sample = samples[row["split"], Path(row["image"]).stem]
        assert sample["text"] == row["text"]
        folder = base / ("Test Set" if row["split"] == "test" else "Train Set")
        for field, file, unit in (
            ("image", folder / "Images" / row["image"], 1),
            ("mask", folder / "Ground-truths" / row["mask"], 255),
        ):
            with Image.open(file) as picture:
                pixels = np.asarray(picture)
            assert np.array_equal(sample[field][0].numpy(), pixels // unit)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize(
    "captions", ["qata_text/sgseg_annotation.json", "medclipseg_text/Covid19/Prompts_Folder"]
)
def test_captions_of_others_divide_the_real_sample_alike(real_data: Path, captions: str) -> None:
    ours, theirs = real(real_data), real(real_data, captions)
    for split, count in (("train", 640), ("val", 160), ("test", 200)):
        assert names(ours, split) == names(theirs, split)
        assert len(theirs.records(split)) == count


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:left out")
def test_shuffled_keeps_no_caption_of_the_real_sample(real_data: Path) -> None:
    datamodule = real(real_data)
    datamodule.setup()
    before = {split: datamodule.captions(split) for split in ("train", "val", "test")}
    datamodule.caption_mode = "shuffled"
    datamodule.setup()
    for split, true in before.items():
        shuffled = datamodule.captions(split)
        assert sorted(true) == sorted(shuffled)
        assert not any(key(a) == key(b) for a, b in zip(true, shuffled, strict=True))
