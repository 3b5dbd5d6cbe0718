"""Logs a run's best epoch and all numbers of its test to every logger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn

from textseg.callbacks.loggers import EpochTable
from textseg.callbacks.results_writer import ResultsWriter
from textseg.metrics.scores import MAIN
from textseg.metrics.strata import GROUPINGS
from textseg.models.scoring import test_prefix
from textseg.runs.outputs import callbacks_of

WORDS = (
    "protocol",
    "truth",
    "surface_unit",
    "tta",
    "ensemble",
)  # what a test's numbers must agree in


class ScoreLog(L.Callback):
    """Logs to every logger the keys a run is compared by, its best epoch and its test.

    best/epoch and best/<score> are of the epoch of the highest val/dice, which is the one that
    best.ckpt holds. A test's numbers are those of metrics.json: test/dice, test/dice_ci_low,
    test/strata/size/small/dice, and test_empty/..., test_shuffled/... with other captions.

    Args:
        keys: experiment, network, dataset, split and seed; see `comparable_keys`.
    """

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self.keys = dict(keys)
        self.best: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, for the checkpoint."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best epoch of the resumed run."""
        self.best = dict(state_dict["best"])

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the keys, and tell W&B which value of a curve sums it up."""
        for logger in trainer.loggers:
            _log_keys(logger, self.keys)
            if isinstance(logger, WandbLogger):
                _define_axes(logger)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the keys."""
        for logger in trainer.loggers:
            _log_keys(logger, self.keys)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the scores of the epoch with the highest val/dice."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        logged = {name: trainer.callback_metrics.get(f"val/{name}") for name in MAIN}
        values = {name: float(value) for name, value in logged.items() if value is not None}
        dice = values.get("dice", math.nan)
        if dice > self.best.get("best/dice", -math.inf):
            self.best = {"best/epoch": float(trainer.current_epoch)}
            self.best |= {f"best/{name}": value for name, value in values.items()}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the learning rates into metrics.csv; other loggers have them by step."""
        rates = {
            f"lr-{type(optimizer).__name__}/{group.get('name', number)}": group["lr"]
            for optimizer in trainer.optimizers
            for number, group in enumerate(optimizer.param_groups)
        }
        for logger in (one for one in trainer.loggers if isinstance(one, EpochTable)):
            logger.log_metrics({**rates, "epoch": trainer.current_epoch}, trainer.global_step - 1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the best epoch."""
        if not self.best:
            return
        # By now the trainer counts the finished epochs; a row of metrics.csv is of the last one.
        numbers = {**self.best, "epoch": max(trainer.current_epoch - 1, 0)}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # TensorBoard shows settings beside scores only if it is told both at once.
                logger.log_hyperparams(self.keys, self.best, trainer.global_step)
            else:
                logger.log_metrics(numbers, trainer.global_step)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the numbers of metrics.json."""
        report = report_of(trainer)
        if report is None or not trainer.is_global_zero:
            return
        result = report.results[report.mode]
        prefix = test_prefix(report.mode)
        # The network's own step has logged the loss and the main scores by now.
        # Names of the user's own strata, such as a hospital's, stay in metrics.json.
        strata = {name: result["strata"][name] for name in GROUPINGS if name in result["strata"]}
        numbers = {
            name: value
            for name, value in flat_numbers({**result, "strata": strata}, prefix).items()
            if name not in trainer.logged_metrics
        }
        for logger in trainer.loggers:
            logger.log_metrics(numbers, trainer.global_step)
            if isinstance(logger, WandbLogger):
                words = {f"{prefix}/{name}": result[name] for name in WORDS if result.get(name)}
                logger.experiment.summary.update(words)


def flat_numbers(result: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Every finite number of a nested result by its path: {"test/strata/size/small/dice": 0.7}.

    A list's numbers are counted from 1. Text, and what is undefined (null or NaN), has no key.
    """
    numbers: dict[str, float] = {}
    for name, value in result.items():
        path = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            numbers |= flat_numbers(value, path)
        elif isinstance(value, (list, tuple)):
            numbers |= flat_numbers({str(n): item for n, item in enumerate(value, 1)}, path)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers |= {path: value} if math.isfinite(value) else {}
    return numbers


def report_of(trainer: L.Trainer) -> ResultsWriter | None:
    """The callback that writes metrics.json and cases.csv."""
    return next(iter(callbacks_of(trainer, ResultsWriter)), None)


def _log_keys(logger: Logger, keys: dict[str, Any]) -> None:
    # W&B has them from its init on; for metrics.csv they are in the run's config.yaml.
    if not isinstance(logger, (WandbLogger, CSVLogger)):
        logger.log_hyperparams(keys)


def _define_axes(logger: WandbLogger) -> None:
    """Curves over epochs, and the best value, not the last one, in the table of runs."""
    run = logger.experiment
    run.define_metric("epoch")
    run.define_metric("train/*", step_metric="epoch")
    run.define_metric("val/loss", step_metric="epoch", summary="min")
    for name in MAIN:
        run.define_metric(f"val/{name}", step_metric="epoch", summary="max")
