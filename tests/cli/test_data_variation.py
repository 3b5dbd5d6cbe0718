"""How training data vary, as a user writes it: read, kept in config.yaml, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import textseg
from tests.expressions import with_expressions
from tests.tiny_run import call, only, write_experiment, write_refhl
from textseg.cli.arguments import with_run_config

LISTED = [{"class_path": "albumentations.GaussNoise", "init_args": {"p": 0.5}}]
VARIED: dict[str, Any] = {
    "augmentation": LISTED,
    "hflip": 0.25,
    "paraphrase": 0.5,
    "caption_dropout": 0.25,
    "resize": "pad",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    root = {"root": str(with_expressions(write_refhl(home / "refhl")))}
    write_experiment(home, data={"init_args": {**root, **VARIED}})
    return home


def test_a_fit_follows_what_is_written_and_its_test_and_its_network_too(home: Path) -> None:
    outcome = call("fit", "--config", "tiny.yaml", cwd=home)
    assert outcome.status == 0, outcome.err
    run = only(home / "runs/tiny")
    kept = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    assert {name: kept[name] for name in VARIED} == VARIED
    # Other data take from the run what belongs to the network.
    checkpoint = str(run / "checkpoints/best.ckpt")
    other = ["--data", "QaTaCov19DataModule", "--data.root", str(home / "elsewhere")]
    settings = yaml.safe_load(with_run_config(["--ckpt_path", checkpoint, *other])[1])
    taken = settings["data"]["init_args"]
    assert taken["resize"] == "pad"
    assert not {"augmentation", "hflip", "paraphrase", "caption_dropout"} & set(taken)
    assert textseg.load(checkpoint).resize == "pad"


@pytest.mark.parametrize(
    ("value", "named", "offered"),
    [
        ("[{class_path: albumentations.VerticalFlip}]", "VerticalFlip", "Affine"),
        ("[{class_path: albumentations.HorizontalFlip}]", "HorizontalFlip", "data.hflip"),
        ("[{class_path: albumentations.RandomGama}]", "RandomGama", "RandomGamma"),
        ("strongest", "'strongest'", "strong"),
    ],
)
def test_a_wrong_augmentation_is_refused(home: Path, value: str, named: str, offered: str) -> None:
    outcome = call("fit", "--config", "tiny.yaml", "--data.augmentation", value, cwd=home)
    assert outcome.status == 2
    cause, remedy = outcome.message()
    assert "augmentation" in cause
    assert named in cause
    assert offered in remedy
