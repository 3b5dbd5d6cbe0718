"""The command: what is trained on what, in which folder, and what is refused."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_cli
import textseg.crossval
from tests.crossval.finished import plan_in
from tests.tiny_run import Outcome, call, fingerprints, only
from textseg.crossval import Experiment, crossval
from textseg.crossval.work import Worker, locked
from textseg.errors import UserError
from textseg.runs.crossval import Crossval

SETTINGS: dict[str, Any] = {
    "seed_everything": 4,
    "trainer": {"max_epochs": 2, "devices": "auto", "default_root_dir": None, "logger": None},
    "model": {"class_path": "Net", "init_args": {"lr": 0.1, "image_weights": None}},
    "data": {
        "class_path": "Data",
        "init_args": {"root": "a", "split": "x", "seed": 1, "folds": None, "fold": None},
    },
}


def changed(settings: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The settings with another value under a dotted name."""
    first, _, rest = name.partition(".")
    return {**settings, first: changed(settings[first], rest, value) if rest else value}


@pytest.fixture
def experiment() -> Experiment:
    """Of no dataset: its table of folds is empty."""

    def write_folds(folder: Path, folds: int, seed: int) -> Path:
        file = folder / f"folds-{folds}-{seed}.csv"
        file.write_text("case\n")
        return file

    return Experiment("net", ("--config", "net.yaml"), SETTINGS, ("textseg",), write_folds)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines in place of trainings."""
    asked: list[list[str]] = []

    def train(
        plan: Crossval,
        trainings: Sequence[tuple[int, int]],
        command_of: Callable[[int, int], list[str]],
    ) -> int:
        asked.extend(command_of(fold, seed) for fold, seed in trainings)
        return 0

    monkeypatch.setattr(textseg.crossval, "train", train)
    return asked


def refusal(experiment: Experiment, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        crossval(experiment, **settings)
    cause, _, remedy = str(caught.value).partition("\n")
    assert remedy, "an error says what to do"
    return cause


# --- what is trained ---------------------------------------------------------------------------


def test_each_training_gets_its_fold_its_seeds_and_its_folder(
    experiment: Experiment, commands: list[list[str]], tmp_path: Path
) -> None:
    output = tmp_path / "cv"
    crossval(experiment, folds=2, seeds=2, output=str(output))
    assert len(commands) == 4
    assert commands[3] == [
        *("textseg", "fit", "--config", "net.yaml", "--seed_everything=5"),
        *(f"--data.folds={output}/folds-2-0.csv", "--data.fold=2"),
        *(f"--trainer.default_root_dir={output}/fold2_seed5", "--test_after_fit=true"),
        "--data.seed=2",
    ]


def test_a_training_that_began_goes_on(
    experiment: Experiment, commands: list[list[str]], tmp_path: Path
) -> None:
    output = tmp_path / "cv"
    last = output / "fold1_seed4/net/2026-01-01_10-00-00/checkpoints/last.ckpt"
    crossval(experiment, folds=2, seeds=1, output=str(output))
    last.parent.mkdir(parents=True)
    last.touch()
    crossval(experiment, folds=2, seeds=1, output=str(output))
    assert ["--ckpt_path=last" in command for command in commands] == [False, False, True, False]


def test_one_training_alone_and_more_seeds_later(
    experiment: Experiment, commands: list[list[str]], tmp_path: Path
) -> None:
    output = str(tmp_path / "cv")
    crossval(experiment, folds=2, seeds=1, only="2,4", output=output)
    (command,) = commands
    assert "--data.fold=2" in command
    crossval(experiment, folds=2, seeds=3, only="1,6", output=output)
    plan = Crossval.in_folder(output)
    assert plan is not None
    assert list(plan.all_seeds) == [4, 5, 6]
    assert "seeds=2" in refusal(experiment, folds=2, seeds=2, output=output)


def test_numbers_that_cannot_be_are_refused_before_anything_is_made(
    experiment: Experiment, tmp_path: Path
) -> None:
    output = str(tmp_path / "cv")
    assert "seeds=99999999" in refusal(experiment, folds=2, seeds=99_999_999, output=output)
    only = "\u00b2,0"  # a digit that is no decimal one
    assert f"only='{only}'" in refusal(experiment, folds=2, seeds=1, only=only, output=output)
    assert not Path(output).exists()


def test_the_folder_is_named_by_the_config_below_the_folder_of_runs(
    experiment: Experiment,
    commands: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    crossval(experiment, seeds=1)
    assert (tmp_path / "runs/crossval/net/crossval.yaml").is_file()
    elsewhere = changed(SETTINGS, "trainer.default_root_dir", str(tmp_path / "disk"))
    crossval(replace(experiment, settings=elsewhere), seeds=1)
    assert (tmp_path / "disk/crossval/net/crossval.yaml").is_file()


def test_what_names_the_machine_may_change(
    experiment: Experiment, commands: list[list[str]], tmp_path: Path
) -> None:
    output = str(tmp_path / "cv")
    crossval(experiment, folds=2, seeds=1, output=output)
    for name, value in (
        ("data.init_args.root", "b"),
        ("model.init_args.image_weights", "w"),
        ("trainer.logger", {"class_path": "L"}),
    ):
        crossval(
            replace(experiment, settings=changed(SETTINGS, name, value)),
            folds=2,
            seeds=1,
            output=output,
        )


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"seeds": 0}, "seeds=0"),
        ({"folds": 1}, "folds=1"),
        ({"fold_seed": -1}, "seed=-1"),
        *(
            ({"only": only}, f"only={only!r}")
            for only in ("3", "6,4", "1,7", "0,4", "a,b", "1,4,5")
        ),
    ],
)
def test_wrong_numbers_are_refused_and_write_nothing(
    experiment: Experiment, settings: dict[str, Any], value: str, tmp_path: Path
) -> None:
    output = tmp_path / "cv"
    assert value in refusal(experiment, output=str(output), **settings)
    assert not output.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seed_everything", value) for value in (True, None)),
        *(("data.init_args.fold", 1), ("data.init_args.folds", "x.csv"), ("ckpt_path", "last")),
    ],
)
def test_what_a_cross_validation_sets_itself_is_refused(
    name: str, value: Any, experiment: Experiment, tmp_path: Path
) -> None:
    wrong = replace(experiment, settings=changed(SETTINGS, name, value))
    cause = refusal(wrong, output=str(tmp_path / "cv"))
    assert name.replace(".init_args", "") in cause
    assert not (tmp_path / "cv").exists()


def test_a_dataset_that_takes_no_folds_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    data = {"class_path": "own.Data", "init_args": {"root": "a"}}
    wrong = replace(experiment, settings={**SETTINGS, "data": data})
    assert "own.Data" in refusal(wrong, output=str(tmp_path / "cv"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("model.init_args.lr", 0.2), ("trainer.max_epochs", 3), ("data.init_args.split", "y")),
        *(("trainer.devices", 2), ("seed_everything", 5), ("model.class_path", "Other")),
    ],
)
def test_a_folder_of_another_experiment_is_refused(
    name: str,
    value: Any,
    experiment: Experiment,
    commands: list[list[str]],
    tmp_path: Path,
) -> None:
    output = str(tmp_path / "cv")
    crossval(experiment, folds=2, seeds=1, output=output)
    other = replace(experiment, settings=changed(SETTINGS, name, value))
    cause = refusal(other, folds=2, seeds=1, output=output)
    assert f"{name}=" in cause
    assert output in cause


def test_other_folds_or_another_config_in_a_folder_are_refused(
    experiment: Experiment, commands: list[list[str]], tmp_path: Path
) -> None:
    output = str(tmp_path / "cv")
    crossval(experiment, folds=2, seeds=1, output=output)
    assert "folds=3 (was 2)" in refusal(experiment, folds=3, seeds=1, output=output)
    assert "fold_seed=1 (was 0)" in refusal(
        experiment, folds=2, seeds=1, fold_seed=1, output=output
    )
    other = replace(experiment, name="other")
    assert 'config="other"' in refusal(other, folds=2, seeds=1, output=output)


def test_a_folder_with_something_else_in_it_is_refused(
    experiment: Experiment, commands: list[list[str]], tmp_path: Path
) -> None:
    (tmp_path / "2026-01-01_10-00-00").mkdir()
    assert "2026-01-01" in refusal(experiment, output=str(tmp_path))


def test_what_is_refused_leaves_no_folder(experiment: Experiment, tmp_path: Path) -> None:
    def refuse(folder: Path, folds: int, seed: int) -> Path:
        raise UserError("root=x is not a folder", "give one")

    wrong = replace(experiment, write_folds=refuse)
    assert "root=x" in refusal(wrong, output=str(tmp_path / "runs/cv"))
    assert [*tmp_path.iterdir()] == []


def test_a_table_without_a_plan_is_what_a_kill_left(
    experiment: Experiment, commands: list[list[str]], tmp_path: Path
) -> None:
    (tmp_path / "folds-5-abc.csv").touch()
    assert crossval(experiment, output=str(tmp_path)) == 0


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "WORLD_SIZE"])
def test_several_tasks_of_a_launcher_are_refused(
    name: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "4")
    assert name in refusal(experiment, output=str(tmp_path / "cv"))


# --- the whole command, with a network and a dataset of a user's own ---------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the package of `test_own_classes` and its experiment."""
    from tests.cli.test_own_classes import EXPERIMENT, write_package

    home = tmp_path_factory.mktemp("own_crossval")
    write_package(home)
    (home / "own.yaml").write_text(yaml.safe_dump({**EXPERIMENT, "tta": "none"}))
    return home


