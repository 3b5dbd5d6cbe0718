"""A run's settings as a table that shows nothing of the machine's folders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from textseg.report.blocks import Block, Cell, Group, Table, Text

_ABSOLUTE = re.compile(r"(?:[a-z][a-z0-9+.-]*://|~|/|\\\\|[A-Za-z]:[\\/]).*", re.DOTALL)


def settings_block(settings: Mapping[str, Any]) -> Block:
    """Build a table of all settings, opened at a click; a sentence where there are none."""
    if not settings:
        return Text("config.yaml is missing.")
    rows = [[Cell(name), Cell(value)] for name, value in flat_settings(settings)]
    caption = "config.yaml; of absolute paths only the last part is shown"
    title = f"All {len(rows)} settings of config.yaml"
    return Group(title, [Table(caption, ["setting", "value"], rows)], closed=True)


def flat_settings(settings: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """List settings by dotted name; of absolute paths only the last part."""
    flat: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat += flat_settings(value, f"{above}{key}.")
        else:
            shown = _without_paths(value)
            is_text = isinstance(shown, str)
            text = shown if is_text else json.dumps(shown, ensure_ascii=False, default=str)
            flat.append((f"{above}{key}", text))
    return flat


def _without_paths(value: Any) -> Any:
    """`/home/somebody/data/qata` -> `.../qata`, in lists and mappings too."""
    if isinstance(value, dict):
        return {key: _without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    if not isinstance(value, str) or not _ABSOLUTE.fullmatch(value):
        return value
    last = re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return f".../{last}"
