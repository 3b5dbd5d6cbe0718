"""Counts against hand computation, and what a benchmark reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

import textseg.benchmark as module
import textseg.models
from tests.models.stand_ins import write_bert
from tests.tiny_run import call, write_experiment
from textseg.batch import SegmentationOutput, stable_id
from textseg.benchmark import (
    WARM_UP,
    Contender,
    benchmark,
    contender,
    count_gflops,
    faster,
    format_benchmark,
    network_from,
    time_rounds,
    with_ratios,
)
from textseg.encoders import TextEncoder
from textseg.errors import UserError
from textseg.models.lsms import LSMS


class Sized(L.LightningDataModule):
    """Data settings without data."""

    def __init__(self, image_size: Any) -> None:
        super().__init__()
        self.image_size = image_size


def tiny(**settings: Any) -> LSMS:
    return LSMS("mscan_tiny", "scratch", pretrained=False, decoder_dim=32, **settings)


def test_flops_of_a_linear_layer_are_two_for_each_multiply_add() -> None:
    layer, x = nn.Linear(10, 20), torch.zeros(3, 10)
    assert count_gflops(lambda: layer(x)) == pytest.approx(2 * 3 * 10 * 20 / 1e9)


def test_flops_of_a_depthwise_convolution_count_one_channel_for_each_output() -> None:
    layer, x = nn.Conv2d(8, 8, 5, padding=2, stride=2, groups=8), torch.zeros(1, 8, 12, 16)
    assert count_gflops(lambda: layer(x)) == pytest.approx(2 * 8 * 25 * 6 * 8 / 1e9)


@pytest.mark.parametrize("masked", [False, True])
def test_flops_of_attention_count_both_of_its_products(masked: bool) -> None:
    query, key = torch.zeros(2, 4, 7, 8), torch.zeros(2, 4, 5, 8)
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool) if masked else None
    counted = count_gflops(lambda: F.scaled_dot_product_attention(query, key, key, mask))
    assert counted == pytest.approx(2 * (2 * 4 * 7 * 5 * 8) * 2 / 1e9)


def test_counting_leaves_no_gradients_behind() -> None:
    layer = nn.Linear(2, 2)
    outputs: list[torch.Tensor] = []
    count_gflops(lambda: outputs.append(layer(torch.zeros(1, 2))))
    assert not outputs[0].requires_grad


def one(*arguments: Any, **settings: Any) -> dict[str, Any]:
    """The row of a benchmark of one network."""
    (row,) = benchmark(*arguments, **settings)["networks"]
    return row


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return benchmark(tiny(), Sized(64), batch_size=2, rounds=2)


@pytest.fixture(scope="module")
def row(result: dict[str, Any]) -> dict[str, Any]:
    return result["networks"][0]


def test_a_benchmark_reports_its_settings(result: dict[str, Any]) -> None:
    expected = {"image_size": 64, "batch_size": 2, "threads": 1, "rounds": 2, "reference": "LSMS"}
    assert {k: v for k, v in result.items() if k != "networks"} == expected


def test_a_benchmark_reports_size_cost_and_times(row: dict[str, Any]) -> None:
    assert set(row) == {
        *("name", "network", "memory_format"),
        *("parameters_m", "trainable_m", "gflops", "gflops_without_text_encoder"),
        *("forward_s", "forward_spread_s", "step_s", "step_spread_s"),
        *("forward_ratio", "step_ratio"),
    }
    assert row["network"] == "LSMS"
    assert min(row["forward_s"], row["step_s"]) > 0
    assert min(row["forward_spread_s"], row["step_spread_s"]) >= 0
    assert (row["forward_ratio"], row["step_ratio"]) == (1, 1)


def test_a_benchmark_counts_parameters_in_millions(row: dict[str, Any]) -> None:
    count = sum(p.numel() for p in tiny().parameters())
    assert row["parameters_m"] == pytest.approx(count / 1e6)
    assert row["trainable_m"] == pytest.approx(count / 1e6)


def test_the_text_encoder_is_counted_apart(row: dict[str, Any]) -> None:
    # Two BERT layers of width 128 and MLP 256, over 32 tokens, and their attention.
    layer = 2 * 32 * (4 * 128 * 128 + 2 * 128 * 256) + 2 * 2 * 32 * 32 * 128
    text = row["gflops"] - row["gflops_without_text_encoder"]
    assert text == pytest.approx(2 * layer / 1e9, rel=1e-6)


def test_gflops_are_of_one_image_whatever_the_batch(row: dict[str, Any]) -> None:
    assert one(tiny(), Sized(64), batch_size=1, rounds=1)["gflops"] == row["gflops"]


def test_frozen_parameters_are_counted_but_not_as_trainable() -> None:
    model = tiny(freeze_text=True)
    row = one(model, Sized([64, 64]), batch_size=1, rounds=1)
    text = sum(p.numel() for p in model.text_encoder.parameters()) / 1e6
    assert row["parameters_m"] - row["trainable_m"] == pytest.approx(text)
    assert row["gflops"] > row["gflops_without_text_encoder"], "the cache must not hide it"


def test_an_image_only_network_costs_the_same_with_and_without_text() -> None:
    model = tiny(language_branch="none", contrastive_weight=0.0)
    result = benchmark(model, Sized(224), image_size=64, batch_size=1, rounds=1)
    assert result["image_size"] == 64
    (row,) = result["networks"]
    assert row["gflops"] == row["gflops_without_text_encoder"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_benchmark_gives_the_threads_back(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    seen = []

    def rounds_of(contenders: Sequence[Contender], rounds: int) -> None:
        seen.append(torch.get_num_threads())
        if fails:
            raise RuntimeError("a network broke")
        injected(1.0)(contenders, rounds)

    monkeypatch.setattr(module, "time_rounds", rounds_of)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        if fails:
            with pytest.raises(RuntimeError):
                benchmark(tiny(), Sized(64), threads=2)
        else:
            benchmark(tiny(), Sized(64), threads=2)
        assert (seen, torch.get_num_threads()) == ([2], 3)
    finally:
        torch.set_num_threads(before)


def test_a_benchmark_leaves_the_weights_as_they_were() -> None:
    model = tiny()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    benchmark(model, Sized(64), batch_size=1, rounds=1)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.grad is None, name


# Rounds and formats


class Clock:
    """Seconds that pass only when something runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def task(self, label: str, *seconds: float) -> Callable[[], None]:
        """A call that takes the next of `seconds` each time."""
        left = iter(seconds)

        def run() -> None:
            self.calls.append(label)
            self.now += next(left)

        return run

    def contender(self, name: str, forward: Sequence[float], step: Sequence[float]) -> Contender:
        tasks = self.task(f"{name} forward", *forward), self.task(f"{name} step", *step)
        return Contender(name, "channels_first", *tasks)


