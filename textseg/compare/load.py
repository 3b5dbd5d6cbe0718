"""Test results from runs' folders, joined case by case; refuses what cannot be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textseg.errors import UserError, first_line
from textseg.metrics.scores import Protocol, case_columns
from textseg.runs import CaseRow, Run, read_test

_SHOWN = 3  # of what differs, in a message
# What may differ between two seeds of one method: where it ran, not what was trained.
_OF_THE_MACHINE = frozenset(("seed", "root", "cache", "num_workers"))
_OF_THE_TRAINING = (
    *("max_epochs", "max_steps", "precision", "gradient_clip_val", "accumulate_grad_batches"),
    "limit_train_batches",
)

# What every run's table must agree in, case by case.
_EQUAL: dict[str, Callable[[CaseRow], object]] = {
    "areas of the truth (pixels)": lambda row: row.true,
    "sizes of the images (pixels)": lambda row: row.pixels,
    "lesions of the truth (size, number, side)": lambda row: (
        (row.lesion_size, row.lesion_number, row.lesion_side)
    ),
    "sources of the truth": lambda row: row.truth,
    "patients": lambda row: row.patient,
}


@dataclass(frozen=True)
class Result:
    """One test of one run.

    Args:
        run: that was tested.
        folder: the test's folder, that holds cases.csv.
        method: what the run is a seed of.
        mode: of the captions.
        protocol: of the scores, see `textseg.metrics`.
        cases: by name, in the order of the test.
    """

    run: Run
    folder: Path
    method: str
    mode: str
    protocol: Protocol
    cases: dict[str, CaseRow]

    def columns(self, order: Sequence[str]) -> NDArray[np.float64]:
        """`textseg.metrics.scores.case_columns` of the cases, in the order given: [N, C]."""
        rows = [self.cases[name] for name in order]
        counts = [
            np.array([getattr(row, field) for row in rows], dtype=np.int64)
            for field in ("intersection", "predicted", "true")
        ]
        return case_columns(counts, protocol=self.protocol)


def load_results(
    runs: Sequence[str], *, captions: str, data: str | None, names: Sequence[str] | None
) -> list[Result]:
    """Read the results of every run, all over the same cases with the same truth.

    Raises:
        UserError: a run has no such result, or results differ in what must be equal.
    """
    _check_arguments(runs, names)
    given: Sequence[str | None] = names or [None] * len(runs)
    results = [_result(run, captions, data, name) for run, name in zip(runs, given, strict=True)]
    for earlier, result in combinations(results, 2):
        if earlier.folder == result.folder:
            raise UserError(f"{result.folder} is given twice", "give each run once")
        _check_same_cases(earlier, result)
        if earlier.method == result.method:
            _check_seeds(earlier, result)
    return results


def _check_arguments(runs: Sequence[str], names: Sequence[str] | None) -> None:
    if len(runs) < 2:
        raise UserError(
            f"runs={list(runs)} is too few to compare",
            "give two runs or more, runs/<config>/<time>",
        )
    if names is not None and len(names) != len(runs):
        raise UserError(
            f"names gives {len(names)} names for {len(runs)} runs",
            "give one name for each run; runs of one name are seeds of one method",
        )
    if names is not None and not all(name.strip() for name in names):
        raise UserError(f"names={list(names)} has an empty one", "give each run a name")


def _result(given: str, captions: str, data: str | None, name: str | None) -> Result:
    """The results in a run's folder, or in the very folder of a test."""
    folder = Path(given).expanduser().resolve()
    single_test = (folder / "cases.csv").is_file()
    run = Run(folder.parents[1] if single_test else folder)
    if not single_test:
        folder = run.tests_dir(data) / captions
    if not (folder / "cases.csv").is_file():
        tests = sorted(
            str(p.parent.relative_to(run.folder)) for p in run.folder.glob("test*/*/cases.csv")
        )
        raise UserError(
            f"{given} has no results {folder.name} in {folder.parent} (tests found: "
            f"{', '.join(tests) or 'none'})",
            "test its checkpoint first: textseg test --ckpt_path RUN/checkpoints/best.ckpt "
            f"--data.caption_mode {captions}; or give another caption mode, or the test's folder "
            "itself as RUN",
        )
    test = read_test(folder)
    method, mode = name or run.experiment, test.caption_mode
    if name is None and single_test and mode != captions:
        method += f" ({mode} captions)"
    return Result(run, folder, method, mode, test.protocol, {row.case: row for row in test.cases})


