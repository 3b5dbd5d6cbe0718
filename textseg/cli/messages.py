"""jsonargparse's messages, several nested lines each, as one line of cause and one of remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from textseg.errors import UserError, first_line

_UNKNOWN = (
    r"Option '([\w.]+)' is not accepted",
    r"does not accept option '([\w.]+)'",
    r"Unexpected keys: \{'([\w.]+)'",
    r"[Uu]nrecognized arguments: -*([\w.]+)",
)
OWN_PARSERS = ("data", "segment", "compare", "dashboard", "report")  # they take no experiment
DATA_COMMANDS = ("audit", "prepare", "build-refhl")
_CONFIG_OPTIONS = ("--config", "-c", "--trainer", "--model", "--data")
_FRAME = (  # lines that say where an error was passed on, not what it is
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Problem with given class_path",
    "Expected a <class 'NoneType'>",
)


def explain(message: str, arguments: Sequence[str], known: Iterable[str]) -> UserError:
    """One line of cause and one of remedy.

    Args:
        message: what jsonargparse says.
        arguments: the command line, to find the file that a setting stands in.
        known: names of settings and classes, to propose near ones.
    """
    for pattern in _UNKNOWN:
        if found := re.search(pattern, message):
            return _unknown(found[1], arguments, known)
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        return _unknown(found[1], arguments, known, what="class")
    if found := re.search(r"arguments are required: (.*)", message):
        if arguments[:1] and arguments[0] in OWN_PARSERS:
            names = re.sub(r"\b(?:audit|prepare|build-refhl)\.", "", found[1])
            return UserError(f"settings are missing: {names}", f"see {_help_of(arguments)}")
        return UserError(f"settings are missing: {found[1]}", _what_to_give(arguments))
    if "Problems parsing config" in message and (broken := broken_yaml(arguments)):
        return broken
    cause, key = _innermost(message)
    where = _place(key.split(".")[-1], arguments) if key else ""
    return UserError(cause + where, f"{_help_of(arguments)} tells what each setting takes")


def _what_to_give(arguments: Sequence[str]) -> str:
    """Model and data come from a run, where a command works on one, and else from an experiment."""
    if arguments[:1] == ["probe"]:
        return "give the folder of a run: textseg probe runs/<config>/<time>"
    if arguments and arguments[0] in ("test", "validate", "predict"):
        return "give a checkpoint: --ckpt_path runs/<config>/<time>/checkpoints/best.ckpt"
    return "give an experiment: --config experiments/quickstart.yaml"


def _help_of(arguments: Sequence[str]) -> str:
    """The command whose help fits; `data` has commands of its own."""
    own = arguments[:1] == ["data"] and set(arguments[1:2]) <= set(DATA_COMMANDS)
    words = arguments[: 2 if own else 1]
    return " ".join(["textseg", *(w for w in words if not w.startswith("-")), "--help"])


def _unknown(
    name: str, arguments: Sequence[str], known: Iterable[str], what: str = "setting"
) -> UserError:
    # The misspelled part may be any of a dotted name: trainr.max_epochs.
    names = set(known)
    part = next((p for p in name.split(".") if p not in names), name)
    # A name that is known elsewhere is no proposal for itself.
    near = difflib.get_close_matches(part, names - {part}, n=2, cutoff=0.6)
    where = _place(part, arguments)
    remedy = f"did you mean {' or '.join(near)}?" if near else f"see {_help_of(arguments)}"
    return UserError(f"unknown {what} {part!r}{where}", remedy)


def _place(name: str, arguments: Sequence[str]) -> str:
    """The config file and line in which `name` stands; the last file given is the one in force."""
    for path in reversed(_configs(arguments)):
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(rf"\b{re.escape(name)}\b", line.partition("#")[0]):
                return f" in {path}, line {number}"
    return ""


def broken_yaml(arguments: Sequence[str]) -> UserError | None:
    """The first config file on the command line that is no YAML."""
    for path in _configs(arguments):
        try:
            yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            return UserError(f"{path}{at}: {error.problem}", "mend the YAML there")
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            return UserError(f"{path}: {first_line(error)}", "save it as YAML in UTF-8")
    return None


def _configs(arguments: Sequence[str]) -> list[Path]:
    """The config files on the command line; other options name YAML files that are none."""
    values = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in _CONFIG_OPTIONS:
            values.append(value if equals else following)
    paths = map(Path, values)
    return [path for path in paths if path.suffix in (".yaml", ".yml") and path.is_file()]


def _innermost(message: str) -> tuple[str, str]:
    """The line that names the fault, behind the last key on the way to it, and that key."""
    key, cause, given = "", "", ""
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        if found := re.match(r'Parser key "([\w.]+)":\s*(.*)', text):
            key, text = found[1], found[2]
        if text.startswith("Given value:"):
            given = given or f". Got value: {text.partition(':')[2].strip()[:80]}"
        if text and not text.startswith(_FRAME) and not cause:
            cause = re.sub(r"<class '([\w.]+)'>", r"\1", text)
    cause += given if cause and "Got value" not in cause else ""
    return (f"{key}: {cause}" if key and cause else cause or " ".join(message.split())[:300]), key
