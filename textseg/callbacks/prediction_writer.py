"""The predicted masks as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from textseg.batch import Batch
from textseg.runs.outputs import new_output_dir, write_mask


class PredictionWriter(L.Callback):
    """Writes predict/<image stem>__<row>.png: masks of 0 and 255 at each image's original size."""

    def __init__(self) -> None:
        self.folder = Path()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Claim the run's next folder for predictions."""
        self.folder = new_output_dir(trainer, "predict")

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # {"pred": B masks}
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the masks of a batch."""
        for case, mask in zip(batch["case"], outputs["pred"], strict=True):
            write_mask(mask, self.folder / f"{case}.png")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where the masks are."""
        rank_zero_info(f"masks written to {self.folder}")
