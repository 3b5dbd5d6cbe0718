"""Data that are something else than they seem: what the command line says of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_run import (
    NO_PICTURES,
    SMALL,
    Outcome,
    call,
    only,
    train_arguments,
    write_experiment,
    write_refhl,
)


@pytest.fixture(scope="module")
def one_caption(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A fit with its tests, on one caption for all and test masks without foreground."""
    home = tmp_path_factory.mktemp("home")
    root = write_refhl(home / "refhl")
    rows = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    (root / "manifest.jsonl").write_text(
        "".join(json.dumps({**r, "text": "polyp"}) + "\n" for r in rows)
    )
    for path in (root / "masks").glob("test*.png"):
        Image.fromarray(0 * np.asarray(Image.open(path))).save(path)
    file = write_experiment(home, model=SMALL, results_writer=NO_PICTURES)
    outcome = call(*train_arguments(file, root, "--test_after_fit", "true"), cwd=home)
    return only(home / "runs/tiny"), outcome


def test_a_control_that_cannot_be_is_left_out_before_the_training_and_the_others_stay(
    one_caption: tuple[Path, Outcome],
) -> None:
    run, outcome = one_caption
    assert outcome.status == 0, outcome.err
    assert {path.name for path in (run / "test").iterdir()} == {"true", "empty"}
    (line,) = [line for line in outcome.out.splitlines() if "shuffled" in line]
    assert "polyp" in line
    assert line in outcome.err.partition("run folder")[0], "said before the training, too"
    assert outcome.out.index("dice") < outcome.out.index(line)


def test_scores_of_a_test_set_without_foreground_say_so(one_caption: tuple[Path, Outcome]) -> None:
    run, outcome = one_caption
    (note,) = [line for line in outcome.out.splitlines() if "nothing was outlined" in line]
    stored = json.loads((run / "test/true/metrics.json").read_text())["warnings"]
    assert note.removeprefix("warning: ") in stored


def test_masks_of_class_numbers_are_refused_before_the_first_step(tmp_path: Path) -> None:
    root = write_refhl(tmp_path / "refhl")
    for path in (root / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 255).save(path)
    file = write_experiment(tmp_path, model=SMALL, results_writer=NO_PICTURES)
    refused = call(*train_arguments(file, root), cwd=tmp_path)
    assert refused.status == 2
    cause, remedy = refused.message()
    assert "3 of 4 masks of train" in cause, "one is empty"
    assert "mask_values=[1]" in remedy
    assert list((tmp_path / "runs").rglob("*.ckpt")) == []
    fitted = call(*train_arguments(file, root, "--data.mask_values", "[1]"), cwd=tmp_path)
    assert fitted.status == 0, fitted.err
    best = only(tmp_path / "runs/tiny") / "checkpoints/best.ckpt"
    again = call("test", "--ckpt_path", best, cwd=tmp_path)
    assert again.status == 0, "the run's mask_values are the test's"
    assert (best.parents[1] / "test/true").is_dir()
    other = shutil.copytree(root, tmp_path / "other")
    refused = call(
        *("test", "--ckpt_path", best, "--data", "ManifestDataModule", "--data.root", other),
        *("--data.split", "manifest"),
        cwd=tmp_path,
    )
    assert refused.status == 2, "another set has values of its own"
    assert "masks of test" in refused.message()[0]


def test_an_audit_takes_mask_values_and_prints_remedies(tmp_path: Path) -> None:
    root = write_refhl(tmp_path / "refhl")
    for path in (root / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 255).save(path)
    found = call("data", "audit", root, "--dataset", "refhl", cwd=tmp_path)
    assert found.status == 1
    lines = found.out.splitlines()
    [place] = [n for n, line in enumerate(lines) if "mask erased by the threshold" in line]
    assert "mask_values=[1]" in lines[place + 1]
    right = call(
        *("data", "audit", root, "--dataset", "refhl", "--mask_values", "[1]"), cwd=tmp_path
    )
    assert right.status == 0, right.out
