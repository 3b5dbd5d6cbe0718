"""Audits of small datasets, with the settings that their tests share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datamodules import (
    DukeBreastMRIDataModule,
    MosMedDataModule,
    QaTaCov19DataModule,
    RefHLSegDataModule,
    TextSegDataModule,
)
from datamodules.audit import Audit, audit

QUIET = pytest.mark.filterwarnings("ignore:split=official", "ignore:left out")


def words(text: str) -> int:
    return len(text.split()) + 2


def found(result: Audit) -> Counter[tuple[str, str]]:
    return Counter((finding.kind, finding.where) for finding in result.findings)


def look(datamodule: TextSegDataModule) -> Audit:
    return audit(datamodule, count_tokens=words, max_tokens=32)


DATASETS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "qata": (QaTaCov19DataModule, {"split": "subject"}),
    "mosmed": (MosMedDataModule, {}),
    "refhl": (RefHLSegDataModule, {}),
    "duke": (DukeBreastMRIDataModule, {"split": "patient"}),
}


def make(name: str, root: Path, **settings: Any) -> TextSegDataModule:
    kind, defaults = DATASETS[name]
    return kind(str(root), **{"image_size": 32, "cache": None, **defaults, **settings})
