"""What `textseg fit`, `test` and `predict` leave behind, from one tiny training run."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.cli.finished_fit import (
    MODES,
    QUICK,
    Trained,
    cases,
    counts,
    experiment,
    manifest,
    metrics_of,
    moved_run,
    strings,
)
from tests.models.stand_ins import write_bert
from tests.tiny_run import (
    NO_PICTURES,
    ROOT,
    ROWS,
    SMALL,
    Outcome,
    call,
    fingerprints,
    masks_in,
    only,
    train_arguments,
    write_experiment,
    write_refhl,
)

SCORES = ["dice", "miou", "dice_global", "iou_global"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    home = tmp_path_factory.mktemp("home")
    root = write_refhl(home / "refhl")
    more = ["--test_after_fit", "true", "--results_writer.save_masks", "true"]
    outcome = call(*train_arguments(experiment(home), root, *more), cwd=home)
    assert outcome.status == 0, outcome.err
    return Trained(home, only(home / "runs" / "tiny"), root, outcome)


@dataclass(frozen=True)
class Again:
    """`test` and `predict`, each given only a checkpoint, and the run's files before them."""

    before: dict[str, str]
    test: Outcome
    predict: Outcome


@pytest.fixture(scope="module")
def again(trained: Trained) -> Again:
    before = fingerprints(trained.run)
    saving = ["--results_writer.save_masks", "true"]
    test = call("test", "--ckpt_path", trained.checkpoint, *saving, cwd=trained.home)
    predict = call("predict", "--ckpt_path", trained.checkpoint, cwd=trained.home)
    return Again(before, test, predict)


# --- fit -------------------------------------------------------------------------------------


def test_main_returns_none_so_that_the_script_exits_with_0(trained: Trained) -> None:
    assert trained.outcome.returned is None


def test_a_run_leaves_exactly_the_promised_files(trained: Trained, again: Again) -> None:
    files = {name for name in again.before if not name.endswith(".png")}
    assert files == {
        *("config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"),
        *(f"test/{mode}/{name}" for mode in MODES for name in ("metrics.json", "cases.csv")),
    }


def test_a_run_that_was_not_asked_to_explain_has_no_explanations(
    trained: Trained, again: Again
) -> None:
    assert not [path for path in trained.run.rglob("*") if "explain" in path.name]


def test_a_run_lies_under_its_configs_name_and_a_time_stamp(trained: Trained) -> None:
    assert trained.run.parent == trained.home / "runs" / "tiny"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", trained.run.name)


def test_fit_writes_nothing_outside_its_run_folder(trained: Trained) -> None:
    assert {path.name for path in trained.home.iterdir()} == {"refhl", "runs", "tiny.yaml"}


def test_fit_says_where_the_run_lies(trained: Trained) -> None:
    assert str(trained.run.relative_to(trained.home)) in trained.outcome.err


def test_the_config_of_a_run_holds_every_setting_with_its_value(trained: Trained) -> None:
    config = yaml.safe_load((trained.run / "config.yaml").read_text())
    assert config["seed_everything"] == 1
    assert config["data"]["init_args"]["root"] == str(trained.root)
    assert config["data"]["init_args"]["caption_mode"] == "true"
    assert config["model"]["init_args"]["alignment_dim"] == 16
    assert config["model"]["init_args"]["weight_decay"] == 0.05, "a default is written out too"


