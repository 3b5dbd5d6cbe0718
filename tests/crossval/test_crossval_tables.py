"""The tests of all folds put together, their statistics, and comparisons of them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import textseg.compare
from tests.crossval.finished import plan_in, write_all, write_training
from textseg.compare import compare, plain_table, score
from textseg.compare.results import TRAININGS
from textseg.crossval import _result
from textseg.crossval.tables import by_fold, write_seed
from textseg.errors import UserError
from textseg.report import write_comparison
from textseg.report.write_comparison import compare_runs
from textseg.runs import Run
from textseg.runs.crossval import Crossval
from textseg.runs.folder import CAPTION_MODES


@pytest.fixture
def plan(tmp_path: Path) -> Crossval:
    return plan_in(tmp_path / "net")


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textseg.compare, "score", partial(score, resamples=200))


@pytest.fixture
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_comparison, "write_comparison", lambda found, folder: folder)


def write_tables(plan: Crossval) -> None:
    for seed in plan.all_seeds:
        write_seed(plan, seed)


def test_a_seeds_table_holds_every_case_of_every_fold_once(plan: Crossval) -> None:
    overlaps = write_all(plan)
    write_tables(plan)
    for seed in plan.all_seeds:
        tests = plan.seed_run(seed).tests()
        assert list(tests) == list(CAPTION_MODES)
        test = tests["true"]
        assert len({case.case for case in test.cases}) == 12
        dice = [case.dice for case in test.cases]
        assert test.metrics["dice"] == pytest.approx(np.mean(dice))
        assert np.mean(dice) == pytest.approx(
            np.mean([overlaps[1, seed], overlaps[2, seed]]), abs=2e-3
        )
        share = np.array([case.true for case in test.cases])
        cuts = np.quantile(share / 9000, [1 / 3, 2 / 3], method="inverted_cdf")
        assert test.metrics["size_cuts"] == pytest.approx(cuts)
        sizes = {"small": share <= cuts[0] * 9000, "large": share > cuts[1] * 9000}
        for name, expected in sizes.items():
            assert [case.lesion_size == name for case in test.cases] == expected.tolist()


def test_curves_are_means_over_the_folds_that_got_to_an_epoch(plan: Crossval) -> None:
    write_all(plan)
    write_seed(plan, 0)
    assert plan.seed_run(0).curves() == {
        "val/loss": [(0, pytest.approx(1.5)), (1, pytest.approx(1.6)), (2, pytest.approx(2.2))]
    }


def test_cases_that_were_not_tested_are_warned_of(plan: Crossval) -> None:
    write_all(plan)
    table = plan.folder / plan.table
    table.write_text(table.read_text() + "another\n")
    write_seed(plan, 0)
    (test,) = (t for t in plan.seed_run(0).tests().values() if t.name == "true")
    assert "12 of 13 cases were tested" in test.metrics["warnings"]


@pytest.mark.usefixtures("_no_page")
def test_the_table_is_the_mean_over_seeds_with_each_patient_once(plan: Crossval) -> None:
    overlaps = write_all(plan)
    text = _result(plan)
    found = score(str(plan.folder), resamples=500)
    (method,) = found.methods
    assert method.name == "net"
    assert found.patients == 6
    seeds = [np.mean([overlaps[1, seed], overlaps[2, seed]]) for seed in (0, 1)]
    assert method.scores["dice"].value == pytest.approx(np.mean(seeds), abs=2e-3)
    assert method.scores["dice"].std == pytest.approx(np.std(seeds, ddof=1), abs=2e-3)
    assert not any("nothing to compare" in warning for warning in found.warnings)
    assert plain_table(found).splitlines()[0] in text
    (line,) = (line for line in by_fold(plan).splitlines() if line.startswith("2 "))
    assert line.split()[1:3] == ["3", "6"]
    fold = [np.mean(overlaps[2, seed]) for seed in (0, 1)]
    assert float(line.split()[3]) == pytest.approx(np.mean(fold), abs=2e-3)
    assert float(line.split()[5]) == pytest.approx(np.std(fold, ddof=1), abs=2e-3)


def test_the_result_is_written_once_and_told_again(plan: Crossval) -> None:
    write_all(plan)
    first, second = _result(plan), _result(plan)
    assert str(plan.folder / "report") in first
    assert (plan.folder / "report/comparison.json").is_file()
    assert not (plan.folder / "report_2").exists()
    assert first.splitlines()[:-1] == second.splitlines()[:-1]


def test_what_is_left_is_named_until_all_is_finished(plan: Crossval) -> None:
    write_training(plan, 1, 0, [0.5] * 6)
    write_training(plan, 2, 0, [0.5] * 6, modes=("true", "empty"), finished=False)
    assert "1 of 4 trainings are finished" in _result(plan)
    assert "2,0, 1,1, 2,1" in _result(plan)
    with pytest.raises(UserError, match="3 of its 4 trainings") as caught:
        compare([str(plan.folder), str(plan.folder)])
    assert "again" in str(caught.value)


@pytest.mark.usefixtures("_no_page")
def test_one_seed_alone_is_a_table_too(tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "net", seeds=1)
    write_all(plan)
    assert "one training of net" in _result(plan)


# --- two cross-validations ---------------------------------------------------------------------


def test_two_cross_validations_are_compared_over_all_patients_and_seeds(tmp_path: Path) -> None:
    one, other = (plan_in(tmp_path / name, name=name) for name in ("unet", "lsms"))
    for plan, quality in ((one, 0.6), (other, 0.75)):
        write_all(plan, quality)
        write_tables(plan)
    runs = [str(one.folder), str(other.folder)]
    found = compare(runs, resamples=500)
    assert [(method.name, len(method.runs)) for method in found.methods] == [
        ("unet", 2),
        ("lsms", 2),
    ]
    (dice,) = (gap for gap in found.differences if gap.score == "dice")
    assert dice.value == pytest.approx(0.15, abs=2e-3)
    assert dice.p_is_of == TRAININGS
    assert (dice.p < 0.05) == (dice.low > 0)
    assert {word.captions for word in found.words} == {"empty", "shuffled"}
    assert compare(runs, resamples=500, baseline=runs[1]).baseline == "lsms"
    named = compare(runs, resamples=500, names=["a", "b"], captions="empty")
    assert [method.name for method in named.methods] == ["a", "b"]
    assert "lsms" in compare_runs(runs, resamples=500)


def test_other_folds_of_the_same_patients_are_said(tmp_path: Path) -> None:
    one, other = (plan_in(tmp_path / name, name=name) for name in ("unet", "lsms"))
    for plan in (one, other):
        write_all(plan)
        write_tables(plan)
    runs = [str(one.folder), str(other.folder)]
    assert "data.folds" not in compare(runs, resamples=500).terms
    for seed in (0, 1):
        config = other.seed_run(seed).config
        config.write_text(config.read_text().replace(other.table, "folds-2-other.csv"))
    found = compare(runs, resamples=500)
    assert found.terms["data.folds"] == (one.table, "folds-2-other.csv")
    assert any("data.folds" in warning for warning in found.warnings)


# --- what is refused ---------------------------------------------------------------------------


def test_folds_that_were_tested_in_different_ways_are_refused(plan: Crossval) -> None:
    write_training(plan, 1, 0, [0.5] * 6, changes={"nsd_tolerance": 2.0})
    write_training(plan, 2, 0, [0.5] * 6, changes={"nsd_tolerance": 3.0})
    with pytest.raises(UserError, match=r"nsd_tolerance is 2\.0 .* and 3\.0"):
        write_seed(plan, 0)
    assert not plan.seed_run(0).folder.exists()


def test_a_network_that_reads_no_captions_has_the_tests_of_true_ones_alone(plan: Crossval) -> None:
    for fold, seed in plan.trainings:
        write_training(plan, fold, seed, [0.5] * 6, modes=("true",))
    assert plan.unfinished() == []
    write_seed(plan, 0)
    assert [f.name for f in plan.seed_run(0).tests_dir().iterdir()] == ["true"]


def test_a_case_in_two_folds_is_refused(plan: Crossval) -> None:
    write_all(plan)
    run = plan.run(2, 0)
    assert run is not None
    for mode in CAPTION_MODES:
        file = run.tests_dir() / mode / "cases.csv"
        file.write_text(file.read_text().replace("f2_0", "f1_0"))
    with pytest.raises(UserError, match="twice"):
        write_seed(plan, 0)


def test_a_broken_plan_is_refused(plan: Crossval) -> None:
    file = plan.folder / "crossval.yaml"
    text = file.read_text()
    for broken in ("folds: [", "folds: 3", text.replace("folds: 2", "folds: two")):
        file.write_text(broken)
        with pytest.raises(UserError, match=r"crossval\.yaml"):
            Crossval.in_folder(plan.folder)
    assert Crossval.in_folder(plan.folder / "nowhere") is None


def test_an_ordinary_run_is_no_cross_validation(plan: Crossval, tmp_path: Path) -> None:
    write_all(plan)
    write_tables(plan)
    run = plan.run(1, 0)
    assert run is not None
    with pytest.raises(UserError, match="the cases differ"):
        compare([str(plan.folder), str(run.folder)], names=["all", "fold"])
    assert json.loads((Run(plan.seed_run(0).folder).tests_dir() / "true/metrics.json").read_text())
