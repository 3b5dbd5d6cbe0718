"""config.yaml of a run that began with a file of image weights: its digest, and life without it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import timm
import torch
import yaml

from tests.tiny_run import Outcome, call, only, train_arguments, write_experiment, write_refhl

MODEL = {
    "class_path": "TMCA",
    "init_args": {"image_encoder": "test_convnext", "text_encoder": "scratch", "alignment_dim": 8},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run, and the digest of its file of weights, which is gone."""
    home = tmp_path_factory.mktemp("digest")
    write_refhl(home / "refhl")
    experiment = write_experiment(home)
    changed = yaml.safe_load(experiment.read_text()) | {"model": MODEL}
    experiment.write_text("# A tiny run.\n" + yaml.safe_dump(changed))
    weights = home / "w.pth"
    torch.save(timm.create_model("test_convnext").state_dict(), weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    outcome = fit(home, "--model.image_weights", "w.pth")
    assert outcome.status == 0, outcome.err
    weights.unlink()
    return only(home / "runs/tiny"), digest


def fit(home: Path, *more: str) -> Outcome:
    return call(*train_arguments(home / "tiny.yaml", home / "refhl", *more), cwd=home)


def test_the_digest_stands_above_the_path_and_yaml_reads_the_file_as_before(
    trained: tuple[Path, str],
) -> None:
    run, digest = trained
    lines = (run / "config.yaml").read_text().splitlines()
    (row,) = (i for i, line in enumerate(lines) if line.strip().startswith("image_weights: "))
    assert lines[row - 1].strip() == f"# sha256 {digest}"
    assert yaml.safe_load("\n".join(lines))["model"]["init_args"]["image_weights"] == "w.pth"


def test_its_checkpoint_is_tested_where_the_file_is_gone(trained: tuple[Path, str]) -> None:
    run, _ = trained
    outcome = call("test", "--ckpt_path", run / "checkpoints/best.ckpt", cwd=run.parents[2])
    assert outcome.status == 0, outcome.err
    assert list((run / "test/true").iterdir())


def test_a_run_that_goes_on_reads_no_file_and_keeps_the_digest(trained: tuple[Path, str]) -> None:
    run, digest = trained
    home = run.parents[2]
    (home / "w.pth").write_bytes(b"another file by now")
    again = ["--model.image_weights", "w.pth", "--trainer.max_epochs", "2"]
    outcome = fit(home, *again, "--ckpt_path", "last")
    assert outcome.status == 0, outcome.err
    text = (run / "config.yaml").read_text()
    assert text.count("# sha256 ") == 1
    assert f"# sha256 {digest}\n" in text
    assert "max_epochs: 2" in text


def test_a_run_from_another_checkpoint_claims_no_file(trained: tuple[Path, str]) -> None:
    run, _ = trained
    home = run.parents[2]
    more = ["--model.image_weights", "w.pth", "--ckpt_path", str(run / "checkpoints/best.ckpt")]
    outcome = fit(home, *more, "--trainer.max_epochs", "3")
    assert outcome.status == 0, outcome.err
    (new,) = (folder for folder in (home / "runs/tiny").iterdir() if folder != run)
    assert "# sha256 " not in (new / "config.yaml").read_text()
