"""Parsers whose errors are raised, and the run of a command that needs no Trainer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NoReturn, Union, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from textseg.cli.arguments import data_part_of_configs
from textseg.cli.commands import Command, Datasets, load
from textseg.cli.messages import explain
from textseg.cli.yaml_keys import refuse_repeated_keys
from textseg.runs.folder import Run, nested

refuse_repeated_keys()


class ParseError(BaseException):
    """What a parser refuses, in jsonargparse's words; it would wrap an Exception once more."""


class CommandParser(ArgumentParser):
    """A parser that raises its errors, so that one place explains them."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise ParseError instead of printing usage and exiting."""
        raise ParseError(message) from ex


def check_nulls(settings: Namespace, kinds: Mapping[str, type]) -> None:
    """Check that no setting of a class is null that takes none.

    jsonargparse takes a null for a setting that is not given, and checks no type of it, unless it
    is told to keep the two apart; it then refuses a logger without a folder, which we give it.

    Args:
        settings: as parsed.
        kinds: base class by the name of the settings that hold ``class_path`` and ``init_args``.

    Raises:
        ParseError: one is.
    """
    set_parsing_settings(unset_sentinel=True)
    try:
        for name, kind in kinds.items():
            parser = CommandParser()
            parser.add_subclass_arguments(kind, name)
            parser.validate(Namespace(**{name: settings[name].clone()}))
    except TypeError as error:
        raise ParseError(str(error)) from error
    finally:
        set_parsing_settings(unset_sentinel=False)


def read_whole_numbers_as_int(parser: ArgumentParser) -> None:
    """Let every argument that takes int or float try int first.

    typing hands out one object for equal unions, the first that was made: what was imported before
    the Trainer decides whether its ``Union[int, float]`` still is one. In the other order ``1``
    batch would be read as 1.0, all batches.
    """
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        kinds = get_args(hint)
        if get_origin(hint) is Union and {int, float} <= {*kinds}:
            ordered = (int, float, *(kind for kind in kinds if kind not in (int, float)))
            action._typehint = Union[ordered]  # type: ignore[attr-defined]  # noqa: UP007


def run_command(
    command: Command, arguments: Sequence[str], datasets: Callable[[], Datasets]
) -> Any:
    """Run a command that needs no Trainer; returns what its function returns.

    Args:
        command: its row in the table.
        arguments: the command line after its name.
        datasets: gives the datasets' side; called where a command uses it.

    Raises:
        UserError: the arguments are not its own.
    """
    assert command.function is not None
    function = load(command.function)
    parser = command_parser(command, function)
    if "datamodule" in command.takes:
        parser.add_argument(
            "-c", "--config", action="config", help="an experiment; its data is read."
        )
        parser.add_subclass_arguments(datasets().datamodule, "data", required=True)
        arguments = data_part_of_configs(arguments)
    passed_on: list[str] = []
    if "experiment" in command.takes:
        arguments, passed_on = own_options(parser, arguments)
    try:
        settings = parser.parse_args(list(arguments))
        if "datamodule" in command.takes:
            check_nulls(settings, {"data": datasets().datamodule})
    except ParseError as error:
        known = {name for action in parser._actions for name in action.dest.split(".")}
        raise explain(str(error), arguments, known, command) from error
    if "datamodule" in command.takes:
        settings = parser.instantiate_classes(settings)
        settings["datamodule"] = settings.pop("data")
        settings.pop("config")
    values = settings.as_dict()
    if "experiment" in command.takes:
        from textseg.cli.experiment import read_experiment  # imports torch

        values["experiment"] = read_experiment(passed_on, datasets())
    if "mirror_text" in command.takes:
        values["mirror_text"] = mirror_of_run(values["ckpt_path"], datasets)
    given = {option: values.pop(option) for option in {m.option for m in command.made.values()}}
    if "open_volumes" in command.takes:
        values["open_volumes"] = lambda path, **given: datasets().open_volumes(path, **given)
    if "draw_phantom" in command.takes:
        values["draw_phantom"] = lambda number: datasets().draw_phantom(number)
    for name, made in command.made.items():
        values[name] = load(made.maker)(given[made.option])
    return function(**values)


def mirror_of_run(
    ckpt_path: str | list[str], datasets: Callable[[], Datasets]
) -> Callable[[str], str | None]:
    """What rewrites a text for the mirrored image, in the language that the training was set to.

    Args:
        ckpt_path: the checkpoint; of several the first, whose run's settings count.
        datasets: gives the datasets' side; called for the first text.
    """

    @cache
    def in_its_language() -> Callable[[str], str | None]:
        run = Run.of_checkpoint(ckpt_path if isinstance(ckpt_path, str) else ckpt_path[0])
        language = nested(run.settings(), "data", "init_args", "language")
        given = {} if language is None else {"language": language}
        return partial(datasets().mirror_text, **given)

    return lambda text: in_its_language()(text)


def own_options(parser: ArgumentParser, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part a command line into the options that a parser knows, with their values, and the rest."""
    takes_value = {
        option: action.nargs != 0 for action in parser._actions for option in action.option_strings
    }
    own, rest = [], []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, _ = argument.partition("=")
        if name not in takes_value:
            rest.append(argument)
            continue
        own.append(argument)
        if takes_value[name] and not equals:
            own += [value for value in [next(waiting, None)] if value is not None]
    return own, rest


def command_parser(command: Command, function: Callable[..., Any]) -> CommandParser:
    """The parser of a command, from its function's signature and docstring."""
    parser = CommandParser(
        prog=f"textseg {command.name}", description=command.summary, allow_abbrev=False
    )
    parameters = inspect.signature(function, eval_str=True).parameters
    own: set[str | int] = {*command.takes, *command.made}
    own &= {*parameters}
    described = CommandParser()  # only to read the docstring
    described.add_function_arguments(function, skip=own)
    helps = {action.dest: action.help for action in described._actions}
    for name in command.positionals:
        kind, default = parameters[name].annotation, parameters[name].default
        more: dict[str, Any] = {"type": kind}
        if kind == list[str]:
            more = {"type": str, "nargs": "+"}
        elif default is not inspect.Parameter.empty:
            more |= {"nargs": "?", "default": default}
        parser.add_argument(name, help=helps[name], **more)
    parser.add_function_arguments(function, skip={*command.positionals, *own})
    for made in {made.option: made for made in command.made.values()}.values():
        parser.add_argument(f"--{made.option}", default=made.default, help=made.help)
    return parser
