"""Commands started where no run lies yet: help, two fits in one process, a probe of no run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.finished_fit import QUICK, experiment
from tests.tiny_run import call, fingerprints, only


@pytest.mark.parametrize("command", ["fit", "test", "benchmark"])
def test_every_command_knows_the_settings_of_explanations(command: str, tmp_path: Path) -> None:
    shown = call(command, "--help", cwd=tmp_path).out
    assert "--explain.pictures" in shown
    assert "--explain.word" in shown


def test_two_fits_in_one_process_leave_two_folders(tmp_path: Path) -> None:
    """On phantoms, which the first fit writes and the second one finds."""
    fit = ["fit", "--config", experiment(tmp_path), "--data.synthesize", "2", *QUICK]
    assert call(*fit, cwd=tmp_path).status == 0
    first = only(tmp_path / "runs/tiny")
    before = fingerprints(tmp_path)
    second = call(*fit, cwd=tmp_path)
    assert second.status == 0, second.err
    assert len(list((tmp_path / "runs/tiny").iterdir())) == 2
    after = fingerprints(tmp_path)
    assert {name: after.get(name) for name in before} == before
    inside = first.relative_to(tmp_path)
    assert not any(Path(name).is_relative_to(inside) for name in set(after) - set(before))
    assert only(tmp_path / "data/phantoms").name.startswith("RefHLSegDataModule-2-")


def test_probe_of_a_folder_that_is_no_run_names_the_file_it_looked_for(tmp_path: Path) -> None:
    outcome = call("probe", tmp_path / "nothing", cwd=tmp_path)
    assert outcome.status == 2
    cause, remedy = outcome.message()
    assert "nothing/checkpoints/best.ckpt" in cause
    assert "runs/<config>/<time>" in remedy
