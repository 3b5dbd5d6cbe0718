"""Pairs of a truth and a prediction, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textseg.metrics.case_table import CaseTable
from textseg.metrics.scores import CaseTableRows

Pair = tuple[Tensor, Tensor]
UNKNOWN = (float("nan"), float("nan"))


def blobs(seed: int, size: tuple[int, int] = (24, 20)) -> Pair:
    """A random truth and a prediction that overlaps it, both with ragged edges."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 1, 6, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(noise, size=size, mode="bilinear")[0, 0]
    wobble = torch.rand(size, generator=generator) * 0.3
    return smooth + wobble > 0.75, smooth > 0.6


def pairs_with_empty_ones(number: int) -> list[Pair]:
    """Random pairs of several sizes; one with both empty, one false alarm, one miss."""
    pairs = [blobs(seed, (20 + seed, 30 - seed)) for seed in range(number - 3)]
    nothing, something = torch.zeros(8, 9, dtype=torch.bool), torch.ones(8, 9, dtype=torch.bool)
    return [*pairs, (nothing, nothing), (something, nothing), (nothing, something)]


def random_masks(seed: int, number: int = 60) -> list[Pair]:
    """Masks of any density, none and all included, of any size from one pixel up."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(number):
        size = tuple(rng.integers(1, 16, 2))
        shares = rng.choice([0.0, 0.02, 0.3, 0.8, 1.0], 2)
        pred, truth = (torch.from_numpy(rng.random(size) < share) for share in shares)
        pairs.append((pred, truth))
    one, other = torch.zeros(5, 7, dtype=torch.bool), torch.zeros(5, 7, dtype=torch.bool)
    one[2, 3], other[4, 6] = True, True
    return [*pairs, (one, one), (one, other), (one, one ^ one), (one ^ one, one), (one, ~one)]


def tabulate(
    pairs: Sequence[Pair],
    index: Sequence[int] | None = None,
    spacing: tuple[float, float] = UNKNOWN,
    *,
    surface: bool = False,
) -> CaseTableRows:
    table = CaseTable(surface=surface)
    fill(table, pairs, range(len(pairs)) if index is None else index, spacing)
    return table.compute()


def counted(intersection: Any, predicted: Any, true: Any, *, pixels: int = 10_000) -> CaseTableRows:
    """Rows of counts alone, as of masks that nobody looked at."""
    areas = [np.asarray(count, dtype=np.int64) for count in (intersection, predicted, true)]
    none, unknown = np.zeros_like(areas[0]), np.full(len(areas[0]), np.nan)
    index = np.arange(len(none))
    return CaseTableRows(index, *areas, none + pixels, *[none] * 5, *[unknown] * 3)


def fill(
    table: CaseTable,
    pairs: Sequence[Pair],
    index: Sequence[int],
    spacing: tuple[float, float] = UNKNOWN,
) -> None:
    """Two cases to a batch."""
    for start in range(0, len(pairs), 2):
        batch, numbers = pairs[start : start + 2], torch.tensor(index[start : start + 2])
        preds, truths = [p for p, _ in batch], [t for _, t in batch]
        table.update(preds, truths, numbers, torch.tensor([spacing] * len(batch)))


def assert_same_rows(one: CaseTableRows, two: CaseTableRows) -> None:
    for name, left, right in zip(CaseTableRows._fields, one, two, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=name)
