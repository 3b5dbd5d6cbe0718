"""What an audit finds in clean copies of datasets, in spoilt ones and in scant tables."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from datamodules import (
    DukeBreastMRIDataModule,
    ManifestDataModule,
    MosMedDataModule,
    QaTaCov19DataModule,
)
from datamodules.audit import KINDS, audit
from tests.datamodules import spoil, trees
from tests.datamodules.audited import DATASETS, QUIET, found, look, make
from tests.datamodules.spoil import Planted
from textseg.errors import UserError
from textseg.preprocess import probe_size

# --- clean copies


@pytest.mark.parametrize("name", DATASETS)
def test_a_clean_dataset_shows_its_own_quirks_and_nothing_else(phantoms: Path, name: str) -> None:
    root = phantoms / name
    result = look(make(name, root, image_size=64))
    expected = spoil.mosmed_quirks(root) if name == "mosmed" else []
    assert found(result) == Counter(expected)
    assert result.exit_status == 0
    assert (name == "mosmed") == bool(expected)


def test_a_clean_manifest_of_ones_own_has_no_findings(phantoms: Path) -> None:
    result = look(ManifestDataModule(str(phantoms / "refhl"), image_size=64, cache=None))
    assert result.findings == []


def test_volumes_of_mamamia_are_audited_as_their_slices(phantoms: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    volumes = DukeBreastMRIDataModule(str(phantoms / "mamamia"), image_size=64, cache=cache)
    result, slices = look(volumes), look(make("duke", phantoms / "duke", image_size=64))
    assert result.findings == []
    assert result.facts == slices.facts


# --- spoilt copies


SPOILERS: dict[str, tuple[str, Callable[[Path], Planted], int]] = {
    "qata's files": ("qata", spoil.spoil_qata_files, 1),
    "qata's captions": ("qata", spoil.spoil_qata_captions, 1),
    "qata's tables": ("qata", spoil.refuse_qata, 1),
    "a manifest": ("refhl", spoil.spoil_manifest, 1),
    "a refused manifest": ("refhl", spoil.refuse_manifest, 1),
    "mosmed": ("mosmed", spoil.spoil_mosmed, 0),
    "mosmed's tables": ("mosmed", spoil.share_a_mosmed_slice, 1),
    "duke": ("duke", spoil.spoil_duke, 0),
}


@QUIET
@pytest.mark.parametrize("name", SPOILERS)
def test_every_planted_fault_is_found_where_it_is_and_nothing_else(
    copy: Callable[[str], Path], name: str
) -> None:
    dataset, plant, status = SPOILERS[name]
    root = copy(dataset)
    before = found(look(make(dataset, root)))
    planted = Counter(plant(root))
    result = look(make(dataset, root))
    after = found(result)
    if dataset == "mosmed":  # a spoilt caption may end a quirk
        before = Counter(spoil.mosmed_quirks(root))
    assert after - before == planted
    assert before - after == Counter()
    assert result.exit_status == status


def test_every_kind_is_planted_by_one_of_these_tests(phantoms: Path, tmp_path: Path) -> None:
    planted = set()
    for name, (dataset, plant, _) in SPOILERS.items():
        shutil.copytree(phantoms / dataset, tmp_path / name)
        planted |= {kind for kind, _ in plant(tmp_path / name)}
    tested_below = {"missing column", "unreadable table", "another wording", "empty split"}
    tested_below |= {"class map", "inverted mask", "narrow range", "no foreground"}
    tested_below |= {"turned picture", "unequal spacing", "unlikely spacing"}
    tested_below |= {"picture as mask", "shaded mask"}  # in test_pixel_checks.py, as those above
    tested_below |= {"faint mask values"}  # of every clean copy of MosMedData+
    tested_below |= {"unknown language", "unknown words"}
    tested_below |= {"several columns"}
    tested_below |= {"captions tell empty masks"}  # in test_audit_facts.py
    assert planted | tested_below == set(KINDS)


# --- tables that tell little


def test_a_missing_column_and_a_broken_table_are_named(copy: Callable[[str], Path]) -> None:
    root = copy("qata")
    rows = spoil.read_table(root / "train.csv")
    spoil.write_table(root / "train.csv", [["Image", "Words"], *rows[1:]])
    (root / "test.csv").write_text("Image,Description\nmask_a.png,one, two\n")
    result = look(make("qata", root))
    kinds = Counter(finding.kind for finding in result.findings)
    assert ("missing column", "train.csv") in found(result)
    assert ("unreadable table", "test.csv") in found(result)
    assert kinds["refused by the reader"] == 1
    # The pictures of train are audited all the same, each with an empty caption.
    assert kinds["empty caption"] == 60
    assert result.facts["images read"] == 60


def test_columns_of_which_none_is_the_right_one_are_named(copy: Callable[[str], Path]) -> None:
    root = copy("qata")
    rows = spoil.read_table(root / "train.csv")
    others = [["caption"], *([f"another {n}"] for n in range(1, len(rows)))]
    both = [[*row, *other] for row, other in zip(rows, others, strict=True)]
    spoil.write_table(root / "train.csv", both)
    named = found(look(make("qata", root)))
    assert named[("several columns", "train.csv")] == 1


def test_a_manifest_without_a_column_is_audited_by_what_it_has(copy: Callable[[str], Path]) -> None:
    root = copy("refhl")
    rows = [{k: v for k, v in row.items() if k != "case_id"} for row in spoil.read_lines(root)]
    spoil.write_lines(root, rows)
    result = look(make("refhl", root))
    refused = ("refused by the reader", str(root))
    assert found(result) == Counter([refused, ("missing column", "manifest.jsonl")])
    assert result.facts["masks read"] == len(rows)


@pytest.mark.parametrize("name", ["n" * 300, "n" * 250, "a\0.png"])
def test_what_no_file_can_be_called_is_an_invalid_row(
    copy: Callable[[str], Path], name: str
) -> None:
    qata, refhl = copy("qata"), copy("refhl")
    header, first, second, *rest = spoil.read_table(qata / "train.csv")
    # The empty row counts as a line of the file.
    table = [header, first, ["", ""], [name, second[1]], *rest]
    spoil.write_table(qata / "train.csv", table)
    rows = spoil.read_lines(refhl)
    rows[1]["mask"] = name + "a" * 10
    spoil.write_lines(refhl, rows)
    for dataset, root, where in (
        ("qata", qata, "train.csv, row 4 (the header is row 1)"),
        ("refhl", refhl, "manifest.jsonl, entry 2"),
    ):
        result = look(make(dataset, root))
        assert found(result)["invalid row", where] == 1
        assert found(result)["refused by the reader", str(root)] == 1
        assert "outside root" not in {finding.kind for finding in result.findings}
        assert result.facts["images read"] > 0


def test_a_folder_without_any_dataset_is_one_error(tmp_path: Path) -> None:
    result = look(make("qata", tmp_path))
    assert found(result) == Counter([("refused by the reader", str(tmp_path))])
    assert "looked for" in result.findings[0].detail
    assert "set root" in result.findings[0].suggestion
    assert result.exit_status == 1


def test_another_wording_is_told_once(copy: Callable[[str], Path]) -> None:
    root = copy("qata")
    for name in ("train.csv", "test.csv"):
        header, *rows = spoil.read_table(root / name)
        spoil.write_table(root / name, [header, *[[image, t.lower()] for image, t in rows]])
    assert found(look(make("qata", root))) == Counter([("another wording", "captions")])


def test_an_empty_split_is_a_note(copy: Callable[[str], Path]) -> None:
    root = copy("refhl")
    rows = [row for row in spoil.read_lines(root) if row["split"] != "val"]
    spoil.write_lines(root, rows)
    [only] = [f for f in look(make("refhl", root)).findings if f.split == "val"]
    assert (only.kind, only.severity) == ("empty split", "note")


def test_rows_for_prediction_need_no_mask(copy: Callable[[str], Path]) -> None:
    root = copy("refhl")
    rows = spoil.read_lines(root)
    for row in rows:
        if row["image"] == rows[0]["image"]:
            row["split"] = "predict"
            if row is not rows[0]:  # whose mask is there, and named
                (root / row["mask"]).unlink()
                row["mask"] = None
    spoil.write_lines(root, rows)
    result = look(ManifestDataModule(str(root), image_size=64, cache=None))
    assert result.findings == []
    assert result.facts["images read"] == 28


@QUIET
@pytest.mark.parametrize(
    ("write", "kind"),
    [
        *((tree, QaTaCov19DataModule) for tree in (trees.kaggle, trees.languide)),
        *((tree, QaTaCov19DataModule) for tree in (trees.languide_lower, trees.prepared_nested)),
        *((tree, MosMedDataModule) for tree in (trees.mosmed_kaggle, trees.mosmed_mmiunet)),
    ],
)
def test_all_blank_captions_of_every_layout_are_found(
    tmp_path: Path, write: Callable[[Path], Path], kind: type[Any]
) -> None:
    datamodule = kind(str(write(tmp_path)), image_size=32, cache=None)
    rows = {s: len(part) for s, part in datamodule.read_records(tmp_path).items()}
    blanked = []
    for file in sorted(tmp_path.rglob("*.csv")):
        separator = ";" if ";" in file.read_text(encoding="utf-8-sig").splitlines()[0] else ","
        table = spoil.read_table(file, separator)
        for row in (0, 2):
            stem = Path(table[row + 1][0].replace("\\", "/")).stem.removeprefix("mask_")
            blanked.append(("empty caption", f"{stem}__{row}"))
            table[row + 1][1] = ""
        spoil.write_table(file, table, separator)
    result = look(datamodule)
    blank = {place: n for place, n in found(result).items() if place[0] == "empty caption"}
    assert blank == Counter(blanked)
    assert result.facts["rows"] == rows  # divided as the DataModule would
    assert result.facts["images read"] == sum(rows.values())


@pytest.mark.filterwarnings("ignore:left out")
def test_an_incomplete_patient_does_not_hide_the_others(
    copy: Callable[[str], Path], tmp_path: Path
) -> None:
    root = copy("mamamia")
    [mask, *_] = sorted((root / "segmentations/expert").iterdir())
    mask.unlink()
    cache = str(tmp_path / "cache")
    result = look(DukeBreastMRIDataModule(str(root), image_size=64, cache=cache))
    assert found(result) == Counter([("refused by the reader", str(root))])
    assert mask.name in result.findings[0].detail
    cases = result.facts["cases"]
    assert isinstance(cases, dict)
    assert sum(cases.values()) == 13  # of 14


# --- single captions and pictures


def test_captions_that_are_never_mirrored_are_counted_and_an_unknown_language_is_named(
    copy: Callable[[str], Path],
) -> None:
    root = copy("refhl")
    rows = spoil.read_lines(root)
    rows[2]["text"], rows[4]["text"] = "tumör till vänster", "LUL nodule"
    spoil.write_lines(root, rows)
    result = look(make("refhl", root))
    assert found(result) == {("unknown language", spoil.manifest_case(rows, 2)): 1}
    assert result.facts["captions that are never mirrored"] == f"2 of {len(rows)}"
    assert not found(look(make("refhl", root, language="en")))


def test_unknown_words_are_told_of_by_split_and_by_row(phantoms: Path) -> None:
    rows = spoil.read_lines(phantoms / "refhl")
    train = [row["text"] for row in rows if row["split"] == "train"]

    def shares(training: Sequence[str], captions: Sequence[str], size: int) -> list[float]:
        assert (list(training), size) == (train, 77)
        return [1.0 if text == rows[-1]["text"] else 0.0 for text in captions]

    datamodule = make("refhl", phantoms / "refhl")
    result = audit(datamodule, unknown_shares=shares, vocab_size=77)
    test = [row["text"] for row in rows if row["split"] == "test"]
    assert result.facts["share of unknown words"]["test"] == pytest.approx(  # type: ignore[index]
        sum(text == rows[-1]["text"] for text in test) / len(test)
    )
    named = {where for kind, where in found(result) if kind == "unknown words"}
    assert {"test", spoil.manifest_case(rows, len(rows) - 1)} <= named


def test_a_wrong_checksum_is_unreadable_as_in_training(copy: Callable[[str], Path]) -> None:
    root = copy("refhl")
    name = spoil.read_lines(root)[5]["image"]
    data = bytearray((root / name).read_bytes())
    data[-13] ^= 255  # the last byte before IEND: of the pixels' checksum
    (root / name).write_bytes(data)
    with pytest.raises(UserError):
        probe_size(root / name)
    result = look(make("refhl", root, image_size=64))
    assert found(result) == Counter([("unreadable image", name)])


def test_two_blank_pictures_are_not_each_others_copies(copy: Callable[[str], Path]) -> None:
    root = copy("refhl")
    images = sorted({row["image"] for row in spoil.read_lines(root)})[:2]
    for image in images:
        spoil.save(0 * spoil.pixels(root / image), root / image)
    result = look(make("refhl", root, image_size=64))
    assert found(result) == Counter(("constant image", image) for image in images)
