"""A campaign's trainings as SLURM jobs, one each, by experiments/slurm/train.sbatch."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from campaign import locks
from campaign.processes import FailedError, say, write
from campaign.settings import EXPERIMENTS, Campaign, Row
from campaign.work import Worker, environment, training_arguments

TRAIN = EXPERIMENTS / "slurm/train.sbatch"


def make_jobs(worker: Worker, rows: list[Row], *, submit: bool) -> None:
    """Write OUT/slurm/<row>.sh for each row that is to be trained and, if asked, submit it.

    A row whose job was submitted is left alone, here and by workers, until the job has trained it.
    Tests and all else are the workers', afterwards. A row that waits for others gets no job yet.
    """
    campaign = worker.campaign
    for row in rows:
        job = worker.in_slurm(row)
        if job or "train" not in campaign.left(row):
            say(f"{row.name}: {f'is job {job}' if job else 'is trained'}")
        elif not worker.ready(row):
            say(f"{row.name}: no job yet, it waits for what others find")
        else:
            with locks.claim(worker.lock(row)) as mine:
                if not mine:
                    say(f"{row.name}: a worker has it")
                    continue
                with_failures_kept(worker, row, submit)


def with_failures_kept(worker: Worker, row: Row, submit: bool) -> None:
    """Make a row's job; a failure is told at the end."""
    try:
        file = write_job(worker, row)
        if submit:
            send(worker.campaign, row, file)
    except FailedError as error:
        worker.failed[f"slurm {row.name}"] = error


def write_job(worker: Worker, row: Row) -> Path:
    """Write the script that submits a row's training."""
    campaign = worker.campaign
    found = campaign.resolved(row)
    assert found is not None
    command = [sys.executable, "-m", "campaign.in_job", str(campaign.note_file(row))]
    spaced = [part for part in command if len(part.split()) > 1]
    if spaced:
        raise FailedError(f"{spaced[0]!r} has a space, which the job script cannot take", "move it")
    epochs = worker.epochs(found)
    write(campaign.note_file(row), campaign.note(row) | {"terms": campaign.terms(found)})
    fit, *arguments = training_arguments(campaign, found, epochs)
    assert fit == "fit"  # which the job script gives
    if "--ckpt_path" in arguments:
        say(f"{row.name}: goes on from an earlier start; such a job is not requeued, give it time")
    own = {"TEXTSEG": " ".join(command), "RUNS": str(campaign.runs(row))}
    all_of_it = environment(campaign)
    all_of_it["PYTHONPATH"] += f"{os.pathsep}{EXPERIMENTS}"
    for name in ("PYTHONPATH", "HF_HUB_OFFLINE", "WANDB_MODE", "TORCHINDUCTOR_CACHE_DIR"):
        own[name] = all_of_it[name]
    options = ["--parsable", f"--job-name={row.name}", *campaign.slurm]
    options += [f"--output={campaign.log(f'train {row.name}')}"]
    lines = ["#!/usr/bin/env bash", f"# Submits the training {row.name} of {campaign.name}."]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in own.items()]
    lines += [f"exec sbatch {shlex.join([*options, str(TRAIN), *arguments])}"]
    file = campaign.out / "slurm" / f"{row.name}.sh"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    campaign.log("x").parent.mkdir(exist_ok=True)
    say(f"{row.name}: {file}")
    return file


def send(campaign: Campaign, row: Row, file: Path) -> None:
    """Submit a job and keep its number."""
    done = subprocess.run(["bash", str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(
            f"sbatch refuses {file}: {done.stderr.strip()}", "see slurm in the settings"
        )
    number = done.stdout.strip().split(";")[0]
    write(campaign.out / "slurm" / f"{row.name}.json", {"job": number})
    say(f"{row.name}: job {number}")
