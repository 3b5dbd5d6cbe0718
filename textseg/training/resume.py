"""The callback that makes every checkpoint of a fit one that can be resumed exactly."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from textseg.errors import check_at_least
from textseg.training.checkpoint_files import LAST
from textseg.training.random_state import random_state, set_random_state
from textseg.training.resume_checks import (
    check_averaging,
    check_data_position,
    check_length,
    data_position,
    in_mid_epoch,
)

STATE = "restart"  # what `Restart` adds to a checkpoint
# Exit statuses. A job script requeues on the first: EX_TEMPFAIL of sysexits.h, "try again later".
RESUME_ME, TERMINATED = 75, 128 + signal.SIGTERM
EXIT_STATUS = {signal.SIGUSR1: RESUME_ME, signal.SIGTERM: TERMINATED}
SIGNAL_CHECK_EVERY = 10  # batches; then all processes learn whether one was signalled


class Restart(L.Callback):
    """Makes every checkpoint of a fit one that can be resumed exactly, and writes last.ckpt often.

    On SIGUSR1 (exit status 75) and SIGTERM (143) last.ckpt is written after the step at hand, and
    the run ends.

    Args:
        every_n_steps: optimizer steps after which last.ckpt is written in the middle of an epoch;
            0 writes it after each epoch only.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        remedy = "give a number of steps, or 0 to write last.ckpt after each epoch only"
        check_at_least("restart.every_n_steps", every_n_steps, 0, remedy)
        self.every_n_steps = every_n_steps
        self._saved_step = 0  # step of the newest last.ckpt
        self._signal = 0
        self._next_check = 0  # batch of the epoch
        self._random_state: dict[str, Any] | None = None  # to be restored before the first step
        self._handlers: dict[signal.Signals, Any] = {}

    # --- what a checkpoint holds ---------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random states and the position in the data of every process."""
        fit_loop = checkpoint["loops"]["fit_loop"]["state_dict"]
        own = {"random": random_state(trainer), "loader": fit_loop.get("combined_loader", [])}
        processes: list[Any] = [own]
        if trainer.world_size > 1:
            processes = [None] * trainer.world_size
            torch.distributed.all_gather_object(processes, own)
        runs = [log.version for log in trainer.loggers if isinstance(log, WandbLogger)]
        checkpoint[STATE] = {
            "processes": processes,
            "data_position": data_position(trainer),
            "wandb_id": runs[0] if runs else None,
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the loops, and keep this process's random states until the first step.

        Raises:
            UserError: the checkpoint cannot be gone on from with these settings.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        check_averaging(trainer, checkpoint)
        check_length(trainer, checkpoint["loops"])
        _relocate_checkpoints(checkpoint["callbacks"], Path(trainer.default_root_dir) / LAST.parent)
        _restore_early_stop(trainer, checkpoint["callbacks"])
        fit_loop = checkpoint["loops"]["fit_loop"]
        stored = checkpoint.get(STATE)
        if stored is None:
            rank_zero_warn("the checkpoint holds no random states: the run goes on, not exactly")
            return
        if in_mid_epoch(checkpoint["loops"]):
            best = Path(str(trainer.ckpt_path)).with_name("best.ckpt")
            check_data_position(stored["data_position"], data_position(trainer), best)
        if len(stored["processes"]) == trainer.world_size:
            own = stored["processes"][trainer.global_rank]
            self._random_state = own["random"]
            fit_loop["state_dict"]["combined_loader"] = own["loader"]
        else:
            rank_zero_warn(
                f"{len(stored['processes'])} processes wrote the checkpoint and "
                f"{trainer.world_size} go on from it: new random numbers are drawn"
            )
        _restore_loops(trainer, checkpoint.pop("loops")["fit_loop"])

    # --- when one is written -------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Handle SIGUSR1 from now on: Lightning does, unless somebody has."""
        self._signal = 0
        self._install_handler(signal.SIGUSR1)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._restore_handlers()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the random states, so that what starting up drew does not count."""
        self._saved_step = trainer.global_step
        self._next_check = 0
        # Lightning's own handlers save in the middle of a step, and talk to other processes there.
        self._install_handler(signal.SIGTERM)
        if self._random_state is not None:
            set_random_state(self._random_state, trainer)
            self._random_state = None

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write last.ckpt where one is due, and end the run on a signal."""
        if not _can_resume_here(trainer, batch_idx):
            return
        number = self._signal_of_any_process(trainer, batch_idx)
        steps = trainer.global_step - self._saved_step
        if steps > 0 and (number or 0 < self.every_n_steps <= steps):
            file = Path(trainer.default_root_dir) / LAST
            trainer.save_checkpoint(file, weights_only=False)
            self._saved_step = trainer.global_step
        self._exit_on(trainer, number)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from here: ModelCheckpoint writes last.ckpt after each epoch."""
        self._saved_step = trainer.global_step

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the run on a signal that came between two epochs."""
        self._next_check = 0
        self._exit_on(trainer, self._signal_of_any_process(trainer, 0))

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._restore_handlers()

    # --- inside --------------------------------------------------------------------------------

    def _install_handler(self, number: signal.Signals) -> None:
        self._handlers.setdefault(number, signal.signal(number, self._on_signal))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = max(self._signal, number)

    def _signal_of_any_process(self, trainer: L.Trainer, batch_idx: int) -> int:
        """The signal that any process got, the same in all of them; 0 if none.

        All processes call it after the same batch. They exchange signals at an epoch's first call,
        and again whenever `SIGNAL_CHECK_EVERY` batches or more have passed.
        """
        if trainer.world_size == 1:
            return self._signal
        if batch_idx < self._next_check:
            return 0
        self._next_check = batch_idx + SIGNAL_CHECK_EVERY
        number = torch.tensor(self._signal, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
        return int(number)

    def _exit_on(self, trainer: L.Trainer, number: int) -> None:
        if not number:
            return
        if (Path(trainer.default_root_dir) / LAST).is_file():
            left = f"last.ckpt holds step {self._saved_step}; --ckpt_path last goes on from here"
        else:
            left = "no step was trained and there is no last.ckpt: start again in the same way"
        rank_zero_info(f"{signal.Signals(number).name}: {left}")
        raise SystemExit(EXIT_STATUS[signal.Signals(number)])

    def _restore_handlers(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())


def _can_resume_here(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether a step has ended and no validation comes next, which a resumed run would skip."""
    stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    checks = trainer.val_check_batch
    validates = checks is not None and (
        (batch_idx + 1) % checks == 0 or trainer.fit_loop.total_batch_idx % checks == checks - 1
    )
    return stepped and not validates and not trainer.is_last_batch


def _restore_loops(trainer: L.Trainer, state: dict[str, Any]) -> None:
    """Restore the loops, and with them the loader's position, before Lightning does.

    It builds the loader, to learn the schedule's length, before it restores its loops, which would
    leave the loader at the first epoch's first row.
    """
    loop = trainer.fit_loop.epoch_loop
    # With max_steps, Lightning would run the end of an epoch that has ended once more.
    limit, loop.max_steps = loop.max_steps, -1
    trainer.fit_loop.load_state_dict(state)
    loop.max_steps = limit


def _restore_early_stop(trainer: L.Trainer, callbacks: dict[str, Any]) -> None:
    """Stop a run that had stopped early; Lightning keeps that decision and does not act on it."""
    for stopping in trainer.early_stopping_callbacks:
        state = callbacks.get(stopping.state_key, {})
        never = EarlyStoppingReason.NOT_STOPPED.value
        if state.get("stopping_reason", never) != never:
            trainer.should_stop = True
            rank_zero_info(f"this run had stopped early. {state['stopping_reason_message']}")


def _relocate_checkpoints(callbacks: dict[str, Any], folder: Path) -> None:
    """Rewrite the paths of a run's checkpoints to `folder`, where the run may have been moved.

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
