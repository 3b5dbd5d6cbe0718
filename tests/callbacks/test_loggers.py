"""The same keys whatever the logger: W&B, TensorBoard and CSV, read back from their files."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn

from tests.tiny_run import (
    call,
    write_experiment,
)
from textseg.callbacks.loggers import (
    EpochTable,
    comparable_keys,
    prepare_loggers,
    wandb_defaults,
    with_csv_logger,
)
from textseg.callbacks.results_writer import ResultsWriter
from textseg.callbacks.score_log import ScoreLog, flat_numbers
from textseg.errors import UserError

RESULT = {
    "caption_mode": "true",
    "protocol": "standard",
    "truth": "boxes",
    "dice": 0.5,
    "dice_ci_low": 0.25,
    "hd95": None,
    "nsd": math.nan,
    "cases": 4,
    "warnings": ["2 patients: under 20"],
    "size_cuts": [0.1, 0.2],
    "strata": {"size": {"small": {"cases": 3, "dice": 0.75, "miou": None}}},
}


def settings(logger: Any, *, callbacks: Any = None, seed: int | None = 3, **data: Any) -> Namespace:
    """What the command line parses, as far as loggers go."""
    return Namespace(
        seed_everything=seed,
        trainer=Namespace(logger=logger, callbacks=callbacks),
        model=Namespace(class_path="textseg.models.TMC", init_args=Namespace()),
        data=Namespace(
            class_path="datamodules.QaTaCov19DataModule",
            init_args=Namespace(split="first80", **data),
        ),
    )


def wandb_logger(**given: Any) -> Namespace:
    names = ("project", "name", "group", "tags", "job_type", "settings", "config", "save_dir")
    values = dict.fromkeys(names) | given
    return Namespace(
        class_path="lightning.pytorch.loggers.WandbLogger", init_args=Namespace(values)
    )


def prepared(logger: Namespace, *, job: str = "fit", **more: Any) -> Namespace:
    """The init_args of one logger after `prepare_loggers`."""
    given = settings(logger, **more)
    keys = comparable_keys(given, "tmc_qata")
    prepare_loggers(given, keys, job=job, run_folder=Path("runs/tmc_qata/now"))
    return given.trainer.logger.init_args


# --- keys ---------------------------------------------------------------------------------------


def test_a_wandb_run_is_named_grouped_and_tagged_by_what_it_is() -> None:
    given = prepared(wandb_logger())
    assert (given.name, given.group) == ("tmc_qata-seed3", "QaTaCov19/tmc_qata")
    assert given.tags == ["QaTaCov19", "TMC", "first80"]
    assert (given.job_type, given.save_dir) == ("fit", "runs/tmc_qata/now")
    assert given.project == "textseg"
    assert prepared(wandb_logger(), job="test").job_type == "test"
    keys = {"network": "TMC", "dataset": "QaTaCov19", "split": "first80", "seed": 3}
    assert given.config == {"experiment": "tmc_qata", **keys}


def test_a_run_of_a_cross_validation_has_its_fold_in_its_name() -> None:
    given = prepared(wandb_logger(), fold=2)
    assert (given.name, given.group) == ("tmc_qata-fold2-seed3", "QaTaCov19/tmc_qata")
    assert given.config["fold"] == 2


def test_a_users_own_name_group_tags_and_config_win() -> None:
    own = {"name": "mine", "group": "ward", "tags": ["a"], "job_type": "x"}
    given = prepared(wandb_logger(**own, config={"seed": 9, "scanner": "B"}))
    assert {name: given[name] for name in own} == own
    assert (given.config["seed"], given.config["scanner"]) == (9, "B")
    assert given.config["network"] == "TMC"


def test_a_users_variables_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", "ward")
    monkeypatch.setenv("WANDB_NAME", "mine")
    given = prepared(wandb_logger())
    assert (given.group, given.name) == (None, None)
    assert given.tags


def test_the_runs_of_a_sweep_are_not_all_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert prepared(wandb_logger()).name is None


def test_runs_on_phantoms_are_not_taken_for_runs_on_the_dataset() -> None:
    keys = comparable_keys(settings(None, synthesize=320), "lsms_refhl")
    assert keys["dataset"] == "QaTaCov19-phantoms"
    assert comparable_keys(settings(None, synthesize=False), "x")["dataset"] == "QaTaCov19"


def test_a_test_on_other_data_is_in_a_group_of_its_own() -> None:
    keys = comparable_keys(settings(None), "tmc_qata", tested_on="other_hospital")
    assert keys["dataset"] == "QaTaCov19-other_hospital"
    given = settings(wandb_logger())
    assert wandb_defaults(given, keys, "test")["group"] == "QaTaCov19-other_hospital/tmc_qata"


def test_wandb_settings_that_would_undo_ours_are_refused() -> None:
    logger = wandb_logger()
    logger.init_args.settings = Namespace(console="auto")
    with pytest.raises(UserError, match="fills in every setting"):
        prepared(logger)


def test_a_run_without_a_config_goes_by_its_network() -> None:
    assert comparable_keys(settings(None), "run")["experiment"] == "TMC"


@pytest.mark.parametrize(("upload", "kept"), [(True, None), (False, {"console": "off"})])
def test_what_a_run_prints_is_sent_only_with_upload(upload: bool, kept: Any) -> None:
    """Warnings about a dataset name its files."""
    samples = Namespace(class_path="SampleTables", init_args=Namespace(upload=upload))
    assert prepared(wandb_logger(), callbacks=[samples]).settings == kept


# --- where files go -----------------------------------------------------------------------------


def file_logger(kind: str, **given: Any) -> Namespace:
    values = {"save_dir": "x", "name": "lightning_logs", "version": None} | given
    return Namespace(class_path=f"lightning.pytorch.loggers.{kind}", init_args=Namespace(values))


@pytest.mark.parametrize("kind", ["TensorBoardLogger", "CSVLogger"])
def test_files_of_a_fit_lie_in_the_runs_folder_and_a_tests_beside_them(kind: str) -> None:
    fit = prepared(file_logger(kind))
    assert (fit.save_dir, fit.name, fit.version) == ("runs/tmc_qata/now", "", "")
    test = prepared(file_logger(kind), job="test")
    assert (test.save_dir, test.name, test.version) == ("runs/tmc_qata/now", "test_log", None)
    own = prepared(file_logger(kind, name="mine"))
    assert (own.name, own.version) == ("mine", None)


def test_a_missing_tensorboard_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textseg.callbacks.loggers.find_spec", lambda name: None)
    experiment = write_experiment(tmp_path, data={"init_args": {"root": "x"}})
    outcome = call(
        *("fit", "--config", experiment, "--trainer.logger", "TensorBoardLogger"), cwd=tmp_path
    )
    assert outcome.status == 2
    assert "needs the package tensorboard" in outcome.message()[0]
    assert outcome.message()[1] == "remedy: pip install tensorboard"


def test_a_configured_csv_logger_is_the_runs_own_table(tmp_path: Path) -> None:
    own = CSVLogger(tmp_path, name="", version="", prefix="a", flush_logs_every_n_steps=1)
    (table,) = with_csv_logger([own], tmp_path, 0)
    assert isinstance(table, EpochTable)
    table.log_metrics({"val/dice": 0.5, "epoch": 0}, 3)
    (row,) = csv.DictReader((tmp_path / "metrics.csv").open())
    assert row == {"a-val/dice": "0.5", "a-epoch": "0", "step": "3"}, "with the settings given"
    other = CSVLogger(tmp_path / "elsewhere")
    first, second = with_csv_logger([other], tmp_path, 0)
    assert first is other
    assert isinstance(second, CSVLogger)
    assert Path(second.log_dir) == tmp_path


def test_the_table_of_a_run_is_by_epoch_and_has_no_test(tmp_path: Path) -> None:
    (table,) = with_csv_logger([], tmp_path, 0)
    table.log_metrics({"lr-AdamW": 0.1}, 0)
    table.log_metrics({"train/loss": 0.9, "epoch": 0}, 4)
    table.log_metrics({"test/dice": 0.5, "test_empty/dice": 0.4, "epoch": 0}, 5)
    table.log_metrics({"val/dice": 0.5, "test/dice": 0.5, "epoch": 1}, 9)
    table.save()
    assert list(csv.DictReader((tmp_path / "metrics.csv").open())) == [
        {"epoch": "0", "step": "4", "train/loss": "0.9", "val/dice": ""},
        {"epoch": "1", "step": "9", "train/loss": "", "val/dice": "0.5"},
    ]


# --- numbers ------------------------------------------------------------------------------------


def test_every_finite_number_has_a_key_and_nothing_else_has() -> None:
    assert flat_numbers(RESULT, "test") == {
        "test/dice": 0.5,
        "test/dice_ci_low": 0.25,
        "test/cases": 4,
        "test/size_cuts/1": 0.1,
        "test/size_cuts/2": 0.2,
        "test/strata/size/small/cases": 3,
        "test/strata/size/small/dice": 0.75,
    }


def finished_test(mode: str, loggers: list[Any]) -> Any:
    """A trainer whose test of RESULT has ended; the network's step has logged its Dice."""
    report = ResultsWriter()
    report.mode, report.results = mode, {mode: RESULT}
    logged = {"test/dice": 0.5} if mode == "true" else {}
    return SimpleNamespace(
        callbacks=[report],
        loggers=loggers,
        logged_metrics=logged,
        global_step=6,
        is_global_zero=True,
    )


