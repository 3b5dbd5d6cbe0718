"""The parser of every command: its errors are one line of cause and one of remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from textseg.cli.messages import explain


class Refused(BaseException):
    """A parser's error on its way out; jsonargparse would wrap an Exception once more."""


class SuiteParser(LightningArgumentParser):
    """A parser whose errors are one line of cause and one of remedy.

    `arguments` is the command line, for messages; `known_names` gives the names that a misspelled
    one may have meant.
    """

    arguments: Sequence[str] = ()
    known_names: Callable[[], set[str]] = set

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise Refused(explain(message, self.arguments, type(self).known_names())) from ex


def summary_of(function: Callable[..., Any]) -> str:
    """The first line of a docstring, which is what a command's help begins with."""
    return (function.__doc__ or "").splitlines()[0]


def function_parser(name: str, function: Callable[..., Any]) -> SuiteParser:
    """The parser of `textseg NAME`, described by the function behind it."""
    return SuiteParser(prog=f"textseg {name}", description=summary_of(function), allow_abbrev=False)
