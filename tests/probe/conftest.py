"""A probe that several files look at."""

from __future__ import annotations

import pytest

from tests.probe.drawing_networks import Reader, run
from textseg.probe import ProbeResult


@pytest.fixture(scope="module")
def obeying(tmp_path_factory: pytest.TempPathFactory) -> ProbeResult:
    return run(Reader(), tmp_path_factory.mktemp("obeying"), pictures=2)