@pytest.fixture(scope="module")
def trained() -> list[list[str]]:
    return []


def start(home: Path, trained: list[list[str]]) -> Outcome:
    """The command; its trainings run in this process."""

    def run(self: Worker, command: Sequence[str], keep_open: int) -> int:
        trained.append(list(command[2:]))
        done = call(*command[2:], cwd=home)
        assert done.status == 0, done.err
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "run", run)
        return call("crossval", "--config", "own.yaml", "--folds", "3", "--seeds=1", cwd=home)


@pytest.fixture(scope="module")
def outcomes(home: Path, trained: list[list[str]]) -> list[Outcome]:
    """The command twice."""
    return [start(home, trained) for _ in range(2)]


@pytest.mark.slow
def test_own_classes_are_cross_validated_and_a_second_start_trains_nothing(
    home: Path, outcomes: list[Outcome], trained: list[list[str]]
) -> None:
    for outcome in outcomes:
        assert outcome.status == 0, outcome.err
        assert "9 cases of 9 patients" in outcome.out
    assert len(trained) == 3
    assert "written to" in outcomes[0].out


def test_every_case_is_tested_in_the_one_fold_that_the_table_names(
    home: Path, outcomes: list[Outcome]
) -> None:
    plan = Crossval.in_folder(home / "runs/crossval/own")
    assert plan is not None
    with (plan.folder / plan.table).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for fold in range(1, 4):
        run = plan.run(fold, 1)
        assert run is not None
        assert run.settings()["data"]["init_args"]["fold"] == fold
        tested = {case.case for case in run.tests()["true"].cases}
        assert tested == {row["case"] for row in rows if row[f"fold{fold}"] == "test"}
    pooled = plan.seed_run(1).tests()["true"]
    assert {case.case for case in pooled.cases} == {row["case"] for row in rows}
    names = {row["case"] for row in rows}
    assert {"train_0__0", "val_0__0", "test_0__0", "3__3"} <= names, (
        "told apart where they were equal"
    )
    assert pooled.pictures("overlays")


