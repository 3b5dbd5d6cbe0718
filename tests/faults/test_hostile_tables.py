"""Tables, names and captions of a stranger: read as they are meant, or refused with the line."""

from __future__ import annotations

import csv
import json
import sys
import unicodedata
import warnings
from pathlib import Path

import openpyxl
import pytest
import yaml

from datamodules.base import folds
from datamodules.files.links import ANYWHERE, check_links, link_fault
from datamodules.files.manifest import read_manifest, write_manifest
from datamodules.records import Record
from datamodules.volumes.dataset_json import read_description
from tests.faults.case_rows import case_row
from tests.faults.test_hostile_pictures import refused
from textseg.cli.arguments import with_run_config
from textseg.cli.messages import exit_with
from textseg.cli.quiet import show_warnings_plainly
from textseg.errors import UserError, printable
from textseg.limits import CELLS, TABLE_BYTES
from textseg.preprocess import checked_size
from textseg.runs.cases import read_cases, write_cases
from textseg.tables import cell_text, identity, match_key, read_rows, spreadsheet_cell

FORMULAS = ("=1+1", "+1", "-disc", "@SUM(A1)", "\t=1", "'=1", "''-", "＝1")  # noqa: RUF001
PLAIN_TEXTS = ("disc on the left", "'quoted'", "", "'", "5-7 mm", "a=b")


def table(folder: Path, *lines: str) -> Path:
    (folder / "a.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "a.csv"


# --- quotes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "lines", "line"),
    [
        ("image,text", ['p0.png,"disc', "p1.png,disc", "p2.png,disc"], 2),  # never closed
        ("image,text", ["p0.png,disc", 'p1.png,"disc', 'p2.png,disc"'], 3),
        ("image,text", ["p0.png,disc", 'p1.png,"disc', 'p2.png,"disc'], 3),
        ("image,text,case", ['p0.png,"a,c0', 'p1.png,b",c1', "p2.png,disc,c2"], 2),
        ("text,image", ['"disc,p0.png', 'disc",p1.png', "disc,p2.png"], 2),
        ("case,text", ['c0,"disc', 'c1,disc"', "c2,disc"], 2),  # no file's name in it
        ("image,text", ['"p0.png,disc', 'p1.png",disc on the left'], 2),  # no row beside them
        ("image,text", ['p0.png,"left" lung', "p1.png,disc"], 2),  # the quotes would be lost
    ],
)
def test_a_stray_quote_is_an_error_with_its_line(
    tmp_path: Path, head: str, lines: list[str], line: int
) -> None:
    refused(lambda: read_rows(table(tmp_path, head, *lines)), "a.csv", f"line {line}")


def test_quotes_that_are_whole_are_read(tmp_path: Path) -> None:
    lines = ['p0.png,"two lines,\nthe second, of them"', 'p1.png,a 5" disc', 'p2.png,"a ""b"", c"']
    rows = read_rows(table(tmp_path, "image,text", *lines))
    assert [row["text"] for row in rows] == [
        "two lines,\nthe second, of them",
        'a 5" disc',
        'a "b", c',
    ]


# --- what is there twice -----------------------------------------------------------------------


@pytest.mark.parametrize("head", ["image,text,text", "image,text,Text"])
def test_a_column_twice_is_refused(tmp_path: Path, head: str) -> None:
    refused(lambda: read_rows(table(tmp_path, head, "p0.png,a,b")), "text")


def test_a_key_twice_is_refused_in_every_json(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"image": "a"}\n{"image": "a", "text": "b", "text": "c"}\n')
    refused(lambda: read_rows(tmp_path / "a.jsonl"), "line 2", "'text'")
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "a", "1": "b"}}')
    refused(lambda: read_description(tmp_path), "'1'")
    (tmp_path / "a.json").write_text('{"train": [], "train": []}')
    refused(lambda: read_rows(tmp_path / "a.json"), "'train'")


def test_two_manifests_side_by_side_are_refused_unless_one_is_named(tmp_path: Path) -> None:
    row = {"image": "i.png", "mask": "m.png", "text": "t", "case_id": "c", "split": "train"}
    write_manifest(tmp_path, [row])
    (tmp_path / "manifest.csv").write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    refused(lambda: read_manifest(tmp_path, None), "manifest.csv", "manifest.jsonl")
    assert len(read_manifest(tmp_path, tmp_path / "manifest.csv")["train"]) == 1


# --- sizes -------------------------------------------------------------------------------------


