"""Pictures, tables and predictions on disk and on W&B; never in a step method."""

from textseg.callbacks.dashboard import RunConfig, WandbSamples, wandb_obstacle
from textseg.callbacks.pictures import ExplanationWriter, PredictionWriter
from textseg.callbacks.test_report import TestReport

__all__ = [
    "ExplanationWriter",
    "PredictionWriter",
    "RunConfig",
    "TestReport",
    "WandbSamples",
    "wandb_obstacle",
]
