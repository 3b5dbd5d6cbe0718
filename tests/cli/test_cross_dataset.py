"""A run tested on other data: what of its own settings it keeps, and what it must not."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.tiny_run import NO_PICTURES, ROWS, SMALL, call, only, write_experiment, write_refhl
from textseg.cli.arguments import with_run_config
from textseg.errors import UserError

OTHER = "data: {class_path: ManifestDataModule, init_args: {root: other, split: all_test}}"


@dataclass(frozen=True)
class Run:
    home: Path
    checkpoint: Path

    def arguments(self, *more: str) -> list[str]:
        return ["--ckpt_path", str(self.checkpoint), *more]

    def settings(self, *more: str) -> dict[str, object]:
        """The data settings of the run that a test with these arguments starts from."""
        arguments = with_run_config(self.arguments(*more))
        assert arguments[0] == "--config"
        return yaml.safe_load(arguments[1])["data"]["init_args"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained on phantoms, with settings that are not the defaults."""
    home = tmp_path_factory.mktemp("home")
    write_refhl(home / "other")
    (home / "other.yaml").write_text(OTHER)
    data = {"init_args": {"synthesize": 2, "normalize_captions": True}}
    experiment = write_experiment(home, data=data, model=SMALL, results_writer=NO_PICTURES)
    outcome = call("fit", "--config", experiment, cwd=home)
    assert outcome.status == 0, outcome.err
    return Run(home, only(home / "runs/tiny") / "checkpoints/best.ckpt")


@pytest.mark.parametrize(
    "more",
    [
        ["--data=ManifestDataModule", "--data.root=other", "--data.split=all_test"],
        ["--config", "other.yaml"],
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
    kept = {"image_size": 32, "batch_size": 2, "num_workers": 0, "normalize_captions": True}
    for more in (
        *(["--data", "ManifestDataModule"], ["--data=ManifestDataModule"]),
        *(["--config", "other.yaml"], ["--config=other.yaml"]),
    ):
        settings = run.settings(*more)
        assert kept.items() <= settings.items()
        assert not {"root", "captions", "split", "synthesize", "on_missing"} & set(settings)


def test_a_root_alone_replaces_phantoms_and_leaves_all_else(run: Run) -> None:
    before, after = run.settings(), run.settings("--data.root", "other")
    assert before["synthesize"] == 2
    assert {**before, "synthesize": False} == after


def stored(run_folder: Path, **settings: object) -> list[str]:
    """The arguments of a test of a made-up run with these data settings."""
    (run_folder / "checkpoints").mkdir(parents=True)
    data = {"class_path": "datamodules.MosMedDataModule", "init_args": settings}
    (run_folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return ["--ckpt_path", str(run_folder / "checkpoints/best.ckpt")]


def kept(arguments: list[str]) -> dict[str, object]:
    return yaml.safe_load(with_run_config(arguments)[1])["data"]["init_args"]


def test_a_runs_split_survives_a_config_and_a_class_that_name_the_same_data(
    tmp_path: Path,
) -> None:
    test = stored(tmp_path / "run", root=str(tmp_path), split="study", layout="lvit")
    (tmp_path / "over.yaml").write_text("data: {init_args: {batch_size: 4}}")
    for more in (
        ["--config", str(tmp_path / "over.yaml")],
        ["--config", str(tmp_path / "over.yaml"), "--data.root", str(tmp_path)],
        ["--data", "MosMedDataModule", "--data.root", f"{tmp_path}/run/.."],
        ["--data", "MosMedDataModule"],
    ):
        settings = kept([*test, *more])
        assert (settings["split"], settings["layout"]) == ("study", "lvit"), more


def test_the_runs_captions_are_not_read_for_the_pictures_of_another_root(tmp_path: Path) -> None:
    test = stored(tmp_path / "run", root="a", captions=str(tmp_path / "a.csv"))
    with pytest.raises(UserError) as error:
        with_run_config([*test, "--data.root", str(tmp_path / "b")])
    assert f"root={tmp_path / 'b'}" in str(error.value)
    assert str(tmp_path / "a.csv") in str(error.value)
    own = [*test, "--data.root", str(tmp_path / "b"), "--data.captions", "b.csv"]
    assert kept(own)["root"] == "a", "the command line comes after"


@pytest.mark.parametrize("text", ["trainer: null", "data: {init_args: null}", "data: null"])
def test_a_config_emptied_by_hand_ends_in_no_traceback(tmp_path: Path, text: str) -> None:
    test = stored(tmp_path / "run")
    (tmp_path / "run/config.yaml").write_text(text)
    assert with_run_config(test)[0] == "--config"


def test_a_config_with_a_model_stands_for_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.home)
    for more in (["--config", "tiny.yaml"], ["--config", "other.yaml", "--config", "tiny.yaml"]):
        assert with_run_config(run.arguments(*more)) == run.arguments(*more)
