"""The files that a Mac lays beside every picture on a foreign disk: `._NAME`, no pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules import ManifestDataModule, QaTaCov19DataModule
from datamodules.audit import audit
from tests.datamodules import trees
from tests.datamodules.disc_set import write_discs


def leave_mac_files(root: Path) -> None:
    for path in list(root.rglob("*.png")):
        (path.parent / f"._{path.name}").write_bytes(b"Mac OS X")


@pytest.fixture
def mac_qata(tmp_path: Path) -> Path:
    root = trees.kaggle(tmp_path)
    leave_mac_files(root)
    return root


def test_files_of_a_mac_are_no_pictures_for_a_layout(mac_qata: Path) -> None:
    datamodule = QaTaCov19DataModule(str(mac_qata), image_size=32, num_workers=0, cache=None)
    datamodule.setup()
    assert len(datamodule.records("train")) == 8
    found = {finding.kind for finding in audit(datamodule).findings}
    assert not found & {"image without caption", "mask without image", "unreadable image"}


def test_files_of_a_mac_are_no_pictures_for_an_audit(tmp_path: Path) -> None:
    root = write_discs(tmp_path / "discs")
    leave_mac_files(root)
    datamodule = ManifestDataModule(str(root), image_size=32, num_workers=0, cache=None)
    assert not audit(datamodule).findings
