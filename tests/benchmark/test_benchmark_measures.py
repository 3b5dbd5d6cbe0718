"""Memory, words, modes and the device's peak, each against a hand computation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import textseg.benchmark.measure as module
from tests.benchmark.tiny_benchmark import Sized, injected, skip_costly, tiny
from textseg.benchmark.cost import random_batch
from textseg.benchmark.device import allocated_bytes, matrix_product_peak, peak_allocation
from textseg.benchmark.measure import benchmark, cached_as_encoded
from textseg.benchmark.timing import Candidate, Mode
from textseg.encoders import TextEncoder
from textseg.errors import UserError
from textseg.models.lsms import LSMS

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_is_that_of_the_worst_moment_not_the_sum() -> None:
    kept: list[torch.Tensor] = []

    def run() -> None:
        first = torch.zeros(MIB, device="cuda")  # 4 MiB
        second = torch.zeros(MIB // 2, device="cuda")
        del first
        kept.append(second + 1)

    assert peak_allocation(run, torch.device("cuda")) == 6 * MIB


def test_a_piece_of_memory_is_counted_once_however_many_tensors_share_it() -> None:
    tensor = torch.zeros(3, 5)
    assert allocated_bytes([tensor, tensor[1:], tensor.T, torch.zeros(2)]) == 3 * 5 * 4 + 2 * 4


def frozen() -> LSMS:
    model = tiny()
    model.text_encoder.freeze()
    model.prepare_captions(random_batch(2, 32)["text"], training=True)
    return model


def test_between_steps_adamw_holds_two_numbers_for_each_trained_weight() -> None:
    batch = random_batch(2, 32)
    one = Candidate("a", model := frozen(), "channels_first", batch)
    before = allocated_bytes(one.tensors())
    one.train(True)
    one.step()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is None for p in trained)
    moments = 2 * 4 * sum(p.numel() for p in trained)
    steps = 4 * len(trained)  # a counter for each
    assert allocated_bytes(one.tensors()) - before == moments + steps
    own = sum(p.numel() for p in model.parameters()) * 4
    assert before > own + batch["image"].numel() * 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_memory_covers_weights_optimizer_and_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skip_costly(monkeypatch)
    settings: dict[str, Any] = {"batch_size": 2, "rounds": 1, "device": "cuda"}
    (row,) = benchmark(tiny(), Sized(32), **settings)["networks"]
    weights = row["parameters_m"] * 1e6 * 4 / MIB
    assert row["peak_memory_mib"] > 4 * weights, "weights, two moments, gradients"


# Words


def test_cached_features_are_the_encoders_bit_for_bit() -> None:
    assert cached_as_encoded(frozen(), ["left lung", "right lung", "left lung"]) is True
    assert cached_as_encoded(tiny(), ["left lung"]) is None, "a trained encoder caches nothing"
    wordless = tiny(language_branch="none", contrastive_weight=0.0)
    assert cached_as_encoded(wordless, ["left lung"]) is None


def test_a_cache_that_is_off_by_a_bit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = frozen()
    original, calls = TextEncoder._encode_alone, []

    def drifting(self: TextEncoder, caption: str) -> Any:
        calls.append(caption)
        tokens, mask = original(self, caption)
        return (tokens if len(calls) <= 2 else torch.nextafter(tokens, tokens + 1)), mask

    monkeypatch.setattr(TextEncoder, "_encode_alone", drifting)
    assert cached_as_encoded(model, ["left lung", "right lung"]) is False
    assert calls == ["left lung", "right lung", "right lung", "left lung"]


def test_shares_follow_from_times_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time_rounds", injected(2.0))
    monkeypatch.setattr(module, "matrix_product_peak", lambda device, dtype: 50.0)
    (row,) = benchmark(tiny(), Sized(32), batch_size=3, rounds=1, freeze_text=True)["networks"]
    assert (row["text_s"], row["step_s"]) == (0.02, 6.0)
    assert row["text_share"] == pytest.approx(0.02 / 6)
    assert row["share_of_peak"] == pytest.approx(row["step_gflops"] * 3 / 6 / 50)
    assert 2 < row["step_gflops"] / row["gflops_without_text_encoder"] < 3.2


# Modes


def test_each_mode_is_a_row_and_runs_in_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    original = LSMS.compute_loss

    def recorded(self: LSMS, output: Any, batch: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return original(self, output, batch)

    def one_step_each(candidates: Sequence[Candidate], rounds: int) -> None:
        for one in candidates:
            one.train(True)
            one.step()
        injected(1.0, **{"LSMS bf16": 0.25})(candidates, rounds)

    monkeypatch.setattr(LSMS, "compute_loss", recorded)
    monkeypatch.setattr(module, "time_rounds", one_step_each)
    skip_costly(monkeypatch)
    settings: dict[str, Any] = {"modes": ["fp32", "bf16"], "reference": "LSMS bf16"}
    result = benchmark(tiny(), Sized(32), batch_size=2, rounds=1, **settings)
    rows = result["networks"]
    assert [(row["name"], row["mode"]) for row in rows] == [
        ("LSMS fp32", "fp32"),
        ("LSMS bf16", "bf16"),
    ]
    assert seen == [False, False, True, True], "in two memory formats each"
    assert [row["step_ratio"] for row in rows] == [4, 1]
    assert [row["speedup"] for row in rows] == [1, 4]
    assert set(result["matrix_product_gflops_per_s"]) == {"fp32", "bf16"}


def test_only_a_compiled_mode_compiles_the_tensor_part(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    model, batch = tiny(), random_batch(1, 32)
    Candidate("a", model, "channels_first", batch, mode=Mode("bf16"))
    assert compiled == []
    Candidate("a", model, "channels_first", batch, mode=Mode("fp32+compile"))
    assert compiled == [model.forward_features]


# The device


def test_the_peak_is_the_fastest_product_after_a_warm_up() -> None:
    ticks = iter([0, 0.001, *(t for i in range(1, 6) for t in (i, i + 0.1 * (1 + i % 3)))])
    peak = matrix_product_peak(CPU, torch.float32, lambda: next(ticks))
    assert peak == pytest.approx(2 * 1024**3 / 1e9 / 0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_a_user_error() -> None:
    with pytest.raises(UserError, match="device=cuda"):
        benchmark(tiny(), Sized(32), device="cuda")
