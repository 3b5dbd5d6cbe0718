"""A run tested on other data: what of its own settings it keeps, and what it must not."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.tiny_run import ROWS, call, only, write_experiment, write_refhl
from textseg.command_line import with_run_config

OTHER = "data: {class_path: ManifestDataModule, init_args: {root: other, split: all_test}}"


@dataclass(frozen=True)
class Run:
    home: Path
    checkpoint: Path

    def arguments(self, *more: str) -> list[str]:
        return ["test", "--ckpt_path", str(self.checkpoint), *more]

    def settings(self, *more: str) -> dict[str, object]:
        """The data settings of the run that a test with these arguments starts from."""
        arguments = with_run_config(self.arguments(*more))
        assert arguments[1] == "--config"
        return yaml.safe_load(arguments[2])["data"]["init_args"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained on phantoms, with settings that are not the defaults."""
    home = tmp_path_factory.mktemp("home")
    write_refhl(home / "other")
    (home / "other.yaml").write_text(OTHER)
    data = {"init_args": {"synthesize": 2, "normalise_captions": True}}
    experiment = write_experiment(home, data=data)
    outcome = call("fit", "--config", experiment, cwd=home)
    assert outcome.status == 0, outcome.err
    return Run(home, only(home / "runs/tiny") / "checkpoints/best.ckpt")


@pytest.mark.parametrize(
    "more",
    [
        ["--data", "ManifestDataModule", "--data.root", "other", "--data.split", "all_test"],
        ["--data=ManifestDataModule", "--data.root=other", "--data.split=all_test"],
        ["--config", "other.yaml"],
        ["--config=other.yaml"],
    ],
)
def test_other_data_are_tested_on_although_the_run_had_phantoms(
    run: Run, tmp_path: Path, more: list[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.checkpoint.parents[1], copy)
    best = str(copy / "checkpoints/best.ckpt")
    outcome = call("test", "--ckpt_path", best, *more, cwd=run.home)
    assert outcome.status == 0, outcome.err
    home = copy / "test_on_other"
    assert json.loads((home / "true/metrics.json").read_text())["cases"] == sum(ROWS.values())
    assert json.loads((home / "data.json").read_text())["root"] == str(run.home / "other")


def test_other_data_keep_what_the_network_goes_by_and_nothing_of_the_runs_own(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.home)
    kept = {"image_size": 32, "batch_size": 2, "num_workers": 0, "normalise_captions": True}
    for more in (["--data", "ManifestDataModule"], ["--config", "other.yaml"]):
        settings = run.settings(*more)
        assert kept.items() <= settings.items()
        assert not {"root", "captions", "split", "synthesize", "on_missing"} & set(settings)


def test_a_root_alone_replaces_phantoms_and_leaves_all_else(run: Run) -> None:
    before, after = run.settings(), run.settings("--data.root", "other")
    assert before["synthesize"] == 2
    assert {**before, "synthesize": False} == after


def test_a_config_with_a_model_stands_for_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.home)
    for more in (["--config", "tiny.yaml"], ["--config", "other.yaml", "--config", "tiny.yaml"]):
        assert with_run_config(run.arguments(*more)) == run.arguments(*more)