def test_a_table_over_the_limits_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = openpyxl.Workbook()
    for _ in range(400):
        book.active.append(["image", "x" * 100])
    book.save(tmp_path / "a.xlsx")
    table(tmp_path, "image,text", "p0.png,disc " + "x" * 3000)
    monkeypatch.setenv(TABLE_BYTES.variable, str(size := (tmp_path / "a.xlsx").stat().st_size))
    assert size > 3000
    refused(lambda: read_rows(tmp_path / "a.xlsx"), "a.xlsx", TABLE_BYTES.variable)  # unpacked
    monkeypatch.setenv(TABLE_BYTES.variable, "3000")
    refused(lambda: read_rows(tmp_path / "a.csv"), "a.csv", TABLE_BYTES.variable)


def test_a_cell_far_away_in_a_small_workbook_is_no_table_of_billions(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["image"])
    for row in (2, 1300):
        book.active.cell(row, 16_384).value = "far"
    book.save(tmp_path / "a.xlsx")
    refused(lambda: read_rows(tmp_path / "a.xlsx"), CELLS.variable)


# --- terminals and spreadsheets ----------------------------------------------------------------


def test_no_text_of_cases_csv_is_a_formula_and_all_are_read_back(tmp_path: Path) -> None:
    texts = (*FORMULAS, *PLAIN_TEXTS)
    rows = [case_row(n, text, text) for n, text in enumerate(texts)]
    write_cases(tmp_path / "cases.csv", rows)
    with (tmp_path / "cases.csv").open(newline="", encoding="utf-8") as lines:
        cells = [cell for row in csv.reader(lines) for cell in row]
    assert [cell for cell in cells if cell[:1] in tuple("=+-@\t\r＝")] == []  # noqa: RUF001
    assert read_cases(tmp_path / "cases.csv") == rows


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN_TEXTS, "'''", "'-'"])
def test_a_cell_is_read_back_as_it_was(text: str) -> None:
    assert cell_text(spreadsheet_cell(text)) == text
    assert (spreadsheet_cell(text) != text) == (text in FORMULAS or text == "'-'")
    assert spreadsheet_cell(-0.5) == -0.5


def test_escape_sequences_of_a_name_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a\x1b]0;title\x07\x9b2J\u202egnp\n\udc80.png"
    with pytest.raises(SystemExit):
        exit_with(UserError(f"{name} does not exist", "give another"))
    for written in (warnings.formatwarning, lambda *given: f"by a library: {given[0]}\n"):
        monkeypatch.setattr(warnings, "formatwarning", written)
        show_warnings_plainly()
        show_warnings_plainly()
        sys.stderr.write(warnings.formatwarning(name, UserWarning, "a.py", 1))
    shown = capsys.readouterr().err
    assert shown.splitlines()[:2] == [
        r"error: a\x1b]0;title\x07\x9b2J\u202egnp\n\udc80.png does not exist",
        "remedy: give another",
    ]
    assert [c for c in shown if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160)] == []
    assert printable("Läsion 左侧\tβ\n") == "Läsion 左侧\tβ\n"
    refused(lambda: read_rows(table(tmp_path, "image,\x1b[2Jx,\x1b[2Jx", "a,b,c")), r"\x1b[2Jx")


# --- identities --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Müller", unicodedata.normalize("NFD", "Müller")),
        ("P 1", "P\u200b 1"),
        ("P1", "\ufeffP1"),
        ("P１", "P1"),  # noqa: RUF001
    ],
)
def test_one_patient_in_two_splits_is_found_however_written(
    tmp_path: Path, one: str, other: str
) -> None:
    rows = [
        {"image": f"{s}.png", "mask": "m.png", "text": "t", "case_id": c, "split": s}
        for s, c in (("train", one), ("test", other))
    ]
    refused(lambda: read_manifest(tmp_path, write_manifest(tmp_path, rows)), "train", "test")
    assert identity(one) == identity(other)


def test_other_patients_stay_others() -> None:
    names = ("P1", "p1", "P 1", "P-1", "Müller", "Muller", "王", "玉")
    assert len({identity(name) for name in names}) == len(names)


def test_a_masks_name_with_decomposed_accents_is_its_images() -> None:
    assert match_key("mask_Läsion.PNG") == match_key(unicodedata.normalize("NFD", "Läsion.jpg"))


