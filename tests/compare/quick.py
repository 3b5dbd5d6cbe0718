"""Cases of a method by their mean Dice, and comparisons of few draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from textseg.compare import Comparison, compare

CASES = 24


def quality(mean: float, seed: int = 0, cases: int = CASES) -> list[float]:
    return np.clip(np.random.default_rng(seed).normal(mean, 0.1, cases), 0, 1).tolist()


def quick(runs: Sequence[str], **settings: Any) -> Comparison:
    return compare(list(runs), **{"resamples": 400, **settings})
