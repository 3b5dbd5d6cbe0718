"""One run with three loggers: what each of them holds, and what a later test adds."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tests.callbacks.tiny_wandb import OfflineRun
from tests.tiny_run import (
    NO_PICTURES,
    SMALL,
    Outcome,
    call,
    only,
    train_arguments,
    write_experiment,
    write_refhl,
)
from textseg.callbacks.score_log import flat_numbers

pytestmark = pytest.mark.slow

SAMPLES = {"class_path": "SampleTables", "init_args": {"every_n_epochs": 2, "samples": 1}}
SECRETS = [b"lesion on the", b"test-p0", b"test0__", b"train0", b"val0"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two epochs and a test with each kind of caption, logged three ways, with upload."""
    folder = tmp_path_factory.mktemp("loggers")
    names = ("WandbLogger", "TensorBoardLogger", "CSVLogger")
    sent = SAMPLES | {"init_args": {**SAMPLES["init_args"], "upload": True}}
    trainer = {
        "max_epochs": 2,
        "logger": [{"class_path": name} for name in names],
        "callbacks": [sent],
    }
    experiment = write_experiment(folder, trainer=trainer, model=SMALL, results_writer=NO_PICTURES)
    root = write_refhl(folder / "refhl")
    arguments = train_arguments(experiment, root, "--test_after_fit=true", "--explain.pictures=2")
    outcome = call(*arguments, cwd=folder)
    wandb.finish()
    assert outcome.status == 0, outcome.err
    yield folder
    wandb.teardown()  # its service writes to paths as seen from the folder that it began in


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    return only(home / "runs/tiny")


@pytest.fixture(scope="module")
def offline(run: Path) -> OfflineRun:
    return OfflineRun(only(run / "wandb", "offline-run-*"))


@pytest.fixture(scope="module")
def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


