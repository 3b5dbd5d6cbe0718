"""SIGINT and SIGTERM: a command ends at once, with a line and the shell's exit status for them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

HEARD = (signal.SIGINT, signal.SIGTERM)


class Stopped(SystemExit):
    """Raised where a signal finds the main thread; no library takes it for an error of its own.

    Args:
        number: of the signal.

    Attributes:
        code: the exit status, 128 and the number: 130 or 143.
        left: what is said of what there is, where more is known than that it is incomplete.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = signal.Signals(number)
        self.left = ""


class Ears:
    """Handles the signals of a command.

    Attributes:
        heard: the first signal that came; None before.
    """

    def __init__(self) -> None:
        self.heard: Stopped | None = None
        self._process = os.getpid()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """End the command; a second signal ends the process on the spot.

        A forked process, such as a loader's worker, has this handler from its parent and ends as if
        it had none.

        Raises:
            Stopped: always.
        """
        for each in HEARD:
            signal.signal(each, signal.SIG_DFL)
        if os.getpid() != self._process:
            os.kill(os.getpid(), number)
        self.heard = Stopped(number)
        raise self.heard


@contextmanager
def listening() -> Iterator[Ears]:
    """In its block SIGINT and SIGTERM raise Stopped, unless they are ignored or not this thread's.

    A shell starts jobs in the background with SIGINT ignored.
    """
    ears = Ears()
    before = {}
    if threading.current_thread() is threading.main_thread():
        now = {number: signal.getsignal(number) for number in HEARD}
        before = {number: was for number, was in now.items() if was is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, ears.handle)
    try:
        yield ears
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def keep_sigterm(trainer: Any) -> None:
    """Let a Trainer leave SIGTERM as it is now.

    Lightning's own handler notes the signal for a training, which alone looks at it, and talks to
    the other processes of a run from within whatever they were at.
    """
    ours, connector = signal.getsignal(signal.SIGTERM), trainer._signal_connector
    if ours in (signal.SIG_DFL, signal.SIG_IGN, None):
        return
    register = connector.register_signal_handlers

    def register_others() -> None:
        register()
        signal.signal(signal.SIGTERM, ours)

    connector.register_signal_handlers = register_others


def stopped_lines(command: str, stopped: Stopped) -> list[str]:
    """What is said of a command that a signal ended: which, and what is there of it."""
    return [
        f"{stopped.number.name}: textseg {command} was stopped",
        stopped.left or "what it has written so far is incomplete; the same command starts again",
    ]
