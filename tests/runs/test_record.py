"""What a training records of itself in comments of config.yaml."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

import textseg.models
from tests.tiny_run import SMALL, call, only, train_arguments, write_experiment, write_refhl
from textseg.callbacks.run_config import captions_digest, started_pretrained
from textseg.compare import settings
from textseg.runs import Run
from textseg.runs.record import TrainingRecord

WHOLE = TrainingRecord(
    rows=5716, captions="a" * 64, images_a_step=16, pretrained=False, weights="b" * 64
)
CONFIG = "model:\n  init_args:\n    image_weights: w.pth\n"


@pytest.mark.parametrize("lacking", [None, *asdict(WHOLE)])
def test_a_record_is_read_as_it_was_written_and_yaml_does_not_see_it(lacking: str | None) -> None:
    record = replace(WHOLE, **({lacking: None} if lacking else {}))
    text = record.written_into(CONFIG)
    assert TrainingRecord.read(text) == record
    assert yaml.safe_load(text) == yaml.safe_load(CONFIG)


def test_a_config_without_a_record_and_a_missing_one_tell_nothing(tmp_path: Path) -> None:
    assert Run(tmp_path).training_record() == TrainingRecord()
    (tmp_path / "config.yaml").write_text(CONFIG)
    assert Run(tmp_path).training_record() == TrainingRecord()
    assert Run(tmp_path).training_rows() is None
    (tmp_path / "config.yaml").write_bytes(b"\xff")
    assert Run(tmp_path).training_record() == TrainingRecord()


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("TMC", {"image_encoder": "test_convnext", "text_encoder": "scratch"}),
        ("TMCA", {"image_encoder": "test_convnext", "text_encoder": "scratch"}),
        ("LAVT", {"image_encoder": "test_convnext", "text_encoder": "scratch"}),
        ("LanGuideMedSeg", {"image_encoder": "test_convnext", "text_encoder": "scratch"}),
        ("ImageBaseline", {"image_encoder": "tu-test_convnext"}),
        ("LSMS", {"image_encoder": "mscan_tiny", "text_encoder": "scratch"}),
        ("LViT", {"width": 8, "text_encoder": "scratch"}),
    ],
)
def test_rules_for_runs_without_a_record_say_what_a_network_says(
    name: str, own: dict[str, Any], tmp_path: Path
) -> None:
    given = [own | {"pretrained": False}]
    if "test_convnext" in own.get("image_encoder", ""):
        torch.save(timm.create_model("test_convnext").state_dict(), tmp_path / "w.pth")
        given.append(given[0] | {"image_weights": str(tmp_path / "w.pth")})
    else:
        given.append(own | {"pretrained": True})  # of the text encoder alone
    for arguments in given:
        said = started_pretrained(getattr(textseg.models, name)(**arguments))
        assert settings.started_pretrained(f"textseg.models.{name}", arguments) == said
        assert said == ("image_weights" in arguments)


def test_a_run_keeps_how_it_started_when_it_goes_on_without_its_file(tmp_path: Path) -> None:
    write_refhl(tmp_path / "refhl")
    experiment = write_experiment(tmp_path)
    model = {"class_path": "TMCA", "init_args": SMALL["init_args"] | {"pretrained": True}}
    changed = yaml.safe_load(experiment.read_text()) | {"model": model}
    experiment.write_text("# A tiny run.\n" + yaml.safe_dump(changed))
    torch.save(timm.create_model("test_convnext").state_dict(), tmp_path / "w.pth")

    def fit(*more: str) -> TrainingRecord:
        arguments = train_arguments(experiment, tmp_path / "refhl", *more)
        outcome = call(*arguments, cwd=tmp_path)
        assert outcome.status == 0, outcome.err
        return Run(only(tmp_path / "runs/tiny")).training_record()

    steps = ["--trainer.accumulate_grad_batches", "2"]
    first = fit("--model.image_weights", "w.pth", *steps)
    assert (first.rows, first.images_a_step, first.pretrained) == (4, 4, True)
    assert first.captions
    (tmp_path / "w.pth").unlink()
    again = ["--model.image_weights", "null", "--ckpt_path", "last", "--trainer.max_epochs", "2"]
    assert fit(*again, *steps) == first


def test_captions_have_one_digest_in_any_order_and_folder_and_another_if_one_differs() -> None:
    from datamodules.records import Record

    def rows(folder: str, *texts: str) -> list[Record]:
        named = [(f"c{i}", text) for i, text in enumerate(texts)]
        return [Record(Path(folder, case), None, text, case, "", 0) for case, text in named]

    first = captions_digest(rows("a", "left", "right"))
    assert captions_digest(reversed(rows("b", "left", "right"))) == first
    assert captions_digest(rows("a", "right", "left")) != first
