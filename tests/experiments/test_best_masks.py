"""experiments/best_masks.py: what a grid of logits can draw at best."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.experiments.scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("best_masks")


def spots(period: int) -> Tensor:
    """Squares of half the period, a period apart, on 64 x 64 pixels."""
    lines = torch.arange(64) % period < period // 2
    return (lines[:, None] & lines).float()[None, None]


def test_logits_of_every_pixel_draw_every_mask(script: ModuleType) -> None:
    noise = (torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    assert script.best_dice(noise, 32, 1) == 1


def test_a_coarse_grid_merges_spots_that_a_finer_one_tells_apart(script: ModuleType) -> None:
    """A cell of 8 pixels holds a whole period of 8: its logits are all equal at best."""
    coarse, fine = (script.best_dice(spots(8), 64, stride) for stride in (8, 4))
    assert coarse < 0.8 < fine


def test_a_mask_of_another_size_is_judged_at_its_own(script: ModuleType) -> None:
    large = spots(8).repeat_interleave(2, 2).repeat_interleave(2, 3)  # 128 x 128 for an input of 64
    assert script.best_dice(large, 64, 1, 20) == pytest.approx(1, abs=0.1)


def test_dice_is_twice_the_overlap_over_both_areas(script: ModuleType) -> None:
    logits, mask = torch.tensor([3.0, 2.0, -1.0, 0.5]), torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert script.dice(logits, mask) == pytest.approx(2 * 2 / (3 + 3))
