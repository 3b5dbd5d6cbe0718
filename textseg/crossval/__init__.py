"""Trains and tests a network on every fold of a dataset, with several seeds."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from textseg.crossval.experiment import Experiment, differences
from textseg.crossval.work import LOCK, locked, train
from textseg.errors import UserError, check_at_least, check_seed
from textseg.output import PART, clear_leftovers, is_incomplete
from textseg.runs.crossval import PLAN, Crossval
from textseg.runs.folder import remove_if_empty, runs_dir

__all__ = ["Experiment", "crossval"]

REPORT = "report"
MOST_TRAININGS = 10_000


def crossval(
    experiment: Experiment,
    *,
    folds: int = 5,
    seeds: int = 3,
    fold_seed: int = 0,
    only: str | None = None,
    output: str | None = None,
) -> int:
    """Train and test a network on every fold of a dataset, with several seeds.

    All other options are those of `textseg fit`. The same command goes on where it was ended, and
    the same command in another process shares the work.

    Args:
        experiment: what `textseg fit` would train.
        folds: parts of the patients, each of which is tested by trainings on the others.
        seeds: trainings of each fold: with seed_everything and data.seed of the experiment, and
            with those plus 1, plus 2 and so on.
        fold_seed: of the division into folds; equal data and seeds give equal folds.
        only: one training alone, as FOLD,SEED such as 2,0; null takes all in turn that are not
            finished and that no other process is at.
        output: folder of the cross-validation; null is runs/crossval/<config>.

    Returns:
        The exit status: 0, or that of a training or signal that ended it.

    Raises:
        UserError: the experiment cannot be cross-validated, or not in this folder.
    """
    check_at_least("folds", folds, 2, "give 2 or more")
    check_at_least("seeds", seeds, 1, "give 1 or more; 3 show the luck of a training")
    if folds * seeds > MOST_TRAININGS:
        raise UserError(
            f"folds={folds} with seeds={seeds} are {folds * seeds} trainings",
            f"give fewer: {MOST_TRAININGS} at most",
        )
    check_seed(fold_seed)
    _check_single_process()
    experiment.check()
    folder = Path(output).expanduser() if output else None
    folder = folder or runs_dir(experiment.runs_root, "crossval") / experiment.name
    plan = Crossval(
        folder=folder,
        experiment=experiment.name,
        folds=folds,
        fold_seed=fold_seed,
        first_seed=experiment.first_seed,
        seeds=seeds,
        table="",
        settings=experiment.settings,
    )
    chosen = plan.trainings if only is None else [_training(only, plan)]
    with locked(folder):
        try:
            plan = _begun(plan, experiment)
        except BaseException:
            if not (folder / PLAN).exists():
                (folder / LOCK).unlink()
                remove_if_empty(folder)
            raise
    status = train(plan, chosen, lambda *one: experiment.of_training(plan, *one))
    if status:
        return status
    with locked(folder):
        print(_result(plan))
    return 0


def _check_single_process() -> None:
    """Check that no launcher has started several of this command to train as one."""
    for name, launcher in (("SLURM_STEP_NUM_TASKS", "srun"), ("WORLD_SIZE", "torchrun")):
        count = os.environ.get(name, "1")
        if count != "1":
            raise UserError(
                f"{launcher} has started {count} processes of textseg crossval ({name}), each of "
                "which would start trainings",
                "start one process; --trainer.devices gives every training several devices",
            )


def _training(only: str, plan: Crossval) -> tuple[int, int]:
    """Fold and seed of ``2,0``."""
    parts = only.split(",")
    numbers = [int(part) for part in parts if part.strip().isdecimal()]
    if len(parts) != 2 or tuple(numbers) not in plan.trainings:
        raise UserError(
            f"only={only!r} is no training: folds are 1 to {plan.folds}, seeds "
            f"{plan.first_seed} to {plan.all_seeds[-1]}",
            f"give FOLD,SEED such as --only 1,{plan.first_seed}",
        )
    return numbers[0], numbers[1]


def _begun(plan: Crossval, experiment: Experiment) -> Crossval:
    """The plan in its folder, written where there is none; more seeds may be asked for later.

    Raises:
        UserError: the folder holds something else.
    """
    was = Crossval.in_folder(plan.folder)
    if was is None:
        own = {LOCK}
        others = sorted(
            file.name
            for file in plan.folder.iterdir()
            if file.name not in own and not file.name.startswith(("folds-", PART))
        )
        if others:
            raise UserError(
                f"{plan.folder} is no cross-validation and not empty ({', '.join(others[:5])})",
                "give --output another folder",
            )
        table = experiment.write_folds(plan.folder, plan.folds, plan.fold_seed)
        plan = replace(plan, table=table.name)
        plan.write()
        return plan
    unlike = differences(plan, was)
    if unlike:
        raise UserError(
            f"{plan.folder} is of another experiment: {'; '.join(unlike[:3])}",
            "give the old values to go on with it, or --output another folder",
        )
    if plan.seeds < was.seeds:
        raise UserError(
            f"seeds={plan.seeds}, but {plan.folder} has {was.seeds}",
            f"give --seeds {was.seeds} or more, or --output another folder",
        )
    clear_leftovers(plan.folder)
    plan = replace(plan, table=was.table)
    plan.write()
    return plan


def _result(plan: Crossval) -> str:
    """The tables, where all trainings are finished; else what is missing."""
    left = plan.unfinished()
    if left:
        names = ", ".join(f"{fold},{seed}" for fold, seed in left)
        return (
            f"{len(plan.trainings) - len(left)} of {len(plan.trainings)} trainings are finished; "
            f"left or in other processes (fold,seed): {names}"
        )
    from textseg.compare import plain_table, score
    from textseg.crossval.tables import by_fold, write_seed
    from textseg.report.write_comparison import write_comparison

    new = [seed for seed in plan.all_seeds if not plan.seed_run(seed).folder.exists()]
    for seed in new:
        write_seed(plan, seed)
    found = score(str(plan.folder))
    lines = [plain_table(found), "", by_fold(plan), ""]
    if _is_reported(plan):
        lines.append(f"all is finished in {plan.folder}")
    else:
        lines.append(f"written to {write_comparison(found, plan.folder / REPORT)}")
    return "\n".join(lines)


def _is_reported(plan: Crossval) -> bool:
    """Whether a report of all seeds was written to its end, and is there."""
    for file in plan.folder.glob(f"{REPORT}*/comparison.json"):
        if is_incomplete(file.parent):
            continue
        with suppress(OSError, ValueError, KeyError, TypeError):  # one that was edited is none
            (method,) = json.loads(file.read_text(encoding="utf-8"))["methods"]
            if len(method["runs"]) == plan.seeds:
                return True
    return False
