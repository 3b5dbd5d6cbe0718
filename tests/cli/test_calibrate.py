"""`textseg calibrate`, and threshold and temperature on the commands that take them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import textseg
from datamodules import RefHLSegDataModule
from tests.thresholds import between_pixels
from tests.tiny_run import (
    NO_PICTURES,
    ROWS,
    SMALL,
    Outcome,
    call,
    masks_in,
    only,
    train_arguments,
    write_experiment,
    write_refhl,
)
from textseg.errors import UserError
from textseg.metrics.calibration import THRESHOLDS
from textseg.metrics.scores import dice_from_counts


@dataclass(frozen=True)
class Calibrated:
    """A calibrated run, its data, and what the command printed."""

    home: Path
    run: Path
    root: Path
    outcome: Outcome

    @property
    def checkpoint(self) -> str:
        return str(self.run / "checkpoints/best.ckpt")

    @property
    def stored(self) -> dict[str, Any]:
        return json.loads((self.run / "calibration/calibration.json").read_text())

    def call(self, command: str, *arguments: str) -> Outcome:
        outcome = call(command, *arguments, cwd=self.home)
        assert outcome.status == 0, outcome.err
        return outcome


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    home = tmp_path_factory.mktemp("home")
    root = write_refhl(home / "refhl")
    outcome = call(*train_arguments(write_experiment(home, model=SMALL), root), cwd=home)
    assert outcome.status == 0, outcome.err
    run = only(home / "runs/tiny")
    outcome = call("calibrate", str(run), cwd=home)
    assert outcome.status == 0, outcome.err
    return Calibrated(home, run, root, outcome)


def pixels(done: Calibrated) -> Iterator[tuple[Any, Any]]:
    """Logits and truths of the validation rows, by the network and the data themselves."""
    settings: dict[str, Any] = {"image_size": 32, "num_workers": 0, "cache": None}
    data = RefHLSegDataModule(str(done.root), **settings)
    data.setup("validate")
    network = textseg.load(done.checkpoint, device="cpu").model
    for loaded in data.val_dataloader():
        batch = data.on_after_batch_transfer(loaded, 0)
        with torch.inference_mode():
            logits = network(batch["image"], batch["text"]).logits[:, 0].double().numpy()
        yield from zip(logits, batch["mask"][:, 0].numpy() > 0.5, strict=True)


def test_the_numbers_are_those_of_the_validation_rows(done: Calibrated) -> None:
    stored, rows = done.stored, list(pixels(done))
    logits, truths = (np.stack(x) for x in zip(*rows, strict=True))
    assert (stored["cases"], stored["pixels"]) == (ROWS["val"], logits.size)
    probability = 1 / (1 + np.exp(-logits))
    bins = np.minimum((probability * 15).astype(int), 14)
    parts = [bins == bin for bin in range(15) if (bins == bin).any()]
    error = sum(p.mean() * abs(probability[p].mean() - truths[p].mean()) for p in parts)
    assert stored["measured"]["ece"] == pytest.approx(error, abs=1e-4)
    signed = np.where(truths, logits, -logits)
    assert stored["measured"]["nll"] == pytest.approx(np.logaddexp(0, -signed).mean(), rel=1e-4)
    assert stored["scaled"]["nll"] <= stored["measured"]["nll"]
    masks = logits > 0
    areas = [(m & t).sum() for m, t in rows_of(masks, truths)]
    sums = [masks.sum(axis=(1, 2)), truths.sum(axis=(1, 2))]
    assert stored["dice"] == pytest.approx(dice_from_counts(areas, *sums).mean())
    assert stored["dice_best"] >= stored["dice"]
    assert stored["threshold"] in THRESHOLDS


def rows_of(*columns: Any) -> Iterator[Any]:
    return zip(*columns, strict=True)


def test_the_command_prints_the_numbers_and_draws_them(done: Calibrated) -> None:
    stored, out = done.stored, done.outcome.out
    for number in (stored["measured"]["ece_margin"], stored["scaled"]["ece"], stored["dice"]):
        assert f"{number:.4f}" in out
    assert f"temperature {stored['temperature']:.3f}" in out
    assert "3 validation images" in out
    files = {path.name for path in (done.run / "calibration").iterdir()}
    assert files == {"calibration.json", "reliability.png", "reliability.pdf"}


def test_nothing_is_applied_unasked_and_what_is_applied_is_said(done: Calibrated) -> None:
    quiet = [f"--results_writer.{name}={value}" for name, value in NO_PICTURES.items()]
    saving = [*quiet, "--results_writer.save_masks=true", "--ckpt_path", done.checkpoint]
    done.call("test", *saving)
    plain = json.loads((done.run / "test/true/metrics.json").read_text())
    assert (plain["threshold"], plain["temperature"]) == (0.5, 1.0)
    applied = ["--threshold", "best", "--temperature", "fitted"]
    out = done.call("test", *saving, *applied).out
    stored = done.stored
    cut, scale = stored["threshold_scaled"], stored["temperature"]
    said = f"threshold {cut:.4g}, temperature {scale:.4g}"
    assert said in out
    folder = only(done.run / "test", "true_threshold*")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["threshold"], metrics["temperature"]) == pytest.approx((cut, scale))
    assert 0 <= plain["ece"] <= 1
    assert metrics["ece"] != plain["ece"], "of scaled probabilities"
    unscaled = done.call("test", *saving, "--threshold", str(stored["threshold"]))
    assert "temperature" not in unscaled.out
    other = only(done.run / "test", f"true_threshold{stored['threshold']:.4g}")
    for name, mask in masks_in(other / "masks").items():
        assert np.array_equal(mask, masks_in(folder / "masks")[name]), name


def test_predict_and_segment_cut_at_the_threshold(done: Calibrated) -> None:
    rows = [json.loads(line) for line in (done.root / "manifest.jsonl").open()]
    row = next(row for row in rows if row["split"] == "test")
    image = str(done.root / row["image"])
    plain = textseg.load(done.checkpoint, device="cpu").segment(image, row["text"])
    odds = np.log(plain.probs / (1 - plain.probs)) / 2
    cut = between_pixels(1 / (1 + np.exp(-odds)))
    network = textseg.load(done.checkpoint, device="cpu", threshold=cut, temperature=2.0)
    found = network.segment(image, row["text"])
    assert found.probs == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-5)
    assert (found.mask != (found.probs > cut)).mean() < 1e-3
    assert 0.1 < found.mask.mean() < 0.9
    done.call("predict", "--ckpt_path", done.checkpoint, f"--threshold={cut}", "--temperature=2")
    folder = done.run / f"predict_threshold{cut:.4g}_temperature2"
    (mask,) = (m for n, m in masks_in(folder).items() if n.startswith(f"{Path(image).stem}__7"))
    assert np.array_equal(mask > 0, found.mask)
    said = json.loads((folder / "averaging.json").read_text())
    assert (said["threshold"], said["temperature"]) == (cut, 2.0)
    arguments = ["--ckpt_path", done.checkpoint, "--device", "cpu", "--temperature", "fitted"]
    out = done.call("segment", image, row["text"], *arguments).out
    assert f"temperature {done.stored['temperature']:.4g}" in out


def test_a_calibration_of_other_weights_is_not_taken(done: Calibrated) -> None:
    file = done.run / "calibration/calibration.json"
    text = file.read_text()
    try:
        file.write_text(json.dumps(done.stored | {"weights": ["0123"]}))
        with pytest.raises(UserError, match="no calibration of these weights"):
            textseg.load(done.checkpoint, threshold="best")
        file.write_text("{}")
        with pytest.raises(UserError, match="temperature"):
            textseg.load(done.checkpoint, temperature="fitted")
    finally:
        file.write_text(text)


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        ("test", ["--threshold", "1"], "threshold=1"),
        ("test", ["--threshold", "good"], "threshold"),
        ("test", ["--temperature", "0"], "temperature=0"),
        ("test", ["--tta", "flip", "--temperature", "fitted"], "calibration_flip"),
        ("calibrate", ["--threshold", "0.4"], "threshold=0.4"),
        ("calibrate", ["--data.caption_mode", "empty"], "caption_mode=empty"),
        ("segment", ["{image}", "lesion", "--threshold", "0"], "threshold=0"),
    ],
)
def test_what_cannot_be_used_is_refused(
    done: Calibrated, command: str, arguments: list[str], named: str
) -> None:
    image = str(next((done.root / "images").iterdir()))
    given = [one.format(image=image) for one in arguments]
    outcome = call(command, *given, "--ckpt_path", done.checkpoint, cwd=done.home)
    assert outcome.status == 2
    assert named in outcome.message()[0]


def test_a_fit_refuses_before_it_trains(done: Calibrated, tmp_path: Path) -> None:
    config = write_experiment(tmp_path, model=SMALL)
    for asked, named in (("best", "threshold=best"), ("1.5", "threshold=1.5")):
        arguments = train_arguments(
            config, done.root, "--test_after_fit", "true", "--threshold", asked
        )
        outcome = call(*arguments, cwd=tmp_path)
        assert outcome.status == 2
        assert named in outcome.message()[0]
    assert not (tmp_path / "runs/tiny").exists() or not list((tmp_path / "runs/tiny").iterdir())
