"""What the command line says of a user's mistake: one line of cause and one of remedy.

jsonargparse's messages are several nested lines; what is read from their wording is the name of an
unknown setting or class, and the innermost cause.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import yaml

from textseg.cli.commands import Command
from textseg.errors import UserError, first_line, printable

_UNKNOWN = re.compile(
    r"(?:Option '|does not accept option '|Unexpected keys: \{'|[Uu]nrecognized arguments: -*)"
    r"([\w.]+)"
)
_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_NO_SUCH_CLASS = re.compile(
    r"Problem with given class_path '([\w.]+)(?<!\.yaml)(?<!\.yml)':\s*"
    r"(No module named '[^']*'|module '[^']*' has no attribute '[^']*')"
)
_KEY = re.compile(r'Parser key "([\w.]+)":\s*(.*)')
_FRAME = (  # lines that say where an error was passed on, not what it is
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Problem with given class_path",
    "Expected a <class 'NoneType'>",
)
_CONFIG_OPTIONS = ("--config", "-c", "--trainer", "--model", "--data")


def explain(
    message: str, arguments: Sequence[str], known: Iterable[str], command: Command
) -> UserError:
    """One line of cause and one of remedy for what a parser refuses.

    Args:
        message: jsonargparse's text.
        arguments: the command line after the command's name.
        known: names of settings and classes, to propose the nearest.
        command: whose command line it is.
    """
    help_of = f"textseg {command.name} --help"
    if found := re.search(r"arguments are required: (.*)", message):
        names = found[1].replace(f"{command.name}.", "")
        return UserError(f"settings are missing: {names}", _what_to_give(command))
    files = config_files(arguments)
    for pattern, what in ((_UNKNOWN, "setting"), (_UNKNOWN_CLASS, "class")):
        if found := pattern.search(message):
            names = set(known)
            # The misspelled part may be any of a dotted name: trainr.max_epochs.
            part = next((p for p in found[1].split(".") if p not in names), found[1])
            # A name that is known elsewhere is no proposal for itself.
            near = difflib.get_close_matches(part, names - {part}, n=2, cutoff=0.6)
            remedy = f"did you mean {' or '.join(near)}?" if near else f"see {help_of}"
            return UserError(f"unknown {what} {part!r}{_line_of(part, files)}", remedy)
    if found := _NO_SUCH_CLASS.search(message):
        return UserError(
            f"{found[1]} cannot be imported{_line_of(found[1], files)} ({found[2]})",
            "a class of your own is module.Class, of a module that is installed or lies in the "
            "folder where textseg is started",
        )
    if "Problems parsing config" in message and (broken := broken_yaml(files)):
        return broken
    cause, key = _innermost(message)
    typed = any(name.endswith(key) for name, _ in options(arguments))
    if key and not typed:  # else the value is not the file's
        cause += _line_of(key.split(".")[-1], files)
    return UserError(cause, f"{help_of} tells what each setting takes")


def _what_to_give(command: Command) -> str:
    """Model and data come from a run, where a command works on one, and else from an experiment."""
    if not command.trains:
        return f"see textseg {command.name} --help"
    if command.takes_run:
        return f"give the folder of a run: textseg {command.name} runs/<config>/<time>"
    if command.needs_checkpoint:
        return "give a checkpoint: --ckpt_path runs/<config>/<time>/checkpoints/best.ckpt"
    return "give an experiment: --config experiments/quickstart.yaml"


def broken_yaml(files: Iterable[Path]) -> UserError | None:
    """An error for the first file that is no YAML, with line and column; None if all are."""
    for path in files:
        try:
            yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            return UserError(f"{path}{at}: {error.problem}", "correct the YAML there")
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as the month 13
            return UserError(f"{path}: {first_line(error)}", "save it as YAML in UTF-8")
    return None


def _line_of(name: str, files: Sequence[Path]) -> str:
    """The file and line in which `name` stands; the last file given is the one in force."""
    for path in reversed(files):
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(rf"\b{re.escape(name)}\b", line.partition("#")[0]):
                return f" in {path}, line {number}"
    return ""


def _innermost(message: str) -> tuple[str, str]:
    """The line that names the fault, after the last key on the way to it, and that key."""
    key, cause, value = "", "", ""
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        if found := _KEY.match(text):
            key, text = found[1], found[2]
        if text.startswith("Given value:"):
            value = value or f". Got value: {text.partition(':')[2].strip()[:80]}"
        if text and not text.startswith(_FRAME) and not cause:
            cause = re.sub(r"<class '([\w.]+)'>", r"\1", text)
    if not cause:
        return " ".join(message.split())[:300], key
    cause += "" if "Got value" in cause else value
    cause = cause.replace("Got value: None", "Got value: null")  # as YAML writes it
    return (f"{key}: {cause}" if key else cause), key


def options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and value of every option, written as `--name value` or `--name=value`."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.startswith("-"):
            yield name, value if equals else "".join(arguments[position + 1 : position + 2])


def config_files(arguments: Sequence[str]) -> list[Path]:
    """The config files on the command line, whatever their suffix; files of other options are none.

    What is typed as YAML in place of a file may be too long for a file's name.
    """
    given = [value for name, value in options(arguments) if name in _CONFIG_OPTIONS]
    # Path.is_file raises where a name is too long.
    return [Path(value) for value in given if os.path.isfile(value)]  # noqa: PTH113


def user_error(error: BaseException | None) -> UserError | None:
    """The user's mistake behind an error, however often it was wrapped; None if there is none."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def exit_with(error: UserError) -> NoReturn:
    """Print cause and remedy to stderr, and exit with the error's status."""
    # Of an error in a worker process only its own words are kept, not the traceback it brought.
    text = printable(str(error)).rsplit("UserError: ", 1)[-1].strip()
    cause, _, remedy = text.partition("\n")
    sys.stderr.write(f"error: {cause}\n" + (f"remedy: {remedy}\n" if remedy else ""))
    sys.exit(error.status)
