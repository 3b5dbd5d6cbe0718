"""What campaign.py starts, what it costs, and the files it keeps: of no network, no dataset."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

BEAT = 10.0  # seconds between two notes of what a command has cost so far


class FailedError(Exception):
    """A command that ended badly: cause and remedy."""


class BadSettingsError(Exception):
    """Settings that cannot be worked on: cause and remedy."""


@dataclass
class Command:
    """A running command of the suite, its output going to `log`.

    `cpu_seconds` are of the process and of those that it started and waited for (loader workers).
    """

    name: str
    log: Path
    process: subprocess.Popen[bytes]
    saves: bool
    begun: float = field(default_factory=time.time)
    cpu_seconds: float = 0.0

    def finish(
        self, seconds: float | None = None, beat: Callable[[Command], None] | None = None
    ) -> None:
        """Wait for its end, and end it after `seconds`; `beat` is called meanwhile and at the end.

        Raises:
            FailedError: it took longer, or failed.
        """
        end = None if seconds is None else time.monotonic() + max(0.0, seconds)
        try:
            late = not self.wait(end, beat)
            status = self.stop() if late else self.process.returncode
        except BaseException:
            self.stop()
            raise
        finally:
            if beat:
                beat(self)
        if late:
            raise FailedError(
                f"{self.name} took over its time and was ended (status {status})",
                f"see {self.log}; the same command goes on from there: what is done is kept",
            )
        if status:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            tail = "\n".join(lines[-15:])
            raise FailedError(f"{self.name} ended with status {status}:\n{tail}", f"see {self.log}")

    @property
    def seconds(self) -> float:
        """On the clock, since it was started."""
        return time.time() - self.begun

    def ended(self, *, wait: bool = False) -> bool:
        """Whether it has ended; then `cpu_seconds` are all that it cost."""
        if self.process.returncode is None:
            process, status, used = os.wait4(self.process.pid, 0 if wait else os.WNOHANG)
            if process:
                self.process.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_seconds = used.ru_utime + used.ru_stime
            else:
                self.cpu_seconds = max(self.cpu_seconds, cpu_seconds_so_far(self.process.pid))
        return self.process.returncode is not None

    def stop(self) -> int:
        """End it; a training writes last.ckpt after the step at hand. Returns the exit status."""
        if not self.ended():
            os.kill(self.process.pid, signal.SIGUSR1 if self.saves else signal.SIGKILL)
        end = time.monotonic() + 25
        while not self.ended() and time.monotonic() < end:
            time.sleep(0.05)
        if not self.ended():
            os.kill(self.process.pid, signal.SIGKILL)
            self.ended(wait=True)
        return int(self.process.returncode)

    def wait(self, end: float | None, beat: Callable[[Command], None] | None) -> bool:
        """Wait for its end; False where it is not over at `end`, a time of the monotonic clock."""
        due, pause = time.monotonic(), 0.02
        while not self.ended():
            now = time.monotonic()
            if end is not None and now >= end:
                return False
            if beat and now >= due:
                due = now + BEAT
                beat(self)
            time.sleep(pause)
            pause = min(0.5, 1.5 * pause)
        return True


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
    log.parent.mkdir(parents=True, exist_ok=True)
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


def process_facts(process: int) -> list[str]:
    """What Linux tells of a process, from its state (index 0) on; empty if there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def cpu_seconds_so_far(process: int) -> float:
    """User and system time of a running process, with those that it waited for; 0 if unknown."""
    ticks = process_facts(process)[11:15]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") if ticks else 0.0


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
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(file)


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def fail(cause: str, remedy: str) -> NoReturn:
    """End the script with exit status 2 and two lines."""
    sys.stderr.write(f"error: {cause}\nremedy: {remedy}\n")
    sys.exit(2)
