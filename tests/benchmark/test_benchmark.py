"""Counts against hand computation, and what a benchmark of one network reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import textseg.benchmark.measure as module
from tests.benchmark.tiny_benchmark import SMALLEST, Sized, skip_costly, tiny
from textseg.batch import SegmentationOutput, stable_id
from textseg.benchmark.cost import count_gflops, random_batch
from textseg.benchmark.measure import benchmark, with_ratios
from textseg.benchmark.table import format_benchmark
from textseg.benchmark.timing import MEASURES, WARM_UP, Candidate, faster, time_rounds
from textseg.encoders import TextEncoder
from textseg.models.lsms import LSMS


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


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_a_convolutions_step_is_three_forwards_whatever_its_groups(groups: int) -> None:
    layer = nn.Conv2d(8, 8, 5, padding=2, stride=2, groups=groups)
    x = torch.zeros(2, 8, 12, 16, requires_grad=True)
    counted = count_gflops(lambda: layer(x).sum().backward(), backward=True)
    assert counted == pytest.approx(3 * 2 * (2 * 6 * 8) * 8 * (8 // groups) * 25 / 1e9)


def test_a_transposed_convolution_whose_input_is_fixed_costs_two_forwards() -> None:
    layer, x = nn.ConvTranspose2d(6, 4, 3, stride=2), torch.zeros(2, 6, 5, 7)
    counted = count_gflops(lambda: layer(x).sum().backward(), backward=True)
    assert counted == pytest.approx(2 * 2 * (2 * 5 * 7) * 6 * 4 * 9 / 1e9)


def test_counting_leaves_no_gradients_behind() -> None:
    layer = nn.Linear(2, 2)
    outputs: list[torch.Tensor] = []
    count_gflops(lambda: outputs.append(layer(torch.zeros(1, 2))))
    assert not outputs[0].requires_grad


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_costly(monkeypatch)


def one(*arguments: Any, **settings: Any) -> dict[str, Any]:
    """The row of a benchmark of one network."""
    (row,) = benchmark(*arguments, **settings)["networks"]
    return row


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return benchmark(tiny(), Sized(64), batch_size=2, rounds=1)


@pytest.fixture(scope="module")
def row(result: dict[str, Any]) -> dict[str, Any]:
    return result["networks"][0]


def test_a_benchmark_reports_its_settings(result: dict[str, Any]) -> None:
    expected = {"image_size": 64, "batch_size": 2, "threads": 1, "rounds": 1, "reference": "LSMS"}
    assert {k: result[k] for k in expected} == expected
    measured = {"environment", "matrix_product_gflops_per_s", "networks"}
    assert set(result) == {*expected, *measured}
    assert result["environment"]["torch"] == torch.__version__
    assert result["environment"]["lightning"] == L.__version__
    assert result["environment"]["device"] == "cpu"


def test_a_benchmark_reports_size_cost_and_times(row: dict[str, Any]) -> None:
    assert set(row) == {
        *("name", "network", "mode", "memory_format"),
        *("parameters_m", "trainable_m", "gflops", "gflops_without_text_encoder", "step_gflops"),
        *("text_s", "text_median_s", "forward_s", "forward_median_s", "step_s", "step_median_s"),
        *("forward_ratio", "step_ratio", "speedup"),
        *("text_share", "text_bit_equal", "share_of_peak", "peak_memory_mib"),
    }
    assert (row["network"], row["mode"]) == ("LSMS", "fp32")
    assert min(row["forward_s"], row["step_s"]) > 0
    assert row["forward_median_s"] >= row["forward_s"]
    assert row["step_median_s"] >= row["step_s"]
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
    model = tiny()
    model.text_encoder.freeze()
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

    def measured(*arguments: Any) -> dict[str, Any]:
        seen.append(torch.get_num_threads())
        if fails:
            raise RuntimeError("a network broke")
        return {"networks": [{"name": "LSMS", "forward_s": 1.0, "step_s": 1.0}]}

    monkeypatch.setattr(module, "measured", measured)
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


class Scripted(Candidate):
    """Runs no network: its calls take given times, and switching takes one that must not count."""

    def __init__(self, clock: Clock, name: str, forward: Any = (), step: Any = ()) -> None:
        self.clock, self.name, self.memory_format = clock, name, "x"
        self.times = {measure: [] for measure in MEASURES}
        tasks = {"text": [0.25] * len(forward), "forward": forward, "step": step}
        for measure, seconds in tasks.items():
            setattr(self, measure, clock.task(f"{name} {measure}", *seconds))

    def train(self, mode: bool) -> None:
        self.clock.now += 1000


def timed(forward: Sequence[float], step: Sequence[float], memory_format: str = "x") -> Candidate:
    one = Scripted(Clock(), "a")
    one.memory_format = memory_format
    one.times = {"text": [1.0], "forward": list(forward), "step": list(step)}
    return one


def test_every_round_runs_all_candidates_and_starts_one_further_on() -> None:
    clock, ones = Clock(), [1.0] * 9
    candidates = [Scripted(clock, name, ones, ones) for name in "abc"]
    time_rounds(candidates, 2, clock)
    forwards = [label[0] for label in clock.calls if label.endswith("forward")]
    assert "".join(forwards) == "abc" + "bca" + "cab" + "abc"
    assert clock.calls[2::3] == [f"{name} step" for name in forwards], "its step is the next call"


def test_the_clock_counts_each_call_apart_and_no_warm_up() -> None:
    clock, cold = Clock(), [100.0] * WARM_UP
    a = Scripted(clock, "a", [*cold, 1, 2, 3], [*cold, 4, 5, 6])
    b = Scripted(clock, "b", [*cold, 7, 8, 9], [*cold, 10, 11, 12])
    time_rounds([a, b], 3, clock)
    text = [0.25] * 3
    assert a.times == {"text": text, "forward": [1, 2, 3], "step": [4, 5, 6]}
    assert b.times == {"text": text, "forward": [7, 8, 9], "step": [10, 11, 12]}


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_a_figure_is_the_least_of_the_rounds_with_the_median_beside_it(count: int) -> None:
    forward, step = np.random.default_rng(count).random((2, count))
    figures = timed(forward.tolist(), step.tolist()).figures()
    for name, values in (("forward", forward), ("step", step)):
        assert figures[f"{name}_s"] == np.sort(values)[0]
        assert figures[f"{name}_median_s"] == pytest.approx(np.percentile(values, 50))


def test_the_format_with_the_smaller_sum_is_reported_for_both_measures() -> None:
    first = timed([1, 1, 50], [10, 10, 10], "channels_first")  # sum of the least 11
    last = timed([3, 3, 3], [7, 7, 7], "channels_last")  # 10, though its forward is slower
    for order in ([first, last], [last, first]):
        figures = faster(order).figures()
        assert figures["memory_format"] == "channels_last"
        assert (figures["forward_s"], figures["step_s"]) == (3, 7)


def test_ratios_are_the_least_over_those_of_the_reference() -> None:
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
        if len(image) > 2:  # not those whose GFLOPs are counted
            self.seen.append((layout_of(image), layout_of(weight), self.training))
        return super().forward_features(image, text)


def test_weights_and_image_are_in_the_format_of_their_candidate() -> None:
    Plain.seen.clear()
    model = Plain(SMALLEST, "scratch", pretrained=False, decoder_dim=32)
    benchmark(model, Sized(32), batch_size=3, rounds=1)
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
    batch = random_batch(3, 32)
    model = tiny()
    model.text_encoder.freeze()
    model.prepare_captions(batch["text"], training=True)
    one = Candidate("a", model, "channels_last", batch)
    one.forward()
    assert encoded == batch["text"]
    one.step()
    one.forward()
    assert encoded == batch["text"], "again, with the cache filled"


def test_no_two_rows_of_the_batch_share_image_or_caption() -> None:
    batch = random_batch(20, 32)
    assert len(set(batch["text"])) == 20
    assert batch["caption_id"].tolist() == [stable_id(caption) for caption in batch["text"]]
    assert len(set(batch["image_id"].tolist())) == 20


# Text


def test_every_figure_of_one_network_has_its_line(result: dict[str, Any]) -> None:
    lines = dict(line.split(maxsplit=1) for line in format_benchmark(result).splitlines())
    (row,) = result["networks"]
    of_itself = {"name", "forward_ratio", "step_ratio", "speedup"}
    settings = {"image_size", "batch_size", "threads", "rounds", *result["environment"]}
    assert set(lines) == {*row, *settings, "matrix_product_gflops_per_s"} - of_itself
    assert float(lines["forward_s"]) == pytest.approx(row["forward_s"], rel=1e-3)
    assert lines["network"] == "LSMS"
