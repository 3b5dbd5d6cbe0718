"""Settings without what belongs to a machine or an account."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textseg.report.run_page import without_paths

_FOLDER = "local-dir:"  # begins timm's names of folders


def portable(value: Any) -> Any:
    """A value without absolute paths; a timm folder keeps its prefix, by which it is known."""
    if isinstance(value, Mapping):
        return {key: portable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [portable(one) for one in value]
    if isinstance(value, str) and value.startswith(_FOLDER):
        return _FOLDER + str(without_paths(value.removeprefix(_FOLDER)))
    return without_paths(value)


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings as `portable`, without its loggers, which name accounts."""
    kept = dict(settings)
    if isinstance(kept.get("trainer"), Mapping):
        kept["trainer"] = {k: v for k, v in kept["trainer"].items() if k != "logger"}
    public: dict[str, Any] = portable(kept)
    return public