def injected(seconds: float, **by_name: float) -> Callable[[Sequence[Contender], int], None]:
    """In place of `time_rounds`: a step is three times a forward, channels-first twice as slow."""

    def fill(contenders: Sequence[Contender], rounds: int) -> None:
        for one in contenders:
            base = by_name.get(one.name, seconds)
            slow = 2 if one.memory_format == "channels_first" else 1
            one.times["forward"] += [base * slow] * rounds
            one.times["step"] += [3 * base * slow] * rounds

    return fill


def timed(forward: Sequence[float], step: Sequence[float], memory_format: str = "x") -> Contender:
    nothing = Clock().task("never")
    times = {"forward": list(forward), "step": list(step)}
    return Contender("a", memory_format, nothing, nothing, times)


def test_every_round_runs_all_contenders_and_starts_one_further_on() -> None:
    clock, ones = Clock(), [1.0] * 9
    contenders = [clock.contender(name, ones, ones) for name in "abc"]
    time_rounds(contenders, 2, clock)
    forwards = [label[0] for label in clock.calls if label.endswith("forward")]
    assert "".join(forwards) == "abc" + "bca" + "cab" + "abc"
    assert clock.calls[1::2] == [f"{name} step" for name in forwards], "its step is the next call"


def test_the_clock_counts_each_call_apart_and_no_warm_up() -> None:
    clock, cold = Clock(), [100.0] * WARM_UP
    a = clock.contender("a", [*cold, 1, 2, 3], [*cold, 4, 5, 6])
    b = clock.contender("b", [*cold, 7, 8, 9], [*cold, 10, 11, 12])
    time_rounds([a, b], 3, clock)
    assert a.times == {"forward": [1, 2, 3], "step": [4, 5, 6]}
    assert b.times == {"forward": [7, 8, 9], "step": [10, 11, 12]}


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_a_figure_is_the_median_and_its_spread_the_interquartile_range(count: int) -> None:
    forward, step = np.random.default_rng(count).random((2, count))
    figures = timed(forward.tolist(), step.tolist()).figures()
    for name, values in (("forward", forward), ("step", step)):
        first, median, third = np.percentile(values, [25, 50, 75])
        assert figures[f"{name}_s"] == pytest.approx(median)
        assert figures[f"{name}_spread_s"] == pytest.approx(third - first)


