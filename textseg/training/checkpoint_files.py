"""The files that a run goes on from: checkpoints that are never cut short, and metrics.csv."""

from __future__ import annotations

import csv
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import CheckpointIO, TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from textseg.errors import UserError, reason_of, wrapped_error
from textseg.output import clear_leftovers, disk_error, whole_text
from textseg.runs.folder import LAST, last_written

_SECOND = 10**9  # nanoseconds; some disks keep whole seconds


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a temporary file and renames it, so that a kill leaves one whole checkpoint.

    Lightning writes to the system's temporary folder and moves, which is a copy, and can be cut
    short, wherever that folder is on another disk than the runs.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            UserError: the disk is full or cannot be written to.
        """
        assert storage_options is None
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())  # or the name may reach the disk before the content
            if path.parts[-2:] == LAST.parts:
                _date_after_others(part, path)
            part.replace(path)
        except (OSError, RuntimeError) as error:
            cause = wrapped_error(error, OSError)  # torch.save hides it behind its own
            if cause is None:
                raise
            with suppress(OSError):
                part.unlink(missing_ok=True)
            known = disk_error(cause, path)
            why = f"{path} cannot be written ({cause.strerror})"
            raise UserError(
                why if known is None else reason_of(known),
                "make room on that disk; --ckpt_path last then goes on from the last.ckpt there is",
            ) from error


def clear_cut_files(run: Path) -> None:
    """Remove what a killed fit left of the files that it was writing in its run's folder.

    The first process alone does. A checkpoint is written by the run's one fit, which now goes on;
    of other files those that a living process may be at stay (`textseg.output.clear_leftovers`).
    """
    if getattr(rank_zero_only, "rank", 0):
        return
    clear_leftovers(run)
    for part in (run / LAST.parent).glob(".*.ckpt.part"):
        with suppress(OSError):
            part.unlink()


def _date_after_others(part: Path, path: Path) -> None:
    """Give a last.ckpt a time after those of other runs, whatever the clock says now."""
    path = path.absolute()
    others = [file for file in path.parents[2].glob(f"*/{LAST}") if file != path]
    latest = max((file.stat().st_mtime_ns for file in others), default=0)
    if part.stat().st_mtime_ns <= latest:
        os.utime(part, ns=(latest + _SECOND, latest + _SECOND))


def with_atomic_checkpoints(plugins: Any) -> list[Any]:
    """The trainer's plugins with AtomicCheckpoints, unless the user gave a CheckpointIO.

    Args:
        plugins: trainer.plugins: none, one or a list.
    """
    given = plugins if isinstance(plugins, list) else [plugins] if plugins else []
    own = any(isinstance(plugin, CheckpointIO) for plugin in given)
    return [*given] if own else [*given, AtomicCheckpoints()]


def default_checkpoint_callbacks(run_folder: Path) -> list[L.Callback]:
    """Callbacks that write best.ckpt whenever val/dice rises, and last.ckpt after every epoch.

    `save_last` would move last.ckpt with best.ckpt only (Lightning 2.6). The best one comes first:
    Lightning takes the first for the trainer's `checkpoint_callback`.
    """
    folder = run_folder / "checkpoints"
    best = ModelCheckpoint(
        folder,
        filename="best",
        monitor="val/dice",
        mode="max",
        auto_insert_metric_name=False,
        enable_version_counter=False,  # a resumed run finds the killed one's best.ckpt there
    )
    last = ModelCheckpoint(
        folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [best, last]


def last_checkpoint(runs: Path) -> Path:
    """The last.ckpt that was written last below `runs`, the folder of one config's runs.

    Raises:
        UserError: there is none.
    """
    run = last_written(runs)
    if run is None:
        raise UserError(
            f"ckpt_path=last, but no run in {runs} has a {LAST.as_posix()}",
            "start without --ckpt_path, or name the checkpoint to go on from",
        )
    return run.folder / LAST


def resume_metrics_csv(table: CSVLogger, step: int) -> None:
    """Let a CSVLogger append to the metrics.csv in its folder, without the rows from `step` on.

    CSVLogger itself deletes the file. Rows after the killed run's last checkpoint are dropped,
    because the resumed run logs them again.
    """
    if getattr(rank_zero_only, "rank", 0):
        return  # the first process alone writes
    file = Path(table.log_dir) / "metrics.csv"
    aside = file.with_name(".metrics.csv.kept")
    if not aside.exists() and file.exists():
        with file.open(newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            names = list(reader.fieldnames or [])
            # A line that was cut short has no step.
            rows = [row for row in reader if (row.get("step") or "").isdigit()]
        with whole_text(aside, newline="") as lines:
            writer = csv.DictWriter(lines, names)
            writer.writeheader()
            writer.writerows(row for row in rows if int(row["step"]) < step)
    if aside.exists():
        file.unlink(missing_ok=True)  # its rows are kept aside; and now nothing warns of them
        written = table.experiment
        aside.replace(file)
        with file.open(newline="", encoding="utf-8") as lines:
            written.metrics_keys = next(csv.reader(lines))
