"""Silences what the libraries print and a user can do nothing about."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import TextIO

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
    for start, kind in _WARNINGS.items():
        warnings.filterwarnings("ignore", message=start, category=kind)
    # Lightning's messages come from this logger; those with a light bulb praise other products.
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    if _no_advertisement not in log.filters:
        log.addFilter(_no_advertisement)


def show_warnings_plainly() -> None:
    """Show warnings without what a terminal would obey, as a file's name may hold it."""
    warnings.showwarning = _show_plainly


def _show_plainly(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(printable(text))


def _no_advertisement(record: logging.LogRecord) -> bool:
    record.msg = printable(str(record.msg))  # it may name files
    return "\N{ELECTRIC LIGHT BULB} Tip:" not in record.msg
