"""What sends a signal to its own process in the middle of its work."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def interrupt(name: str, output: Path | None = None) -> None:
    """A command that a signal finds at work.

    Args:
        name: of the signal.
        output: a file to write when it was not stopped.
    """
    os.kill(os.getpid(), signal.Signals[name])
    time.sleep(30)
    if output is not None:
        output.touch()


class SignalAt:
    """A function that sends a signal when it is called for the second time.

    Args:
        function: what it then does as before.
        name: of the signal.
    """

    def __init__(self, function: Any, name: str) -> None:
        self.function, self.name, self.calls = function, name, 0

    def __call__(self, *given: Any) -> Any:
        self.calls += 1
        if self.calls == 2:
            os.kill(os.getpid(), signal.Signals[self.name])
        return self.function(*given)