def test_the_format_with_the_smaller_sum_is_reported_for_both_measures() -> None:
    first = timed([1, 1, 50], [10, 10, 10], "channels_first")  # sum of medians 11
    last = timed([3, 3, 3], [7, 7, 7], "channels_last")  # 10, though its forward is slower
    for order in ([first, last], [last, first]):
        figures = faster(order)
        assert figures["memory_format"] == "channels_last"
        assert (figures["forward_s"], figures["step_s"]) == (3, 7)


def test_ratios_are_medians_over_those_of_the_reference() -> None:
    rows = [{"name": "a", "forward_s": 3.0, "step_s": 8.0}]
    rows += [{"name": "b", "forward_s": 2.0, "step_s": 16.0}]
    ratios = [(r["forward_ratio"], r["step_ratio"]) for r in with_ratios(rows, "b")]
    assert ratios == [(1.5, 0.5), (1.0, 1.0)]


def layout_of(tensor: torch.Tensor) -> str:
    """Of a tensor that cannot be both."""
    last = tensor.is_contiguous(memory_format=torch.channels_last)
    assert last != tensor.is_contiguous()
    return "channels_last" if last else "channels_first"


class Plain(LSMS):
    """Records the layouts that its forward sees."""

    seen: list[tuple[str, str, bool]] = []  # noqa: RUF012  of the class, so that copies share it

    def forward_features(self, image: torch.Tensor, text: Any) -> SegmentationOutput:
        weight = next(
            m.weight
            for m in self.modules()
            if isinstance(m, nn.Conv2d) and m.weight.shape[1] > 1 and m.weight.shape[2] > 1
        )
        if len(image) > 1:  # not the one image whose GFLOPs are counted
            self.seen.append((layout_of(image), layout_of(weight), self.training))
        return super().forward_features(image, text)


def test_weights_and_image_are_in_the_format_of_their_contender() -> None:
    Plain.seen.clear()
    model = Plain("mscan_tiny", "scratch", pretrained=False, decoder_dim=32)
    benchmark(model, Sized(32), batch_size=2, rounds=1)
    first, last = "channels_first", "channels_last"
    both = [(f, f, training) for f in (first, last) for training in (False, True)]
    assert Plain.seen[:4] == both
    assert Plain.seen[4:8] == [*both[2:], *both[:2]], "the second round starts with the second"
    assert len(Plain.seen) == 4 * (WARM_UP + 1)


def test_captions_are_encoded_in_the_warm_up_only(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    original = TextEncoder._encode_alone

    def recorded(self: TextEncoder, caption: str) -> Any:
        encoded.append(caption)
        return original(self, caption)

    monkeypatch.setattr(TextEncoder, "_encode_alone", recorded)
    batch = module._batch(3, 32)
    model = tiny(freeze_text=True)
    model.on_captions(batch["text"], training=True)
    one = contender("a", model, "channels_last", batch)
    one.forward()
    assert encoded == batch["text"]
    one.step()
    one.forward()
    assert encoded == batch["text"], "again, with the cache filled"


def test_no_two_rows_of_the_batch_share_image_or_caption() -> None:
    batch = module._batch(20, 32)
    assert len(set(batch["text"])) == 20
    assert batch["caption_id"].tolist() == [stable_id(caption) for caption in batch["text"]]
    assert len(set(batch["image_id"].tolist())) == 20


# Several networks


def experiment(folder: Path, name: str = "other", **settings: Any) -> str:
    """A tiny experiment whose text encoder is on no machine."""
    settings = {"text_encoder": "hub/none", **settings}
    return str(write_experiment(folder, name, model={"init_args": settings}))


def test_networks_beside_are_rows_after_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "time_rounds", injected(2.0, wide=6.0, no_text=1.0))
    files = [
        experiment(tmp_path, "wide", decoder_dim=64),
        experiment(tmp_path, "no_text", language_branch="none", contrastive_weight=0),
    ]
    settings = {"beside": files, "text_encoder": "scratch", "reference": "no_text"}
    result = benchmark(tiny(), Sized(32), batch_size=2, rounds=2, **settings)
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

    def rounds_of(contenders: Sequence[Contender], rounds: int) -> None:
        runs.append([(one.name, one.memory_format) for one in contenders])
        injected(1.0)(contenders, rounds)

    monkeypatch.setattr(module, "time_rounds", rounds_of)
    benchmark(tiny(), Sized(32), beside=[experiment(tmp_path)], text_encoder="scratch")
    formats = ("channels_first", "channels_last")
    assert runs == [[(name, f) for name in ("LSMS", "other") for f in formats]]


