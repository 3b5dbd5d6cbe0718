"""Trainings one after the other, each in a process of its own, shared with other processes."""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from textseg.errors import UserError, refusing
from textseg.runs.crossval import Crossval
from textseg.runs.results import read_test

LOCK = ".lock"
PATIENCE = 10  # seconds to wait for what a killed training leaves behind, such as loader processes
_HANDED_ON = (signal.SIGUSR1, signal.SIGTERM)


@contextmanager
def locked(folder: Path, *, patience: float | None = None) -> Iterator[int | None]:
    """Hold a folder's lock; yields its file descriptor, or None where another process holds it.

    The lock goes with the process, and with those that inherit the descriptor: what is killed holds
    nothing.

    Args:
        folder: made where it is not there.
        patience: seconds to wait; None waits as long as it takes.
    """
    with refusing(OSError, f"{folder} cannot be written to", "give another --output"):
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("a")
    with stream:
        until = None if patience is None else time.monotonic() + patience
        while not _taken(stream, wait=until is None):
            if until is not None and time.monotonic() >= until:
                yield None
                return
            time.sleep(0.2)
        yield stream.fileno()


def _taken(file: TextIO, *, wait: bool) -> bool:
    """Take a file's lock; False where another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        sys.stderr.write(
            f"crossval: {file.name} cannot be locked ({error.strerror}): processes that share the "
            "folder would train the same; give each of them a training of its own by --only\n"
        )
    return True


class Worker:
    """Runs one command after the other, and ends on a signal as the command at hand does.

    SIGUSR1 and SIGTERM are handed on, so that a training saves where it is. A terminal sends SIGINT
    to both by itself.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Worker:
        for number in (*_HANDED_ON, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if self._process is not None and number in _HANDED_ON:
            self._process.send_signal(number)

    def run(self, command: Sequence[str], keep_open: int) -> int:
        """Run a command to its end; returns its exit status, or that of a signal to this process.

        Args:
            command: the program and its arguments.
            keep_open: a file descriptor that it inherits.
        """
        sys.stdout.flush()
        with subprocess.Popen(command, pass_fds=[keep_open]) as self._process:
            if self.signal in _HANDED_ON:  # it came while the process was started
                self._process.send_signal(self.signal)
            status = self._process.wait()
        self._process = None
        return self.status if self.signal else status if status >= 0 else 128 - status

    @property
    def status(self) -> int:
        """The exit status after a signal, 0 where there was none."""
        from textseg.training.resume import EXIT_STATUS

        if not self.signal:
            return 0
        number = signal.Signals(self.signal)
        return EXIT_STATUS.get(number, 128 + number)


def train(
    plan: Crossval,
    trainings: Sequence[tuple[int, int]],
    command_of: Callable[[int, int], Sequence[str]],
) -> int:
    """Train and test what is not finished and no other process is at.

    Args:
        plan: the cross-validation.
        trainings: fold and seed of those to do, in their order.
        command_of: the command of a fold and a seed.

    Returns:
        0, or the exit status of the training or signal that ended it.
    """
    with Worker() as worker:
        # What other processes were at is looked at once more: they may have died.
        for patience in (0, PATIENCE):
            status = _train_all(plan, trainings, command_of, worker, time.monotonic() + patience)
            if status:
                return status
    return 0


def _train_all(
    plan: Crossval,
    trainings: Sequence[tuple[int, int]],
    command_of: Callable[[int, int], Sequence[str]],
    worker: Worker,
    until: float,
) -> int:
    for fold, seed in trainings:
        if worker.signal:
            return worker.status
        if plan.tests(fold, seed):
            continue
        patience = max(0.0, until - time.monotonic())
        with locked(plan.home(fold, seed), patience=patience) as lock:
            if lock is None or plan.tests(fold, seed):
                continue
            status = _train(plan, fold, seed, command_of(fold, seed), worker, lock)
        if status:
            return status
    return 0


def _train(
    plan: Crossval,
    fold: int,
    seed: int,
    command: Sequence[str],
    worker: Worker,
    lock: int,
) -> int:
    what = f"fold {fold}, seed {seed}"
    done = len(plan.trainings) - len(plan.unfinished())
    begun = "goes on" if plan.run(fold, seed) else "begins"
    print(f"crossval: {what} {begun} ({done} of {len(plan.trainings)} trainings are finished)")
    _remove_broken_tests(plan, fold, seed)
    status = worker.run(command, lock)
    if status and not worker.signal:
        sys.stderr.write(
            f"crossval: {what} ended with status {status}; what is finished is kept, and the same "
            "command goes on from there\n"
        )
    if status:
        return status
    plan.finish(fold, seed)
    if not plan.tests(fold, seed):
        raise UserError(
            f"{what} ended without tests in {plan.home(fold, seed)}",
            "leave out what keeps a training from its end, such as trainer.fast_dev_run",
        )
    return 0


def _remove_broken_tests(plan: Crossval, fold: int, seed: int) -> None:
    """Remove tests that were cut short; they are made again."""
    run = plan.run(fold, seed)
    for folder in [] if run is None else sorted(run.tests_dir().glob("*")):
        try:
            read_test(folder)
        except UserError:
            print(f"crossval: {folder} was cut short and is made again")
            shutil.rmtree(folder)
