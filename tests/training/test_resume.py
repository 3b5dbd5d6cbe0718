"""A run that is killed and resumed ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import DoublePrecision, TorchCheckpointIO

from tests import tiny_run
from tests.forked import command
from tests.models.tiny import NETWORKS
from tests.tiny_run import call, only, shell, write_experiment, write_refhl
from tests.training.killing import Killed
from textseg.errors import UserError
from textseg.training import Restart, resume
from textseg.training.checkpoint_files import (
    AtomicCheckpoints,
    clear_cut_files,
    last_checkpoint,
    resume_metrics_csv,
    with_atomic_checkpoints,
)
from textseg.training.random_state import random_state, set_random_state
from textseg.training.resume import SIGNAL_CHECK_EVERY

EPOCHS, BATCHES = 3, 4  # of two rows
# What makes a network draw random numbers in every step.
DROPPED: dict[str, dict[str, Any]] = {
    "LViT": {"dropout": 0.3},
    "TMCA": {"image_encoder_options": {"drop_path_rate": 0.3}},
}


def write_home(home: Path, *, workers: int, network: str = "LViT", **trainer: Any) -> Path:
    """An experiment with augmentation and dropout, `tiny.yaml`, and its data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_run.ROWS, "train", 2 * BATCHES)
        root = write_refhl(home / "refhl")
    experiment = write_experiment(
        home,
        trainer={"max_epochs": EPOCHS, "log_every_n_steps": 1, **trainer},
        data={"init_args": {"num_workers": workers, "root": str(root)}},
        restart={"every_n_steps": 1},
    )
    settings = NETWORKS[network] | DROPPED[network]
    changed = {"model": {"class_path": network, "init_args": settings}}
    experiment.write_text(yaml.safe_dump(yaml.safe_load(experiment.read_text()) | changed))
    return home


def fit(name: str, *more: str) -> Sequence[str]:
    """Arguments of a fit; `name` keeps runs apart."""
    return ["fit", "--config", f"{name}.yaml", *more]


def copy_config(home: Path, name: str) -> str:
    (home / f"{name}.yaml").write_text((home / "tiny.yaml").read_text())
    return name


def killed_at(batch: int, moment: str, how: str = "kill") -> str:
    settings = {"batch": batch, "moment": moment, "how": how}
    callback = {"class_path": "tests.training.killing.KillAt", "init_args": settings}
    return f"--trainer.callbacks={yaml.safe_dump(callback, default_flow_style=True)}"


def last(home: Path, name: str) -> dict[str, Any]:
    """last.ckpt of the one run of that name: no fit may have left a second folder."""
    return torch.load(only(home / "runs" / name) / "checkpoints/last.ckpt", weights_only=True)


