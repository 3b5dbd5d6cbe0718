"""What a run that goes on may change, what it may not, and that one that had ended ends."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.tiny_run import NO_PICTURES, SMALL, Outcome, call, only, write_experiment, write_refhl
from textseg.errors import UserError
from textseg.training.resume_checks import check_same_settings

EMA = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.5}}
# No epoch improves by so much.
STOPS = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/dice", "mode": "max"}}
STOPS["init_args"] |= {"patience": 1, "min_delta": 1.0}  # type: ignore[operator]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    root = {"init_args": {"root": str(write_refhl(home / "refhl"))}}
    write_experiment(home, "plain", trainer={"max_epochs": 2}, data=root, model=SMALL)
    for name, callbacks in (("ended", [EMA, STOPS]), ("no_average", [STOPS])):
        trainer: dict[str, Any] = {"max_epochs": 9, "callbacks": callbacks}
        more = {"model": SMALL, "results_writer": NO_PICTURES}
        write_experiment(home, name, trainer=trainer, data=root, **more)
    return home


def fit(home: Path, name: str, *more: str) -> Outcome:
    return call("fit", "--config", f"{name}.yaml", *more, cwd=home)


def finished(home: Path, name: str) -> Path:
    outcome = fit(home, name)
    assert outcome.status == 0, outcome.err
    return only(home / "runs" / name)


@pytest.fixture(scope="module")
def plain(home: Path) -> Path:
    """A run of two epochs."""
    return finished(home, "plain")


@pytest.fixture(scope="module")
def ended(home: Path) -> Path:
    """A run that averages its weights and stopped after the second of nine epochs."""
    return finished(home, "ended")


def step(run: Path) -> int:
    return int(torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"])


@pytest.mark.parametrize(
    ("setting", "value", "was"),
    [
        ("model.lr", "0.1", "0.0003"),
        ("seed_everything", "7", "1"),
        ("data.augmentation", "none", '"standard"'),
        ("data.image_size", "64", "32"),
        ("data.seed", "7", "0"),
    ],
)
def test_a_setting_that_a_resumed_run_would_not_follow_is_refused(
    home: Path, plain: Path, setting: str, value: str, was: str
) -> None:
    """Model, data and seed; and config.yaml goes on telling what was trained."""
    before = (plain / "config.yaml").read_bytes()
    longer = ["--trainer.max_epochs", "3", "--ckpt_path", "last"]
    outcome = fit(home, "plain", *longer, f"--{setting}", value)
    assert outcome.status == 2
    cause, remedy = outcome.message()
    assert re.search(rf'{setting}="?{value}"? \(was {was}\)', cause)
    assert f"give {setting} its old value" in remedy
    assert (plain / "config.yaml").read_bytes() == before


def test_fewer_epochs_than_are_done_are_refused(home: Path, plain: Path) -> None:
    before = (plain / "config.yaml").read_bytes()
    outcome = fit(home, "plain", "--ckpt_path", "last", "--trainer.max_epochs", "1")
    assert outcome.status == 2
    assert "trainer.max_epochs=1, but the checkpoint has 2 epochs" in outcome.message()[0]
    assert (plain / "config.yaml").read_bytes() == before


def test_data_that_moved_a_drawn_seed_and_more_epochs_go_on(home: Path, plain: Path) -> None:
    """The last test of `plain`, which it changes."""
    steps = step(plain)
    moved = shutil.copytree(home / "refhl", home / "moved")
    changed = ["--data.root", str(moved), "--data.batch_size", "4", "--seed_everything", "true"]
    outcome = fit(home, "plain", "--ckpt_path", "last", "--trainer.max_epochs", "3", *changed)
    assert outcome.status == 0, outcome.err
    assert step(plain) == steps + 1, "of four rows"
    config = yaml.safe_load((plain / "config.yaml").read_text())
    assert config["data"]["init_args"]["root"] == str(moved)
    assert config["seed_everything"] == 1


def test_settings_that_one_of_two_versions_does_not_know_are_not_compared(tmp_path: Path) -> None:
    old = {"model": {"class_path": "A", "init_args": {"lr": 1.0, "gone": 1, "on": True}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    new: dict[str, Any] = {"model": {"class_path": "A", "init_args": {"lr": 1.0, "new": 2}}}
    assert check_same_settings(tmp_path, new) == old
    new["model"]["init_args"]["on"] = 1  # equal to true in Python
    with pytest.raises(UserError, match=r"model.on=1 \(was true\)"):
        check_same_settings(tmp_path, new)
    assert check_same_settings(tmp_path / "elsewhere", new) == {}


def test_a_table_of_folds_may_move_but_not_change(tmp_path: Path) -> None:
    def settings(folds: str, fold: int = 1) -> dict[str, Any]:
        return {"data": {"class_path": "A", "init_args": {"folds": folds, "fold": fold}}}

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings("a/folds-5-x.csv")))
    check_same_settings(tmp_path, settings("b/folds-5-x.csv"))
    for other in (settings("a/folds-5-y.csv"), settings("a/folds-5-x.csv", fold=2)):
        with pytest.raises(UserError, match=r"data\.fold"):
            check_same_settings(tmp_path, other)


def test_a_resumed_run_without_its_averaging_is_refused(home: Path, ended: Path) -> None:
    outcome = fit(home, "no_average", "--ckpt_path", str(ended / "checkpoints/last.ckpt"))
    assert outcome.status == 2
    assert "averages its weights (EMA)" in outcome.message()[0]
    assert "EMAWeightAveraging" in outcome.message()[1]


def test_a_run_that_had_stopped_early_ends_at_once_and_is_tested(home: Path, ended: Path) -> None:
    steps = step(ended)
    assert steps == 2 * 2, "of two batches each"
    outcome = fit(home, "ended", "--ckpt_path", "last", "--test_after_fit", "true")
    assert outcome.status == 0, outcome.err
    assert step(ended) == steps
    assert "this run had stopped early. Monitored metric val/dice did not improve" in outcome.err
    assert {path.parent.name for path in ended.rglob("metrics.json")} == {
        "true",
        "empty",
        "shuffled",
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["enable_checkpointing", "false"], "trainer.enable_checkpointing=false keeps"),
        (["barebones", "true"], "trainer.barebones=true keeps"),
        (["sync_batchnorm", "true"], "trainer.sync_batchnorm=true needs GPUs"),
    ],
)
def test_what_no_fit_can_do_is_said_before_it_starts(
    home: Path, settings: list[str], words: str
) -> None:
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    outcome = fit(home, "plain", f"--trainer.{settings[0]}", settings[1], *two)
    assert outcome.status == 2
    assert words in outcome.message()[0]
