"""What several tests of the experiments share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments.fake_suite import FakeSuite, fake_suite


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSuite:
    """A stand-in for the suite, which every command of a campaign calls."""
    return fake_suite(tmp_path, monkeypatch)
