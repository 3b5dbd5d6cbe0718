"""Trainings one after the other: shared, ended by signals, and gone on with."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.crossval.finished import plan_in, write_training
from textseg.crossval import work
from textseg.crossval.work import Worker, locked, train
from textseg.errors import UserError
from textseg.runs.crossval import Crossval


@pytest.fixture
def plan(tmp_path: Path) -> Crossval:
    """Nothing is trained yet; `template` holds what a training would leave."""
    template = plan_in(tmp_path / "template")
    for fold, seed in template.trainings:
        write_training(template, fold, seed, [0.5] * 6)
    return plan_in(tmp_path / "real")


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PATIENCE", 0.1)


class Commands:
    """Commands that copy the template, and what was asked for; `before` is run by the shell."""

    def __init__(self, plan: Crossval, before: str = "true") -> None:
        self.plan, self.before = plan, before
        self.asked: list[tuple[int, int]] = []

    def __call__(self, fold: int, seed: int) -> Sequence[str]:
        self.asked.append((fold, seed))
        home = self.plan.home(fold, seed)
        template = self.plan.folder.with_name("template") / home.name
        return ["sh", "-c", f"{self.before}; cp -r {template}/. {home}"]


def test_every_training_is_done_once_and_a_whole_seed_before_the_next(plan: Crossval) -> None:
    commands = Commands(plan)
    assert train(plan, plan.trainings, commands) == 0
    assert commands.asked == [(1, 0), (2, 0), (1, 1), (2, 1)]
    assert plan.unfinished() == []
    assert train(plan, plan.trainings, commands) == 0
    assert len(commands.asked) == 4


def test_a_training_that_fails_ends_the_work_with_its_status_and_keeps_what_is_done(
    plan: Crossval, capfd: pytest.CaptureFixture[str]
) -> None:
    train(plan, [(1, 0)], Commands(plan))
    commands = Commands(plan, "exit 3")
    assert train(plan, plan.trainings, commands) == 3
    assert commands.asked == [(2, 0)]
    assert "fold 2, seed 0 ended with status 3" in capfd.readouterr().err
    assert train(plan, plan.trainings, Commands(plan, "kill -9 $$")) == 128 + 9


def test_what_another_process_is_at_is_left_to_it(plan: Crossval) -> None:
    commands = Commands(plan)
    with locked(plan.home(1, 0)) as lock:
        assert lock is not None
        assert train(plan, plan.trainings, commands) == 0
    assert commands.asked == [(2, 0), (1, 1), (2, 1)]
    assert plan.unfinished() == [(1, 0)]


def test_a_training_that_outlives_its_crossval_keeps_the_lock_until_it_ends(
    tmp_path: Path,
) -> None:
    with locked(tmp_path) as lock:
        assert lock is not None
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    with locked(tmp_path, patience=0) as lock:
        assert lock is None
    orphan.kill()
    orphan.wait()
    with locked(tmp_path, patience=0) as lock:
        assert lock is not None


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGUSR1, 75), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_reaches_the_training_and_ends_the_work(
    plan: Crossval, number: signal.Signals, status: int
) -> None:
    """The training signals its parent, and ends when it is signalled itself (a terminal does)."""
    name = number.name.removeprefix("SIG")
    also = "kill -INT $$;" if number == signal.SIGINT else ""
    commands = Commands(
        plan,
        f"trap 'touch {plan.folder}/told; exit 9' {name}; kill -{name} $PPID; {also} "
        "for i in $(seq 100); do sleep 0.05; done",
    )
    before = signal.getsignal(number)
    assert train(plan, plan.trainings, commands) == status
    assert (plan.folder / "told").exists()
    assert commands.asked == [(1, 0)]
    assert signal.getsignal(number) == before


def test_a_signal_between_two_trainings_begins_no_other(plan: Crossval) -> None:
    def command(fold: int, seed: int) -> Sequence[str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return ["sleep", "60"]

    assert train(plan, plan.trainings, command) == 143


def test_tests_that_were_cut_short_are_made_again_and_whole_ones_kept(plan: Crossval) -> None:
    run = write_training(plan, 1, 0, [0.5] * 6)
    (run.tests_dir() / "empty/cases.csv").write_text("case\n")
    (run.tests_dir() / "shuffled/metrics.json").unlink()
    assert (1, 0) in plan.unfinished()
    train(plan, [(1, 0)], lambda *one: ["true" if run.tests_dir("x").exists() else "false"])
    assert [folder.name for folder in run.tests_dir().iterdir()] == ["true"]


def test_a_training_without_tests_is_said(plan: Crossval) -> None:
    with pytest.raises(UserError, match="fold 1, seed 0"):
        train(plan, plan.trainings, lambda *one: ["true"])


def test_the_newest_run_that_can_go_on_is_the_trainings(plan: Crossval) -> None:
    assert plan.run(1, 0) is None
    run = write_training(plan, 1, 0, [0.5] * 6)
    run.folder.with_name("2026-01-05_10-00-00").mkdir()
    found = plan.run(1, 0)
    assert found is not None
    assert found.folder == run.folder


def test_a_disk_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*anything: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(work.fcntl, "flock", refused)
    with locked(tmp_path, patience=0) as lock:
        assert lock is not None
    message = capsys.readouterr().err
    assert str(tmp_path) in message
    assert "--only" in message


def test_no_signal_is_no_status() -> None:
    assert Worker().status == 0
