"""What the benchmark's tests measure: a tiny network, no data, and times that are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L

from textseg.benchmark import Contender
from textseg.models.lsms import LSMS


class Sized(L.LightningDataModule):
    """Data settings without data."""

    def __init__(self, image_size: Any) -> None:
        super().__init__()
        self.image_size = image_size


def tiny(**settings: Any) -> LSMS:
    return LSMS("mscan_tiny", "scratch", pretrained=False, decoder_dim=32, **settings)


def injected(seconds: float, **by_name: float) -> Callable[[Sequence[Contender], int], None]:
    """In place of `time_rounds`: a step is three times a forward, channels-first twice as slow."""

    def fill(contenders: Sequence[Contender], rounds: int) -> None:
        for one in contenders:
            base = by_name.get(one.name, seconds)
            slow = 2 if one.memory_format == "channels_first" else 1
            one.times["forward"] += [base * slow] * rounds
            one.times["step"] += [3 * base * slow] * rounds

    return fill
