"""Runs that several of the tests compare."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compare.quick import quality
from tests.run_folder import time_stamp, write_run


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Two experiments, a run of each."""
    return [
        str(write_run(tmp_path / name / time_stamp(1), quality(mean, seed)))
        for seed, (name, mean) in enumerate([("unet", 0.6), ("lsms", 0.8)])
    ]
