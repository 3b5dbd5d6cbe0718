"""A run that is killed at any moment and resumed ends with the weights of one that was not.

Lightning's checkpoints hold model, optimizer, schedule and loops. What else decides the weights is
added here: the random states and the place in the data, of every process (Lightning keeps the first
process's place alone), as tensors and plain values. `Restart` writes last.ckpt in the middle of an
epoch too, and on SIGTERM and SIGUSR1; `AtomicCheckpoints` never leaves half a file.
"""

from __future__ import annotations

import csv
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from textseg.errors import UserError

STATE = "restart"  # what `Restart` adds to a checkpoint
LAST = Path("checkpoints") / "last.ckpt"  # in a run's folder
# Exit statuses. A job script requeues on the first: EX_TEMPFAIL of sysexits.h, "try again later".
RESUME_ME, TERMINATED = 75, 128 + signal.SIGTERM
STATUS = {signal.SIGUSR1: RESUME_ME, signal.SIGTERM: TERMINATED}
ASK_EVERY = 10  # batches between two questions whether any process was signalled
# Settings that say which rows the next batch holds; resuming in mid-epoch needs them unchanged.
PLACE = ("batch_size", "num_workers", "seed")


class Restart(L.Callback):
    """Makes every checkpoint of a fit one that can be resumed exactly, and writes last.ckpt often.

    On SIGUSR1 (exit status 75) and SIGTERM (143) last.ckpt is written after the step at hand, and
    the run ends.

    Args:
        every_n_steps: optimizer steps after which last.ckpt is written in the middle of an epoch;
            0 writes it after each epoch only.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        if every_n_steps < 0:
            raise UserError(
                f"restart.every_n_steps={every_n_steps} is below 0",
                "give a number of steps, or 0 to write last.ckpt after each epoch only",
            )
        self.every_n_steps = every_n_steps
        self._saved = 0  # step of the newest last.ckpt
        self._signal = 0
        self._random: dict[str, Any] | None = None  # of this process, until training starts
        self._handlers: dict[signal.Signals, Any] = {}

    # --- what a checkpoint holds ---------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        fit_loop = checkpoint["loops"]["fit_loop"]["state_dict"]
        own = {"random": random_state(trainer), "loader": fit_loop.get("combined_loader", [])}
        processes: list[Any] = [own]
        if trainer.world_size > 1:
            processes = [None] * trainer.world_size
            torch.distributed.all_gather_object(processes, own)
        runs = [log.version for log in trainer.loggers if isinstance(log, WandbLogger)]
        checkpoint[STATE] = {
            "processes": processes,
            "place": _place(trainer),
            "wandb_id": runs[0] if runs else None,
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take this process's states; called before Lightning restores its loops.

        Raises:
            UserError: in the middle of an epoch, with other settings than the checkpoint's.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        _follow_moved_folder(checkpoint["callbacks"], Path(trainer.default_root_dir) / LAST.parent)
        fit_loop = checkpoint["loops"]["fit_loop"]
        epoch = fit_loop["epoch_progress"]["current"]
        stored = checkpoint.get(STATE)
        if stored is None:
            rank_zero_warn("the checkpoint holds no random states: the run goes on, not exactly")
            return
        if epoch["started"] != epoch["processed"]:
            _check_place(stored["place"], _place(trainer))
        if len(stored["processes"]) == trainer.world_size:
            own = stored["processes"][trainer.global_rank]
            self._random = own["random"]
            fit_loop["state_dict"]["combined_loader"] = own["loader"]
        else:
            rank_zero_warn(
                f"{len(stored['processes'])} processes wrote the checkpoint and "
                f"{trainer.world_size} go on from it: new random numbers are drawn"
            )
        _load_loops(trainer, checkpoint.pop("loops")["fit_loop"])

    # --- when one is written -------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._signal = 0
        self._take(signal.SIGUSR1)  # now, because Lightning takes it too unless somebody has it

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._give_signals_back()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Everything that starting up drew is forgotten here; the next draw is a step's."""
        self._saved = trainer.global_step
        # Lightning's own handlers save in the middle of a step, and talk to other processes there.
        self._take(signal.SIGTERM)
        if self._random is not None:
            set_random_state(self._random, trainer)
            self._random = None

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not _can_resume_here(trainer, batch_idx):
            return
        asked = self._asked(trainer, batch_idx)
        steps = trainer.global_step - self._saved
        if steps > 0 and (asked or 0 < self.every_n_steps <= steps):
            file = Path(trainer.default_root_dir) / LAST
            trainer.save_checkpoint(file, weights_only=False)
            self._saved = trainer.global_step
        self._end_if(asked)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = trainer.global_step  # ModelCheckpoint writes last.ckpt now

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end_if(self._asked(trainer, 0))

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._give_signals_back()

    # --- inside --------------------------------------------------------------------------------

    def _take(self, number: signal.Signals) -> None:
        self._handlers.setdefault(number, signal.signal(number, self._notice))

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._signal = max(self._signal, number)

    def _asked(self, trainer: L.Trainer, batch_idx: int) -> int:
        """The signal that any process got, in all of them alike; 0 if none."""
        if trainer.world_size == 1:
            return self._signal
        if batch_idx % ASK_EVERY:
            return 0
        number = torch.tensor(self._signal, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
        return int(number)

    def _end_if(self, number: int) -> None:
        if number:
            name = signal.Signals(number).name
            rank_zero_info(f"{name}: last.ckpt is written; --ckpt_path last goes on from here")
            raise SystemExit(STATUS[signal.Signals(number)])

    def _give_signals_back(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())


def _can_resume_here(trainer: L.Trainer, batch_idx: int) -> bool:
    """Not between two halves of a step, nor where a validation comes next, which a resumed run
    would leave out."""
    stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    checks = trainer.val_check_batch
    validates = checks is not None and (
        (batch_idx + 1) % checks == 0 or trainer.fit_loop.total_batch_idx % checks == checks - 1
    )
    return stepped and not validates and not trainer.is_last_batch


def _load_loops(trainer: L.Trainer, state: dict[str, Any]) -> None:
    """Earlier than Lightning does: it builds the loader, to learn the schedule's length, before it
    restores its loops, which would leave the loader at the first epoch's first row."""
    loop = trainer.fit_loop.epoch_loop
    # With max_steps, Lightning would run the end of an epoch that has ended once more.
    limit, loop.max_steps = loop.max_steps, -1
    trainer.fit_loop.load_state_dict(state)
    loop.max_steps = limit


def _place(trainer: L.Trainer) -> dict[str, int]:
    """What decides which rows the next batch holds."""
    data = getattr(trainer, "datamodule", None)
    return {
        "devices times nodes": trainer.world_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        **{f"data.{name}": getattr(data, name) for name in PLACE if hasattr(data, name)},
    }


def _check_place(stored: Mapping[str, int], now: Mapping[str, int]) -> None:
    changed = [f"{k}={now[k]} (was {v})" for k, v in stored.items() if k in now and now[k] != v]
    if changed:
        raise UserError(
            f"the checkpoint is from the middle of an epoch, and {', '.join(changed)} would go on "
            "with other rows",
            "give the old values, or a checkpoint written at the end of an epoch (best.ckpt)",
        )


def _follow_moved_folder(callbacks: dict[str, Any], folder: Path) -> None:
    """Checkpoints that a run left in `folder`, whatever its path was when they were written.

    ModelCheckpoint forgets the best score where the path has changed, and would then let a worse
    epoch take the best one's place.
    """
    now = os.path.realpath(folder)
    for state in callbacks.values():
        before = state.get("dirpath") if isinstance(state, dict) else None
        if before is None or not (folder / Path(state["best_model_path"]).name).is_file():
            continue
        state["dirpath"] = now
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = state[name].replace(before, now, 1)
        best = state["best_k_models"]
        state["best_k_models"] = {k.replace(before, now, 1): v for k, v in best.items()}


# --- random numbers ----------------------------------------------------------------------------


def random_state(trainer: L.Trainer) -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators, as tensors and plain values."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    device = trainer.strategy.root_device
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], trainer: L.Trainer) -> None:
    """The inverse of `random_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    device = trainer.strategy.root_device
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


# --- files -------------------------------------------------------------------------------------


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the file and renames, so that a kill leaves the old checkpoint or the new one.

    Lightning writes to the system's temporary folder and moves, which is a copy, and can be cut
    short, wherever that folder is on another disk than the runs.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        assert storage_options is None
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.part")
        with beside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)


def kept_checkpoints(run_folder: Path) -> list[L.Callback]:
    """best.ckpt whenever val/dice rises, and last.ckpt after every epoch, better or not.

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
    """last.ckpt of the newest run below `runs`, the folder of one config's runs.

    Raises:
        UserError: there is none.
    """
    found = sorted(runs.glob(f"*/{LAST.as_posix()}"), key=lambda path: path.parents[1].name)
    if not found:
        raise UserError(
            f"ckpt_path=last, but no run in {runs} has a {LAST.as_posix()}",
            "start without --ckpt_path, or name the checkpoint to go on from",
        )
    return found[-1]


def continue_table(table: CSVLogger, step: int) -> None:
    """Let a logger go on with the metrics.csv in its folder, less the rows from `step` on.

    CSVLogger alone deletes the file. What the killed run logged after its last checkpoint is
    dropped, because the resumed one logs it again.
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
        part = aside.with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, names)
            writer.writeheader()
            writer.writerows(row for row in rows if int(row["step"]) < step)
        part.replace(aside)
    if aside.exists():
        file.unlink(missing_ok=True)  # its rows are kept aside; and now nothing warns of them
        written = table.experiment
        aside.replace(file)
        with file.open(newline="", encoding="utf-8") as lines:
            written.metrics_keys = next(csv.reader(lines))
