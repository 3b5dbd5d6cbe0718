"""Fixtures of the tests of callbacks and loggers."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shell tells W&B reaches no test."""
    for name in ("PROJECT", "NAME", "RUN_GROUP", "TAGS", "JOB_TYPE", "CONSOLE", "SWEEP_ID"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
