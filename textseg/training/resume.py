"""The callback that makes every checkpoint of a fit one that can be resumed exactly."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from textseg.errors import UserError
from textseg.training.attached import callbacks_of
from textseg.training.checkpoint_files import LAST
from textseg.training.random_state import random_state, set_random_state
from textseg.training.resume_checks import (
    check_averaging,
    check_length,
    check_place,
    data_position,
    in_mid_epoch,
)

STATE = "restart"  # what `Restart` adds to a checkpoint
# Exit statuses. A job script requeues on the first: EX_TEMPFAIL of sysexits.h, "try again later".
RESUME_ME, TERMINATED = 75, 128 + signal.SIGTERM
STATUS = {signal.SIGUSR1: RESUME_ME, signal.SIGTERM: TERMINATED}
ASK_EVERY = 10  # batches between two questions whether any process was signalled


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
        self._ask_from = 0  # batch of the epoch
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
            "place": data_position(trainer),
            "wandb_id": runs[0] if runs else None,
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take this process's states; called before Lightning restores its loops.

        Raises:
            UserError: the checkpoint cannot be gone on from with these settings.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        check_averaging(trainer, checkpoint)
        check_length(trainer, checkpoint["loops"])
        _follow_moved_folder(checkpoint["callbacks"], Path(trainer.default_root_dir) / LAST.parent)
        _stop_again(trainer, checkpoint["callbacks"])
        fit_loop = checkpoint["loops"]["fit_loop"]
        stored = checkpoint.get(STATE)
        if stored is None:
            rank_zero_warn("the checkpoint holds no random states: the run goes on, not exactly")
            return
        if in_mid_epoch(checkpoint["loops"]):
            best = Path(str(trainer.ckpt_path)).with_name("best.ckpt")
            check_place(stored["place"], data_position(trainer), best)
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
        self._restore_handlers()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Everything that starting up drew is forgotten here; the next draw is a step's."""
        self._saved = trainer.global_step
        self._ask_from = 0
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
        self._end_if(trainer, asked)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = trainer.global_step  # ModelCheckpoint writes last.ckpt now

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ask_from = 0
        self._end_if(trainer, self._asked(trainer, 0))

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()

    # --- inside --------------------------------------------------------------------------------

    def _take(self, number: signal.Signals) -> None:
        self._handlers.setdefault(number, signal.signal(number, self._notice))

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._signal = max(self._signal, number)

    def _asked(self, trainer: L.Trainer, batch_idx: int) -> int:
        """The signal that any process got, in all of them alike; 0 if none.

        Called where all processes are after the same batch. They talk at the first such place, and
        at the first that is `ASK_EVERY` batches or more after the last.
        """
        if trainer.world_size == 1:
            return self._signal
        if batch_idx < self._ask_from:
            return 0
        self._ask_from = batch_idx + ASK_EVERY
        number = torch.tensor(self._signal, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
        return int(number)

    def _end_if(self, trainer: L.Trainer, number: int) -> None:
        if not number:
            return
        if (Path(trainer.default_root_dir) / LAST).is_file():
            left = f"last.ckpt holds step {self._saved}; --ckpt_path last goes on from here"
        else:
            left = "no step was trained and there is no last.ckpt: start again in the same way"
        rank_zero_info(f"{signal.Signals(number).name}: {left}")
        raise SystemExit(STATUS[signal.Signals(number)])

    def _restore_handlers(self) -> None:
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


def _stop_again(trainer: L.Trainer, callbacks: dict[str, Any]) -> None:
    """Where early stopping had ended the run: its decision is in its state, and nobody reads it."""
    for stopping in callbacks_of(trainer, EarlyStopping):
        state = callbacks.get(stopping.state_key, {})
        never = EarlyStoppingReason.NOT_STOPPED.value
        if state.get("stopping_reason", never) != never:
            trainer.should_stop = True
            rank_zero_info(f"this run had stopped early. {state['stopping_reason_message']}")


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
