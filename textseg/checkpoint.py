"""Reads checkpoints: tensors and plain values, never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from textseg.errors import UserError, first_line


def load_plain(path: str | Path, *, field: str, wanted: str) -> Any:
    """What a .ckpt or .pth file holds, if that is tensors and plain values only.

    Args:
        path: the file.
        field: the setting that names it, for messages.
        wanted: what to give instead, for messages.

    Raises:
        UserError: the file is missing, cut short, or holds code, which is never run.
    """
    if not Path(path).is_file():
        raise UserError(
            f"{field}={str(path)!r} does not exist",
            f"give {wanted}",
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file fails in as many ways as it can be broken
        raise UserError(
            f"{field}={str(path)!r} cannot be read as weights ({first_line(error)})",
            f"it is cut short, or holds code, which is never run: give {wanted}",
        ) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A Lightning checkpoint, tensors and plain values only: no code in it is run.

    Raises:
        UserError: the file is missing, is no checkpoint, or holds more than weights and settings.
    """
    checkpoint = load_plain(
        path,
        field="ckpt_path",
        wanted="a file such as runs/<config>/<time>/checkpoints/best.ckpt",
    )
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} holds no state_dict", "give a checkpoint that textseg wrote")
    return checkpoint
