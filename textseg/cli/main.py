"""What `textseg` does with a command line."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from textseg.cli.arguments import add_working_folder, check_given_once, with_home
from textseg.cli.commands import Command, Datasets, find, groups, overview
from textseg.cli.messages import (
    broken_yaml,
    config_files,
    exit_with,
    user_error,
)
from textseg.cli.parser import run_command
from textseg.cli.quiet import show_warnings_plainly
from textseg.cli.refusals import machine_fault
from textseg.cli.signals import listening, stopped_lines
from textseg.cli.yaml_keys import check_files
from textseg.errors import PartialError, printable
from textseg.output import disk_error


def run(
    arguments: Sequence[str],
    commands: Sequence[Command],
    datasets: Callable[[], Datasets],
    description: str,
) -> int:
    """Run one command line; returns the exit status.

    Args:
        arguments: what follows `textseg`.
        commands: the table.
        datasets: gives the datasets' side; called by commands that need it.
        description: of the whole, for ``--help``.
    """
    words = [argument for argument in arguments if argument != "--debug"]
    words = ["--ckpt_path" if word == "--ckpt" else word for word in words]  # as people type it
    add_working_folder()
    show_warnings_plainly()
    with listening() as ears:
        try:
            return _run(words, commands, datasets, description)
        except BaseException as error:
            stopped = ears.heard
            if "--debug" in arguments and (stopped or not isinstance(error, SystemExit)):
                traceback.print_exception(error)
            if stopped is not None:  # whatever a library made of it
                name = " ".join(words[:2] if words[:1] in groups(commands) else words[:1])
                if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes one says it
                    sys.stderr.write("\n".join([*stopped_lines(name, stopped), ""]))
                return int(stopped.code or 0)
            mistake = user_error(error) or disk_error(error) or machine_fault(error, {})
            if mistake is None and isinstance(error, UnicodeDecodeError):
                mistake = broken_yaml(config_files(words))
            if mistake is None:
                raise
            exit_with(mistake)


def _run(
    words: Sequence[str],
    commands: Sequence[Command],
    datasets: Callable[[], Datasets],
    description: str,
) -> int:
    """Run a command line without what is handled before; returns the exit status."""
    if words[-1:] in (["-h"], ["--help"]) and words[:-1] in ([], *groups(commands)):
        print(overview(commands, description, "".join(f"{word} " for word in words[:-1])))
        return 0
    command, rest = find(commands, with_home(words))
    check_given_once(rest)
    check_files(config_files(rest))
    if command.trains:
        from textseg.cli.suite import SuiteCLI

        SuiteCLI(command, rest, datasets())
        return 0
    result = _result(command, rest, datasets)
    if command.show:
        print(printable(command.show(result)))
        return 0
    return result or 0


def _result(command: Command, arguments: Sequence[str], datasets: Callable[[], Datasets]) -> Any:
    """What a command gives; where a part of its inputs failed, the others' results are told of."""
    try:
        return run_command(command, arguments, datasets)
    except PartialError as error:
        if command.show:
            print(printable(command.show(error.written)))
        raise
