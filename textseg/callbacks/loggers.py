"""Where the configured loggers write, and the keys by which their runs are compared."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only

from textseg.errors import UserError
from textseg.training.checkpoint_files import resume_metrics_csv

# Lightning's own name for a folder that nobody named.
UNNAMED = (None, "lightning_logs")
# What wandb reads where init is not told: a user's own, which wins.
WANDB_VARIABLES = {
    "project": "WANDB_PROJECT",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "tags": "WANDB_TAGS",
    "job_type": "WANDB_JOB_TYPE",
    "settings": "WANDB_CONSOLE",
}
SWEEP = "WANDB_SWEEP_ID"
PROJECT = "textseg"
DATA_FOLDER = "WANDB_DATA_DIR"
_our_data_folders: set[str] = set()  # what DATA_FOLDER was set to by earlier runs of a process


def comparable_keys(
    settings: Namespace, experiment: str, *, tested_on: str | None = None
) -> dict[str, Any]:
    """The keys that runs are filtered and grouped by: experiment, network, dataset, split, seed.

    A run of a cross-validation has its fold too.

    Args:
        settings: the parsed settings of a subcommand.
        experiment: the config's name; the network's where a run has none.
        tested_on: a name for the data of a test, where they are not the run's own.
    """
    network = class_name(settings.model.class_path)
    data = settings.data.init_args
    dataset = class_name(settings.data.class_path).removesuffix("DataModule")
    if data.get("synthesize"):  # numbers on phantoms are comparable with no others
        dataset += "-phantoms"
    if tested_on is not None:
        dataset += f"-{tested_on}"
    fold = data.get("fold")
    return {
        "experiment": network if experiment in ("", "run") else experiment,
        "network": network,
        "dataset": dataset,
        "split": data.get("split"),
        "seed": settings.get("seed_everything"),
        **({} if fold is None else {"fold": fold}),
    }


def prepare_loggers(
    settings: Namespace, keys: Mapping[str, Any], *, job: str, run_folder: Path
) -> None:
    """Send the configured loggers to the run's folder and give W&B what its user did not.

    TensorBoard's and CSV's files of a fit lie in the run's folder itself, those of a later test in
    <job>_log/version_N there, so that no test writes over a training's metrics.csv.

    Args:
        settings: the parsed settings of a subcommand; changed in place.
        keys: of `comparable_keys`.
        job: the subcommand.
        run_folder: of this run.

    Raises:
        UserError: the logger's package is not installed.
    """
    for logger in configured_loggers(settings):
        kind, given = class_name(logger.class_path), logger.init_args
        if "save_dir" in given:
            given.save_dir = str(run_folder)
        if kind == "WandbLogger":
            if given.settings is not None:
                raise UserError(
                    "trainer.logger.settings fills in every setting of W&B that it does not name",
                    "set W&B's own variables instead, such as WANDB_CONSOLE or WANDB_SILENT",
                )
            for name, value in wandb_defaults(settings, keys, job).items():
                if given.get(name) is None:
                    given[name] = value
            given.config = {**keys, **(given.config or {})}
            _keep_wandb_files(run_folder)
        elif kind in ("TensorBoardLogger", "CSVLogger"):
            unnamed = given.name in UNNAMED
            given.name = ("" if job == "fit" else f"{job}_log") if unnamed else given.name
            if unnamed and job == "fit" and given.version is None:
                given.version = ""
        if kind == "TensorBoardLogger":
            if find_spec("tensorboard") is None:
                raise UserError(
                    "trainer.logger=TensorBoardLogger needs the package tensorboard, which is not "
                    "installed",
                    "pip install tensorboard",
                )
            given.default_hp_metric = False  # TensorBoard's placeholder of -1


def configured_loggers(settings: Namespace) -> list[Namespace]:
    """The loggers of a config that are given by class, not by `true` or `false`."""
    return _given_by_class(settings, "logger")


def _given_by_class(settings: Namespace, name: str) -> list[Namespace]:
    given = settings.trainer.get(name)
    listed = given if isinstance(given, list) else [given]
    return [one for one in listed if isinstance(one, Namespace)]


def wandb_defaults(settings: Namespace, keys: Mapping[str, Any], job: str) -> dict[str, Any]:
    """Project, name, group, tags, job type and settings, less those that variables give.

    Runs that differ in nothing but their seed share a group, so a group's mean is a mean over
    seeds; an ablation is a group of its own.
    """
    seed, fold = keys["seed"], keys.get("fold")
    marks = (keys["dataset"], keys["network"], keys["split"])
    defaults: dict[str, Any] = {
        "project": PROJECT,
        "name": keys["experiment"]
        + (f"-fold{fold}" if fold is not None else "")
        + (f"-seed{seed}" if seed is not None else ""),
        "group": f"{keys['dataset']}/{keys['experiment']}",
        "tags": [str(mark) for mark in marks if mark],
        "job_type": job,
    }
    callbacks = _given_by_class(settings, "callbacks")
    tables = [one for one in callbacks if class_name(one.class_path) == "SampleTables"]
    if not any(table.init_args.get("upload") for table in tables):
        # W&B keeps what a run prints, and warnings about a dataset name its files.
        defaults["settings"] = {"console": "off"}
    if os.environ.get(SWEEP):
        del defaults["name"]  # the runs of a sweep share config and seed
    return {k: v for k, v in defaults.items() if not os.environ.get(WANDB_VARIABLES[k])}


def without_wandb_defaults(settings: Namespace, experiment: str) -> Namespace:
    """A copy for the run's config.yaml, so that a run started from that file gets its own names."""
    copy = settings.clone()
    keys = comparable_keys(copy, experiment)
    defaults = wandb_defaults(copy, keys, "fit")
    for logger in configured_loggers(copy):
        if class_name(logger.class_path) == "WandbLogger":
            given = logger.init_args
            for name in (name for name, value in defaults.items() if given[name] == value):
                given[name] = None
            given.id = None  # another run started from the file is another run there
            own = {k: v for k, v in (given.config or {}).items() if keys.get(k) != v}
            given.config = own or None
    return copy


