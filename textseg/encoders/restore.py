"""Rebuild encoders from a checkpoint instead of from files and hubs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from textseg.errors import UserError

_restored: ContextVar[Mapping[str, Any] | None] = ContextVar("_restored", default=None)


@contextmanager
def restoring(state_dict: Mapping[str, Any]) -> Iterator[None]:
    """While open, build encoders as `state_dict` describes them and fetch nothing.

    The weights themselves are left random: the caller loads `state_dict` next.
    """
    token = _restored.set(state_dict)
    try:
        yield
    finally:
        _restored.reset(token)


def is_restoring() -> bool:
    """Whether a checkpoint's weights will be loaded, so that no others need be read."""
    return _restored.get() is not None


def restored_text_state() -> Mapping[str, str] | None:
    """Config and tokenizer of the checkpoint's text encoder; None outside `restoring`.

    Raises:
        UserError: the checkpoint has no text encoder.
    """
    state_dict = _restored.get()
    if state_dict is None:
        return None
    stored = [v for k, v in state_dict.items() if k.endswith("text_encoder._extra_state")]
    if not stored:
        raise UserError(
            "the checkpoint describes no text encoder",
            "it is of another network: give the config of the run it came from",
        )
    return stored[0]


def restored_image_source() -> str:
    """What the checkpoint keeps of a timm model that came from a hub or folder.

    Raises:
        UserError: the checkpoint keeps nothing of the kind.
    """
    stored = [v for k, v in (_restored.get() or {}).items() if k.endswith("source._extra_state")]
    if not stored:
        raise UserError(
            "the checkpoint describes no image encoder of a hub or folder",
            "it is of another network: give the config of the run it came from",
        )
    return stored[0]
