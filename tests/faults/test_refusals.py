"""Promise: what Lightning, torch or the machine refuses is two lines, and a bug is a traceback.

Faults: settings of trainer, strategy, devices, precision, loggers, callbacks and monitors that they
refuse; a GPU without memory, a loader's worker that is killed; and bugs of ours, of every kind.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from tests.faults.spoiled_steps import SmallNetwork
from tests.models.stand_ins import make_batch
from tests.tiny_run import NO_PICTURES, SMALL, Outcome, call, shell, write_experiment, write_refhl
from textseg.callbacks.monitor_check import MonitorCheck, monitors
from textseg.cli.refusals import lost_process, machine_fault, refusal
from textseg.errors import UserError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("refusals")
    root = str(write_refhl(home / "refhl"))
    write_experiment(
        home, model=SMALL, data={"init_args": {"root": root}}, results_writer=NO_PICTURES
    )
    return home


def fit(home: Path, *more: str) -> Outcome:
    return call("fit", "--config", "tiny.yaml", *more, cwd=home)


def check(outcome: Outcome, *told: str) -> None:
    assert outcome.status == 2, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    assert len(outcome.message()) == 2
    for word in told:
        assert word in " ".join(outcome.message()), outcome.message()


REFUSED = {
    "--trainer.accelerator gpu": ("trainer.accelerator=gpu",),
    "--trainer.accelerator foo": ("foo",),
    "--trainer.strategy fsdp": ("fsdp",),
    "--trainer.devices 0": ("devices",),
    "--trainer.limit_train_batches 1.5": ("limit_train_batches", "1.5"),
    "--trainer.profiler foo": ("foo",),
    "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/dice"
    " --trainer.callbacks.mode=up": ("up",),
    "--trainer.val_check_interval 1000": ("val_check_interval", "1000"),
    "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val_loss": (
        *("EarlyStopping", "val_loss", "val/loss", "val/dice"),
    ),
    "--trainer.limit_train_batches 0.01": ("limit_train_batches", "0.01"),
    "--trainer.check_val_every_n_epoch 0": ("check_val_every_n_epoch", "0"),
    "--model.lr -1": ("lr", "-1"),
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_lightning_refuses_is_two_lines_before_the_first_step(line: str, home: Path) -> None:
    if not torch.cuda.is_available() or "gpu" not in line:
        check(fit(home, *line.split()), *REFUSED[line])
        assert not (home / "runs").exists() or not list((home / "runs").rglob("*.ckpt"))


# --- monitors


class Batches:
    """Two batches, as a loader."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        return iter([{**make_batch(2, 16, 16), "case": ["a", "b"]}] * 2)


class Plateau(SmallNetwork):
    """With a schedule that follows a logged number."""

    watched = "val/dise"

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": self.watched},
        }


def train(network: L.LightningModule, *callbacks: L.Callback) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        callbacks=[*callbacks, MonitorCheck()],
    )
    trainer.fit(network, Batches(), Batches())
    return trainer


@pytest.mark.parametrize(
    "made",
    [
        lambda folder: (SmallNetwork(), EarlyStopping("val/dise", mode="max")),
        lambda folder: (SmallNetwork(), ModelCheckpoint(folder, monitor="val/dise")),
        lambda folder: (Plateau(),),
    ],
    ids=["EarlyStopping", "ModelCheckpoint", "ReduceLROnPlateau"],
)
def test_a_monitor_that_nothing_logs_is_refused_before_the_first_step(
    made: Callable[[Path], Any], tmp_path: Path
) -> None:
    network, *callbacks = made(tmp_path)
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(UserError) as raised:
        train(network, *callbacks)
    assert "val/dise" in str(raised.value).splitlines()[0]
    assert "val/dice" in str(raised.value).splitlines()[1]
    after = list(network.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "monitor", ["val/dice", "val/loss", "train/loss", "val_dice", "train/loss_dice", "val/miou"]
)
def test_what_is_logged_may_be_watched(monitor: str) -> None:
    trainer = train(SmallNetwork(), EarlyStopping(monitor, mode="max", strict=True))
    assert trainer.global_step == 2


