"""Refuses a monitor that nothing logs, before the first step."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import lightning as L

from textseg.errors import UserError
from textseg.models.base import SegmentationModule
from textseg.runs.outputs import callbacks_of

_TRAINING_HOOKS = (
    *("training_step", "on_train_batch_start", "on_train_batch_end"),
    *("on_train_epoch_start", "on_train_epoch_end", "_step"),
)
_OURS = ("lightning", "textseg")


class MonitorCheck(L.Callback):
    """Compares monitors with what the trial validation logged.

    Lightning looks for a monitor after the first epoch. Of training steps the terms of the loss are
    known by then, which validation logs too; what hooks and callbacks of a user's own may log there
    is not, and where there are any, a monitor is left to them.
    """

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check every monitor.

        Raises:
            UserError: nothing logs it.
        """
        logged = {str(name) for name in trainer.callback_metrics}
        if not logged or _logs_more(trainer, pl_module):
            return
        terms = {name.removeprefix("val/") for name in logged if name.startswith("val/loss")}
        logged |= {f"train/{term}" for term in terms} | {"epoch", "step"}
        for user, monitor in monitors(trainer):
            if monitor not in logged and not monitor.startswith("train/loss_auxiliary"):
                raise UserError(
                    f"{user}: monitor={monitor!r} is not logged", _remedy(monitor, logged)
                )


def monitors(trainer: L.Trainer) -> Iterator[tuple[str, str]]:
    """What watches a logged number, by class, and that number's name."""
    for one in callbacks_of(trainer, L.Callback):
        monitor = getattr(one, "monitor", None)
        if isinstance(monitor, str) and getattr(one, "strict", True):
            yield type(one).__name__, monitor
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and isinstance(config.monitor, str) and config.strict:
            yield type(config.scheduler).__name__, config.monitor


def _logs_more(trainer: L.Trainer, network: L.LightningModule) -> bool:
    """Whether code of a user's own may log in training what validation does not."""
    known = callbacks_of(trainer, L.Callback)
    own = [one for one in known if type(one).__module__.partition(".")[0] not in _OURS]
    changed = [
        name
        for name in _TRAINING_HOOKS
        if getattr(type(network), name, None) is not getattr(SegmentationModule, name, None)
    ]
    return bool(own or changed)


def _remedy(monitor: str, logged: set[str]) -> str:
    plain = {name: name.replace("/", "_") for name in sorted(logged) if "/" in name}
    near = difflib.get_close_matches(monitor.replace("/", "_"), plain.values(), n=3, cutoff=0.6)
    names = [name for name, text in plain.items() if text in near]
    if "loss" in monitor and "val/loss" in logged and "val/loss" not in names:
        names.append("val/loss")
    if not names or (monitor.startswith("val") and "val/dice" not in names):
        names.append("val/dice")
    return f"did you mean {' or '.join(names)}?"
