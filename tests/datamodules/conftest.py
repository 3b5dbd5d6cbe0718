"""Fixtures of the tests of the picture cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules.cache import pictures as cache_module
from tests.datamodules.png_folder import write_pictures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were filled."""
    filled: list[Path] = []
    write = cache_module._write

    def counted(folder: Path, **settings: Any) -> None:
        filled.append(folder)
        write(folder, **settings)

    monkeypatch.setattr(cache_module, "_write", counted)
    return filled


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a picture's file fails; use it after the cache is built."""

    def refuse(path: Path) -> bytes:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(Path, "read_bytes", refuse)
