"""Pictures, tables and predictions on disk and on W&B; never in a step method."""

from textseg.callbacks.loggers import (
    comparable_keys,
    configured_loggers,
    prepare_loggers,
    with_table,
)
from textseg.callbacks.prediction_writer import ExplanationWriter, PredictionWriter
from textseg.callbacks.results_writer import TestReport
from textseg.callbacks.sample_tables import (
    RunConfig,
    WandbSamples,
    take_offline_where_unreachable,
    wandb_obstacle,
)
from textseg.callbacks.score_log import ScoreLog

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