def test_a_run_of_a_fold_is_tested_again_on_its_own_fold(
    home: Path, outcomes: list[Outcome]
) -> None:
    run = only(home / "runs/crossval/own/fold2_seed1/own")
    best = run.relative_to(home) / "checkpoints/best.ckpt"
    own = ("--model", "hospital.network.HospitalNet", "--data", "hospital.data.HospitalDataModule")
    outcome = call("test", "--ckpt_path", best, *own, cwd=home)
    assert outcome.status == 0, outcome.err
    assert (run / "test/true_2/cases.csv").read_bytes() == (
        run / "test/true/cases.csv"
    ).read_bytes()
    page = call("report", run.relative_to(home), "--output", "page.html", cwd=home)
    assert page.status == 0, page.err


def test_a_seeds_tables_read_as_a_run(home: Path, outcomes: list[Outcome]) -> None:
    outcome = call("report", "runs/crossval/own/seed1", "--output", "all.html", cwd=home)
    assert outcome.status == 0, outcome.err
    outcome = call("compare", "runs/crossval/own", "runs/crossval/own", cwd=home)
    assert "given twice" in outcome.message()[0]


def test_an_unknown_option_is_explained_as_fits(home: Path) -> None:
    outcome = call("crossval", "--config", "own.yaml", "--trainr.max_epochs", "2", cwd=home)
    assert outcome.status == 2
    assert "trainr" in outcome.message()[0]


def test_another_process_in_the_folder_is_waited_for(tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "cv")
    with locked(plan.folder), locked(plan.folder, patience=0.1) as second:
        assert second is None


def test_a_training_that_was_killed_in_its_tests_goes_on_with_them(
    home: Path, outcomes: list[Outcome]
) -> None:
    folder = home / "runs/crossval/own"
    run = only(folder / "fold3_seed1/own")
    before = fingerprints(folder / "seed1/test")
    weights = fingerprints(run / "checkpoints")["best.ckpt"]
    (run / "test/empty/cases.csv").unlink()
    shutil.rmtree(run / "test/shuffled")
    shutil.rmtree(folder / "seed1")
    trained: list[list[str]] = []
    outcome = start(home, trained)
    assert outcome.status == 0, outcome.err
    (command,) = trained
    assert "--ckpt_path=last" in command
    assert only(folder / "fold3_seed1/own") == run
    assert fingerprints(run / "checkpoints")["best.ckpt"] == weights
    assert fingerprints(folder / "seed1/test") == before


def test_the_program_that_trains_is_the_command_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [*lightning_cli.datasets().program, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "crossval" in done.stdout
