"""Forms of others that are read as manifests: recognized by names and keys, row by row."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datamodules import ManifestDataModule, MedCLIPSegDataModule
from datamodules.commands import detect_dataset
from datamodules.files.forms import find_form
from datamodules.records import Record
from tests.datamodules import form_trees
from tests.datamodules.contract import batches, refused
from tests.datamodules.form_trees import LEVELS, ROWS, biomedparse, medvlsm, referring, save
from tests.datamodules.manifest_tables import save as save_table

QUIET = pytest.mark.filterwarnings("ignore:.*columns that are not read")
TREES: dict[str, tuple[Callable[[Path], Path], str, tuple[int, ...]]] = {
    "medvlsm": (medvlsm, "medvlsm", (8, 3, 4)),
    "Ref-LITS": (referring, "referring", (16, 6, 8)),
    "BiomedParse": (biomedparse, "biomedparse", (16, 0, 8)),
    "BiomedParse with lists": (partial(biomedparse, lists=True), "biomedparse", (32, 0, 16)),
}


def make(folder: Path, captions: Path | None = None, **settings: Any) -> ManifestDataModule:
    defaults = {"image_size": 64, "batch_size": 4, "num_workers": 0, "cache": None}
    given = None if captions is None else str(captions)
    return ManifestDataModule(str(folder), given, **{**defaults, **settings})


def rows_of(datamodule: ManifestDataModule, root: Path) -> dict[str, list[Record]]:
    return datamodule.read_records(root)


@QUIET
@pytest.mark.parametrize("name", TREES)
def test_every_form_is_recognized_and_gives_batches(tmp_path: Path, name: str) -> None:
    write, form, counts = TREES[name]
    write(tmp_path)
    found = find_form(tmp_path)
    assert found is not None
    assert found.name == form
    assert detect_dataset(tmp_path) is ManifestDataModule
    datamodule = make(tmp_path)
    datamodule.setup("test")
    records = rows_of(datamodule, tmp_path)
    assert tuple(len(records[split]) for split in ROWS) == counts
    listed = [record for split in ROWS for record in records[split]]
    assert [record.row for record in listed] == list(range(sum(counts)))
    assert len({record.case for record in listed}) == len(listed)
    assert sum(len(batch["text"]) for batch in batches(datamodule, "test")) == counts[-1]
    assert all(batch["mask"].any() for batch in batches(datamodule, "test"))


@QUIET
@pytest.mark.parametrize("name", TREES)
def test_a_manifest_beside_a_form_is_what_is_read(tmp_path: Path, name: str) -> None:
    form_trees.write_pair(tmp_path / "a.png", tmp_path / "b.png")
    TREES[name][0](tmp_path)
    save_table(tmp_path / "manifest.csv", [{"image": "a.png", "mask": "b.png", "text": "x"}])
    [record] = rows_of(make(tmp_path, split="all_test"), tmp_path)["test"]
    assert record.text == "x"


@pytest.mark.parametrize(
    "content", [{"images": []}, [], [1, 2], [{"img_name": "a", "prompts": {}}], "text"]
)
def test_other_lists_are_no_form(tmp_path: Path, content: Any) -> None:
    for name in ("train.json", "anns/train.json", "ref_train.json", "ref_test.json"):
        save(tmp_path / name, content)
    (tmp_path / "val.json").write_text("no json")
    (tmp_path / "test.json").write_bytes(b"\xff\xfe[")
    assert find_form(tmp_path) is None
    with refused(str(tmp_path), "manifest.csv"):
        make(tmp_path).setup("fit")
    with refused("train.json"):
        make(tmp_path, tmp_path / "train.json").setup("fit")


def test_folders_of_images_alone_are_no_form(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test_mask").mkdir()
    assert find_form(tmp_path) is None


# --- medvlsm -----------------------------------------------------------------------------------


def test_medvlsms_fullest_level_is_the_text_and_all_are_altered_captions(tmp_path: Path) -> None:
    datamodule = make(medvlsm(tmp_path))
    datamodule.setup()
    for split in ROWS:
        records = datamodule.records(split)
        for number, record in zip(form_trees.numbers(split), records, strict=True):
            texts = form_trees.prompts(number)
            plain = {k: (t[0] if isinstance(t, list) else t).strip() for k, t in texts.items()}
            assert record.image == tmp_path / f"images/{number}.png"
            assert record.mask == tmp_path / f"masks/mask_1/{number}_gt.png"
            assert record.text == plain["p9"]
            assert dict(record.altered) == {k: t for k, t in plain.items() if t}
    altered = datamodule.altered_captions()
    assert sorted(altered) == sorted(LEVELS[1:]), "p0 is empty, which a probe runs anyway"
    assert set(altered["p1"].values()) == {"polyp"}
    assert set(altered["p1"]) == {record.case for record in datamodule.records("test")}


def test_a_level_can_be_chosen(tmp_path: Path) -> None:
    medvlsm(tmp_path)
    texts = make(tmp_path, prompt_level="p6").captions("test")
    assert texts == [form_trees.prompts(n)["p6"] for n in form_trees.numbers("test")]
    for level in ("p10", "6"):
        with refused(f"prompt_level={level!r}", "p0, p1", "p9"):
            make(tmp_path, prompt_level=level).setup("test")
    with refused("entry 1", "prompts.p0"):
        make(tmp_path, prompt_level="p0").setup("test")


def test_a_level_that_one_image_lacks_is_not_the_text(tmp_path: Path) -> None:
    file = medvlsm(tmp_path) / "anns/val.json"
    entries = json.loads(file.read_text())
    del entries[1]["prompts"]["p9"]
    save(file, entries)
    assert make(tmp_path).captions("test")[0] == "one small polyp which is a lump"


@pytest.mark.parametrize("captions", ["anns", "anns/train.json", "anns/test.json"])
def test_medvlsms_lists_may_lie_apart_from_the_images(tmp_path: Path, captions: str) -> None:
    medvlsm(tmp_path / "data")
    (tmp_path / "data/anns").rename(tmp_path / "anns")
    records = rows_of(make(tmp_path / "data", tmp_path / captions), tmp_path / "data")
    assert [len(records[split]) for split in ROWS] == list(ROWS.values())


@pytest.mark.parametrize("key", ["img_name", "mask_name", "prompts"])
def test_an_entry_that_lacks_a_key_is_named_with_its_own_list(tmp_path: Path, key: str) -> None:
    file = medvlsm(tmp_path) / "anns/test.json"
    entries = json.loads(file.read_text())
    entries[2][key] = dict.fromkeys(LEVELS, "") if key == "prompts" else ""
    save(file, entries)
    with refused("test.json, entry 3", key):
        make(tmp_path).setup("test")


def test_medvlsms_other_lists_are_named(tmp_path: Path) -> None:
    file = medvlsm(tmp_path) / "anns/test.json"
    (tmp_path / "anns/testB.json").write_bytes(file.read_bytes())
    with pytest.warns(UserWarning, match="not read: testB.json"):
        make(tmp_path).setup("test")


def test_a_level_is_refused_where_there_are_none(tmp_path: Path) -> None:
    with refused("prompt_level='p6'", "ref_lits"):
        make(referring(tmp_path / "a"), prompt_level="p6").setup("test")
    save_table(tmp_path / "manifest.csv", [{"image": "a.png", "mask": "b.png", "text": "x"}])
    with refused("prompt_level='p6'", "manifest.csv"):
        make(tmp_path, prompt_level="p6", split="all_test").setup("test")


# --- referring ---------------------------------------------------------------------------------


@QUIET
@pytest.mark.parametrize("key", ["image_path", "img_path"])
def test_every_expression_of_a_referring_list_is_a_row(tmp_path: Path, key: str) -> None:
    records = rows_of(make(referring(tmp_path, image_key=key)), tmp_path)
    first, second = records["val"][:2]
    number = form_trees.numbers("val")[0]
    assert first.image == second.image == tmp_path / f"val/{number}.png"
    assert [r.mask for r in (first, second)] == [
        tmp_path / f"val_masks/{number}_{lesion}.png" for lesion in (0, 1)
    ]
    assert first.text == f"A tiny lesion is present at the top left of {number}."
    assert second.text.startswith("A large lesion")


def test_other_keys_of_a_referring_list_are_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="not read: file_id"):
        make(referring(tmp_path)).setup("test")


@QUIET
def test_of_two_referring_sets_one_must_be_chosen(tmp_path: Path) -> None:
    referring(referring(tmp_path), prefix="ref_lidc")
    with refused("ref_lidc, ref_lits", "captions"):
        make(tmp_path).setup("test")
    records = rows_of(make(tmp_path, tmp_path / "ref_lidc_train.json"), tmp_path)
    assert [len(records[split]) for split in ROWS] == [2 * count for count in ROWS.values()]


@QUIET
def test_an_entry_without_its_sentence_is_named_with_its_own_list(tmp_path: Path) -> None:
    file = referring(tmp_path) / "ref_lits_val.json"
    entries = json.loads(file.read_text())
    entries[3]["sentence"] = ""
    save(file, entries)
    with refused("ref_lits_val.json, entry 4", "text"):
        make(tmp_path).setup("fit")
    entries[3]["sentence"] = ["a", "b"]
    save(file, entries)
    with refused("ref_lits_val.json, entry 4", "text=['a', 'b']"):
        make(tmp_path).setup("fit")
    save(file, [*entries[:3], "x"])
    with refused("ref_lits_val.json", "list of objects"):
        make(tmp_path).setup("fit")


# --- biomedparse -------------------------------------------------------------------------------


def test_biomedparses_words_stand_in_the_masks_names(tmp_path: Path) -> None:
    records = rows_of(make(biomedparse(tmp_path)), tmp_path)
    one, other = records["train"][:2]
    assert one.image == other.image == tmp_path / "train/case_00_CT_liver.png"
    assert {r.mask and r.mask.name: r.text for r in (one, other)} == {
        "case_00_CT_liver_tumor.png": "tumor in liver CT",
        "case_00_CT_liver_portal+vein.png": "portal vein in liver CT",
    }


def test_biomedparses_lists_give_a_row_a_sentence_and_name_masks_that_they_leave_out(
    tmp_path: Path,
) -> None:
    biomedparse(tmp_path, lists=True)
    extra = tmp_path / "test_mask/case_11_CT_liver_cyst.png"
    extra.write_bytes((tmp_path / "test_mask/case_11_CT_liver_tumor.png").read_bytes())
    with pytest.warns(UserWarning, match=f"test_mask: 1 masks are in no row: {extra.name}"):
        records = rows_of(make(tmp_path), tmp_path)
    assert [r.text for r in records["test"][:2]] == ["tumor in liver CT", "the tumor in liver CT"]
    assert len({r.mask for r in records["test"]}) == 2 * ROWS["test"]


def test_a_name_that_tells_no_target_and_a_broken_list_are_named(tmp_path: Path) -> None:
    biomedparse(tmp_path)
    mask = tmp_path / "test_mask/CT_tumor.png"
    mask.write_bytes((tmp_path / "test_mask/case_11_CT_liver_tumor.png").read_bytes())
    with refused("CT_tumor.png", "test_mask", "manifest"):
        make(tmp_path).setup("test")
    mask.unlink()
    for content in ({"images": []}, {"annotations": [1]}, {"annotations": [{"sentences": [{}]}]}):
        save(tmp_path / "test.json", content)
        with refused("test.json"):
            make(tmp_path).setup("test")
    save(tmp_path / "test.json", {"annotations": [{"file_name": "a.png", "mask_file": "b.png"}]})
    with refused("test.json, entry 1", "sentence"):
        make(tmp_path).setup("test")


def test_val_is_taken_from_train_where_a_form_has_none_and_only_when_asked(tmp_path: Path) -> None:
    biomedparse(tmp_path)
    with refused("16 train, 8 test", "split=random"):
        make(tmp_path).setup("fit")
    with pytest.warns(UserWarning, match="split=random divides images"):
        divided = rows_of(make(tmp_path, split="random"), tmp_path)
    written = rows_of(make(tmp_path), tmp_path)
    assert divided["test"] == written["test"]
    both = divided["train"] + divided["val"]
    assert sorted(both, key=lambda r: r.row) == written["train"]
    assert not {r.image for r in divided["train"]} & {r.image for r in divided["val"]}


def test_random_takes_about_15_percent_of_the_patients_of_train_for_val(tmp_path: Path) -> None:
    row = {"image": "{}.png", "mask": "m{}.png", "text": "x", "case_id": "case {}"}
    rows = [{k: v.format(n) for k, v in row.items()} for n in range(2000)]
    rows = [{**r, "split": "test" if n < 100 else "train"} for n, r in enumerate(rows)]
    save_table(tmp_path / "manifest.csv", rows)
    parts = rows_of(make(tmp_path, split="random"), tmp_path)
    assert len(parts["test"]) == 100
    assert abs(len(parts["val"]) - 285) < 47, "three standard deviations of a binomial"
    assert len(parts["train"]) + len(parts["val"]) == 1900


# --- real lists --------------------------------------------------------------------------------


@pytest.mark.real_data
def test_medvlsms_busi_names_the_rows_of_medclipsegs(real_data: Path) -> None:
    root, lists = real_data / "busi_medclipseg/BUSI", real_data / "medvlsm_anns/busi"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = make(root, lists)
        own.setup()
    published = MedCLIPSegDataModule(str(root), cache=None)
    for split, count in {"train": 624, "val": 78, "test": 78}.items():
        entries = json.loads((lists / f"{split}.json").read_text())
        records = own.records(split)
        assert len(records) == len(entries) == count
        for record, entry in zip(records, entries, strict=True):
            texts = {k: t if isinstance(t, str) else t[0] for k, t in entry["prompts"].items()}
            assert record.image.name == entry["img_name"]
            assert record.text == texts["p6"]
            assert dict(record.altered) == {k: t for k, t in texts.items() if t}
        theirs = {(r.image, r.mask) for r in published.records(split)}
        assert {(r.image, r.mask) for r in records} == theirs
    assert list(own.altered_captions()) == [f"p{level}" for level in range(1, 7)]
