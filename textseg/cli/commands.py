"""The table of commands, from which parsers, help and dispatch derive.

A command is a function whose signature and docstring give its options. It is imported when the
command runs or explains itself, never for the list of commands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from textseg.errors import UserError


class Made(NamedTuple):
    """An argument that a function makes of an option: ``count_tokens`` of ``--tokenizer``."""

    option: str
    default: str
    help: str
    maker: str  # module:name


@dataclass(frozen=True)
class Command:
    """One command of `textseg`.

    Attributes:
        name: what is typed: ``compare``, or two words such as ``data audit``.
        summary: its line in ``textseg --help``.
        function: ``module:name`` of what it runs. None is Lightning's own, Trainer.fit and so on.
        takes: arguments that the command line makes and does not ask for: of an experiment model,
            datamodule, trainer, and variants (the changed captions of a probe); mirror_text; and
            experiment, for which all options that are not its own are taken as those of fit;
            open_volumes; draw_phantom.
        needs_checkpoint: whether --ckpt_path must be given; settings then come from its run.
        takes_run: whether the folder of a run may be given in place of --ckpt_path.
        positionals: arguments that are given by position; a list takes one or more.
        made: by name of the argument, options that it is made of.
        show: turns the result into the text that is printed; None prints nothing, and a result that
            is a number is the exit status.
    """

    name: str
    summary: str
    function: str | None = None
    takes: frozenset[str] = frozenset()
    needs_checkpoint: bool = False
    takes_run: bool = False
    positionals: tuple[str, ...] = ()
    made: Mapping[str, Made] = field(default_factory=dict)
    show: Callable[[Any], str] | None = None

    @property
    def trains(self) -> bool:
        """Whether it needs a Trainer, and therefore Lightning's command line."""
        return "trainer" in self.takes


class Datasets(NamedTuple):
    """What the commands need of a package of datasets."""

    datamodule: type[Any]  # the base class of its DataModules
    caption_variants: Callable[..., Any]  # of a probe; see datamodules.captions.perturbations
    mirror_text: Callable[..., str | None]  # see `datamodules.captions.modes.swap_sides`
    write_folds: Callable[..., Path]  # of a cross-validation: (datamodule, folder, folds, seed)
    program: tuple[str, ...]  # what starts textseg in a process of its own
    open_volumes: Callable[..., Any]  # see `textseg.segment.volumes.OpenVolumes`
    draw_phantom: Callable[[int], Any]  # see `textseg.demo.opening.Phantom`


