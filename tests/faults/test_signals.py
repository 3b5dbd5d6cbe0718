"""Promise: SIGINT and SIGTERM end every command at once, with status 130 or 143 and a line.

Faults: a signal in the middle of each command, one that a library turns into an error of its own,
one that is sent twice, one to a forked worker, one to a fit, and real signals from another process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.signalling import SignalAt, interrupt
from tests.forked import start
from tests.tiny_run import (
    NO_PICTURES,
    SMALL,
    Outcome,
    call,
    only,
    write_experiment,
    write_refhl,
)
from textseg.cli.commands import Command
from textseg.cli.main import run
from textseg.cli.signals import Stopped, keep_sigterm, listening

STATUS = {"SIGINT": 130, "SIGTERM": 143}
BOTH = pytest.mark.parametrize("name", STATUS)


@pytest.fixture(autouse=True)
def _handlers_are_given_back() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@BOTH
def test_a_command_without_a_trainer_ends_at_once(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them run in this way: segment, compare, report, crossval and data ..."""
    command = Command(
        "data wait", "Wait.", function="tests.faults.signalling:interrupt", positionals=("name",)
    )
    began = time.monotonic()
    output = tmp_path / "output"
    nothing: Any = SimpleNamespace
    status = run(["data", "wait", name, "--output", str(output)], [command], nothing, "")
    assert status == STATUS[name]
    assert time.monotonic() - began < 20
    assert not output.exists()
    said = capsys.readouterr().err.splitlines()
    assert name in said[0]
    assert "data wait" in said[0]
    assert "incomplete" in said[1]


@pytest.mark.parametrize("error", [RuntimeError("worker exited"), KeyboardInterrupt(), OSError()])
def test_what_a_library_makes_of_a_signal_is_still_the_signal(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        except Stopped:
            raise error from None
        return 0

    monkeypatch.setattr("textseg.cli.main._run", interrupted)
    nothing: Any = SimpleNamespace
    assert run(["x"], [], nothing, "") == STATUS["SIGTERM"]


def test_an_ignored_signal_stays_ignored_and_a_second_one_ends_the_process_on_the_spot() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with listening():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            with pytest.raises(Stopped):
                interrupt("SIGTERM")
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def at_work(pipe: Connection) -> None:
    pipe.send("at work")
    time.sleep(30)


@BOTH
def test_a_forked_worker_ends_as_if_it_had_no_handler(name: str) -> None:
    number, context = signal.Signals[name], multiprocessing.get_context("fork")
    ours, its = context.Pipe()
    with listening() as ears:
        worker = context.Process(target=at_work, args=(its,))
        worker.start()
        assert worker.pid is not None
        ours.recv()  # a signal to a process that is just being forked is lost
        os.kill(worker.pid, number)
        worker.join(20)
    assert worker.exitcode == -number
    assert ears.heard is None


def test_a_trainers_own_handler_of_sigterm_is_not_the_one_that_is_asked() -> None:
    """Lightning's notes a SIGTERM for a training, and a test would go on to its end."""

    def lightnings(number: int, frame: Any) -> None: ...

    def register() -> None:
        signal.signal(signal.SIGTERM, lightnings)

    connector = SimpleNamespace(register_signal_handlers=register)
    trainer = SimpleNamespace(_signal_connector=connector)
    with listening():
        ours = signal.getsignal(signal.SIGTERM)
        keep_sigterm(trainer)
        connector.register_signal_handlers()
        assert signal.getsignal(signal.SIGTERM) == ours
    keep_sigterm(trainer)  # nobody listens: nothing is kept


# --- the commands with a Trainer


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in runs/tiny."""
    home = tmp_path_factory.mktemp("signals")
    root = str(write_refhl(home / "refhl"))
    data = {"init_args": {"root": root, "batch_size": 1}}
    write_experiment(home, model=SMALL, data=data, results_writer=NO_PICTURES)
    outcome = call("fit", "--config", "tiny.yaml", cwd=home)
    assert outcome.status == 0, outcome.err
    return home


def signalled(home: Path, name: str, *arguments: str, patch: pytest.MonkeyPatch) -> Outcome:
    """Run a command that gets a signal in the second forward pass of its network."""
    import textseg.models

    at = SignalAt(textseg.models.TMCA.forward_features, name)
    patch.setattr(textseg.models.TMCA, "forward_features", lambda *given: at(*given))
    outcome = call(*arguments, cwd=home)
    assert at.calls == 2, "it went on"
    return outcome


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *((command, "SIGTERM") for command in ("test", "validate", "predict", "probe")),
        *((command, "SIGINT") for command in ("predict", "calibrate")),
    ],
)
def test_a_command_with_a_trainer_ends_at_once(
    command: str, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = str(only(home / "runs/tiny") / "checkpoints/best.ckpt")
    outcome = signalled(home, name, command, "--ckpt_path", best, patch=monkeypatch)
    assert outcome.status == STATUS[name], outcome.err
    assert f"{name}: textseg {command}" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_fit_that_is_interrupted_says_what_it_can_go_on_from(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = only(home / "runs/tiny") / "checkpoints/last.ckpt"
    arguments = ["--config", "tiny.yaml", "--trainer.max_epochs", "2", "--ckpt_path", str(best)]
    outcome = signalled(home, "SIGINT", "fit", *arguments, patch=monkeypatch)
    assert outcome.status == STATUS["SIGINT"], outcome.err
    assert "last.ckpt" in outcome.err.splitlines()[-1]
    assert "--ckpt_path last" in outcome.err.splitlines()[-1]


# --- from another process


def _segment(home: Path, checkpoint: Path, err: Path) -> None:
    """Segment slowly, in a process group of its own."""
    import lightning_cli
    from textseg.segment import network

    os.setsid()
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT), 2)
    os.chdir(home)
    logits = network.Segmenter._logits

    def slowly(*given: Any) -> Any:
        time.sleep(1)
        return logits(*given)

    network.Segmenter._logits = slowly  # type: ignore[method-assign]
    given = ["refhl/images", "the lesion", "--ckpt_path", str(checkpoint), "--batch_size", "1"]
    given += ["--output", str(err.parent / "found")]  # of no command before
    lightning_cli.main(["segment", *given])


@pytest.mark.slow
@BOTH
def test_segment_ends_on_a_real_signal_in_the_middle(name: str, home: Path, tmp_path: Path) -> None:
    best = only(home / "runs/tiny") / "checkpoints/best.ckpt"
    err = tmp_path / "err"
    process = start(_segment, home, best, err)
    assert process.pid is not None
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (err.exists() and " 2/11 " in err.read_text()):
        time.sleep(0.2)
    os.kill(process.pid, signal.Signals[name])
    process.join(60)
    assert process.exitcode == STATUS[name], err.read_text()
    assert name in err.read_text()
    assert "Traceback" not in err.read_text()
