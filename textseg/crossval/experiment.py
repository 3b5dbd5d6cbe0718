"""What is cross-validated, and what its trainings must have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textseg.errors import UserError
from textseg.runs.crossval import Crossval
from textseg.runs.folder import nested

# Settings that may differ between trainings: where they run, what they print, which files they read
# where. A setting that is not listed must be the same.
_FREE = (
    *("ckpt_path", "restart", "results_writer", "explain", "test_after_fit"),
    *(
        f"trainer.{name}"
        for name in (
            *("logger", "accelerator", "strategy", "plugins", "profiler", "default_root_dir"),
            *("enable_progress_bar", "enable_model_summary", "log_every_n_steps"),
        )
    ),
    *(f"data.init_args.{name}" for name in ("root", "captions", "cache", "num_workers")),
    "model.init_args.image_weights",
)


@dataclass(frozen=True)
class Experiment:
    """An experiment as the command line gives it.

    Args:
        name: of its config.
        arguments: those of `textseg fit`.
        settings: what they resolve to.
        program: what starts textseg: ``(*program, "fit", *arguments)``.
        write_folds: divides the dataset's patients, (folder, folds, seed) -> the table's file.
    """

    name: str
    arguments: tuple[str, ...]
    settings: dict[str, Any]
    program: tuple[str, ...]
    write_folds: Callable[[Path, int, int], Path]

    @property
    def first_seed(self) -> int:
        """seed_everything, a number.

        Raises:
            UserError: it is none.
        """
        seed = self.settings.get("seed_everything")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise UserError(
                f"seed_everything={json.dumps(seed)} is no number, and trainings need theirs",
                "give --seed_everything 0; each training of a fold then adds 1",
            )
        return seed

    @property
    def runs_root(self) -> str | None:
        """trainer.default_root_dir."""
        return nested(self.settings, "trainer", "default_root_dir")

    def check(self) -> None:
        """Check that nothing is set that a cross-validation sets itself.

        Raises:
            UserError: something is, or the dataset's class takes no folds.
        """
        data = nested(self.settings, "data", "init_args") or {}
        missing = [name for name in ("folds", "fold") if name not in data]
        if missing:
            raise UserError(
                f"{nested(self.settings, 'data', 'class_path')} takes no setting "
                f"{' and no '.join(missing)}",
                "let its __init__ take **kwargs and hand them to TextSegDataModule",
            )
        own = {"ckpt_path": self.settings.get("ckpt_path")}
        own |= {f"data.{name}": data[name] for name in ("folds", "fold")}
        for name, value in own.items():
            if value is not None:
                raise UserError(
                    f"{name}={value} is given, but a cross-validation sets it for each training",
                    f"leave {name} out",
                )

    def of_training(self, plan: Crossval, fold: int, seed: int) -> list[str]:
        """The command line that trains and tests one fold with one seed."""
        folder = plan.folder.absolute()
        own: dict[str, Any] = {
            "seed_everything": seed,
            "data.folds": folder / plan.table,
            "data.fold": fold,
            "trainer.default_root_dir": plan.home(fold, seed),
            "test_after_fit": "true",
        }
        data_seed = nested(self.settings, "data", "init_args", "seed")
        if data_seed is not None:  # the order of rows and their variation are luck as well
            own["data.seed"] = data_seed + seed - plan.first_seed
        if plan.run(fold, seed) is not None:
            own["ckpt_path"] = "last"
        return [*self.program, "fit", *self.arguments, *(f"--{k}={v}" for k, v in own.items())]


def differences(now: Crossval, was: Crossval) -> list[str]:
    """What of a plan differs from that in its folder, as ``name=new (was old)``."""
    ours, theirs = (dict(_flat(_facts(plan))) for plan in (now, was))
    return [
        f"{name}={json.dumps(ours.get(name))} (was {json.dumps(theirs.get(name))})"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
        and not any(name == free or name.startswith(f"{free}.") for free in _FREE)
    ]


def _facts(plan: Crossval) -> dict[str, Any]:
    facts = {"config": plan.experiment, "folds": plan.folds, "fold_seed": plan.fold_seed}
    return {**facts, **plan.settings}


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
