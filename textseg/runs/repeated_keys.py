"""YAML in which a key stands twice: readers take the last of the two and lose the first unsaid."""

from __future__ import annotations

from os import PathLike
from typing import Any

import yaml

from textseg.errors import UserError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_keys(text: str, source: str | PathLike[str] = "") -> None:
    """Check that a YAML text gives no key twice in one place; text that is no YAML passes.

    Args:
        text: the content.
        source: the file that it is of; empty where that is not known, as of a typed value.

    Raises:
        UserError: a key is given twice.
    """
    try:
        nodes = [yaml.compose(text, Loader=_Loader)]
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    seen: set[int] = set()  # an anchor's node may stand in many places
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and name in lines and name != "<<":
                where = source or f"YAML that begins with {' '.join(text.split())[:60]!r}"
                raise UserError(
                    f"{where}, line {line}: {name} is there already, in line {lines[name]}",
                    "join the two, or leave one out",
                )
            lines[name] = line
            nodes.append(value)
