"""A benchmark of several networks: side by side, from experiments, as a table and a command."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import textseg.benchmark.measure as module
from tests.benchmark.tiny_benchmark import Sized, injected, skip_costly, tiny
from tests.models.stand_ins import write_bert
from tests.tiny_run import call, write_experiment
from textseg.benchmark.experiments import network_of_experiment
from textseg.benchmark.measure import benchmark, with_ratios
from textseg.benchmark.table import format_benchmark
from textseg.benchmark.timing import Candidate
from textseg.encoders import TextEncoder
from textseg.errors import UserError
from textseg.models.lsms import LSMS


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_costly(monkeypatch)
    monkeypatch.setattr(module, "time_rounds", injected(1.0))


def experiment(folder: Path, name: str = "other", **settings: Any) -> str:
    """A tiny experiment whose text encoder is on no machine."""
    settings = {"text_encoder": "hub/none", **settings}
    return str(write_experiment(folder, name, model={"init_args": settings}))


def test_compared_networks_are_rows_after_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "time_rounds", injected(2.0, wide=6.0, no_text=1.0))
    files = [
        experiment(tmp_path, "wide", decoder_dim=64),
        experiment(tmp_path, "no_text", language_branch="none", contrastive_weight=0),
    ]
    settings = {"compare_with": files, "text_encoder": "scratch", "reference": "no_text"}
    result = benchmark(tiny("mscan_tiny"), Sized(32), batch_size=2, rounds=2, **settings)
    rows = result["networks"]
    assert [row["name"] for row in rows] == ["LSMS", "wide", "no_text"]
    assert {row["memory_format"] for row in rows} == {"channels_last"}
    assert [(row["forward_s"], row["step_s"]) for row in rows] == [(2, 6), (6, 18), (1, 3)]
    assert [row["forward_ratio"] for row in rows] == [2, 6, 1]
    assert [row["step_ratio"] for row in rows] == [2, 6, 1]
    assert rows[1]["parameters_m"] > rows[0]["parameters_m"] > rows[2]["parameters_m"]
    assert rows[2]["trainable_m"] == rows[2]["parameters_m"], "no text encoder to freeze"


def test_all_networks_run_in_the_same_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[list[tuple[str, str]]] = []

    def rounds_of(candidates: Sequence[Candidate], rounds: int) -> None:
        runs.append([(one.name, one.memory_format) for one in candidates])
        injected(1.0)(candidates, rounds)

    monkeypatch.setattr(module, "time_rounds", rounds_of)
    benchmark(tiny(), Sized(32), compare_with=[experiment(tmp_path)], text_encoder="scratch")
    formats = ("channels_first", "channels_last")
    assert runs == [[(name, f) for name in ("LSMS", "other") for f in formats]]


def test_a_compared_network_loads_no_weights_and_freezes_its_text_encoder(tmp_path: Path) -> None:
    settings = {"pretrained": True, "freeze_text": False, "image_weights": "nowhere.pth"}
    model = network_of_experiment(experiment(tmp_path, **settings), "scratch")
    assert isinstance(model, LSMS)
    assert isinstance(model.text_encoder, TextEncoder)
    assert (model.text_encoder.name, model.text_encoder.frozen) == ("scratch", True)
    assert not model.text_encoder.pretrained


def test_an_experiments_own_text_encoder_is_kept_where_none_is_given(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").unlink()
    model = network_of_experiment(experiment(tmp_path, text_encoder=str(tmp_path / "bert")))
    assert model.text_encoder.name == str(tmp_path / "bert")


OWN = '''
from textseg.models import LSMS

class OwnNet(LSMS):
    """Reads no words where text_encoder is None; hands its other settings on."""

    def __init__(self, text_encoder: str | None = "hub/none", **others):
        if text_encoder is None:
            others |= {"language_branch": "none", "contrastive_weight": 0.0}
        super().__init__("mscan_tiny", text_encoder or "", **others)
'''


@pytest.fixture
def own_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stranger's experiment, its network in a module of the working folder."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    return tmp_path / "own.yaml"


@pytest.mark.parametrize(("own", "name"), [({"text_encoder": None}, None), ({}, "scratch")])
def test_a_strangers_network_is_compared_and_given_words_only_where_it_reads_any(
    own_net: Path, own: dict[str, Any], name: str | None
) -> None:
    content = {"model": {"class_path": "own.OwnNet", "init_args": {**own, "pretrained": True}}}
    own_net.write_text(yaml.safe_dump(content))
    model = network_of_experiment(str(own_net), "scratch")
    assert type(model).__name__ == "OwnNet"
    assert getattr(model.text_encoder, "name", None) == name
    assert model.hparams["pretrained"] is False, "by the settings that **others hands on"


def test_settings_are_read_as_the_command_line_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "model:\n  class_path: textseg.models.lsms.network.LSMS\n  init_args:\n"
        "    {image_encoder: mscan_tiny, lr: 1e-3, decoder_stages: [3, 4]}\n"
    )
    model = network_of_experiment(str(file), "scratch")
    assert model.hparams["lr"] == 1e-3, "to YAML 1.1 this is a string"
    assert model.hparams["decoder_stages"] == (3, 4)


# Mistakes


def model_file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    return str(file)


WHOLE, NAMES = "a.yaml+cpu/a.yaml", "'LSMS'"


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("model: {class_path: LSMS, init_args: {decoder_dm: 32}}", "'decoder_dm'", NAMES),
        ("model: {class_path: LSMS, init_args: {decoder_dim: 33}}", "decoder_dim=33", "128"),
        ("model: {class_path: LSMS, init_args: {decoder_dim: wide}}", "wide", NAMES),
        ("model: {class_path: LSMS, init_args: 3}", "init_args", WHOLE),
        ("model: {init_args: {decoder_dim: 32}}", "class_path", WHOLE),
        ("trainer: {max_epochs: 1}", "no model", WHOLE),
        ("- LSMS", "no model", WHOLE),
        ("model: {class_path: LSMSS}", "LSMSS", NAMES),
        ("model: {class_path: other.LSMS}", "other.LSMS", NAMES),
        ("model: {class_path: textseg.batch.TextFeatures}", "TextFeatures", NAMES),
        ("model: {class_path: SegmentationModule}", "SegmentationModule", NAMES),
        ("model: {class_path: [", "cannot be read", "experiments/"),
    ],
)
def test_an_experiment_that_makes_no_network_is_named(
    tmp_path: Path, text: str, cause: str, remedy: str
) -> None:
    path = model_file(tmp_path, text)
    with pytest.raises(UserError) as caught:
        network_of_experiment(path, "scratch")
    first, second = str(caught.value).splitlines()
    assert path in first
    assert cause in first
    assert remedy in second


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("none.yaml", "b.yaml", "."):
        with pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
            network_of_experiment(str(tmp_path / name))


def test_settings_that_cannot_be_measured_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measured", None)  # a call would fail the test
    file = experiment(tmp_path)
    (tmp_path / "sub").mkdir()
    namesake, twin = experiment(tmp_path, "LSMS"), experiment(tmp_path / "sub")
    (tmp_path / "there.json").touch()
    for settings, cause in [
        ({"rounds": 0}, "rounds=0"),
        ({"image_size": 50}, "50"),
        ({"text_encoder": "scratch"}, "text_encoder='scratch'"),
        ({"reference": "nobody"}, "reference='nobody'"),
        ({"modes": ["bf16", "bf16"]}, "modes="),
        ({"modes": ["fp32", "bf16"], "reference": "LSMS"}, "reference='LSMS'"),
        ({"compare_with": [file, twin], "text_encoder": "scratch"}, "'other'"),
        ({"compare_with": [namesake], "text_encoder": "scratch"}, "'LSMS'"),
        ({"output": str(tmp_path / "there.json")}, "exists"),
        ({"output": str(tmp_path / "no" / "a.json")}, "cannot be written to"),
    ]:
        with pytest.raises(UserError, match=cause) as caught:
            benchmark(tiny(), Sized(32), **settings)  # type: ignore[arg-type]
        assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(UserError, match=r"\[64, 96\] is no square"):
        benchmark(tiny(), Sized([64, 96]))


# Text and files


ENVIRONMENT = {"device_name": "a GPU", "torch": "2", "lightning": "3", "seed": 1}


def test_several_networks_are_a_table_with_aligned_columns() -> None:
    figures = {"network": "LSMS", "trainable_m": 4.0, "gflops": 12.5, "memory_format": "any"}
    figures |= {"mode": "bf16", "speedup": 2.5, "step_gflops": 37.5, "share_of_peak": 0.25}
    figures |= {"peak_memory_mib": 321.5, "text_share": 0.0123, "text_bit_equal": True}
    figures |= {"gflops_without_text_encoder": 11.25, "forward_median_s": 0.75}
    figures |= {"step_s": 2.0, "step_median_s": 2.125}
    rows = [
        {"name": "a", "parameters_m": 5.0, "forward_s": 0.5, **figures},
        {"name": "much_longer", "parameters_m": 123.456, "forward_s": 0.25, **figures},
    ]
    result = {"image_size": 224, "batch_size": 4, "threads": 1, "rounds": 10}
    result |= {"reference": "a", "networks": with_ratios(rows, "a")}
    result |= {"environment": ENVIRONMENT | {"load_average": 0.5}}
    result |= {"matrix_product_gflops_per_s": {"bf16": 700000.0}}
    costs, further = format_benchmark(result).split("\n\n")
    head, first, second, *notes = costs.splitlines()
    assert len(head) == len(first) == len(second)
    cells = "a 5.00 4.00 12.50 11.25 any 0.500 (0.750) 1.00 2.000 (2.125) 1.00"
    assert " ".join(first.split()) == cells
    assert second.split()[1] == "123.46"
    assert second.split()[-4] == "0.50"
    assert head.index("params M") + len("params M") == first.index("5.00") + len("5.00")
    assert "image_size 224, batch_size 4, threads 1" in notes[0]
    assert "least of 10 interleaved rounds" in notes[1]
    assert notes[1].endswith("ratios to a")
    _, first, second, *notes = further.splitlines()
    assert " ".join(first.split()) == "a bf16 2.50 37.50 25.0% 322 1.23% yes"
    assert "700000 GFLOP/s (bf16)" in notes[0]
    assert notes[1] == "a GPU, torch 2, lightning 3, seed 1, load average 0.5"


def run(folder: Path, *arguments: str) -> Any:
    settings = {"text_encoder": "scratch", "decoder_dim": 32}
    main = write_experiment(folder, "main", model={"init_args": settings})
    tail = ["--batch_size", "2", "--rounds", "1", "--data.root", "nowhere"]
    return call("benchmark", "--config", main, *tail, *arguments, cwd=folder)


def test_the_command_measures_experiments_side_by_side(tmp_path: Path) -> None:
    one, two = experiment(tmp_path, "one"), experiment(tmp_path, "two", decoder_dim=64)
    others = ["--compare_with", f"[{one},{two}]", "--text_encoder", "scratch", "--reference", "two"]
    outcome = run(tmp_path, *others, "--output", "figures.json")
    assert outcome.status == 0, outcome.err
    assert outcome.returned is None
    table = outcome.out.splitlines()
    assert [line.split()[0] for line in table[:4]] == ["name", "LSMS", "one", "two"]
    assert table[5].endswith("ratios to two")
    written = json.loads((tmp_path / "figures.json").read_text())
    assert format_benchmark(written) in outcome.out
    assert [row["name"] for row in written["networks"]] == ["LSMS", "one", "two"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--compare_with", "[none.yaml]"], "none.yaml cannot be read"),
        (["--compare_with", "none.yaml"], "compare_with"),
        (["--text_encoder", "scratch"], "text_encoder='scratch'"),
        (["--reference", "other"], "reference='other'"),
        (["--output", "main.yaml"], "output='main.yaml' exists"),
    ],
)
def test_a_mistake_on_the_command_line_is_two_lines(
    tmp_path: Path, arguments: list[str], cause: str
) -> None:
    outcome = run(tmp_path, *arguments)
    assert outcome.status == 2
    first, second = outcome.message()
    assert cause in first
    assert second.startswith("remedy: ")
    assert "Traceback" not in outcome.err