def different(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """The weights, moments and scores that differ in a bit."""
    assert one["global_step"] == two["global_step"]
    ours, theirs = flat(one), flat(two)
    assert ours.keys() == theirs.keys()
    return [name for name, value in ours.items() if not torch.equal(value, theirs[name])]


def flat(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    tensors = {k: v for k, v in checkpoint["state_dict"].items() if isinstance(v, torch.Tensor)}
    for number, state in checkpoint["optimizer_states"][0]["state"].items():
        tensors |= {f"{number}/{k}": torch.as_tensor(v) for k, v in state.items()}
    (best,) = (s for k, s in checkpoint["callbacks"].items() if "val/dice" in k)
    return {**tensors, "best": best["best_model_score"]}


# --- in this process ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_home(tmp_path_factory.mktemp("home"), workers=0, network="TMCA")


@pytest.fixture(scope="module")
def whole(home: Path) -> dict[str, Any]:
    """The uninterrupted run."""
    outcome = call(*fit("tiny"), cwd=home)
    assert outcome.status == 0, outcome.err
    return last(home, "tiny")


@pytest.fixture(scope="module")
def killed(home: Path, whole: dict[str, Any]) -> Path:
    """A run that was killed as it wrote a checkpoint in its second epoch; its configs' folder."""
    name = copy_config(home, "killed")
    with pytest.raises(Killed):
        call(*fit(name, killed_at(6, "writing", "pretend")), cwd=home)
    assert last(home, name)["global_step"] == 6
    return home / "runs" / name


def copy_run(home: Path, killed: Path, name: str) -> str:
    shutil.copytree(killed, home / "runs" / name)
    return copy_config(home, name)


@pytest.fixture(scope="module")
def resumed(home: Path, killed: Path) -> Path:
    """The killed run, which went on, was told to stop, and went on."""
    name = copy_run(home, killed, "resumed")
    go_on = fit(name, "--ckpt_path", "last", "--restart.every_n_steps", "0")
    outcome = call(*go_on, killed_at(9, "before_step", "SIGUSR1"), cwd=home)
    assert outcome.status == 75, outcome.err
    assert "SIGUSR1: last.ckpt holds step 10" in outcome.err
    assert last(home, name)["global_step"] == 10
    outcome = call(*go_on, cwd=home)
    assert outcome.status == 0, outcome.err
    return only(home / "runs" / name)


def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_weights_of_one_that_was_not(
    home: Path, whole: dict[str, Any], resumed: Path
) -> None:
    assert whole["global_step"] == EPOCHS * BATCHES
    assert different(whole, last(home, "resumed")) == []


def test_without_the_random_states_the_weights_would_differ(
    home: Path, whole: dict[str, Any], killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = copy_run(home, killed, "forgetful")
    monkeypatch.setattr(resume, "set_random_state", lambda state, trainer: None)
    assert call(*fit(name, "--ckpt_path", "last"), cwd=home).status == 0
    assert different(whole, last(home, name))


def test_a_resumed_run_goes_on_with_its_own_table(home: Path, resumed: Path) -> None:
    """Every step and every validation once; train/loss of an epoch cut in two is of its rest."""
    tables = []
    for run in (only(home / "runs/tiny"), resumed):
        with (run / "metrics.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    for column in ("lr-AdamW/new/decay", "val/dice", "val/loss"):
        one, two = ([(r["step"], r[column]) for r in table if r[column]] for table in tables)
        assert one == two
    losses = [[row["train/loss"] for row in table if row["train/loss"]] for table in tables]
    assert losses[0][0] == losses[1][0]
    assert len(losses[1]) == EPOCHS


def test_the_checkpoint_that_was_being_written_lies_beside_the_whole_one(killed: Path) -> None:
    """Half of it, on the same disk; Lightning itself writes to the system's temporary folder."""
    folder = only(killed) / "checkpoints"
    half, whole = folder / ".last.ckpt.part", folder / "last.ckpt"
    assert 0.4 < half.stat().st_size / whole.stat().st_size < 0.6


def test_other_rows_in_the_middle_of_an_epoch_are_refused(home: Path, killed: Path) -> None:
    name = copy_run(home, killed, "other")
    resume = fit(name, "--ckpt_path", "last", "--data.batch_size", "4")
    cause, remedy = call(*resume, cwd=home).message()
    assert "data.batch_size=4 (was 2)" in cause
    best = only(home / "runs" / name) / "checkpoints/best.ckpt"
    assert f"--ckpt_path {best.relative_to(home)}" in remedy

    # As where a validation in the middle of an epoch was the best.
    shutil.copy(best.with_name("last.ckpt"), best)
    assert call(*resume, cwd=home).message() == [cause, "remedy: give the old values"]


def test_the_end_of_an_epoch_takes_other_rows(home: Path, killed: Path) -> None:
    """What the remedy proposes."""
    name = copy_run(home, killed, "from_best")
    best = only(home / "runs" / name) / "checkpoints/best.ckpt"
    more = ["--ckpt_path", str(best), "--data.batch_size", "4", "--trainer.max_epochs", "2"]
    assert call(*fit(name, *more), cwd=home).status == 0
    assert len(list((home / "runs" / name).iterdir())) == 2, "a run of its own"


def test_fewer_rows_in_the_middle_of_an_epoch_are_refused(home: Path, killed: Path) -> None:
    name = copy_run(home, killed, "fewer")
    root = shutil.copytree(home / "refhl", home / "fewer_refhl")
    rows = (root / "manifest.jsonl").read_text().splitlines(keepends=True)
    (root / "manifest.jsonl").write_text("".join(rows[1:]))  # training rows come first
    outcome = call(*fit(name, "--ckpt_path", "last", "--data.root", str(root)), cwd=home)
    assert outcome.status == 2
    assert f"training rows={2 * BATCHES - 1} (was {2 * BATCHES})" in outcome.message()[0]


def test_a_run_told_to_stop_before_its_first_step_does_not_speak_of_a_checkpoint(
    home: Path,
) -> None:
    name = copy_config(home, "early")
    outcome = call(*fit(name, killed_at(0, "start", "SIGUSR1")), cwd=home)
    assert outcome.status == 75
    assert "SIGUSR1: no step was trained and there is no last.ckpt" in outcome.err
    assert not list((home / "runs" / name).rglob("*.ckpt"))


def test_last_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run in"):
        last_checkpoint(tmp_path)


def test_last_is_of_the_newest_run_that_wrote_one(tmp_path: Path) -> None:
    for name in ("2026-01-02_00-00-00", "2026-01-03_00-00-00"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints/last.ckpt").touch()
    (tmp_path / "2026-01-04_00-00-00/checkpoints").mkdir(parents=True)
    assert last_checkpoint(tmp_path).parts[-3] == "2026-01-03_00-00-00"


# --- parts -------------------------------------------------------------------------------------


def test_random_numbers_go_on_from_plain_values(tmp_path: Path) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, barebones=True)
    np.random.standard_normal()  # leaves half a pair behind

    def draw() -> list[Any]:
        numbers = [random.gauss(0, 1) for _ in range(3)]
        return [*numbers, *np.random.standard_normal(3), *torch.randn(3).tolist()]

    torch.save(random_state(trainer), tmp_path / "state")
    first = draw()
    assert draw() != first
    set_random_state(torch.load(tmp_path / "state", weights_only=True), trainer)
    assert draw() == first


def test_a_write_that_is_cut_short_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"a": 1}, path)

    def half(content: Any, file: Any) -> None:
        file.write(b"half")
        raise Killed

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Killed):
        AtomicCheckpoints().save_checkpoint({"a": 2}, path)
    assert torch.load(path, weights_only=True) == {"a": 1}


def test_a_full_disk_is_named_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"a": 1}, path)
    (tmp_path / ".last.ckpt.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"last\.ckpt cannot be written: the disk is full"):
        AtomicCheckpoints().save_checkpoint({"a": torch.zeros(100_000)}, path)
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_a_killed_fit_was_writing_is_removed_when_it_goes_on(tmp_path: Path) -> None:
    whole = [tmp_path / "config.yaml", tmp_path / "checkpoints/best.ckpt"]
    cut = [tmp_path / "checkpoints/.best.ckpt.part", tmp_path / ".part-0123abcd-config.yaml"]
    whole[1].parent.mkdir()
    for file in whole + cut:
        file.touch()
        os.utime(file, (time.time() - 3600,) * 2)
    clear_cut_files(tmp_path)
    assert [file.exists() for file in whole + cut] == [True, True, False, False]


def test_a_users_own_way_of_writing_checkpoints_counts() -> None:
    own, precision = TorchCheckpointIO(), DoublePrecision()
    assert with_atomic_checkpoints([own, precision]) == [own, precision]
    assert with_atomic_checkpoints(own) == [own]
    first, second = with_atomic_checkpoints(precision)
    assert first is precision
    assert isinstance(second, AtomicCheckpoints)
    assert [type(plugin) for plugin in with_atomic_checkpoints(None)] == [AtomicCheckpoints]


@pytest.mark.parametrize("accumulated", [1, 2, 3, 4, 5, 7, 16])
def test_processes_ask_each_other_often_however_many_batches_a_step_has(
    accumulated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal of another process is heard after ten batches and a step at most."""
    asked: list[int] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *of: asked.append(now))
    trainer: Any = SimpleNamespace(
        world_size=2,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        accumulate_grad_batches=accumulated,
        val_check_batch=None,
        is_last_batch=False,
        global_step=0,
    )
    asking: Any = Restart(every_n_steps=0)
    now = -1
    asking.on_train_epoch_start(trainer, None)
    for now in range(100):
        asking.on_train_batch_end(trainer, None, None, None, now)
    assert max(np.diff([*asked, 100])) <= SIGNAL_CHECK_EVERY + max(accumulated, 1)
    assert len(asked) <= 1 + 100 // SIGNAL_CHECK_EVERY, "they talk no more often than that"
    assert all((batch + 1) % accumulated == 0 for batch in asked[1:]), "after a step"


def test_a_continued_table_keeps_what_came_before_and_drops_what_is_done_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,x\n0,0,1\n0,1,2\n0,2,3\n0,")
    table = CSVLogger(tmp_path, name="", version="")
    resume_metrics_csv(table, 2)
    table.log_metrics({"epoch": 0, "y": 4}, step=2)
    table.save()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [(row["step"], row["x"], row["y"]) for row in csv.DictReader(file)]
    assert rows == [("0", "1", ""), ("1", "2", ""), ("2", "", "4")]


def test_a_table_is_not_lost_where_its_own_continuation_was_killed(tmp_path: Path) -> None:
    (tmp_path / ".metrics.csv.kept").write_text("step,x\n0,1\n")
    resume_metrics_csv(CSVLogger(tmp_path, name="", version=""), 5)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,x", "0,1"]


# --- real kills --------------------------------------------------------------------------------

ANYWHERE = ("batch_start", "before_step", "batch_end", "writing")
AT_THE_END = ("before_step", "validation", "epoch_end", "writing")  # of an epoch
CHAINS, KILLS = 2, 4


@pytest.mark.slow
def test_kills_at_random_steps_leave_the_weights_of_the_uninterrupted_run(
    tmp_path: Path,
) -> None:
    """Runs that are each killed four times, at other places."""
    home = write_home(tmp_path, workers=2)
    draw = random.Random(0)
    plain = command(*fit("tiny"), cwd=home)
    assert plain.returncode == 0, plain.stderr
    for number in range(CHAINS):
        name = copy_config(home, f"chain{number}")
        resume: list[str] = []
        for batch in sorted(draw.sample(range(1, EPOCHS * BATCHES), KILLS)):
            moment = draw.choice(ANYWHERE if (batch + 1) % BATCHES else AT_THE_END)
            arguments = fit(name, killed_at(batch, moment), *resume)
            ended = command(*arguments, cwd=home).returncode
            assert ended == -signal.SIGKILL, (number, batch, moment)
            resume = ["--ckpt_path", "last"]
        assert command(*fit(name, *resume), cwd=home).returncode == 0
        assert different(last(home, "tiny"), last(home, name)) == [], number


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_that_are_killed_go_on_to_the_weights_of_two_that_were_not(
    tmp_path: Path,
) -> None:
    two = {"devices": 2, "strategy": "ddp", "max_epochs": 2}
    home = write_home(tmp_path, workers=1, network="TMCA", **two)
    program = ["-m", "lightning_cli"]
    assert shell(*program, *fit("tiny"), cwd=home).returncode == 0
    name = copy_config(home, "killed")
    killed = shell(*program, *fit(name, killed_at(3, "before_step")), cwd=home)
    assert killed.returncode == -9, killed.stderr
    assert last(home, name)["global_step"] == 3, "in the middle of the second epoch"
    done = shell(*program, *fit(name, "--ckpt_path", "last"), cwd=home)
    assert done.returncode == 0, done.stderr
    assert different(last(home, "tiny"), last(home, name)) == []
