"""The folder that a command of the Trainer works in: a new run's, or that of its checkpoint."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from textseg.runs.folder import Run, unique_dir


def runs_dir(root: str | None, experiment: str) -> Path:
    """The folder of all runs of an experiment: ``<root>/<experiment>``, by default below runs/."""
    return Path(root or "runs") / experiment


def new_run_dir(runs: Path) -> Path:
    """A new folder below `runs` with the time for a name; created by the first process alone.

    Other processes get `runs`: every path that is written to comes from the first.
    """
    from lightning.pytorch.utilities import rank_zero_only

    if getattr(rank_zero_only, "rank", 0):
        return runs
    return unique_dir(runs / time.strftime("%Y-%m-%d_%H-%M-%S"))


def remove_if_empty(run: Path) -> None:
    """Remove the folder of a run that was refused before it wrote anything."""
    with suppress(OSError):
        run.rmdir()
        run.parent.rmdir()


def experiment_of(run: Path) -> str | None:
    """The name of a run's experiment; None where the folder is no run's."""
    return run.parent.name if Run(run).config.is_file() else None
