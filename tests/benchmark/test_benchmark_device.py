"""What a device's peak is measured with, and the choice of memory formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import textseg.benchmark.device as device
import textseg.models
from tests.models.stand_ins import BatchesInMemory
from tests.models.tiny import NETWORKS
from textseg.benchmark.measure import benchmark
from textseg.errors import UserError


class Products(TorchFunctionMode):
    """Keeps the factors of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.matmul, Tensor.__matmul__, torch.matmul):
            self.factors += args[:2]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_is_measured_on_random_numbers_that_are_always_the_same(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """A GPU multiplies constant matrices faster than any that a network has."""
    monkeypatch.setitem(device._SIDES, "cpu", 64)
    with Products() as products:
        for seed in (1, 2):
            torch.manual_seed(seed)
            device.matrix_product_peak(torch.device("cpu"), dtype)
    first = products.factors[0]
    assert first.dtype == dtype
    assert first.float().std().item() == pytest.approx(1, abs=0.1)
    assert len(products.factors) >= 8
    assert all(torch.equal(one, first) for one in products.factors)


def test_one_memory_format_is_measured_where_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(device._SIDES, "cpu", 64)
    network = textseg.models.ImageBaseline(**NETWORKS["ImageBaseline"])
    made: list[str] = []
    plain = textseg.benchmark.measure.Candidate

    def counted(name: str, model: Any, memory_format: str, *rest: Any, **settings: Any) -> Any:
        made.append(memory_format)
        return plain(name, model, memory_format, *rest, **settings)

    monkeypatch.setattr(textseg.benchmark.measure, "Candidate", counted)
    for wanted in ("channels_last", "channels_first"):
        result = benchmark(
            network, BatchesInMemory([]), image_size=32, rounds=1, memory_formats=[wanted]
        )
        assert [row["memory_format"] for row in result["networks"]] == [wanted]
    assert made == ["channels_last", "channels_first"]


@pytest.mark.parametrize("formats", [[], ["channels_last", "channels_last"]])
def test_no_memory_format_and_one_twice_are_refused(formats: Any, tmp_path: Path) -> None:
    network = textseg.models.ImageBaseline(**NETWORKS["ImageBaseline"])
    with pytest.raises(UserError, match="memory_formats="):
        benchmark(network, BatchesInMemory([]), image_size=32, memory_formats=formats)
