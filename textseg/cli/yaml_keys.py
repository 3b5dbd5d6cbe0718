"""YAML in which a key stands twice: it takes the last of the two, and the first is lost unsaid."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from textseg.errors import UserError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class RepeatedKey(BaseException):
    """What the loader refuses; of an Exception the parser would try the value as another type."""


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


def check_files(files: Iterable[Path]) -> None:
    """Check the files of a command line by the names they were given, which the parser shortens.

    Raises:
        UserError: a key is given twice.
    """
    for file in files:
        with suppress(OSError, UnicodeDecodeError):  # the parser says what is wrong with it
            check_keys(file.read_text(encoding="utf-8"), file)


def refuse_repeated_keys() -> None:
    """Let every parser's YAML, of files and of typed values, be refused where a key is repeated."""
    load: Callable[[str], Any] = get_loader("yaml")

    def load_checked(stream: str, path: str | PathLike[str] = "") -> Any:
        """Load YAML; the parser names the file, where it is that of a whole config."""
        value = load(stream)
        if isinstance(value, dict | list):
            try:
                check_keys(stream, path)
            except UserError as error:
                raise RepeatedKey from error
        return value

    set_loader("yaml", load_checked, exceptions=(yaml.YAMLError,))