@pytest.mark.parametrize(("mode", "prefix"), [("true", "test"), ("empty", "test_empty")])
def test_no_number_of_a_test_is_logged_twice_and_captions_are_kept_apart(
    tmp_path: Path, mode: str, prefix: str
) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    module: Any = None
    ScoreLog({}).on_test_end(finished_test(mode, [logger]), module)
    logger.save()
    (row,) = csv.DictReader((tmp_path / "metrics.csv").open())
    expected = {key: str(value) for key, value in flat_numbers(RESULT, prefix).items()}
    if mode == "true":
        del expected["test/dice"]
    assert row == expected | {"step": "6"}


def validations(log: ScoreLog, dices: list[float], *, fn: TrainerFn = TrainerFn.FITTING) -> None:
    for epoch, value in enumerate(dices):
        scores = {"val/dice": torch.tensor(value), "val/miou": torch.tensor(1 - value)}
        trainer: Any = SimpleNamespace(
            sanity_checking=False,
            state=SimpleNamespace(fn=fn),
            callback_metrics=scores,
            current_epoch=epoch,
        )
        module: Any = None
        log.on_validation_end(trainer, module)


def test_all_scores_of_the_best_epoch_are_of_the_epoch_of_the_best_dice() -> None:
    log = ScoreLog({})
    validations(log, [0.25, math.nan, 0.75, 0.75, 0.5])
    assert log.best == {"best/epoch": 2, "best/dice": 0.75, "best/miou": 0.25}
    resumed = ScoreLog({})
    resumed.load_state_dict(log.state_dict())
    validations(resumed, [0.5])
    assert resumed.best == log.best


def test_a_validation_outside_a_fit_is_no_epoch() -> None:
    log = ScoreLog({})
    validations(log, [0.5], fn=TrainerFn.VALIDATING)
    assert log.best == {}
