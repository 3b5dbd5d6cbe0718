"""A test's masks are cut at `mask_threshold`, at each truth's own size."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F

from tests.faults.spoiled_steps import SmallNetwork
from tests.models.stand_ins import make_batch


class OneBatch:
    """As a loader."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        return iter([self.batch])


class Keep(L.Callback):
    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, *others: Any
    ) -> None:
        self.masks = outputs["pred"]


def test_a_test_cuts_its_masks_at_the_threshold() -> None:
    torch.manual_seed(0)
    network = SmallNetwork().eval()
    sizes = torch.tensor([[20, 24], [16, 16]])
    truths = [torch.zeros(*size, dtype=torch.uint8) for size in sizes.tolist()]
    batch: Any = {**make_batch(2, 16, 16), "original_size": sizes, "truth": truths}
    logits = network(batch["image"], batch["text"]).logits.detach()
    network.mask_threshold = float(logits.sigmoid().mean())
    keep = Keep()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[keep]
    )
    trainer.test(network, OneBatch(batch), verbose=False)
    cut = math.log(network.mask_threshold / (1 - network.mask_threshold))
    moved = 0
    for mask, plane, size in zip(keep.masks, logits, sizes.tolist(), strict=True):
        resized = F.interpolate(plane[None], size, mode="bilinear", align_corners=False)[0, 0]
        assert torch.equal(mask, resized > cut)
        moved += int(((resized > cut) != (resized > 0)).sum())
    assert moved > 0, "at 0.5 the masks are others"
