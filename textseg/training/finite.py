"""The callback that keeps a training finite: it stops, or leaves a step out, and says where.

A step is looked at before the optimizer takes it, so that weights, optimizer and running statistics
never hold NaN. On a GPU nothing waits for the answer: a fused optimizer is handed the finding and
leaves the step out by itself, as it does for a GradScaler, and the host reads it one step later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.nn.utils import get_total_norm

from textseg.errors import NotFiniteError, check_choice
from textseg.models.odd_logits import named_cases
from textseg.training.checkpoint_files import LAST

OnNan = Literal["stop", "skip"]
MOST_IN_A_ROW = (
    40  # steps that are not finite; a GradScaler has halved its scale to nothing by then
)
_TOLD = 5  # steps left out of which each is told; the others are counted


class FiniteTraining(L.Callback):
    """Looks at loss and gradient norm of every step before the optimizer takes it.

    Under 16-mixed the loss alone counts: gradients that are not finite are how the GradScaler finds
    its scale, up to `MOST_IN_A_ROW` of them. Processes of one training agree.

    Args:
        on_nan: ``stop`` ends the training at the first step that is not finite; ``skip`` leaves it
            out, counts it, and stops after `MOST_IN_A_ROW` in a row.
    """

    def __init__(self, on_nan: OnNan = "stop") -> None:
        check_choice("on_nan", on_nan, OnNan)
        self.on_nan = on_nan
        self.left_out = 0
        self._in_a_row = 0
        self._step: _Step | None = None  # at hand
        self._unread: list[_Step] = []  # whose finding may still be on its way from the GPU
        self._stopped: Tensor | None = None  # on a GPU: whether a step before was not finite
        self._statistics = _Statistics()

    def state_dict(self) -> dict[str, Any]:
        """How many steps were left out so far, for the checkpoint."""
        return {"left_out": self.left_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.left_out = state_dict["left_out"]

    # --- before the step -----------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin without a finding."""
        self._in_a_row, self._step, self._unread, self._stopped = 0, None, [], None
        self._statistics = _Statistics()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the cases, and keep the running statistics that the forward pass will move."""
        if self._step is None:
            self._step = _Step(trainer.global_step + 1)
            self._statistics.keep(pl_module)
        self._step.cases += _cases(batch, batch_idx)

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Note the loss."""
        if self._step is not None:
            self._step.losses.append(loss.detach().float())

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        """Let the optimizer leave out a step that is not finite."""
        step = self._step
        if step is None or not step.losses:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        step.rate = max(group["lr"] for group in optimizer.param_groups)
        step.norm = gradient_norm(optimizer).to(step.losses[-1].device)
        loss = torch.stack(step.losses).sum()
        odd = ~torch.isfinite(loss if scaler else loss + step.norm)
        found = odd.float().reshape(())
        if trainer.world_size > 1:
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        if scaler is None and leaves_steps_out(optimizer, found):
            if self.on_nan == "stop":  # those that follow before the host knows as well
                found = found if self._stopped is None else torch.maximum(found, self._stopped)
                self._stopped = found
            optimizer.found_inf = found
            self._statistics.restore_where(found)
            step.found = _Readback(found)
            return
        step.found = _Readback(found)
        if step.found.value():
            self._statistics.restore()
            if scaler is None:  # which leaves the step out by itself
                _drop_gradients(optimizer)

    # --- after the step ------------------------------------------------------------------------

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the last step, or on a GPU at the one before."""
        for optimizer in trainer.optimizers:
            if hasattr(optimizer, "found_inf"):
                del optimizer.found_inf
        if self._step is not None and self._step.found is not None:
            self._unread.append(self._step)
            self._step = None
        self._look(trainer, pl_module, leave=1)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at all steps before their weights are scored."""
        self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at all steps; what was accumulated of another is dropped, as Lightning does."""
        self._look(trainer, pl_module)
        self._step = None

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look at all steps before a checkpoint takes another's place."""
        if self._step is not None and self._step.found is not None:  # another callback saves first
            self._unread.append(self._step)
            self._step = None
        self._look(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how many steps were left out."""
        self._look(trainer, pl_module)
        if self.left_out:
            rank_zero_warn(
                f"on_nan=skip: {self.left_out} of {trainer.global_step} steps were left out "
                "because their loss or gradient was not finite"
            )

    # --- inside --------------------------------------------------------------------------------

    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule, *, leave: int = 0) -> None:
        """Act on the findings, but for the last `leave` that are still on their way."""
        while self._unread and (len(self._unread) > leave or self._unread[0].read):
            step = self._unread.pop(0)
            assert step.found is not None
            if step.found.value():
                self._left_out(trainer, pl_module, step)
            elif getattr(trainer.precision_plugin, "scaler", None) and not step.norm.isfinite():
                self._in_a_row += 1
                if self._in_a_row > MOST_IN_A_ROW:
                    raise _not_finite(trainer, step, f"{self._in_a_row} steps in a row, as here: ")
            else:
                self._in_a_row = 0

    def _left_out(self, trainer: L.Trainer, pl_module: L.LightningModule, step: _Step) -> None:
        """Stop the training, or count a step that was left out."""
        named = pl_module.named_parameters()
        broken = next((name for name, one in named if not one.isfinite().all()), None)
        self._in_a_row += 1
        if broken is not None:
            raise _not_finite(trainer, step, f"the weights ({broken}) are not finite; ")
        if self.on_nan == "stop":
            raise _not_finite(trainer, step)
        if self._in_a_row > MOST_IN_A_ROW:
            raise _not_finite(trainer, step, f"{self._in_a_row} steps in a row, as here: ")
        self.left_out += 1
        text = step.described(trainer)
        if self.left_out <= _TOLD:
            rank_zero_info(f"left out: {text}")


class _Readback:
    """A flag that the host can read without waiting for what was queued on the GPU after it."""

    def __init__(self, flag: Tensor) -> None:
        self._flag, self._event = flag, None
        if flag.is_cuda:
            self._flag = torch.empty_like(flag, device="cpu", pin_memory=True)
            self._flag.copy_(flag, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    @property
    def here(self) -> bool:
        """Whether reading it takes no waiting."""
        return self._event is None

    def value(self) -> bool:
        """The flag, once it is there."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._flag)


@dataclass
class _Step:
    """What is said of an optimizer step."""

    number: int  # from 1
    cases: list[str] = field(default_factory=list)  # of this process
    losses: list[Tensor] = field(default_factory=list)
    rate: float = 0.0  # learning rate, the highest of the groups
    norm: Tensor = field(default_factory=lambda: torch.tensor(0.0))  # of the gradient
    found: _Readback | None = None  # whether it was left out

    @property
    def read(self) -> bool:
        return self.found is not None and self.found.here

    def described(self, trainer: L.Trainer) -> str:
        """Step, epoch, loss, cases, learning rate and norm; those of all processes are asked."""
        loss = float(torch.stack(self.losses).sum())
        own = (loss, self.cases)
        every: list[Any] = [own]
        if trainer.world_size > 1:
            every = [None] * trainer.world_size
            torch.distributed.all_gather_object(every, own)
        odd = [one for one in every if not torch.tensor(one[0]).isfinite()]
        cases = [case for _, cases in odd or every for case in cases]
        return (
            f"step {self.number} (epoch {trainer.current_epoch}): loss {(odd or every)[0][0]:.4g}, "
            f"gradient norm {float(self.norm):.4g}, learning rate {self.rate:.4g}, "
            f"cases {named_cases(cases)}"
        )


class _Statistics:
    """A copy of a network's buffers, such as the running statistics of batch norms.

    A forward pass of values that are not finite leaves them so, whatever the optimizer then does.
    """

    def __init__(self) -> None:
        self._network: L.LightningModule | None = None
        self._live: list[Tensor] = []
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def keep(self, network: L.LightningModule) -> None:
        """Copy what there is now."""
        if self._network is not network:
            self._live = [one for one in network.buffers() if one.is_floating_point()]
            self._network = network
            self._kept = [one.clone() for one in self._live]
        elif self._live:
            torch._foreach_copy_(self._kept, self._live)

    def restore(self) -> None:
        """Undo what has happened since."""
        if self._live:
            torch._foreach_copy_(self._live, self._kept)

    def restore_where(self, found: Tensor) -> None:
        """The same where `found` is not 0, which is not read."""
        for live, kept in zip(self._live, self._kept, strict=True):
            torch.where(found > 0, kept, live, out=live)


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """The 2-norm of all gradients of an optimizer together, as clipping has it."""
    parameters = (one for group in optimizer.param_groups for one in group["params"])
    return get_total_norm([one.grad for one in parameters if one.grad is not None])


def leaves_steps_out(optimizer: Any, found: Tensor) -> bool:
    """Whether an optimizer leaves a step out on the GPU itself, where `found` is 1."""
    return found.is_cuda and all(group.get("fused") for group in optimizer.param_groups)


def _drop_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Without gradients an optimizer moves nothing, not even its moments."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _cases(batch: Any, batch_idx: int) -> list[str]:
    """What the rows of a batch are called."""
    if not isinstance(batch, dict) or not batch.get("case"):
        return [f"of batch {batch_idx}"]
    ids = batch.get("case_id") or [""] * len(batch["case"])
    named = zip(batch["case"], ids, strict=True)
    return [f"{case} ({case_id})" if case_id else case for case, case_id in named]


def _not_finite(trainer: L.Trainer, step: _Step, why: str = "") -> NotFiniteError:
    file = Path(trainer.default_root_dir) / LAST
    left = f"{file} holds the last finite state that was written" if file.is_file() else ""
    ways = (
        "lower model.lr, clip (trainer.gradient_clip_val), look at these cases, or leave such "
        "steps out with --on_nan skip"
    )
    return NotFiniteError(
        f"the training is not finite: {why}{step.described(trainer)}",
        f"{left}; {ways}" if left else ways,
    )
