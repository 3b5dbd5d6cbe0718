"""Pictures, tables and predictions on disk and on W&B; never in a step method."""

from textseg.callbacks.dashboard import (
    RunConfig,
    WandbSamples,
    take_offline_where_unreachable,
    wandb_obstacle,
)
from textseg.callbacks.loggers import (
    comparable_keys,
    configured_loggers,
    prepare_loggers,
    with_table,
)
from textseg.callbacks.pictures import ExplanationWriter, PredictionWriter
from textseg.callbacks.scores import ScoreLog
from textseg.callbacks.test_report import TestReport

__all__ = [
    "ExplanationWriter",
    "PredictionWriter",
    "RunConfig",
    "ScoreLog",
    "TestReport",
    "WandbSamples",
    "comparable_keys",
    "configured_loggers",
    "prepare_loggers",
    "take_offline_where_unreachable",
    "wandb_obstacle",
    "with_table",
]
