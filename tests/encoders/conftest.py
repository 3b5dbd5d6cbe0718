"""A folder that a text encoder is loaded from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.stand_ins import write_bert


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    write_bert(tmp_path / "bert")
    return tmp_path / "bert"
