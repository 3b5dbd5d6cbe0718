"""Says which help is meant where one is asked of the wrong kind of class."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
from lightning.pytorch.loggers import Logger

from textseg.checkpoint import subclasses_of
from textseg.cli.messages import options
from textseg.errors import UserError
from textseg.models.base import SegmentationModule


def check_help(command: str, arguments: Sequence[str], datamodule: type) -> None:
    """Check that each `--model.help NAME`, `--data.help NAME` names a class of that kind.

    Raises:
        UserError: NAME is of another kind, or --trainer, which is one class, is given a NAME.
    """
    bases: dict[str, type] = {"model": SegmentationModule, "data": datamodule}
    bases |= {"trainer.callbacks": L.Callback, "trainer.logger": Logger}
    kinds: dict[str, str] = {
        k.__name__: key for key, base in bases.items() for k in subclasses_of(base)
    }
    for flag, value in options(arguments):
        key = flag.removeprefix("--").removesuffix(".help")
        if not flag.endswith(".help") or key not in (*bases, "trainer"):
            continue
        name = value.rpartition(".")[2]
        kind = kinds.get(name)
        if kind not in (None, key):
            raise UserError(f"{flag} {name}: {name} is no --{key}", f"give --{kind}.help {name}")
        if key == "trainer":
            raise UserError(
                f"{flag} {name}: the trainer is always the same class",
                f"see textseg {command} --help for its settings, and --trainer.callbacks.help or "
                "--trainer.logger.help for those classes",
            )
