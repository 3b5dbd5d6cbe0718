"""What the benchmark's tests measure: a tiny network, no data, and times that are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import pytest

import textseg.benchmark.measure as measure
from tests.models.tiny import NETWORKS
from textseg.benchmark.timing import Candidate
from textseg.models.lsms import LSMS

SMALLEST = NETWORKS["LSMS"]["image_encoder"]


class Sized(L.LightningDataModule):
    """Data settings without data."""

    def __init__(self, image_size: Any) -> None:
        super().__init__()
        self.image_size = image_size


def tiny(image_encoder: str = SMALLEST, **settings: Any) -> LSMS:
    return LSMS(image_encoder, "scratch", pretrained=False, decoder_dim=32, **settings)  # type: ignore[arg-type]


def skip_costly(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Leave out what takes most of a tiny benchmark's time: by default all of it."""
    figures = {"step_gflops": 1.0, "matrix_product_peak": 10.0}
    for name in names or figures:
        monkeypatch.setattr(measure, name, lambda *arguments, name=name: figures[name])


def injected(seconds: float, **by_name: float) -> Callable[[Sequence[Candidate], int], None]:
    """In place of `time_rounds`: a step is three times a forward, channels-first twice as slow."""

    def fill(contenders: Sequence[Candidate], rounds: int) -> None:
        for one in contenders:
            base = by_name.get(one.name, seconds)
            slow = 2 if one.memory_format == "channels_first" else 1
            one.times["text"] += [base / 100] * rounds
            one.times["forward"] += [base * slow] * rounds
            one.times["step"] += [3 * base * slow] * rounds

    return fill
