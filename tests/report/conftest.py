"""Runs and their pages, made once for each file of tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.report.reported_run import write_reported_run
from textseg.report import report


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("runs")
    stamp = "2026-01-02_03-04-05"
    return [
        write_reported_run(home / name / stamp, gain=gain)
        for name, gain in (("unet", 0.0), ("lsms", 0.1))
    ]


@pytest.fixture(scope="module")
def one(folders: list[Path]) -> Path:
    return report([str(folders[0])])


@pytest.fixture(scope="module")
def several(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("comparison") / "page.html"
    names = ["U-Net <b>", "LSMS"]
    return report([str(one) for one in folders], output=str(output), names=names)


@pytest.fixture
def run(folders: list[Path], tmp_path: Path) -> Path:
    """A copy that a test may break."""
    copy, pages = tmp_path / "unet" / "2026-01-02_03-04-06", shutil.ignore_patterns("*.html")
    return shutil.copytree(folders[0], copy, ignore=pages)
