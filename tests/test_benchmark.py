"""Counts against hand computation, and what a benchmark reports."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from textseg.benchmark import benchmark, count_gflops, format_benchmark
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


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return benchmark(tiny(), Sized(64), batch_size=2, rounds=2)


def test_a_benchmark_reports_size_cost_and_times(result: dict[str, Any]) -> None:
    assert set(result) == {
        *("network", "image_size", "batch_size", "threads"),
        *("parameters_m", "trainable_m", "gflops", "gflops_without_text_encoder"),
        *("forward_s", "forward_spread_s", "step_s", "step_spread_s"),
    }
    assert (result["network"], result["image_size"], result["batch_size"]) == ("LSMS", 64, 2)
    assert 0 < result["forward_s"] < result["step_s"]
    assert min(result["forward_spread_s"], result["step_spread_s"]) >= 0


def test_a_benchmark_counts_parameters_in_millions(result: dict[str, Any]) -> None:
    count = sum(p.numel() for p in tiny().parameters())
    assert result["parameters_m"] == pytest.approx(count / 1e6)
    assert result["trainable_m"] == pytest.approx(count / 1e6)


def test_the_text_encoder_is_counted_apart(result: dict[str, Any]) -> None:
    # Two BERT layers of width 128 and MLP 256, over 32 tokens, and their attention.
    layer = 2 * 32 * (4 * 128 * 128 + 2 * 128 * 256) + 2 * 2 * 32 * 32 * 128
    text = result["gflops"] - result["gflops_without_text_encoder"]
    assert text == pytest.approx(2 * layer / 1e9, rel=1e-6)


def test_gflops_are_of_one_image_whatever_the_batch(result: dict[str, Any]) -> None:
    other = benchmark(tiny(), Sized(64), batch_size=1, rounds=1)
    assert other["gflops"] == result["gflops"]


def test_frozen_parameters_are_counted_but_not_as_trainable() -> None:
    model = tiny(freeze_text=True)
    result = benchmark(model, Sized([64, 64]), batch_size=1, rounds=1)
    text = sum(p.numel() for p in model.text_encoder.parameters()) / 1e6
    assert result["parameters_m"] - result["trainable_m"] == pytest.approx(text)
    assert result["gflops"] > result["gflops_without_text_encoder"], "the cache must not hide it"


def test_an_image_only_network_costs_the_same_with_and_without_text() -> None:
    model = tiny(language_branch="none", contrastive_weight=0.0)
    result = benchmark(model, Sized(224), image_size=64, batch_size=1, rounds=1)
    assert result["image_size"] == 64
    assert result["gflops"] == result["gflops_without_text_encoder"]


def test_a_benchmark_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        benchmark(tiny(), Sized(64), batch_size=1, rounds=1, threads=1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_every_figure_has_its_line(result: dict[str, Any]) -> None:
    lines = format_benchmark(result).splitlines()
    assert [line.split()[0] for line in lines] == list(result)
