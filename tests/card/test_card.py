"""`textseg card`: what the folder holds, what it leaves out, and that it is read back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.numpy import load_file

import textseg
from tests.docs.page import read_page
from tests.export.checkpoints import SIZE, write_checkpoint
from tests.models.stand_ins import CAPTIONS, write_bert
from tests.report.reported_run import write_reported_run
from tests.tiny_run import ROOT, call, masks_in
from textseg.card.failures import failure_blocks, words_failures
from textseg.errors import UserError
from textseg.report.blocks import Table, Text
from textseg.runs import Run

PICTURE = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tested run of TMCA on a BERT whose folder is gone, and its card."""
    home = tmp_path_factory.mktemp("home")
    write_bert(home / "encoder")
    run = write_reported_run(home / "runs/own/2026-01-01_10-00-00", captions="left lung of Jo")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["model"] = {
        "class_path": "textseg.models.TMCA",
        "init_args": {"text_encoder": str(home / "encoder")},
    }
    settings["trainer"]["logger"] = {"init_args": {"entity": "our-team"}}
    settings["data"]["init_args"] |= {"image_size": list(SIZE), "resize": "pad"}
    (run / "config.yaml").write_text("# trained on 77 rows\n" + yaml.safe_dump(settings))
    write_checkpoint(run / "checkpoints", "TMCA", text_encoder=str(home / "encoder"))
    shutil.rmtree(home / "encoder")
    outcome = call(*read_page("export.md").command("card", {"RUN": run}), cwd=home)
    assert outcome.status == 0, outcome.err
    assert f"written to {home / 'card'}" in outcome.out
    return home


def run_of(home: Path) -> Path:
    return home / "runs/own/2026-01-01_10-00-00"


@pytest.mark.parametrize("words", ["test --ckpt_path", "probe", "calibrate --ckpt_path"])
def test_commands_that_need_the_run_say_what_the_folder_is(home: Path, words: str) -> None:
    outcome = call(*words.split(), home / "card", cwd=home)
    assert outcome.status == 2
    cause, remedy = outcome.message()
    assert "textseg card" in cause
    assert "textseg segment" in cause
    assert "best.ckpt" in remedy


def test_the_folder_gives_the_masks_of_the_checkpoint(home: Path, tmp_path: Path) -> None:
    """Also where the run is gone and the folder is elsewhere, by load and by segment."""
    moved = shutil.copytree(home / "card", tmp_path / "moved")
    found, wanted = (
        textseg.load(path).segment(PICTURE, CAPTIONS[0])
        for path in (moved, run_of(home) / "checkpoints/best.ckpt")
    )
    assert np.array_equal(found.probs, wanted.probs)
    assert 0 < wanted.mask.mean() < 1
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    outcome = call("segment", "a.png", CAPTIONS[0], "--ckpt_path", moved, cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    (mask,) = masks_in(tmp_path / "segmented/masks").values()
    assert np.array_equal(np.asarray(mask) > 0, wanted.mask)


def test_weights_are_plain_safetensors(home: Path) -> None:
    state = torch.load(run_of(home) / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    wanted = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    file = home / "card/model.safetensors"
    assert file.stat().st_mode == file.with_name("config.yaml").stat().st_mode, "others read it too"
    found = load_file(file)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name].numpy()) for name in wanted)


def head_and_text(home: Path) -> tuple[dict[str, Any], str]:
    _, head, text = (home / "card/README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_card_has_the_hubs_head_and_the_numbers_of_the_test(home: Path) -> None:
    head, text = head_and_text(home)
    assert head["license"] == "cc-by-nc-4.0"
    assert head["library_name"] == "textseg"
    assert head["pipeline_tag"] == "image-segmentation"
    assert head["datasets"] == ["QaTaCov19"]
    assert {"tags", "metrics"} <= head.keys()
    stored = json.loads((run_of(home) / "test/true/metrics.json").read_text())
    for name in ("dice", "dice_global", "dice_patient"):
        low, high = (stored[f"{name}_ci_{end}"] for end in ("low", "high"))
        assert f"{stored[name]:.3f} \\[{low:.3f}, {high:.3f}\\]" in text, name
    assert f"{stored['dice']:.3f}" in text.partition("## ")[0], (
        "the first lines hold the first number"
    )
    worst = min(stored["strata"]["size"].values(), key=lambda values: values["dice"])
    assert f"{worst['dice']:.3f}" in text.partition("## Known failures")[2].partition("## ")[0]
    for said in (
        "on request",
        "Collected in two hospitals.",
        "Seed 7",
        "training rows: 77",
        "arXiv",
    ):
        assert said in text, said


def test_what_was_not_measured_is_said(home: Path) -> None:
    _, text = head_and_text(home)
    for section in ("## Use of the text", "## Calibration"):
        assert "Not measured" in text.partition(section)[2].partition("## ")[0]


def test_failures_name_what_words_cost() -> None:
    typos = {"difference": -0.125, "difference_ci_low": -0.25, "difference_ci_high": 0.0}
    absent = {"requests": 9, "outlined": 0.75, "outlined_ci_low": 0.5, "outlined_ci_high": 0.875}
    stored = {"variants": {"typos": typos}, "absent": absent}
    texts = [block.text for block in words_failures(stored) if isinstance(block, Text)]
    assert "-0.125 [-0.250, +0.000]" in texts[0]
    assert "0.750 [0.500, 0.875] of 9 requests" in texts[1]
    assert words_failures({}) == []


def test_a_stratum_of_one_class_has_no_worst(home: Path) -> None:
    test = Run(run_of(home)).tests()["true"]
    strata = {"size": {"large": {"dice": 0.5, "cases": 3}}}
    blocks = failure_blocks(replace(test, metrics={**test.metrics, "strata": strata}))
    assert not [block for block in blocks if isinstance(block, Table)]


def test_no_patient_case_caption_or_path_of_the_machine_is_in_the_folder(home: Path) -> None:
    names = {"c__0", "p0", "Jo", str(home), "/home/me", "secret", "our-team", str(ROOT)}
    for file in (file for file in (home / "card").rglob("*") if file.is_file()):
        data = file.read_bytes()
        for name in names - ({"p0", "Jo"} if file.suffix == ".safetensors" else set()):
            assert name.encode() not in data, (file.name, name)


def test_a_card_beside_another_and_one_of_a_run_without_tests(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_of(home), run, ignore=shutil.ignore_patterns("test", "metrics.csv"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("split: paper", "split: paper\n    synthesize: 9"))
    for name in ("card", "card_2"):
        outcome = call("card", run, cwd=tmp_path)
        assert outcome.status == 0, outcome.err
        text = (tmp_path / name / "README.md").read_text()
    assert "Not measured: the run was not tested" in text
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "unknown"
    assert text.count("not stated") == 3
    assert "phantoms instead of patients: yes" in text


def test_a_run_without_a_checkpoint_and_a_spoiled_folder_are_named(
    home: Path, tmp_path: Path
) -> None:
    outcome = call("card", tmp_path, cwd=tmp_path)
    assert outcome.status == 2
    assert "checkpoints/best.ckpt" in outcome.message()[0]
    copy = shutil.copytree(home / "card", tmp_path / "copy")
    for name in ("tokenizer.json", "model.safetensors", "textseg.json"):
        (copy / name).write_bytes(b"{")
        if name == "tokenizer.json":
            (copy / name).unlink()
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            textseg.load(copy)
        shutil.copyfile(home / "card" / name, copy / name)
    textseg.load(copy)
