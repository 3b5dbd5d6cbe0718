"""Pictures, tables and predictions on disk and on W&B; never in a step method."""

from textseg.callbacks.loggers import (
    comparable_keys,
    configured_loggers,
    prepare_loggers,
    with_csv_logger,
)
from textseg.callbacks.prediction_writer import ExplanationWriter, PredictionWriter
from textseg.callbacks.results_writer import ResultsWriter
from textseg.callbacks.sample_tables import (
    RunConfig,
    SampleTables,
    fall_back_to_offline,
    wandb_unreachable_reason,
)
from textseg.callbacks.score_log import ScoreLog

__all__ = [
    "ExplanationWriter",
    "PredictionWriter",
    "ResultsWriter",
    "RunConfig",
    "SampleTables",
    "ScoreLog",
    "comparable_keys",
    "configured_loggers",
    "fall_back_to_offline",
    "prepare_loggers",
    "wandb_unreachable_reason",
    "with_csv_logger",
]
