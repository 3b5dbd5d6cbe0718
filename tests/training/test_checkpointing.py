"""What a fit keeps: best.ckpt of the best epoch, last.ckpt of the last; going on from it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

import textseg.models.scoring as scoring
from tests.tiny_run import SMALL, call, only, train_arguments, write_experiment, write_refhl
from textseg.training.checkpoint_files import default_checkpoint_callbacks

STEPS = 2  # an epoch: four rows in batches of two


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Path:
    """An experiment whose val/dice is the same in every epoch, and its data."""
    home = tmp_path_factory.mktemp("home")
    write_refhl(home / "refhl")
    write_experiment(home, model=SMALL)
    scores = scoring.mean_scores

    def never_better(*arguments: Any, **settings: Any) -> dict[str, torch.Tensor]:
        return scores(*arguments, **settings) | {"dice": torch.tensor(0.5)}

    patch.setattr(scoring, "mean_scores", never_better)
    return home


def fit(home: Path, name: str, epochs: int, *more: str | Path) -> Path:
    """The run folder of a fit; `name` keeps runs apart."""
    experiment = home / f"{name}.yaml"
    experiment.write_text((home / "tiny.yaml").read_text())
    length = ["--trainer.max_epochs", str(epochs), *map(str, more)]
    outcome = call(*train_arguments(experiment, home / "refhl", *length), cwd=home)
    assert outcome.status == 0, outcome.err
    return only(home / "runs" / name)


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    return fit(home, "three", 3)


def place(run: Path, name: str) -> tuple[int, int]:
    """Epoch, from 0, and step of a checkpoint."""
    stored = torch.load(run / "checkpoints" / name, weights_only=True)
    return stored["epoch"], stored["global_step"]


def test_last_is_of_the_last_epoch_though_no_epoch_was_better_than_the_first(run: Path) -> None:
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]
    assert place(run, "best.ckpt") == (0, STEPS)
    assert place(run, "last.ckpt") == (2, 3 * STEPS)


def test_last_is_written_after_an_epoch_without_validation_too(home: Path) -> None:
    run = fit(home, "seldom", 3, "--trainer.check_val_every_n_epoch", "2")
    assert place(run, "best.ckpt") == (1, 2 * STEPS)
    assert place(run, "last.ckpt") == (2, 3 * STEPS)


def test_the_trainers_own_checkpoint_is_the_best_one(tmp_path: Path) -> None:
    trainer = L.Trainer(
        accelerator="cpu", logger=False, callbacks=default_checkpoint_callbacks(tmp_path)
    )
    assert getattr(trainer.checkpoint_callback, "monitor", None) == "val/dice"


def test_a_fit_goes_on_from_last_in_the_same_folder_and_table(home: Path, run: Path) -> None:
    """The last test of `run`, which it changes."""
    longer = ["--trainer.max_epochs", "5", "--ckpt_path", str(run / "checkpoints/last.ckpt")]
    outcome = call(*train_arguments(home / "three.yaml", home / "refhl", *longer), cwd=home)
    assert outcome.status == 0, outcome.err
    assert only(home / "runs/three") == run
    assert place(run, "last.ckpt") == (4, 5 * STEPS)
    with (run / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file) if row["val/dice"]] == list("01234")
