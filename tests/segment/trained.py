"""A fit whose checkpoint the tests of `textseg segment` read, and what predict wrote of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.models.stand_ins import write_bert
from tests.tiny_run import (
    SMALL,
    call,
    masks_in,
    merged,
    only,
    train_arguments,
    write_experiment,
    write_refhl,
)


@dataclass(frozen=True)
class Trained:
    """A fit on a BERT that is gone by now, its data and what predict wrote."""

    run: Path
    root: Path
    predicted: dict[str, Any]

    @property
    def checkpoint(self) -> str:
        return str(self.run / "checkpoints/best.ckpt")

    def rows(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.root / "manifest.jsonl").open()]

    def image(self) -> str:
        return str(self.root / self.rows()[0]["image"])


def train(home: Path) -> Trained:
    """Train in `home`, and predict with the text encoder's folder gone."""
    root = write_refhl(home / "refhl")
    write_bert(home / "bert")
    # Not square, so that height and width cannot be confused.
    changes = {
        "model": merged(SMALL, {"init_args": {"text_encoder": str(home / "bert"), "warmup": 0.0}}),
        "seed_everything": 6,  # its masks have both values
        "data": {"init_args": {"image_size": [32, 64]}},
    }
    outcome = call(*train_arguments(write_experiment(home, **changes), root), cwd=home)
    assert outcome.status == 0, outcome.err
    run = only(home / "runs/tiny")
    shutil.rmtree(home / "bert")
    moved = shutil.copytree(run, home / "moved")
    outcome = call("predict", "--ckpt_path", moved / "checkpoints/best.ckpt", cwd=home)
    assert outcome.status == 0, outcome.err
    return Trained(run, root, masks_in(moved / "predict"))
