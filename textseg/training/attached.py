"""The callbacks of a Trainer, by class."""

from __future__ import annotations

from typing import Any, TypeVar

import lightning as L

Kind = TypeVar("Kind", bound=L.Callback)


def callbacks_of(trainer: Any, kind: type[Kind]) -> list[Kind]:
    """The callbacks of one class; `Trainer.callbacks` exists, but Lightning does not declare it."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]