def test_folds_read_back_names_that_are_formulas(tmp_path: Path) -> None:
    rows = [Record(tmp_path / f"{n}.png", None, "t", f"-c{n}", f"=p{n}", n) for n in range(6)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folds, "_check_rows", lambda *_: None)
        patch.setattr(folds, "_strata", lambda rows: [0] * len(rows))
        file = folds.write_folds(
            tmp_path, rows, [r.case_id for r in rows], root=tmp_path, folds=3, seed=0
        )
    cases, patients = folds._read_table(file, 1)
    assert set(cases) == {row.case for row in rows}
    assert set().union(*patients.values()) == {row.case_id for row in rows}
    assert all(line[0] not in "=-" for line in file.read_text().splitlines())


# --- links -------------------------------------------------------------------------------------


def test_links_stay_inside_root_and_loops_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    for folder in (root, disk):
        folder.mkdir()
        (folder / "a.png").touch()
    (root / "inside.png").symlink_to("a.png")
    (root / "outside.png").symlink_to(disk / "a.png")
    (root / "loop.png").symlink_to("loop.png")
    (root / "broken.png").symlink_to("nowhere.png")
    (root / "images").symlink_to(disk)  # a folder on another disk
    (disk / "other.png").symlink_to("a.png")
    files = {
        name: link_fault(root / name, root)
        for name in ("a.png", "inside.png", "broken.png", "images/a.png", "images/other.png")
    }
    assert set(files.values()) == {None}
    refused(lambda: check_links([root / "outside.png"], root), "outside.png", ANYWHERE)
    refused(lambda: check_links([root / "loop.png", root / "a.png"], root), "1 files", "loop.png")
    monkeypatch.setenv(ANYWHERE, "anywhere")
    check_links([root / "outside.png"], root)
    refused(lambda: check_links([root / "loop.png"], root), "loop.png")


def test_a_snapshot_of_the_hub_links_to_its_blobs(tmp_path: Path) -> None:
    snapshot = tmp_path / "datasets--a--b/snapshots/123"
    blobs = tmp_path / "datasets--a--b/blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "0f").touch()
    (snapshot / "a.png").symlink_to("../../blobs/0f")
    check_links([snapshot / "a.png"], snapshot)


# --- classes -----------------------------------------------------------------------------------


def test_a_runs_config_imports_no_class_that_the_command_line_does_not_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    suites = {"class_path": "textseg.models.LSMS", "init_args": {}}
    foreign = {"class_path": "stranger.Net", "init_args": {}}
    nested = {"class_path": "textseg.models.LSMS", "init_args": {"x": [foreign]}}
    words = ["--ckpt_path", str(tmp_path / "best.ckpt")]
    for settings in ({"model": foreign}, {"model": nested}, {"data": foreign}):
        stored = {"model": suites, "data": suites, **settings}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
        refused(lambda: with_run_config(words), "config.yaml", "stranger.Net")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": foreign}))
    assert with_run_config([*words, "--model", "stranger.Net"])[0] == "--config"
    assert "stranger" not in sys.modules
    (tmp_path / "config.yaml").write_text(json.dumps({"model": "LSMS", "data": suites}))
    assert with_run_config(words)[0] == "--config"


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [made]", "!!python/name:os.mkdir"])
def test_a_tag_in_a_runs_config_makes_nothing(tmp_path: Path, tag: str) -> None:
    (tmp_path / "config.yaml").write_text(f"model: {tag}\n")
    refused(lambda: with_run_config(["--ckpt_path", str(tmp_path / "best.ckpt")]), "config.yaml")
    assert not Path("made").exists()


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, [], [None, 32], [32, 32, 32], 33, "224", 0.5])
def test_a_size_that_is_none_is_refused_by_its_value(given: object) -> None:
    refused(lambda: checked_size(given), f"image_size={given!r}")  # type: ignore[arg-type]


def test_a_runs_config_of_another_shape_is_refused(tmp_path: Path) -> None:
    words = ["--ckpt_path", str(tmp_path / "best.ckpt"), "--data.root", "a"]
    for settings in (
        {"data": 3},
        {"data": {"class_path": 3}},
        {"data": {"class_path": "A", "init_args": 3}},
        {"data": {"class_path": "A", "init_args": {"root": 3}}},
        {"model": [1]},
    ):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
        refused(lambda: with_run_config(words), "config.yaml")
    (tmp_path / "config.yaml").write_text("since: 2001-13-01\n")  # a date of no month
    refused(lambda: with_run_config(words), "config.yaml")


@pytest.mark.parametrize("entry", [".", "images/..", "./"])
def test_root_itself_is_no_file_of_a_row(tmp_path: Path, entry: str) -> None:
    row = {"image": entry, "mask": "m.png", "text": "t", "case_id": "c", "split": "train"}
    refused(lambda: read_manifest(tmp_path, write_manifest(tmp_path, [row])), repr(entry))
