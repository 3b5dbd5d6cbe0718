"""Writes a run's folder as a training and its tests leave it, with values that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from textseg.metrics.scores import MAIN
from textseg.runs import CaseRow, write_cases


def time_stamp(number: int) -> str:
    """The name of a run's folder."""
    return f"2026-01-0{number}_10-00-00"


def case_row(number: int, overlap: float, count: int, text: str = "left lung") -> CaseRow:
    """A case whose prediction is as large as the truth, so that Dice is the overlap.

    Of `count` cases each two are of one patient, thirds are of one size, sides alternate.
    """
    true = 100 + 40 * number
    both = round(true * overlap)
    patient = f"p{number // 2}"
    return CaseRow(
        *(f"c__{number}", patient, patient, text),
        *(both / true, both / (2 * true - both)),
        *(both, true, true, 9000),
        *(None, None, None, ""),
        lesions_predicted=None,
        lesions_matched=None,
        lesions_matched_half=None,
        lesion_size=("small", "medium", "large")[number * 3 // count % 3],
        lesion_number=1 + number % 5,
        lesion_side=("left", "right")[number % 2],
        truth="outlines",
    )


def write_test(
    folder: Path,
    overlaps: Sequence[float],
    *,
    text: str = "left lung",
    protocol: str = "standard",
    changes: Mapping[int, Mapping[str, Any]] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> list[CaseRow]:
    """metrics.json and cases.csv: case i has an overlap of overlaps[i] and the changes[i]."""
    folder.mkdir(parents=True)
    rows = [
        replace(case_row(number, overlap, len(overlaps), text), **(changes or {}).get(number, {}))
        for number, overlap in enumerate(overlaps)
    ]
    write_cases(folder / "cases.csv", rows)
    stored: dict[str, Any] = {"caption_mode": folder.name, "protocol": protocol}
    stored |= dict.fromkeys(MAIN, 0.5) | {"cases": len(rows), "empty_cases": 0}
    (folder / "metrics.json").write_text(json.dumps(stored | dict(metrics or {})))
    return rows


def write_config(run: Path, **changes: Any) -> None:
    """config.yaml of a run of LSMS on QaTa-COV19; `changes` replace its groups."""
    config = {
        "seed_everything": 1,
        "trainer": {"max_epochs": 3},
        "model": {"class_path": "textseg.models.LSMS", "init_args": {"lr": 0.1}},
        "data": {"class_path": "datamodules.QaTaCov19DataModule", "init_args": {"cache": None}},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config | changes))


def write_run(
    run: Path,
    overlaps: Sequence[float],
    *,
    test: str = "test/true",
    seed: int = 1,
    lr: float = 0.1,
    **settings: Any,
) -> Path:
    """A run with one test; `settings` are those of `write_test`."""
    write_test(run / test, overlaps, **settings)
    model = {"class_path": "textseg.models.LSMS", "init_args": {"lr": lr}}
    own = {"seed": seed, "cache": None, "batch_size": 8}
    data = {"class_path": "QaTaCov19DataModule", "init_args": own}
    trainer = {"max_epochs": 3, "devices": 1}
    write_config(run, seed_everything=seed, model=model, data=data, trainer=trainer)
    return run
