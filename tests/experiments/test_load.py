"""experiments/load.py: each of its commands does its work, on a few of what it is measured with."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.test_experiments import EXPERIMENTS
from tests.tiny_run import load_script, masks_in

COUNT = 50


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script(EXPERIMENTS / "load.py")


def worked(script: Any, name: str, home: Path) -> Path:
    kind = script.KINDS[name]
    kind.prepare(home, COUNT)
    kind.work(home)
    return home


def test_every_picture_is_segmented_with_overlays_or_without(script: Any, tmp_path: Path) -> None:
    home = worked(script, "segment", tmp_path)
    assert len(masks_in(home / "out/masks")) == len(masks_in(home / "out/overlays")) == COUNT
    script.KINDS["segment-masks"].work(home)
    assert len(masks_in(home / "out_2/masks")) == COUNT
    assert not (home / "out_2/overlays").exists()


def test_every_row_is_predicted(script: Any, tmp_path: Path) -> None:
    assert len(masks_in(worked(script, "predict", tmp_path) / "run/predict")) == COUNT


def test_the_set_is_sound_but_for_what_an_audit_tells(script: Any, tmp_path: Path) -> None:
    home = worked(script, "audit", tmp_path)
    facts = json.loads((home / "found/audit.json").read_text())["facts"]
    assert sum(facts["rows"].values()) == COUNT
    with (home / "found/findings.csv").open(newline="", encoding="utf-8") as lines:
        assert "error" not in {row["severity"] for row in csv.DictReader(lines)}


def test_all_cases_are_compared(script: Any, tmp_path: Path) -> None:
    found = worked(script, "compare", tmp_path) / "compared/comparison.json"
    assert json.loads(found.read_text())["cases"] == COUNT


def test_what_a_function_costs_is_measured_in_a_process_of_its_own(
    script: Any, tmp_path: Path
) -> None:
    def grows(home: Path) -> None:
        (home / "held").write_bytes(bytes(b"x" * (40 * 2**20)))

    blocks = [bytearray(60_000) for _ in range(2000)]
    last = bytearray(60_000)
    del blocks  # below the last block, so that it stays with the process, free to be used anew
    _, _, memory = script.measured(grows, tmp_path)
    assert 35 < memory < 200
    assert len(last) == 60_000
    assert (tmp_path / "held").is_file()
