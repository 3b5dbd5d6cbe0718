"""The experiment of a command that starts `textseg fit`: parsed as a fit would, and not built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from textseg.cli.arguments import experiment_name
from textseg.cli.commands import COMMANDS, Datasets
from textseg.cli.parser import CommandParser
from textseg.cli.suite import SuiteCLI
from textseg.crossval.experiment import Experiment


class _Settings(SuiteCLI):
    """A fit's settings, resolved and checked; nothing is made of them."""

    def before_instantiate_classes(self) -> None:
        """Choose no folder for a run."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        text = self._parser(subcommand).dump(
            self.config[subcommand], skip_none=False, skip_validation=True
        )
        self.resolved: dict[str, Any] = yaml.safe_load(text)


def read_experiment(arguments: Sequence[str], datasets: Datasets) -> Experiment:
    """Parse the arguments of `textseg fit`.

    Raises:
        UserError: as `textseg fit` does.
    """
    (fit,) = (command for command in COMMANDS if command.name == "fit")
    settings = _Settings(fit, arguments, datasets).resolved

    def write_folds(folder: Path, folds: int, seed: int) -> Path:
        parser = CommandParser()
        parser.add_subclass_arguments(datasets.datamodule, "data", required=True)
        parsed = parser.parse_object({"data": settings["data"]})
        datamodule = parser.instantiate_classes(parsed)["data"]
        return datasets.write_folds(datamodule, folder, folds, seed)

    return Experiment(
        name=experiment_name(arguments),
        arguments=tuple(arguments),
        settings=settings,
        program=datasets.program,
        write_folds=write_folds,
    )