def test_what_a_users_own_code_may_log_is_left_to_it() -> None:
    class Own(SmallNetwork):
        def on_train_epoch_end(self) -> None:
            self.log("mine", 1.0)

    train(Own(), EarlyStopping("mine"))

    class Logging(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            pl_module.log("its", 1.0)

    trainer = train(SmallNetwork(), Logging(), EarlyStopping("its"))
    assert [monitor for _, monitor in monitors(trainer)] == ["its"]


# --- machines


BATCH = {"data.batch_size": 24, "data.image_size": 224, "trainer.precision": "32-true"}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_without_memory_it_is_said_what_to_lower(error: Exception) -> None:
    fault = machine_fault(error, BATCH)
    cause, remedy = str(fault).splitlines()
    for told in ("batch_size=24", "image_size=224", "precision=32-true"):
        assert told in cause
    for told in ("batch_size", "image_size", "GradientCheckpointing", "bf16"):
        assert told in remedy


def raising(error: Exception) -> Callable[..., Any]:
    def step(*given: Any) -> Any:
        raise error

    return step


def test_a_fit_without_gpu_memory_ends_with_two_lines(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    monkeypatch.setattr("textseg.models.TMCA.forward_features", raising(error))
    check(fit(home), "batch_size=2", "2.00 GiB")


class KillWorker(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_loaders_worker_that_is_killed_is_named() -> None:
    loader = torch.utils.data.DataLoader(KillWorker(), num_workers=1)
    with pytest.raises(RuntimeError) as raised:
        list(loader)
    cause, remedy = str(machine_fault(raised.value, {})).splitlines()
    assert "worker" in cause
    assert any(word.strip("),").isdigit() for word in cause.split()), "its process"
    assert "num_workers" in remedy


def test_a_process_that_was_killed_is_named() -> None:
    assert lost_process([None, 0, 2]) is None, "one that ended by itself has said why"
    cause = str(lost_process([0, -int(signal.SIGKILL)])).splitlines()[0]
    assert "process 2" in cause
    assert "SIGKILL" in cause


@pytest.mark.slow
@pytest.mark.ddp
def test_a_process_that_is_killed_ends_the_others_within_a_minute(home: Path) -> None:
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "1"]
    killer = "--trainer.callbacks+=tests.faults.spoiled_steps.KillProcess"
    began = time.monotonic()
    done = shell(
        *("-m", "lightning_cli", "fit", "--config", "tiny.yaml", *two),
        *(killer, "--trainer.callbacks.rank", "1"),
        cwd=home,
    )
    assert time.monotonic() - began < 300, "which is mostly imports on a busy machine"
    assert done.returncode == 2, done.stderr
    cause, remedy = (line for line in done.stderr.splitlines() if line.startswith(("err", "rem")))
    assert "process 1" in cause
    assert "SIGKILL" in cause
    assert "last.ckpt" in remedy


# --- bugs


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), RuntimeError("x"), KeyError("x"), TypeError("x"), AssertionError()],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_our_code_is_no_refusal(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        train(SmallNetwork(), type("Bug", (L.Callback,), {"on_fit_start": raising(error)})())
    assert refusal(raised.value, {}, "fit") is None


@pytest.mark.parametrize(
    "bug",
    [
        lambda network: network.log("name", "no number"),
        lambda network: torch.nn.functional.conv2d(torch.zeros(1), torch.zeros(2)),
        lambda network: torch.optim.SGD(network.parameters(), lr=-1.0),
    ],
    ids=["Lightning called wrongly", "an operation of torch", "torch's own refusal"],
)
def test_a_library_that_our_code_calls_wrongly_is_no_refusal(bug: Callable[[Any], Any]) -> None:
    class Buggy(SmallNetwork):
        def on_train_start(self) -> None:
            bug(self)

    with pytest.raises(Exception) as raised:  # noqa: PT011  of any kind
        train(Buggy())
    assert refusal(raised.value, {}, "fit") is None


def test_a_bug_in_a_fit_is_a_traceback_and_debug_shows_that_of_a_refusal(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = fit(home, "--trainer.accelerator", "foo", "--debug")
    assert outcome.status == 2
    assert "Traceback" in outcome.err
    monkeypatch.setattr("textseg.models.TMCA.forward_features", raising(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        fit(home)
