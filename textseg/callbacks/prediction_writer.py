"""The predicted masks as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from textseg.batch import Batch
from textseg.models.base import SegmentationModule
from textseg.output import OutputFolder
from textseg.runs.outputs import gather_by_index, new_output_dir, write_averaging, write_mask


class PredictionWriter(L.Callback):
    """Writes predict/<image stem>__<row>.png: masks of 0 and 255 at each image's original size.

    averaging.json beside them says what their logits were averaged over, and the threshold. A
    folder that an ended prediction left incomplete is begun anew.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self._claimed = OutputFolder(self.folder)
        self._captions: dict[int, str] = {}

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Claim the run's next folder for predictions."""
        self._claimed = new_output_dir(trainer, "predict")
        self.folder = self._claimed.path
        self._captions = {}

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
        self._captions |= zip(batch["index"].tolist(), batch["text"], strict=True)
        for case, mask in zip(batch["case"], outputs["pred"], strict=True):
            write_mask(mask, self.folder / f"{case}.png")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where the masks are, and what they are."""
        captions = gather_by_index(self._captions)
        if trainer.is_global_zero:
            assert isinstance(pl_module, SegmentationModule)
            write_averaging(self.folder, pl_module, list(captions.values()))
        self._claimed.finish()
        rank_zero_info(f"masks written to {self.folder}")

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the folder marked as incomplete, for the next prediction to begin anew."""
        self._claimed.release()
