"""`textseg calibrate`: the calibration of a run with its plot."""

from __future__ import annotations

import lightning as L

from textseg.calibrate import Calibration, calibrate
from textseg.models.base import SegmentationModule
from textseg.report.plots import write_reliability


def calibrate_run(
    model: SegmentationModule,
    datamodule: L.LightningDataModule,
    *,
    trainer: L.Trainer,
    ckpt_path: str | None = None,
) -> Calibration:
    """Measure on the validation rows how far probabilities can be trusted, and fit what mends them.

    Writes RUN/calibration/ (RUN/test_on_<name>/calibration/ for other data than the run's own;
    calibration_flip and so on where logits are averaged): calibration.json, reliability.png and
    reliability.pdf. Nothing of it is applied unless a command is asked to, by --temperature fitted
    and --threshold best.

    Args:
        model: the network.
        datamodule: whose validation rows are run; with its true captions.
        trainer: gives devices and precision; of its callbacks only a progress bar runs.
        ckpt_path: weights to load first; null keeps those of the model.

    Raises:
        UserError: the captions are changed ones, or no validation row has a lesion.
    """
    return calibrate(
        model, datamodule, trainer=trainer, ckpt_path=ckpt_path, draw=write_reliability
    )