def test_a_network_beside_loads_no_weights_and_freezes_its_text_encoder(tmp_path: Path) -> None:
    settings = {"pretrained": True, "freeze_text": False, "image_weights": "nowhere.pth"}
    model = network_from(experiment(tmp_path, **settings), "scratch")
    assert isinstance(model, LSMS)
    assert isinstance(model.text_encoder, TextEncoder)
    assert (model.text_encoder.name, model.text_encoder.frozen) == ("scratch", True)
    assert not model.text_encoder.pretrained


def test_an_experiments_own_text_encoder_is_kept_where_none_is_given(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").unlink()
    model = network_from(experiment(tmp_path, text_encoder=str(tmp_path / "bert")))
    assert model.text_encoder.name == str(tmp_path / "bert")


class MaybeText(LSMS):
    """A network that reads no words where text_encoder is None."""

    def __init__(self, text_encoder: str | None = "hub/none", lr: float = 1.0) -> None:
        branch, weight = ("none", 0.0) if text_encoder is None else ("shared", 0.1)
        super().__init__(
            "mscan_tiny",
            text_encoder or "",
            pretrained=False,
            language_branch=branch,  # type: ignore[arg-type]
            contrastive_weight=weight,
            lr=lr,
        )


@pytest.mark.parametrize(("own", "name"), [({"text_encoder": None}, None), ({}, "scratch")])
def test_a_network_without_words_is_given_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: dict[str, Any], name: str | None
) -> None:
    monkeypatch.setattr(textseg.models, "MaybeText", MaybeText, raising=False)
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump({"model": {"class_path": "MaybeText", "init_args": own}}))
    encoder = network_from(str(file), "scratch").text_encoder
    assert getattr(encoder, "name", None) == name


def test_settings_are_read_as_the_command_line_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "model:\n  class_path: textseg.models.lsms.network.LSMS\n  init_args:\n"
        "    {image_encoder: mscan_tiny, lr: 1e-3, decoder_stages: [3, 4]}\n"
    )
    model = network_from(str(file), "scratch")
    assert model.hparams["lr"] == 1e-3, "to YAML 1.1 this is a string"
    assert model.hparams["decoder_stages"] == (3, 4)


# Mistakes


def model_file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("model: {class_path: LSMS, init_args: {decoder_dm: 32}}", "'decoder_dm'", "decoder_dim"),
        ("model: {class_path: LSMS, init_args: {decoder_dim: 33}}", "decoder_dim=33", "128"),
        ("model: {class_path: LSMS, init_args: {decoder_dim: wide}}", "wide", "--help"),
        ("model: {class_path: LSMS, init_args: 3}", "init_args", "whole experiments"),
        ("model: {init_args: {decoder_dim: 32}}", "class_path", "whole experiments"),
        ("trainer: {max_epochs: 1}", "no model", "whole experiments"),
        ("- LSMS", "no model", "whole experiments"),
        ("model: {class_path: LSMSS}", "'LSMSS'", "'LSMS'"),
        ("model: {class_path: other.LSMS}", "'other.LSMS'", "'LSMS'"),
        ("model: {class_path: SegmentationModule}", "no network", "'LSMS'"),
        ("model: {class_path: [", "cannot be read", "experiment files"),
    ],
)
def test_an_experiment_that_makes_no_network_is_named(
    tmp_path: Path, text: str, cause: str, remedy: str
) -> None:
    path = model_file(tmp_path, text)
    with pytest.raises(UserError) as caught:
        network_from(path, "scratch")
    first, second = str(caught.value).splitlines()
    assert path in first
    assert cause in first
    assert remedy in second


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("none.yaml", "b.yaml", "."):
        with pytest.raises(UserError, match="cannot be read as YAML"):
            network_from(str(tmp_path / name))


