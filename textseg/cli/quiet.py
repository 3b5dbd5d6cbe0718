"""Silences what the libraries print and a user can do nothing about."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

from textseg.errors import printable

# The start of a warning and its class; above it, why it is of no use.
_WARNINGS = {
    # Lightning's own call.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated": FutureWarning,
    # A test needs none of the callbacks of the training.
    r"Be aware that when using `ckpt_path`": UserWarning,
    # A run that was moved keeps its best checkpoint beside the others.
    r"The dirpath has changed from": UserWarning,
    # Frozen encoders are meant to be in eval mode.
    r"Found \d+ module\(s\) in eval mode": UserWarning,
    # Losses are logged once an epoch, whatever log_every_n_steps.
    r"The number of training batches": UserWarning,
}


def silence_noise() -> None:
    """Leave out advertisements, and warnings that no setting would mend."""
    show_warnings_plainly()
    for start, kind in _WARNINGS.items():
        warnings.filterwarnings("ignore", message=start, category=kind)
    # Lightning's messages come from this logger; those with a light bulb praise other products.
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    if _no_advertisement not in log.filters:
        log.addFilter(_no_advertisement)


def show_warnings_plainly() -> None:
    """Show warnings without what a terminal would obey, as a file's name may hold it.

    Lightning replaces how warnings are written when it is imported: call this after it as well.
    """
    written = warnings.formatwarning
    if isinstance(written, _PlainWarnings):
        return
    warnings.formatwarning = _PlainWarnings(written)


class _PlainWarnings:
    """What writes warnings, of another such function."""

    def __init__(self, written: Callable[..., str]) -> None:
        self.written = written

    def __call__(self, *given: Any, **named: Any) -> str:
        return printable(self.written(*given, **named))


def _no_advertisement(record: logging.LogRecord) -> bool:
    record.msg = printable(str(record.msg))  # it may name files
    return "\N{ELECTRIC LIGHT BULB} Tip:" not in record.msg