class EpochTable(CSVLogger):
    """metrics.csv of a run: what is known by epoch.

    Tests are left out, whose numbers are in their own folders and would be hundreds of columns, and
    so is what other loggers are told within an epoch.
    """

    def __init__(self, run_folder: Path, prefix: str = "", flush: int = 100) -> None:
        super().__init__(
            run_folder, name="", version="", prefix=prefix, flush_logs_every_n_steps=flush
        )

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Add a row, if anything of it is by epoch."""
        kept = {name: value for name, value in metrics.items() if not name.startswith("test")}
        if "epoch" in kept and len(kept) > 1:
            super().log_metrics(kept, step)


def with_csv_logger(loggers: Sequence[Logger], run_folder: Path, steps: int) -> list[Logger]:
    """The loggers, and an EpochTable in place of one that would write the run's metrics.csv.

    Args:
        loggers: the configured ones.
        run_folder: of this run.
        steps: that a resumed run has behind it; what the table says of later ones is dropped.
    """
    tables = [logger for logger in loggers if isinstance(logger, CSVLogger)]
    own = [table for table in tables if Path(table.log_dir).resolve() == run_folder.resolve()]
    given = [(one._prefix, one._flush_logs_every_n_steps) for one in own]
    table = EpochTable(run_folder, *given[0] if given else ())
    resume_metrics_csv(table, steps)
    _ = table.experiment  # claims the folder before another logger puts anything there
    return [logger for logger in loggers if logger not in own] + [table]


def _keep_wandb_files(run_folder: Path) -> None:
    """Tables and pictures wait in the run's folder until they are sent, not in the home folder."""
    if os.environ.get(DATA_FOLDER, "") in {"", *_our_data_folders}:
        folder = str((run_folder / "wandb").resolve())
        os.environ[DATA_FOLDER] = folder
        _our_data_folders.add(folder)


def class_name(class_path: str) -> str:
    """The last part of a class path: LSMS of textseg.models.LSMS."""
    return class_path.rpartition(".")[2]