def test_settings_that_cannot_be_measured_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_rows", None)  # a call would fail the test
    file = experiment(tmp_path)
    (tmp_path / "sub").mkdir()
    namesake, twin = experiment(tmp_path, "LSMS"), experiment(tmp_path / "sub")
    (tmp_path / "there.json").touch()
    for settings, cause in [
        ({"rounds": 0}, "rounds=0"),
        ({"image_size": 50}, "50"),
        ({"text_encoder": "scratch"}, "text_encoder='scratch'"),
        ({"reference": "nobody"}, "reference='nobody'"),
        ({"beside": [file, twin], "text_encoder": "scratch"}, "'other'"),
        ({"beside": [namesake], "text_encoder": "scratch"}, "'LSMS'"),
        ({"output": str(tmp_path / "there.json")}, "exists"),
        ({"output": str(tmp_path / "no" / "a.json")}, "cannot be written to"),
    ]:
        with pytest.raises(UserError, match=cause) as caught:
            benchmark(tiny(), Sized(32), **settings)  # type: ignore[arg-type]
        assert len(str(caught.value).splitlines()) == 2


# Text and files


def test_every_figure_of_one_network_has_its_line(result: dict[str, Any]) -> None:
    lines = dict(line.split() for line in format_benchmark(result).splitlines())
    (row,) = result["networks"]
    assert list(lines) == [
        *("network", "image_size", "batch_size", "threads", "rounds"),
        *("parameters_m", "trainable_m", "gflops", "gflops_without_text_encoder"),
        *("memory_format", "forward_s", "forward_spread_s", "step_s", "step_spread_s"),
    ]
    assert float(lines["forward_s"]) == pytest.approx(row["forward_s"], rel=1e-3)
    assert lines["network"] == "LSMS"


def test_several_networks_are_a_table_with_aligned_columns() -> None:
    figures = {"network": "LSMS", "trainable_m": 4.0, "gflops": 12.5, "memory_format": "any"}
    figures |= {"gflops_without_text_encoder": 11.25, "forward_spread_s": 0.01}
    figures |= {"step_s": 2.0, "step_spread_s": 0.125}
    rows = [
        {"name": "a", "parameters_m": 5.0, "forward_s": 0.5, **figures},
        {"name": "much_longer", "parameters_m": 123.456, "forward_s": 0.25, **figures},
    ]
    result = {"image_size": 224, "batch_size": 4, "threads": 1, "rounds": 10}
    result |= {"reference": "a", "networks": with_ratios(rows, "a")}
    head, first, second, *notes = format_benchmark(result).splitlines()
    assert len(head) == len(first) == len(second)
    cells = "a 5.00 4.00 12.50 11.25 any 0.500 (0.010) 1.00 2.000 (0.125) 1.00"
    assert " ".join(first.split()) == cells
    assert second.split()[1] == "123.46"
    assert second.split()[-4] == "0.50"
    assert head.index("params M") + len("params M") == first.index("5.00") + len("5.00")
    assert "image_size 224, batch_size 4, threads 1" in notes[0]
    assert "median of 10 interleaved rounds" in notes[1]
    assert notes[1].endswith("ratios to a")


def run(folder: Path, *arguments: str) -> Any:
    settings = {"text_encoder": "scratch", "decoder_dim": 32}
    main = write_experiment(folder, "main", model={"init_args": settings})
    tail = ["--batch_size", "2", "--rounds", "1", "--data.root", "nowhere"]
    return call("benchmark", "--config", main, *tail, *arguments, cwd=folder)


def test_the_command_measures_experiments_side_by_side(tmp_path: Path) -> None:
    one, two = experiment(tmp_path, "one"), experiment(tmp_path, "two", decoder_dim=64)
    besides = ["--beside", f"[{one},{two}]", "--text_encoder", "scratch", "--reference", "two"]
    outcome = run(tmp_path, *besides, "--output", "figures.json")
    assert outcome.status == 0, outcome.err
    assert outcome.returned is None
    table = outcome.out.splitlines()
    assert [line.split()[0] for line in table[:4]] == ["name", "LSMS", "one", "two"]
    assert table[-1].endswith("ratios to two")
    written = json.loads((tmp_path / "figures.json").read_text())
    assert format_benchmark(written) in outcome.out
    assert [row["name"] for row in written["networks"]] == ["LSMS", "one", "two"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--beside", "[none.yaml]"], "none.yaml cannot be read"),
        (["--beside", "none.yaml"], "beside"),
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
