"""Checks of a fit, and above all of a resumed one, before its first step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import WeightAveraging

from textseg.errors import UserError, check_at_least
from textseg.runs import Run
from textseg.runs.outputs import callbacks_of

# Settings that decide which rows the next batch holds; resuming in mid-epoch needs them unchanged.
POSITION_SETTINGS = ("batch_size", "num_workers", "seed")
# What may change where a run goes on: paths, which may have moved; how rows are dealt out, which
# check_data_position holds where it matters; and how a test is scored.
MAY_CHANGE = {
    "data": ("root", "captions", "cache", "batch_size", "num_workers", "strata"),
    "model": ("image_weights", "protocol", "nsd_tolerance"),
}
_LENGTH = (
    "give a number above 0, or leave it out; trainer.max_epochs=-1 trains until trainer.max_steps "
    "or trainer.max_time"
)


def check_trainer_settings(trainer: Mapping[str, Any]) -> None:
    """Check that the trainer's settings let a fit train, write its checkpoints, count and clip.

    Raises:
        UserError: they end it before its first step, switch checkpoints off, count by less than 1,
            or clip at less than 0.
    """
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer.get(name) == 0:
            raise UserError(f"trainer.{name}=0 trains nothing", _LENGTH)
    for name in ("check_val_every_n_epoch", "accumulate_grad_batches"):  # Lightning divides by it
        value = trainer.get(name)
        check_at_least(f"trainer.{name}", 1 if value is None else value, 1)
    remedy = "give a number above 0, or leave it out"
    check_at_least("trainer.gradient_clip_val", trainer.get("gradient_clip_val") or 0, 0, remedy)
    for name, wrong in (("enable_checkpointing", False), ("barebones", True)):
        if trainer.get(name) is wrong:
            raise UserError(
                f"trainer.{name}={str(wrong).lower()} keeps no checkpoint, and a fit needs its own",
                f"leave trainer.{name} out; trainer.fast_dev_run=1 tries a step and writes nothing",
            )


def check_trainer(trainer: L.Trainer, *, sync_batchnorm: bool) -> None:
    """Check that batch statistics are synchronized over GPUs only.

    Raises:
        UserError: the processes train on CPUs, for which torch cannot do it.
    """
    several = trainer.num_devices * trainer.num_nodes > 1
    if sync_batchnorm and several and isinstance(trainer.accelerator, CPUAccelerator):
        raise UserError(
            "trainer.sync_batchnorm=true needs GPUs, and the processes train on CPUs",
            "leave trainer.sync_batchnorm out",
        )


# --- the settings of a run that goes on --------------------------------------------------------


def check_same_settings(run_folder: Path, now: Mapping[str, Any]) -> dict[str, Any]:
    """Model, data and seed are those that the run began with.

    The checkpoint's optimizer and random states win over settings, so that config.yaml would tell
    of a training that never was.

    Args:
        run_folder: of the run that goes on; where it holds no config.yaml nothing is compared.
        now: the resolved settings, as plain values.

    Returns:
        The settings in the run's config.yaml; none where there is no such file.

    Raises:
        UserError: a setting differs, or config.yaml holds no settings.
    """
    run = Run(run_folder)
    was = run.settings("remove it to go on all the same")
    ours, theirs = _fixed(now), _fixed(was)
    for name in (name for name in ours if name in theirs):
        old, new = theirs[name], ours[name]
        if old != new or isinstance(old, bool) != isinstance(new, bool):
            raise UserError(
                f"{name}={json.dumps(new)} (was {json.dumps(old)}), but a run goes on with "
                f"the settings in its {run.config}",
                f"give {name} its old value to go on, or leave --ckpt_path out for a new run",
            )
    return was


def _fixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a run keeps, by dotted name; one that an older version lacked is not there."""
    seed = settings.get("seed_everything")
    fixed: dict[str, Any] = {}
    if seed is not None and seed is not True:  # true draws one, and the run has its own
        fixed["seed_everything"] = seed
    for group, free in MAY_CHANGE.items():
        given = settings.get(group) or {}
        if "class_path" in given:
            fixed[f"{group}.class_path"] = given["class_path"]
        values = given.get("init_args") or {}
        fixed |= {f"{group}.{name}": v for name, v in values.items() if name not in free}
    if fixed.get("data.folds"):  # the table may have moved; its name tells what is in it
        fixed["data.folds"] = Path(fixed["data.folds"]).name
    return fixed


# --- the checkpoint that a run goes on from ----------------------------------------------------


def check_averaging(trainer: L.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Check that a training with averaged weights (EMA) goes on averaging.

    Raises:
        UserError: the checkpoint holds an average, and no callback averages.
    """
    averages = callbacks_of(trainer, WeightAveraging)
    if "current_model_state" in checkpoint and not averages:
        raise UserError(
            "the checkpoint is of a training that averages its weights (EMA), and nothing in "
            "trainer.callbacks does: it would go on from the average",
            "give the run's own line again, such as --trainer.callbacks+="
            "'{class_path: EMAWeightAveraging, init_args: {decay: 0.999}}'",
        )


def check_length(trainer: L.Trainer, loops: Mapping[str, Any]) -> None:
    """Check that the checkpoint's finished epochs are within trainer.max_epochs.

    Raises:
        UserError: more epochs are done than are to be trained.
    """
    done, limit = loops["fit_loop"]["epoch_progress"]["current"]["processed"], trainer.max_epochs
    if limit is not None and 0 <= limit < done:
        raise UserError(
            f"trainer.max_epochs={limit}, but the checkpoint has {done} epochs behind it",
            f"give trainer.max_epochs of {done} or more",
        )


def in_mid_epoch(loops: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's loops stand between two batches of an epoch."""
    epoch = loops["fit_loop"]["epoch_progress"]["current"]
    return bool(epoch["started"] != epoch["processed"])


def data_position(trainer: L.Trainer) -> dict[str, int]:
    """The settings that decide which rows the next batch holds."""
    data: Any = getattr(trainer, "datamodule", None)
    known = hasattr(data, "records")
    rows = {"the number of training rows": len(data.records("train"))} if known else {}
    return {
        "devices times nodes": trainer.world_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        **{
            f"data.{name}": getattr(data, name) for name in POSITION_SETTINGS if hasattr(data, name)
        },
        **rows,
    }


def check_data_position(stored: Mapping[str, int], now: Mapping[str, int], best: Path) -> None:
    """Check that a run resumed in mid-epoch gets the rows that would have come next.

    Args:
        stored: `data_position` when the checkpoint was written.
        now: the same of this run.
        best: best.ckpt of the run, for the remedy.

    Raises:
        UserError: it would get other rows.
    """
    changed = [f"{k}={now[k]} (was {v})" for k, v in stored.items() if k in now and now[k] != v]
    if not changed:
        return
    other = f"; or start a new run from the end of an epoch: --ckpt_path {best}"
    raise UserError(
        f"the checkpoint is from the middle of an epoch, and {', '.join(changed)} would go on "
        "with other rows",
        "give the old values" + (other if _ends_an_epoch(best) else ""),
    )


def _ends_an_epoch(file: Path) -> bool:
    """Whether a checkpoint was written between two epochs."""
    if not file.is_file():
        return False
    loops = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["loops"]
    return not in_mid_epoch(loops)
