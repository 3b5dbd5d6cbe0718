"""A cross-validation's folder as its trainings leave it, with scores that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.run_folder import time_stamp, write_config, write_test
from textseg.runs import Run
from textseg.runs.crossval import Crossval
from textseg.runs.folder import CAPTION_MODES


def plan_in(folder: Path, *, folds: int = 2, seeds: int = 2, name: str = "net") -> Crossval:
    """A plan, written, with a table of two cases in each fold."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / f"folds-{folds}-abc.csv"
    cases = [f"f{fold}_{number}" for fold in range(1, folds + 1) for number in range(6)]
    table.write_text("\n".join(["case", *cases]) + "\n")
    plan = Crossval(folder, name, folds, 0, 0, seeds, table.name, {"seed_everything": 0})
    plan.write()
    return plan


def write_training(
    plan: Crossval,
    fold: int,
    seed: int,
    overlaps: list[float],
    *,
    modes: tuple[str, ...] = CAPTION_MODES,
    finished: bool = True,
    changes: Mapping[str, Any] | None = None,
) -> Run:
    """The run of a fold and a seed, tested on cases of its own; each two are of one patient."""
    folder = plan.home(fold, seed) / plan.experiment / time_stamp(1)
    names = {
        number: {
            "case": f"f{fold}_{number}",
            "case_id": f"f{fold}_p{number // 2}",
            "patient": f"f{fold}_p{number // 2}",
        }
        for number in range(len(overlaps))
    }
    for mode in modes:
        write_test(folder / "test" / mode, overlaps, changes=names, metrics=changes)
    write_config(
        folder,
        seed_everything=seed,
        data={"class_path": "Data", "init_args": {"fold": fold, "folds": plan.table, "seed": seed}},
    )
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/last.ckpt").touch()
    rows = "".join(f"{epoch},{epoch / 10 + fold}\n" for epoch in range(1 + fold))
    (folder / "metrics.csv").write_text(f"epoch,val/loss\n{rows}")
    if finished:
        plan.finish(fold, seed)
    return Run(folder)


def write_all(plan: Crossval, quality: float = 0.6) -> dict[tuple[int, int], list[float]]:
    """All trainings; returns the overlaps of each."""
    overlaps = {}
    for fold, seed in plan.trainings:
        own = [quality + 0.03 * fold - 0.02 * seed + 0.01 * number for number in range(6)]
        write_training(plan, fold, seed, own)
        overlaps[fold, seed] = own
    return overlaps