def test_the_config_of_a_run_starts_the_same_run_again(trained: Trained, tmp_path: Path) -> None:
    quick = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    stored = trained.run / "config.yaml"
    outcome = call("fit", "--config", stored, *quick, "--test_after_fit", "false", cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    repeated = yaml.safe_load((only(tmp_path / "runs/config") / "config.yaml").read_text())
    first = yaml.safe_load(stored.read_text())
    assert repeated["model"] == first["model"]
    assert repeated["data"] == first["data"]


def test_metrics_csv_has_losses_and_both_conventions(trained: Trained) -> None:
    with (trained.run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ["train/loss", "val/loss", *(f"val/{score}" for score in SCORES)]:
        values = [float(row[name]) for row in rows if row[name]]
        assert len(values) == 1, f"{name} once an epoch"
        assert math.isfinite(values[0])


@pytest.mark.parametrize("mode", MODES)
def test_metrics_json_has_both_conventions_with_intervals(trained: Trained, mode: str) -> None:
    result = metrics_of(trained.run / "test" / mode)
    assert result["caption_mode"] == mode
    assert result["protocol"] == "standard"
    assert result["reads_text"] is True
    assert result["cases"] == ROWS["test"]
    assert result["bootstrap_units"] == len({row["case_id"] for row in manifest(trained.root)})
    for name in SCORES:
        assert 0 <= result[f"{name}_ci_low"] <= result[f"{name}_ci_high"] <= 1


def test_cases_csv_has_the_promised_columns(trained: Trained) -> None:
    header = (trained.run / "test/true/cases.csv").read_text().splitlines()[0]
    assert header == (
        "case,case_id,patient,caption,dice,iou,intersection,predicted,true,pixels,hd95,nsd,"
        "diagonal,surface_unit,lesion_size,lesion_number,lesions_predicted,lesions_matched,"
        "lesions_matched_half,lesion_side,truth"
    )


@pytest.mark.parametrize("mode", MODES)
def test_strata_of_cases_csv_are_those_of_the_masks_on_disk(trained: Trained, mode: str) -> None:
    """The truths are one rectangle each, left of the middle or not, or empty."""
    found = cases(trained.run / "test" / mode)
    for row, listed in zip(found, manifest(trained.root), strict=True):
        truth = np.asarray(Image.open(trained.root / listed["mask"])) > 127
        assert int(row["pixels"]) == truth.size
        assert row["patient"] == listed["case_id"]
        assert row["lesion_number"] == str(int(truth.any()))
        width, columns = truth.shape[1], np.flatnonzero(truth.any(axis=0))
        left = (columns < width / 2).mean() if len(columns) else None
        side = "none" if left is None else "left" if left > 0.9 else "both"
        assert row["lesion_side"] == side
    assert {row["lesion_size"] for row in found} == {"none", "small", "medium", "large"}


@pytest.mark.parametrize("mode", MODES)
def test_strata_of_metrics_json_are_means_over_their_cases(trained: Trained, mode: str) -> None:
    rows, result = cases(trained.run / "test" / mode), metrics_of(trained.run / "test" / mode)
    for name, column in (("size", "lesion_size"), ("side", "lesion_side")):
        classes = {row[column] for row in rows}
        assert set(result["strata"][name]) == classes
        for one in classes:
            own = [float(row["dice"]) for row in rows if row[column] == one]
            assert result["strata"][name][one]["cases"] == len(own)
            assert result["strata"][name][one]["dice"] == pytest.approx(np.mean(own))


@pytest.mark.parametrize("mode", MODES)
def test_a_test_of_few_patients_warns_in_metrics_json_and_in_print(
    trained: Trained, mode: str
) -> None:
    (warning,) = metrics_of(trained.run / "test" / mode)["warnings"]
    assert "patients" in warning
    assert warning in trained.outcome.out


@pytest.mark.parametrize("mode", MODES)
def test_cases_csv_has_the_rows_of_the_test_set_in_order(trained: Trained, mode: str) -> None:
    found = [(row["case"], row["case_id"]) for row in cases(trained.run / "test" / mode)]
    assert found == [(row["case"], row["case_id"]) for row in manifest(trained.root)]


def test_cases_csv_tells_the_caption_each_mode_used(trained: Trained) -> None:
    texts = {mode: [r["caption"] for r in cases(trained.run / "test" / mode)] for mode in MODES}
    assert texts["true"] == [row["text"] for row in manifest(trained.root)]
    assert set(texts["empty"]) == {""}
    assert sorted(texts["shuffled"]) == sorted(texts["true"])
    assert texts["shuffled"] != texts["true"]


def table(outcome: Outcome) -> list[str]:
    """The printed lines from the head of the table on."""
    lines = outcome.out.splitlines()
    (start,) = (n for n, line in enumerate(lines) if line.startswith("captions "))
    return lines[start:]


@pytest.mark.parametrize("mode", MODES)
def test_cases_csv_agrees_with_the_masks_on_disk(trained: Trained, mode: str) -> None:
    folder = trained.run / "test" / mode
    for row, (both, pred, true) in zip(cases(folder), counts(trained, folder), strict=True):
        expected = 2 * both / (pred + true) if pred + true else 1.0
        assert [int(row[k]) for k in ("intersection", "predicted", "true")] == [both, pred, true]
        assert float(row["dice"]) == pytest.approx(expected)
        union = pred + true - both
        assert float(row["iou"]) == pytest.approx(both / union if union else 1.0)


@pytest.mark.parametrize("mode", MODES)
def test_metrics_json_agrees_with_the_masks_on_disk(trained: Trained, mode: str) -> None:
    both, pred, true = np.array(counts(trained, trained.run / "test" / mode), dtype=float).T
    total = pred + true
    single = [2 * b / t if t else 1.0 for b, t in zip(both, total, strict=True)]
    result = metrics_of(trained.run / "test" / mode)
    assert result["dice"] == pytest.approx(np.mean(single))
    assert result["dice_global"] == pytest.approx(2 * both.sum() / total.sum())
    assert result["iou_global"] == pytest.approx(both.sum() / (total.sum() - both.sum()))


@pytest.mark.parametrize("mode", MODES)
def test_every_case_of_a_small_test_set_has_an_overlay(trained: Trained, mode: str) -> None:
    names = {path.name for path in (trained.run / "test" / mode / "overlays").iterdir()}
    assert names == {f"{row['case']}.png" for row in manifest(trained.root)}


def test_the_printed_table_has_both_conventions_and_intervals(trained: Trained) -> None:
    head, *lines = table(trained.outcome)
    assert head.split()[:7] == ["captions", "cases", "empty", *SCORES]
    for mode, line in zip(MODES, lines[:3], strict=True):
        result = metrics_of(trained.run / "test" / mode)
        assert line.split()[:2] == [mode, str(ROWS["test"])]
        for name in SCORES:
            low, high = result[f"{name}_ci_low"], result[f"{name}_ci_high"]
            assert f"{result[name]:.3f} [{low:.3f}, {high:.3f}]" in line


# --- the checkpoint --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_checkpoint_holds_tensors_and_plain_values_only(trained: Trained, name: str) -> None:
    stored = torch.load(trained.run / f"checkpoints/{name}.ckpt", weights_only=True)
    assert stored["hyper_parameters"]["_class_path"].endswith("TMCA")
    assert stored["hyper_parameters"]["alignment_dim"] == 16


def test_a_checkpoint_holds_no_path_of_the_machine_besides_settings(trained: Trained) -> None:
    stored = torch.load(trained.checkpoint, weights_only=True)
    machine = (str(trained.home), str(ROOT), str(Path.home()) + "/")
    # ModelCheckpoint remembers where the best weights lie, for a run that is resumed.
    settings = (".hyper_parameters", ".datamodule_hyper_parameters", ".callbacks.ModelCheckpoint")
    odd = {
        place: text
        for place, text in strings(stored).items()
        if not place.startswith(settings) and any(part in text for part in machine)
    }
    assert odd == {}


# --- test and predict, given a checkpoint alone -------------------------------------------------


def test_a_checkpoint_alone_suffices_for_test_and_predict(again: Again) -> None:
    assert (again.test.status, again.predict.status) == (0, 0), again.test.err + again.predict.err
    assert (again.test.returned, again.predict.returned) == (None, None)


def test_a_second_test_writes_beside_the_first(trained: Trained, again: Again) -> None:
    assert (trained.run / "test/true_2/metrics.json").is_file()
    first, second = (trained.run / "test" / name for name in ("true", "true_2"))
    for name in ("metrics.json", "cases.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_test_and_predict_change_no_file_that_was_there(trained: Trained, again: Again) -> None:
    after = fingerprints(trained.run)
    assert {name: after.get(name) for name in again.before} == again.before
    new = {name.split("/")[0] for name in set(after) - set(again.before)}
    assert new == {"test", "predict"}


def test_test_and_predict_leave_nothing_where_they_were_started(
    trained: Trained, again: Again
) -> None:
    assert {path.name for path in trained.home.iterdir()} == {"refhl", "runs", "tiny.yaml"}
    assert only(trained.home / "runs" / "tiny") == trained.run


def test_predict_gives_the_masks_of_test(trained: Trained, again: Again) -> None:
    tested, predicted = (masks_in(trained.run / f) for f in ("test/true/masks", "predict"))
    assert set(predicted) == {f"{row['case']}.png" for row in manifest(trained.root)}
    assert set(tested) == set(predicted)
    assert all(np.array_equal(tested[name], predicted[name]) for name in tested)


def test_predicted_masks_are_8_bit_gray_of_0_and_255_at_the_images_size(
    trained: Trained, again: Again
) -> None:
    values = set()
    for row in manifest(trained.root):
        mask = Image.open(trained.run / "predict" / f"{row['case']}.png")
        assert (mask.format, mask.mode) == ("PNG", "L")
        assert mask.size == Image.open(trained.root / row["image"]).size
        values |= set(np.unique(mask).tolist())
    assert values <= {0, 255}


def test_predict_needs_no_masks(trained: Trained, tmp_path: Path) -> None:
    unscored = shutil.copytree(trained.root, tmp_path / "unscored")
    shutil.rmtree(unscored / "masks")
    moved = moved_run(trained, tmp_path)
    best = moved / "checkpoints/best.ckpt"
    outcome = call("predict", "--ckpt_path", best, "--data.root", unscored, cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    assert len(masks_in(moved / "predict")) == ROWS["test"]


def test_test_prints_one_row_and_where_it_wrote(trained: Trained, again: Again) -> None:
    lines = table(again.test)
    assert lines[1].split()[:2] == ["true", str(ROWS["test"])]
    assert str(trained.run / "test") in lines[-1]


# --- further runs ----------------------------------------------------------------------------


def test_a_network_that_reads_no_captions_is_tested_once(trained: Trained, tmp_path: Path) -> None:
    settings = SMALL["init_args"] | {"alignment": "none", "enhancement_levels": []}
    config = write_experiment(
        tmp_path, model=SMALL | {"init_args": settings}, results_writer=NO_PICTURES
    )
    outcome = call(*train_arguments(config, trained.root, "--test_after_fit", "true"), cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    run = only(tmp_path / "runs/tiny")
    assert [folder.name for folder in (run / "test").iterdir()] == ["true"]
    assert "TMCA" in outcome.err
    assert (run / "config.yaml").read_text().startswith(f"# trained on {ROWS['train']} rows\n")


def test_a_fit_from_best_goes_on_counting_in_a_folder_of_its_own(
    trained: Trained, tmp_path: Path
) -> None:
    before = fingerprints(trained.run)
    best = trained.run / "checkpoints/best.ckpt"
    more = ["--trainer.max_epochs", "2", "--ckpt_path", str(best)]
    fit = train_arguments(experiment(tmp_path), trained.root, *more)
    outcome = call(*fit, cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    with (only(tmp_path / "runs/tiny") / "metrics.csv").open() as file:
        assert {row["epoch"] for row in csv.DictReader(file)} == {"1"}
    assert fingerprints(trained.run) == before


def test_a_checkpoint_is_tested_after_its_text_encoders_folder_is_gone(
    trained: Trained, tmp_path: Path
) -> None:
    """conftest's guard would fail it if a hub were asked instead."""
    write_bert(tmp_path / "bert")
    more = ["--model.text_encoder", str(tmp_path / "bert"), "--test_after_fit", "true"]
    config = experiment(tmp_path, results_writer=NO_PICTURES)
    fit = train_arguments(config, trained.root, *more, *QUICK)
    assert call(*fit, cwd=tmp_path).status == 0
    shutil.rmtree(tmp_path / "bert")
    run = only(tmp_path / "runs/tiny")
    outcome = call("test", "--ckpt_path", run / "checkpoints/best.ckpt", cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    assert metrics_of(run / "test/true_2") == metrics_of(run / "test/true")


def test_a_run_is_tested_where_it_was_moved_to(trained: Trained, tmp_path: Path) -> None:
    moved = moved_run(trained, tmp_path)
    outcome = call("test", "--ckpt_path", moved / "checkpoints/best.ckpt", cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    assert [p.name for p in tmp_path.iterdir()] == ["moved"]
    assert cases(moved / "test/true") == cases(trained.run / "test/true")


def test_a_setting_given_beside_the_checkpoint_overrides_the_runs_own(
    trained: Trained, tmp_path: Path
) -> None:
    moved = moved_run(trained, tmp_path)
    own = ["--data.caption_mode", "empty", "--data.batch_size", "1"]
    own += ["--results_writer.overlays", "2", "--results_writer.ranked", "0"]
    outcome = call("test", "--ckpt_path", moved / "checkpoints/best.ckpt", *own, cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    assert cases(moved / "test/empty") == cases(trained.run / "test/empty")
    assert len(list((moved / "test/empty/overlays").iterdir())) == 2
    assert [folder.name for folder in (moved / "test").iterdir()] == ["empty"]


# --- probe -------------------------------------------------------------------------------------


def test_probe_takes_a_runs_folder_and_leaves_its_results_there(
    trained: Trained, tmp_path: Path
) -> None:
    moved = moved_run(trained, tmp_path)
    outcome = call("probe", moved, "--pictures", "1", cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    result = json.loads((moved / "probe/probe.json").read_text())
    found = result["variants"]
    assert found["true"]["dice"] == pytest.approx(metrics_of(trained.run / "test/true")["dice"])
    assert found["empty"]["dice"] == pytest.approx(metrics_of(trained.run / "test/empty")["dice"])
    assert str(moved / "probe") in outcome.out
    assert len(list((moved / "probe/pictures").iterdir())) == 1
    assert not (moved / "test").exists()
