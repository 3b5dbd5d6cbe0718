"""Fixtures of the tests of `textseg demo`."""

from __future__ import annotations

from pathlib import Path

import pytest

import textseg
from datamodules.refhl_seg.phantoms import draw_phantom
from datamodules.volumes.opened import Volumes
from tests.demo.place_network import write_checkpoint
from textseg.demo.networks import Networks
from textseg.demo.opening import Opener


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="package")
def networks(checkpoint: str) -> Networks:
    return Networks([checkpoint], textseg.load)


@pytest.fixture
def opener(checkpoint: str, tmp_path: Path) -> Opener:
    folder = tmp_path / "uploads"
    folder.mkdir()
    return Opener(Volumes, draw_phantom, checkpoint, folder)
