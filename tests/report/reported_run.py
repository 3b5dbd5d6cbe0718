"""A trained and tested run for a report: curves, pictures, and values that no other code made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.run_folder import write_config, write_test
from textseg.metrics.scores import SCORES

CASES = 12
EVIL = '<script>document.title=1</script><img src=x onerror=document.title=2> & "left" {{ 7*7 }}'


def write_reported_run(run: Path, *, gain: float = 0.0, captions: str = EVIL) -> Path:
    """A run of three tests; case i has a Dice of (i + 1) / (CASES + 2) + gain with `true`."""
    for mode, factor in (("true", 1.0), ("empty", 0.5), ("shuffled", 0.25)):
        overlaps = [factor * min(1.0, (n + 1) / (CASES + 2) + gain) for n in range(CASES)]
        distances = {"hd95": 2.5, "nsd": 0.5, "surface_unit": "mm"}
        words = [{"caption": "" if mode == "empty" else f"{captions} {n}"} for n in range(CASES)]
        changes = {n: text | (distances if n != 3 else {}) for n, text in enumerate(words)}
        folder = run / "test" / mode
        rows = write_test(folder, overlaps, changes=changes, metrics=metrics_of(mode))
        (folder / "overlays").mkdir()
        for number, row in enumerate(rows):
            noise = np.random.default_rng(number).integers(0, 255, (20, 60, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / "overlays" / f"{row.case}.png")
    write_config(
        run,
        seed_everything=7,
        trainer={"max_epochs": 2, "precision": "32-true", "default_root_dir": "/home/me/runs"},
        model={"class_path": "textseg.models.LSMS", "init_args": {"lr": 0.1, "note": EVIL}},
        data={
            "class_path": "datamodules.QaTaCov19DataModule",
            "init_args": {"root": "/home/me/secret/qata", "split": "paper"},
        },
    )
    (run / "metrics.csv").write_text(
        "epoch,step,train/loss,val/dice,val/miou\n0,5,,0.5,0.4\n0,5,0.9,,\n1,9,,0.625,0.5\n"
        "1,9,0.7,,\n,9,,,\n"
    )
    return run


def metrics_of(mode: str) -> dict[str, Any]:
    """Values of metrics.json, some of them undefined."""
    generator = np.random.default_rng(len(mode))
    stratum = {"cases": 4, "patients": 2} | some_scores(generator)
    return {
        "truth": "outlines",
        **some_scores(generator),
        **{"hd95_q1": 1.0, "hd95_median": 2.0, "hd95_q3": 4.5},
        "surface_undefined": 1,
        "surface_unit": "mm",
        "bootstrap_units": 6,
        "warnings": [f"6 patients: under 20 {EVIL}"] if mode == "true" else [],
        "strata": {
            "size": {"small": stratum, "large": stratum | {"dice_ci_low": None}},
            "side": {"left": stratum},
        },
        "size_cuts": [0.03125, 0.0625],
    }


def some_scores(generator: np.random.Generator) -> dict[str, float]:
    """All scores with their intervals, drawn."""
    found = {}
    for name in SCORES:
        low, value, high = sorted(generator.uniform(size=3).tolist())
        found |= {name: value, f"{name}_ci_low": low, f"{name}_ci_high": high}
    return found


def edit(file: Path, **changes: Any) -> None:
    """Change values of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