def load(path: str) -> Any:
    """The object that ``module:name`` names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def find(commands: Sequence[Command], arguments: Sequence[str]) -> tuple[Command, list[str]]:
    """The command that a command line names, and its arguments.

    Raises:
        UserError: it names none.
    """
    for command in commands:
        words = command.name.split()
        if list(arguments[: len(words)]) == words:
            return command, list(arguments[len(words) :])
    group = list(arguments[:1]) in groups(commands)
    wrong = list(arguments[: 2 if group else 1])
    names = [c.name for c in commands if not group or c.name.split()[0] == arguments[0]]
    missing = wrong in ([], *groups(commands))
    cause = "no command is given" if missing else f"unknown command {' '.join(wrong)!r}"
    raise UserError(cause, f"give one of {', '.join(names)}")


def groups(commands: Sequence[Command]) -> list[list[str]]:
    """The first words of commands of two, such as ``data``; each as a list of one."""
    firsts = (command.name.split()[0] for command in commands if " " in command.name)
    return [[first] for first in dict.fromkeys(firsts)]


def overview(commands: Sequence[Command], description: str, prefix: str = "") -> str:
    """The text of ``textseg --help``: every command with its summary."""
    shown = [c for c in commands if c.name.startswith(prefix)]
    width = max(len(command.name) for command in shown)
    lines = [f"  {command.name:{width}}  {command.summary}" for command in shown]
    usage = f"usage: textseg {prefix}COMMAND ... [--debug]"
    footer = "textseg COMMAND --help lists a command's settings."
    return "\n".join([usage, "", description, "", "commands:", *lines, "", footer])


# --- what is printed ---------------------------------------------------------------------------


def written_to(path: Path) -> str:
    """The line that says where the results are."""
    return f"written to {path}"


def _segmented(folder: Path) -> str:
    from textseg.metrics.text import averaging_text
    from textseg.runs.folder import AVERAGING
    from textseg.segment.volume_text import volumes_text

    averaged = averaging_text(json.loads((folder / AVERAGING).read_text(encoding="utf-8")))
    lines = f"at test time: {averaged}\n" * bool(averaged)
    return lines + volumes_text(folder) + written_to(folder)


def _exported(folder: Path) -> str:
    from textseg.export.command import what_was_exported

    return what_was_exported(folder)


def _probe(result: Any) -> str:
    from textseg.probe import plain_table

    return f"{plain_table(result)}\n{written_to(result.output)}"


def _calibration(result: Any) -> str:
    from textseg.calibrate import plain_table

    return f"{plain_table(result)}\n{written_to(result.output)}"


def _benchmark(result: Any) -> str:
    from textseg.benchmark.table import format_benchmark

    return format_benchmark(result)


# --- the table ---------------------------------------------------------------------------------

_EXPERIMENT = frozenset({"model", "datamodule", "trainer"})
_of_checkpoint = partial(Command, takes=_EXPERIMENT, needs_checkpoint=True)

COMMANDS: tuple[Command, ...] = (
    Command("fit", "Train a network.", takes=_EXPERIMENT),
    _of_checkpoint("validate", "Score a checkpoint on the validation set."),
    _of_checkpoint("test", "Score a checkpoint on the test set, with intervals and overlays."),
    _of_checkpoint("predict", "Write a checkpoint's masks for the images of a dataset."),
    Command(
        "segment",
        "Segment images or volumes by what a text names: one, a folder of them, or a table.",
        function="textseg.segment:segment",
        takes=frozenset({"mirror_text", "open_volumes"}),
        positionals=("image", "text"),
        show=_segmented,
    ),
    Command(
        "demo",
        "Open a page on this machine, to try words on an image, a volume or a phantom.",
        function="textseg.demo:demo",
        takes=frozenset({"open_volumes", "draw_phantom"}),
    ),
    Command(
        "export",
        "Write a checkpoint as files that run without the suite: ONNX, or torch.export.",
        function="textseg.export:export",
        show=_exported,
    ),
    _of_checkpoint(
        "probe",
        "Measure how far masks move when the words are changed.",
        function="textseg.probe:probe",
        takes=_EXPERIMENT | {"variants"},
        takes_run=True,
        show=_probe,
    ),
    _of_checkpoint(
        "calibrate",
        "Measure on the validation rows how far probabilities can be trusted; fit temperature and "
        "threshold.",
        function="textseg.report.write_calibration:calibrate_run",
        takes_run=True,
        show=_calibration,
    ),
    Command(
        "crossval",
        "Train and test a network on every fold of a dataset, with several seeds.",
        function="textseg.crossval:crossval",
        takes=frozenset({"experiment"}),
    ),
    Command(
        "compare",
        "Compare tested runs over the same cases, with intervals and a paired test.",
        function="textseg.report.write_comparison:compare_runs",
        positionals=("runs",),
        show=str,
    ),
    Command(
        "report",
        "Write a run, or a comparison of several, as one HTML page.",
        function="textseg.report:report",
        positionals=("runs",),
        show=written_to,
    ),
    Command(
        "card",
        "Write a run as a folder for a model hub: weights, settings, tokenizer, model card.",
        function="textseg.card:card",
        positionals=("run",),
        show=written_to,
    ),
    Command(
        "benchmark",
        "Measure cost and speed of networks, in one table.",
        function="textseg.benchmark.measure:benchmark",
        takes=_EXPERIMENT,
        show=_benchmark,
    ),
    Command(
        "dashboard",
        "Set up a view of a W&B project that compares networks.",
        function="textseg.report.dashboard:dashboard",
        positionals=("entity",),
        show=str,
    ),
)
