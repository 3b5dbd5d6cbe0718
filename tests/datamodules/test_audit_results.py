"""How grave the findings of an audit are, what it reads once, and what it shows and writes."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules.audit import audit, format_audit, write_audit
from tests.datamodules import spoil
from tests.datamodules.audited import QUIET, look, make
from tests.datamodules.contract import refused

# --- severity


def test_what_is_missing_is_a_warning_where_it_is_to_be_skipped(
    copy: Callable[[str], Path],
) -> None:
    root = copy("qata")
    (root / spoil.QATA / "Test Set/Images").joinpath(
        spoil.read_table(root / "test.csv")[1][0].removeprefix("mask_")
    ).unlink()
    missing = {"caption without image", "mask without image"}
    for on_missing, severity in (("error", "error"), ("skip", "warning")):
        result = look(make("qata", root, on_missing=on_missing))
        assert {(f.kind, f.severity) for f in result.findings} == {(k, severity) for k in missing}


@pytest.mark.parametrize(
    ("split", "severity"), [("official", "warning"), ("study", None), ("lists", "warning")]
)
@QUIET
@pytest.mark.filterwarnings("ignore:split=lists")
def test_a_leak_of_a_published_split_is_a_warning_and_of_study_none(
    copy: Callable[[str], Path], split: str, severity: str | None
) -> None:
    root = copy("mosmed")
    spoil.spoil_mosmed(root)
    for name in ("train", "val", "test"):
        [file] = root.glob(f"{name.title()}_text*.csv")
        rows = [[row[0], row[0]] for row in spoil.read_table(file, ";")[1:]]
        header = ["original_image_filename", "mask_filename"]
        spoil.write_table(root / f"mosmed_{name}_split.csv", [header, *rows])
    result = look(make("mosmed", root, split=split))
    leaks = [f.severity for f in result.findings if f.kind == "case in two splits"]
    assert leaks == ([severity] if severity else [])


def test_a_leak_into_test_is_an_error_under_first80_and_one_into_val_is_not(
    copy: Callable[[str], Path],
) -> None:
    root = copy("qata")
    spoil.spoil_qata_captions(root)
    result = look(make("qata", root, split="first80"))
    leaks = {f.split: f.severity for f in result.findings if f.kind == "case in two splits"}
    assert all(
        severity == ("error" if "test" in split else "warning") for split, severity in leaks.items()
    )
    assert "error" in leaks.values()


def test_a_root_that_is_no_folder_is_refused_at_once(tmp_path: Path) -> None:
    with refused("root=", "nowhere"):
        look(make("qata", tmp_path / "nowhere"))


# --- one pass


def test_each_file_is_opened_once(phantoms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Counter[Path] = Counter()
    read = Path.read_bytes

    def counting(self: Path) -> bytes:
        opened[self] += self.suffix == ".png"
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", counting)
    result = look(make("refhl", phantoms / "refhl"))
    files = [*(phantoms / "refhl").glob("*/*.png")]
    assert +opened == Counter(files)
    assert result.facts["images read"] == 28


def test_a_caption_is_counted_in_tokens_once(phantoms: Path) -> None:
    asked: Counter[str] = Counter()

    def counting(text: str) -> int:
        asked[text] += 1
        return 33 if text == rows[3]["text"] else 5

    rows = spoil.read_lines(phantoms / "refhl")
    result = audit(make("refhl", phantoms / "refhl", image_size=64), count_tokens=counting)
    assert set(asked.values()) == {1}
    long = [
        spoil.manifest_case(rows, k) for k, r in enumerate(rows) if r["text"] == rows[3]["text"]
    ]
    assert [f.where for f in result.findings] == long
    assert "33 tokens, max_tokens=32" in result.findings[0].detail
    assert result.facts["tokens of the longest caption"] == 33


# --- what is shown


def test_the_screen_has_a_line_a_kind_and_the_files_hold_everything(
    copy: Callable[[str], Path], tmp_path: Path
) -> None:
    root = copy("qata")
    spoil.spoil_qata_files(root)
    result = look(make("qata", root))
    shown = format_audit(result).splitlines()
    counts = Counter((f.severity, f.kind) for f in result.findings)
    for (severity, kind), count in counts.items():
        [line] = [t for t in shown if re.fullmatch(rf"{severity} +{count}  {kind}  .*", t)]
        places = [f.where for f in result.findings if (f.severity, f.kind) == (severity, kind)]
        assert all(place in line for place in places[:3])
        suggestions = [f.suggestion for f in result.findings if f.kind == kind and f.suggestion]
        assert not suggestions or shown[shown.index(line) + 1].strip().startswith(suggestions[0])
    order = ["error", "warning", "note"]
    kinds = [line for line in shown if re.match(rf"({'|'.join(order)}) +\d", line)]
    assert len(kinds) == len(counts)
    severities = [order.index(line.split()[0]) for line in kinds]
    assert severities == sorted(severities)
    totals = Counter(f.severity for f in result.findings)
    assert f"{totals['error']} errors, {totals['warning']} warnings, 1 notes" in shown
    (tmp_path / "out").mkdir()
    write_audit(result, tmp_path / "out", of={"root": "a"})
    with (tmp_path / "out/findings.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [(r["kind"], r["where"], r["detail"]) for r in rows] == [
        (f.kind, f.where, f.detail) for f in result.findings
    ]
    summary = json.loads((tmp_path / "out/audit.json").read_text())
    assert summary["root"] == "a"
    assert summary["exit_status"] == 1
    assert sum(entry["count"] for entry in summary["kinds"]) == len(rows)
    assert summary["facts"]["rows"] == {
        split: len(part) for split, part in make("qata", root).read_records(root).items()
    }


def test_facts_count_what_is_on_disk(phantoms: Path) -> None:
    facts = look(make("mosmed", phantoms / "mosmed", image_size=64)).facts
    tables = {
        file.name.split("_")[0].lower(): [r[1].lower() for r in spoil.read_table(file, ";")[1:]]
        for file in (phantoms / "mosmed").glob("*.csv")
    }
    assert facts["rows"] == {split: len(texts) for split, texts in tables.items()}
    assert facts["distinct captions"] == {split: len(set(t)) for split, t in tables.items()}
    known = [text in tables["train"] for text in tables["test"]]
    assert facts["share of test captions that occur in train"] == pytest.approx(np.mean(known))
    empty = [text.startswith("no ") for texts in tables.values() for text in texts]
    assert facts["share of masks that are empty"] == pytest.approx(np.mean(empty))
    sides = {
        side: sum("unilateral" in t and f"{side} lung." in t for ts in tables.values() for t in ts)
        for side in ("left", "right")
    }
    for side, number in sides.items():
        assert facts[f"captions of one side, {side}: mask there"] == f"{number} of {number}"
        assert number > 0
