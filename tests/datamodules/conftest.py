"""Fixtures of the tests of the picture cache and of audits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules import DukeBreastMRIDataModule
from datamodules.cache import pictures as cache_module
from datamodules.duke_breast_mri.phantoms import write_duke_mamamia
from datamodules.mosmed.phantoms import write_mosmed
from datamodules.qata_cov19.phantoms import write_qata
from datamodules.refhl_seg.phantoms import write_refhl
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


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small datasets to be audited, which no test changes."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_qata(folder / "qata", train=60, test=8, image_size=64)
    write_mosmed(folder / "mosmed", train=30, val=8, test=8, image_size=96)
    write_refhl(folder / "refhl", train=20, val=4, test=4, image_size=64)
    write_duke_mamamia(folder / "mamamia", cases=14, image_size=64, slices=8)
    cache = folder / "cache"
    DukeBreastMRIDataModule(str(folder / "mamamia"), cache=str(cache)).read_records(
        folder / "mamamia"
    )
    [slices] = cache.glob("duke_mamamia_*/")
    shutil.copytree(slices, folder / "duke")
    return folder


@pytest.fixture
def copy(phantoms: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies one of them, which a test may spoil."""

    def copied(name: str) -> Path:
        shutil.copytree(phantoms / name, tmp_path / name)
        return tmp_path / name

    return copied
