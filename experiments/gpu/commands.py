"""What qata.py starts, and the files it keeps: of no network, no dataset."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn


class FailedError(Exception):
    """A command that ended badly: cause and remedy."""


@dataclass(frozen=True)
class Command:
    """A running command of the suite, its output going to `log`."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]
    saves: bool

    def finish(self, seconds: float) -> None:
        """Wait for its end, and end it after `seconds`.

        Raises:
            FailedError: it took longer, or failed.
        """
        try:
            status = self.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired as late:
            status = self.stop()
            raise FailedError(
                f"{self.name} took over its time and was ended (status {status})",
                f"see {self.log}; the same command goes on from there: what is done is kept",
            ) from late
        except BaseException:
            self.stop()
            raise
        if status:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            tail = "\n".join(lines[-15:])
            raise FailedError(f"{self.name} ended with status {status}:\n{tail}", f"see {self.log}")

    def stop(self) -> int:
        """End it; a training writes last.ckpt after the step at hand. Returns the exit status."""
        self.process.send_signal(signal.SIGUSR1 if self.saves else signal.SIGKILL)
        try:
            return self.process.wait(25)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start(
    name: str,
    arguments: Sequence[str],
    *,
    log: Path,
    environment: dict[str, str],
    folder: Path | None = None,
    saves: bool = False,
) -> Command:
    """Start a command of the suite.

    Args:
        name: what messages call it.
        arguments: textseg's.
        log: its output is added to.
        environment: all of its own.
        folder: where it runs, by default here.
        saves: it is a training, which writes last.ckpt when it is stopped.
    """
    log.parent.mkdir(exist_ok=True)
    say(f"{name}: textseg {' '.join(arguments)}")
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "lightning_cli", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            preexec_fn=dies_with(os.getpid()) if sys.platform == "linux" else None,
        )
    return Command(name, log, process, saves)


def dies_with(parent: int) -> Callable[[], None]:
    """A function for a child process that has it killed as soon as this script ends.

    Otherwise it would go on, and the next start would write into the same folder.
    """
    prctl, die_on_parents_death = ctypes.CDLL(None).prctl, 1

    def arm() -> None:
        prctl(die_on_parents_death, signal.SIGKILL)
        if os.getppid() != parent:  # which was faster
            os._exit(1)

    return arm


def cores() -> int:
    """CPU cores that this process may use; a container's machine may have more."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read(file: Path) -> Any:
    """The content of a JSON file; None if there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def write(file: Path, content: Any) -> None:
    """Write a JSON file in one piece, whenever the script is killed."""
    part = file.with_name(f".{file.name}.part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(file)


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def fail(cause: str, remedy: str) -> NoReturn:
    """End the script with exit status 2 and two lines."""
    sys.stderr.write(f"error: {cause}\nremedy: {remedy}\n")
    sys.exit(2)