@pytest.fixture(scope="module")
def table(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def result_of(run: Path, mode: str) -> dict[str, Any]:
    return json.loads((run / "test" / mode / "metrics.json").read_text())


MODES = [("true", "test"), ("empty", "test_empty"), ("shuffled", "test_shuffled")]


@pytest.mark.parametrize(("mode", "prefix"), MODES)
def test_every_number_of_a_test_stands_once_in_each_logger(
    run: Path,
    offline: OfflineRun,
    events: EventAccumulator,
    mode: str,
    prefix: str,
) -> None:
    numbers = flat_numbers(result_of(run, mode), prefix)
    assert f"{prefix}/strata/number/1/dice" in numbers
    for key, value in numbers.items():
        found = {
            "wandb": offline.history[key],
            "tensorboard": [event.value for event in events.Scalars(key)],
        }
        # TensorBoard keeps 32 bits of a number.
        assert found == {name: [pytest.approx(value, rel=1e-6, abs=1e-6)] for name in found}, key


def test_metrics_csv_is_by_epoch_and_tests_are_in_their_own_folders(
    table: list[dict[str, str]],
) -> None:
    assert {row["epoch"] for row in table} == {"0", "1"}
    assert [name for name in table[0] if name.startswith("test")] == []
    for name in ("train/loss", "val/dice", "lr-AdamW/new/decay"):
        assert sorted(row["epoch"] for row in table if row[name]) == ["0", "1"], name


def test_the_best_epoch_stands_in_each_logger(
    offline: OfflineRun, events: EventAccumulator, table: list[dict[str, str]]
) -> None:
    dices = [float(row["val/dice"]) for row in table if row["val/dice"]]
    assert len(dices) == 2
    assert offline.history["best/dice"] == [max(dices)]
    assert [event.value for event in events.Scalars("best/dice")] == [pytest.approx(max(dices))]
    assert [float(row["best/epoch"]) for row in table if row["best/epoch"]] == [
        dices.index(max(dices))
    ]


def test_the_wandb_run_carries_keys_to_filter_by(offline: OfflineRun) -> None:
    assert offline.run.run_group == "RefHLSeg/tiny"
    assert (offline.run.display_name, offline.run.job_type) == ("tiny-seed1", "fit")
    assert list(offline.run.tags) == ["RefHLSeg", "TMCA", "manifest"]
    keys = {"network": "TMCA", "dataset": "RefHLSeg", "split": "manifest", "seed": 1}
    assert {key: offline.config[key] for key in keys} == keys
    assert offline.summary["test/truth"] == "outlines"


def test_wandb_shows_the_best_validation_over_epochs(offline: OfflineRun) -> None:
    for score in ("dice", "miou", "dice_global", "iou_global"):
        metric = offline.metrics[f"val/{score}"]
        assert metric.step_metric == "epoch"
        assert metric.summary.max
        assert offline.summary[f"val/{score}"] == {"max": max(offline.history[f"val/{score}"])}


@pytest.mark.parametrize(("mode", "prefix"), MODES)
def test_wandbs_table_holds_every_case_as_cases_csv_does(
    run: Path, offline: OfflineRun, mode: str, prefix: str
) -> None:
    sent = offline.table(f"{prefix}/case_table")
    with (run / "test" / mode / "cases.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(sent["data"]) == len(lines) == 5
    assert {*lines[0]} | {"index", "picture", "explanation"} == {*sent["columns"]}
    for values, line in zip(sent["data"], lines, strict=True):
        cells = dict(zip(sent["columns"], values, strict=True))
        for name, text in line.items():
            cell = cells[name]
            assert text == "" if cell is None else cell == type(cell)(text), name


def test_pictures_are_capped_and_have_both_masks(offline: OfflineRun) -> None:
    sent = offline.table("test/case_table")
    for column, count in (("picture", 1), ("explanation", 1)):
        cells = [row[sent["columns"].index(column)] for row in sent["data"]]
        drawn = [cell for cell in cells if cell]
        assert len(drawn) == count, column
        for cell in drawn:
            assert offline.staged[cell["path"]].is_file()
    picture = next(row[sent["columns"].index("picture")] for row in sent["data"])
    assert set(picture["masks"]) == {"truth", "prediction"}


def test_what_waits_to_be_sent_lies_in_the_runs_folder(run: Path, offline: OfflineRun) -> None:
    """Pictures of patients included; wandb's own place for them is the home folder."""
    assert offline.staged
    outside = [p for p in offline.staged.values() if not p.is_relative_to(run.resolve())]
    assert outside == []


def test_tensorboard_shows_pictures_and_settings(events: EventAccumulator) -> None:
    tags = events.Tags()["images"]
    for key in ("val/samples/0", "test/case_table/0", "test_empty/case_table/0/explanation"):
        assert [tag for tag in tags if tag.startswith(key)], key
    assert len([tag for tag in tags if tag.startswith("test/case_table")]) == 2
    stored = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(stored).session_start_info.hparams
    assert hparams["network"].string_value == "TMCA"
    assert hparams["dataset"].string_value == "RefHLSeg"


def test_a_config_of_a_run_gives_its_name_to_no_other_run(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    assert "tiny-seed1" not in text
    assert "RefHLSeg/tiny" not in text


def test_a_test_without_upload_sends_numbers_only(home: Path, run: Path) -> None:
    """And it is a run of its own, beside the training's."""
    before = (run / "metrics.csv").read_bytes()
    samples = {"trainer": {"callbacks": [SAMPLES], "logger": {"class_path": "WandbLogger"}}}
    config = home / "test.yaml"
    config.write_text(json.dumps(samples))
    best = run / "checkpoints/best.ckpt"
    outcome = later_test(home, "--config", config, "--ckpt_path", best, "--explain.pictures", "2")
    assert outcome.status == 0, outcome.err
    wandb.finish()
    (later,) = sorted((run / "wandb").glob("offline-run-*"))[1:]  # their names begin with the time
    sent = OfflineRun(later)
    assert (sent.run.job_type, sent.run.run_group) == ("test", "RefHLSeg/tiny")
    assert sent.run.display_name == "tiny-seed1"
    assert sent.config["network"] == "TMCA"
    table = sent.table("test/case_table")
    assert len(table["data"]) == 5
    assert not {"case", "case_id", "patient", "caption", "picture"} & set(table["columns"])
    assert "output_raw" not in sent.kinds
    files = [*later.rglob("*"), *map(Path, sent.staged)]
    assert not [path for path in files if path.suffix in (".png", ".jpg")]
    assert [secret for secret in SECRETS if secret in sent.text()] == []
    assert (run / "metrics.csv").read_bytes() == before


def later_test(home: Path, *arguments: str | Path) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        return call("test", *arguments, cwd=home)


def test_with_upload_the_same_search_finds_captions_and_names(offline: OfflineRun) -> None:
    """So that the search of the test above can find something."""
    text = offline.text()
    assert [secret for secret in SECRETS[:3] if secret not in text] == []


def test_a_test_with_tensorboard_writes_beside_the_training(home: Path, run: Path) -> None:
    before = {path.name for path in run.glob("events.*")}
    best = run / "checkpoints/best.ckpt"
    outcome = later_test(home, "--ckpt_path", best, "--trainer.logger", "TensorBoardLogger")
    assert outcome.status == 0, outcome.err
    assert {path.name for path in run.glob("events.*")} == before
    accumulator = EventAccumulator(str(only(run / "test_log"))).Reload()
    (event,) = accumulator.Scalars("test/dice")
    assert event.value == pytest.approx(result_of(run, "true")["dice"], abs=1e-6)
    assert TensorBoardLogger(run, name="test_log").version == 1
