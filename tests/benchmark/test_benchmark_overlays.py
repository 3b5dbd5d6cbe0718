"""Compared experiments with overlays, and text frozen for a measurement only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import textseg.benchmark.measure as module
from tests.benchmark.tiny_benchmark import Sized, injected, skip_costly, tiny
from tests.models.stand_ins import CAPTIONS
from tests.tiny_run import call, write_experiment
from textseg.benchmark.experiments import name_of, network_of_experiment
from textseg.benchmark.measure import benchmark
from textseg.encoders import TextEncoder
from textseg.errors import UserError

OVERLAY = """# An overlay.
trainer: {max_epochs: 2}
model:
  init_args:
    lr: 1e-3
    image_encoder_options: {embed_dim: 24, depths: [1, 1, 1, 1], num_heads: [1, 2, 4, 8]}
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_costly(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Experiments, small overlays in cpu/, and the working directory in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cpu").mkdir()
    write_experiment(tmp_path, "small")
    (tmp_path / "lavt.yaml").write_text(
        "model:\n  class_path: textseg.models.LAVT\n  init_args:\n"
        "    {lr: 1e-4, text_encoder: scratch, image_encoder_options: {window_size: 4}}\n"
        "data: {class_path: RefHLSegDataModule}\n"
    )
    (tmp_path / "cpu/lavt.yaml").write_text(OVERLAY)
    (tmp_path / "cpu/wide.yaml").write_text("model: {init_args: {decoder_dim: 64}}\n")
    (tmp_path / "cpu/trainer.yaml").write_text("trainer: {max_epochs: 2}\n")
    return tmp_path


def test_overlays_count_as_further_configs_of_the_command_line_do(folder: Path) -> None:
    """Single settings by key, a setting that is a table as a whole."""
    files = ["--config", "lavt.yaml", "--config", "cpu/lavt.yaml"]
    files += ["--model.pretrained", "false", "--model.freeze_text", "null"]  # as the benchmark does
    printed = call("fit", *files, "--print_config", cwd=folder)
    expected = yaml.safe_load(printed.out)["model"]["init_args"]
    assert expected["lr"] == 1e-3
    assert "window_size" not in expected["image_encoder_options"]
    settings = json.loads(
        json.dumps(dict(network_of_experiment("lavt.yaml+cpu/lavt.yaml").hparams))
    )
    assert {name: settings[name] for name in expected} == expected


def test_the_last_of_several_overlays_counts_and_one_may_say_nothing_of_the_network(
    folder: Path,
) -> None:
    (folder / "narrow.yaml").write_text("model: {class_path: LSMS, init_args: {decoder_dim: 96}}\n")
    entry = "small.yaml+cpu/wide.yaml+cpu/trainer.yaml"
    assert network_of_experiment(entry).hparams["decoder_dim"] == 64
    assert network_of_experiment(f"{entry}+narrow.yaml").hparams["decoder_dim"] == 96
    assert network_of_experiment("small.yaml").hparams["decoder_dim"] == 32


def test_a_network_with_overlays_is_called_by_all_of_its_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "time_rounds", injected(1.0))
    others = ["small.yaml", "small.yaml+cpu/wide.yaml"]
    settings: dict[str, Any] = {"compare_with": others, "reference": "small+wide"}
    rows = benchmark(tiny(), Sized(32), batch_size=2, rounds=1, **settings)["networks"]
    assert [row["name"] for row in rows] == ["LSMS", "small", "small+wide"]
    assert rows[2]["parameters_m"] > rows[1]["parameters_m"]


def test_a_file_whose_own_name_has_a_plus_is_one_file(folder: Path) -> None:
    write_experiment(folder, "a+b", model={"init_args": {"decoder_dim": 96}})
    assert name_of("a+b.yaml") == "a+b"
    assert network_of_experiment("a+b.yaml").hparams["decoder_dim"] == 96


@pytest.mark.parametrize(
    ("entry", "cause", "remedy"),
    [
        ("small.yaml+cpu/lavt.yaml", "image_encoder_options", "LSMS"),
        ("small.yaml+lavt.yaml", "lavt.yaml is of textseg.models.LAVT", "overlays"),
        ("cpu/wide.yaml", "cpu/wide.yaml has no model", "a.yaml+cpu/a.yaml"),
        ("small.yaml+cpu/none.yaml", "cpu/none.yaml cannot be read", "experiments/"),
        ("small.yaml+", "cannot be read", "experiments/"),
    ],
)
def test_an_overlay_that_does_not_fit_is_named(
    folder: Path, entry: str, cause: str, remedy: str
) -> None:
    with pytest.raises(UserError) as caught:
        network_of_experiment(entry)
    first, second = str(caught.value).splitlines()
    assert cause in first
    assert remedy in second


# Text frozen to be measured


@pytest.mark.parametrize("freeze_text", [False, True])
def test_freeze_text_measures_random_words_as_if_they_were_published_ones(
    monkeypatch: pytest.MonkeyPatch, freeze_text: bool
) -> None:
    monkeypatch.setattr(module, "time_rounds", injected(1.0))
    model = tiny()
    assert isinstance(model.text_encoder, TextEncoder)
    text = sum(p.numel() for p in model.text_encoder.parameters()) / 1e6
    result = benchmark(model, Sized(32), batch_size=2, rounds=1, freeze_text=freeze_text)
    (row,) = result["networks"]
    left_out = row["parameters_m"] - row["trainable_m"]
    assert left_out == pytest.approx(text if freeze_text else 0)
    assert row["gflops"] > row["gflops_without_text_encoder"], "the cache must not hide it"
    assert bool(model.text_encoder._cache) is freeze_text


def test_a_frozen_text_encoder_stays_in_eval_while_the_network_trains() -> None:
    model = tiny()
    model.prepare_captions(CAPTIONS, training=True)
    model.text_encoder.freeze()
    assert not any(module.training for module in model.train().text_encoder.modules())
    assert model.head.training


def test_the_command_takes_overlays_and_frozen_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "time_rounds", injected(1.0))
    settings = ["--batch_size", "2", "--rounds", "1", "--freeze_text", "true"]
    settings += ["--compare_with", "[small.yaml+cpu/wide.yaml]", "--output", "figures.json"]
    outcome = call("benchmark", "--config", "small.yaml", *settings, cwd=folder)
    assert outcome.status == 0, outcome.err
    rows = json.loads((folder / "figures.json").read_text())["networks"]
    assert [row["name"] for row in rows] == ["LSMS", "small+wide"]
    assert all(row["trainable_m"] < row["parameters_m"] for row in rows)


def test_a_batch_that_cannot_be_trained_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"LSMS cannot be trained on a batch of 1 image of 32 x 32"):
        benchmark(tiny(), Sized(32), batch_size=1, rounds=1)


# Where a mistake stands


def test_a_mistake_in_a_config_is_not_looked_for_in_the_files_to_compare_with(folder: Path) -> None:
    (folder / "over.yaml").write_text("# Of --config.\nmodel: {init_args: {decoder_dim: wide}}\n")
    others = [["--compare_with", "[cpu/wide.yaml]"], ["--compare_with+=cpu/wide.yaml"]]
    others.append(["--compare_with+", "cpu/wide.yaml"])
    for given in others:
        configs = ["--config", "small.yaml", "--config", "over.yaml"]
        outcome = call("benchmark", *configs, *given, cwd=folder)
        assert outcome.status == 2
        cause, _ = outcome.message()
        assert "over.yaml, line 2" in cause, given
        assert "wide.yaml" not in cause, given
