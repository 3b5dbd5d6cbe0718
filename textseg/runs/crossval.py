"""A cross-validation's folder: its plan, the run of every fold and seed, and the tables of seeds.

crossval.yaml                          what is cross-validated: `Crossval`
folds-<number>-<digest>.csv            what each row of the dataset is for in each fold
fold<k>_seed<s>/<config>/<time>/       a run, as of any other training
fold<k>_seed<s>/finished               the caption modes that it was tested with at its end
seed<s>/test/<captions>/               the tests of all folds put together: every case once
report/                                the comparison of all seeds
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from textseg.errors import UserError, refusing
from textseg.output import write_text
from textseg.runs.folder import Run, last_written
from textseg.runs.repeated_keys import check_keys
from textseg.runs.results import StoredTest, read_test

PLAN = "crossval.yaml"
FINISHED = "finished"


@dataclass(frozen=True)
class Crossval:
    """A cross-validation in its folder.

    Args:
        folder: its own.
        experiment: name of the config, and of the method in comparisons.
        folds: their number; they are counted from 1.
        fold_seed: of the division.
        first_seed: seed_everything of the first training of each fold.
        seeds: number of trainings of each fold.
        table: name of the file that divides the rows.
        settings: those that every training has, resolved.
    """

    folder: Path
    experiment: str
    folds: int
    fold_seed: int
    first_seed: int
    seeds: int
    table: str
    settings: dict[str, Any]

    @classmethod
    def in_folder(cls, folder: str | Path) -> Crossval | None:
        """Read the one in a folder; None where there is none.

        Raises:
            UserError: its plan is broken.
        """
        folder = Path(folder).expanduser()
        file = folder / PLAN
        if not file.is_file():
            return None
        broken = (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError)
        remedy = "restore the file, or start the cross-validation anew in another folder"
        with refusing(broken, f"{file} is no plan of a cross-validation", remedy):
            text = file.read_text(encoding="utf-8")
            check_keys(text, file)
            stored = yaml.safe_load(text)
            plan = cls(folder=folder, **stored)
            for field in fields(cls)[1:]:
                kind = {"int": int, "str": str}.get(str(field.type), dict)
                if not isinstance(getattr(plan, field.name), kind):
                    raise TypeError(f"{field.name} is {getattr(plan, field.name)!r}")
        return plan

    def write(self) -> None:
        """Write the plan; a file that is there is replaced in one step."""
        values = {k: v for k, v in asdict(self).items() if k != "folder"}
        write_text(self.folder / PLAN, yaml.safe_dump(values, sort_keys=False))

    @property
    def all_seeds(self) -> range:
        """seed_everything of each training of a fold."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def trainings(self) -> list[tuple[int, int]]:
        """Fold and seed of every training; a whole cross-validation with one seed comes first."""
        return [(fold, seed) for seed in self.all_seeds for fold in range(1, self.folds + 1)]

    def home(self, fold: int, seed: int) -> Path:
        """The folder of a training; its run lies below, as in runs/."""
        return self.folder / f"fold{fold}_seed{seed}"

    def run(self, fold: int, seed: int) -> Run | None:
        """The run of a training, that it goes on with; None where it never began."""
        return last_written(self.home(fold, seed) / self.experiment)

    def tests(self, fold: int, seed: int) -> dict[str, StoredTest]:
        """The tests of a training by caption mode; {} unless it has come to its end with all.

        A network that reads no captions is tested with true ones alone.
        """
        tests = self._written(fold, seed)
        finished = self.home(fold, seed) / FINISHED
        wanted = finished.read_text(encoding="utf-8").split() if finished.is_file() else []
        return tests if wanted and tests.keys() >= {*wanted} else {}

    def _written(self, fold: int, seed: int) -> dict[str, StoredTest]:
        """Of several tests of a mode the first counts; one that was cut short does not."""
        run = self.run(fold, seed)
        tests: dict[str, StoredTest] = {}
        for file in [] if run is None else sorted(run.tests_dir().glob("*/metrics.json")):
            with suppress(UserError):
                test = read_test(file.parent)
                tests.setdefault(test.caption_mode, test)
        return tests

    def finish(self, fold: int, seed: int) -> None:
        """Record that a training has come to its end, with the tests that it has."""
        modes = "".join(f"{mode}\n" for mode in self._written(fold, seed))
        if modes:
            write_text(self.home(fold, seed) / FINISHED, modes)

    def unfinished(self) -> list[tuple[int, int]]:
        """Fold and seed of every training that was not trained and tested to its end."""
        return [one for one in self.trainings if not self.tests(*one)]

    def seed_run(self, seed: int) -> Run:
        """The folder of a seed's tables, which reads as that of a run."""
        return Run(self.folder / f"seed{seed}")


def runs_of(given: str) -> Iterator[tuple[str, str | None]]:
    """The folder itself, or those of a cross-validation's seeds, with the name of its method.

    Raises:
        UserError: the cross-validation has not come to its end.
    """
    plan = Crossval.in_folder(given)
    if plan is None:
        yield given, None
        return
    for seed in plan.all_seeds:
        run = plan.seed_run(seed)
        if not run.config.is_file():
            left = len(plan.unfinished())
            raise UserError(
                f"{plan.folder} has no table of seed {seed}: {left} of its {len(plan.trainings)} "
                "trainings are not finished",
                "give the command that began it again: textseg crossval goes on where it was",
            )
        yield str(run.folder), plan.experiment
