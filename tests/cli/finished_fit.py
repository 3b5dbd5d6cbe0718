"""A finished fit of the command line, and readers of what it left."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.tiny_run import SMALL, Outcome, write_experiment

MODES = ["true", "empty", "shuffled"]
QUICK = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]


@dataclass(frozen=True)
class Trained:
    """A finished fit: where it was started, its run folder, its data and what it printed."""

    home: Path
    run: Path
    root: Path
    outcome: Outcome

    @property
    def checkpoint(self) -> Path:
        return self.run / "checkpoints" / "best.ckpt"


def experiment(folder: Path, **changes: Any) -> Path:
    return write_experiment(folder, model=SMALL, **changes)


def moved_run(trained: Trained, folder: Path) -> Path:
    """The config and the checkpoints of the run, elsewhere and without its results."""
    moved = folder / "moved"
    shutil.copytree(trained.run / "checkpoints", moved / "checkpoints")
    shutil.copy(trained.run / "config.yaml", moved)
    return moved


def cases(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "cases.csv").read_text())))


def manifest(root: Path) -> list[dict[str, str]]:
    """The rows of test, with the `case` each must have."""
    rows = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    named = [{**r, "case": f"{Path(r['image']).stem}__{n}"} for n, r in enumerate(rows)]
    return [row for row in named if row["split"] == "test"]


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def counts(trained: Trained, folder: Path) -> list[tuple[int, int, int]]:
    """Pixels in both, in the prediction and in the truth, from the mask files alone."""
    result = []
    for row in manifest(trained.root):
        pred = np.asarray(Image.open(folder / "masks" / f"{row['case']}.png")) > 0
        truth = np.asarray(Image.open(trained.root / row["mask"])) > 127
        result.append((int((pred & truth).sum()), int(pred.sum()), int(truth.sum())))
    return result


def strings(value: Any, at: str = "") -> dict[str, str]:
    """Every string in a nest of containers, by its place."""
    if isinstance(value, str):
        return {at: value}
    pairs = value.items() if isinstance(value, dict) else ()
    if isinstance(value, (list, tuple)):
        pairs = enumerate(value)
    return {
        k: v
        for key, inner in pairs
        for k, v in {**strings(key, f"{at}.key"), **strings(inner, f"{at}.{key}")}.items()
    }