# --- what must be equal ------------------------------------------------------------------------


def _check_same_cases(first: Result, other: Result) -> None:
    """Both are of the same cases with the same patients and truths, scored alike."""
    if first.protocol != other.protocol:
        raise UserError(
            f"{other.folder} is scored by protocol {other.protocol!r}, {first.folder} by "
            f"{first.protocol!r}",
            "test both with the same model.protocol",
        )
    missing = [name for name in first.cases if name not in other.cases]
    added = [name for name in other.cases if name not in first.cases]
    if missing or added:
        raise UserError(
            f"the cases differ: {other.folder} lacks {_count(missing)} that {first.folder} has, "
            f"and has {_count(added)} that it lacks",
            "test both on the same split of the same data",
        )
    for what, of in _EQUAL.items():
        _check_equal(first, other, what, of)
    if first.mode == other.mode:
        _check_equal(first, other, f"captions (caption mode {first.mode!r})", lambda c: c.caption)


def _check_equal(first: Result, other: Result, what: str, of: Callable[[CaseRow], object]) -> None:
    pairs = [(row, other.cases[name]) for name, row in first.cases.items()]
    unlike = [(one, two) for one, two in pairs if of(one) != of(two)]
    if unlike:
        shown = "; ".join(f"{a.case}: {of(a)!r} and {of(b)!r}" for a, b in unlike[:_SHOWN])
        more = ", ..." if len(unlike) > _SHOWN else ""
        raise UserError(
            f"the {what} differ in {len(unlike)} of {len(pairs)} cases between {first.folder} and "
            f"{other.folder}: {shown}{more}",
            "test both on the same files with the same settings of data (captions, "
            "normalize_captions, seed)",
        )


def _count(names: Sequence[str]) -> str:
    if not names:
        return "none"
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} ({shown})"


# --- seeds -------------------------------------------------------------------------------------


def _check_seeds(first: Result, other: Result) -> None:
    """Runs of one method differ in their seed and in nothing else that was trained."""
    remedy = f"leave one out, or give names, so that they are not both {first.method!r}"
    if first.mode != other.mode:
        raise UserError(
            f"{first.folder} and {other.folder} are both {first.method!r}, but of the caption "
            f"modes {first.mode!r} and {other.mode!r}",
            "give names that tell them apart",
        )
    both = f"{first.run.folder} and {other.run.folder} are both {first.method!r}"
    one, two = _training_settings(first.run), _training_settings(other.run)
    if one["seed_everything"] == two["seed_everything"]:
        raise UserError(f"{both} with seed_everything {one['seed_everything']}", remedy)
    differ = [k for k in sorted(one | two) if k != "seed_everything" and one.get(k) != two.get(k)]
    if differ:
        values = "; ".join(f"{k}: {one.get(k)} and {two.get(k)}" for k in differ[:_SHOWN])
        raise UserError(f"{both}, but differ in more than the seed: {values}", remedy)


def _training_settings(run: Run) -> dict[str, Any]:
    """seed_everything, and all that decides what was trained, by dotted name."""
    remedy = "give names, one for each run, so that no two runs are seeds of one method"
    stored = run.settings(remedy)
    try:
        seed, model, data = stored["seed_everything"], stored["model"], stored["data"]
        trainer = stored.get("trainer") or {}
        own = {k: v for k, v in data["init_args"].items() if k not in _OF_THE_MACHINE}
        network = dict(model["init_args"])
        classes = {"model": model["class_path"], "data": data["class_path"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{run.config} does not tell the seed and the settings of the run "
            f"({first_line(error)})",
            remedy,
        ) from error
    return {
        "seed_everything": seed,
        **classes,
        **{f"model.{k}": v for k, v in network.items()},
        **{f"data.{k}": v for k, v in own.items()},
        **{f"trainer.{k}": trainer[k] for k in _OF_THE_TRAINING if k in trainer},
    }
