"""The pixel table: how many pixels of a split have which logit, inside and outside of lesions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from textseg.metrics.calibration import BIN_EDGES, MARGIN, THRESHOLD_BINS, PixelCounts


def near_lesion(truth: Tensor, margin: float = MARGIN) -> Tensor:
    """Pixels of a truth [H, W] bool in its lesions or near one: [H, W] bool.

    Near is a square's reach: up to ceil(margin * the longer side) rows and columns away.
    """
    reach = math.ceil(margin * max(truth.shape))
    plane = truth[None, None].float()
    # A square's maximum is that of its columns' maxima, which takes far less time.
    plane = F.max_pool2d(plane, (2 * reach + 1, 1), stride=1, padding=(reach, 0))
    plane = F.max_pool2d(plane, (1, 2 * reach + 1), stride=1, padding=(0, reach))
    return plane[0, 0] > 0


class PixelTable(Metric):
    """Counts pixels by truth, place and logit, in fixed memory; see `PixelCounts`.

    Counts are whole numbers, so that processes add up to exactly what one process counts. What a
    sampler repeats to make processes even is left out: of W processes row i belongs to process
    i mod W, and elsewhere it is a repeat.

    Args:
        thresholds: also sum each image's Dice by threshold.
    """

    is_differentiable = False
    full_state_update = False
    counts: Tensor
    cases: Tensor
    dice: Tensor

    def __init__(self, *, thresholds: bool = False) -> None:
        super().__init__()
        self.thresholds = thresholds
        bins = len(BIN_EDGES) + 1
        self.add_state("counts", torch.zeros(2, 2, bins, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("cases", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        # In billionths, as sums of whole numbers do not depend on their order.
        empty = torch.zeros(len(THRESHOLD_BINS), dtype=torch.int64)
        self.add_state("dice", empty, dist_reduce_fx="sum")
        self._edges = torch.from_numpy(BIN_EDGES).float()

    def update(
        self,
        logits: Sequence[Tensor] | Tensor,
        truth: Sequence[Tensor] | Tensor,
        index: Tensor,
    ) -> None:
        """Add B images.

        Args:
            logits: [B, H, W], or B of [H, W] whose sizes may differ.
            truth: likewise, each of its logits' size; nonzero is foreground.
            index: [B] int64, position in the split.
        """
        own, processes = _rank_and_processes()
        for one, mask, row in zip(logits, truth, index.tolist(), strict=True):
            if row % processes == own:
                self._add(one.float(), mask.bool())

    def _add(self, logits: Tensor, truth: Tensor) -> None:
        assert logits.shape == truth.shape, (logits.shape, truth.shape)
        bins = len(BIN_EDGES) + 1
        # Bin i holds what exceeds edge i - 1 and does not exceed edge i.
        place = torch.bucketize(logits.flatten(), self._edges.to(logits.device))
        near = near_lesion(truth).flatten().long()
        keys = place + bins * (truth.flatten().long() + 2 * near)
        counts = torch.bincount(keys, minlength=4 * bins).reshape(2, 2, bins).cpu()
        self.counts += counts.to(self.counts.device)
        self.cases += 1
        if self.thresholds:
            self.dice += _dice_by_threshold(counts.sum(dim=0)).to(self.dice.device)

    def compute(self) -> PixelCounts:
        """The counts of all processes."""
        dice = self.dice.cpu().numpy() / 1e9 if self.thresholds else None
        return PixelCounts(self.counts.cpu().numpy(), int(self.cases), dice)


def _dice_by_threshold(counts: Tensor) -> Tensor:
    """Dice of one image at each threshold, in billionths, from its counts [2, bins]."""
    above = counts.flip(1).cumsum(1).flip(1)[:, [bin + 1 for bin in THRESHOLD_BINS]]  # [2, T]
    outside, inside = above.double()
    true = counts[1].sum()
    areas = outside + inside + true
    dice = torch.where(areas > 0, 2 * inside / areas.clamp(min=1), 1.0)
    return (dice * 1e9).round().long()


def _rank_and_processes() -> tuple[int, int]:
    distributed: Any = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
