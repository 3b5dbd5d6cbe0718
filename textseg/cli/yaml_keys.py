"""Commands whose configs and typed values are refused where a key stands twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from textseg.errors import UserError
from textseg.runs.repeated_keys import check_keys


class RepeatedKey(BaseException):
    """What the loader refuses; of an Exception the parser would try the value as another type."""


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
