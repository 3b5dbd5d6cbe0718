"""Test results from runs' folders, joined case by case; refuses what cannot be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textseg.compare.settings import NOT_ALWAYS_KNOWN, training_settings
from textseg.errors import UserError
from textseg.metrics.summary import case_columns
from textseg.output import is_incomplete
from textseg.runs import CaseRow, Run, StoredTest, read_test, table_rows
from textseg.runs.crossval import runs_of

_SHOWN = 3  # of what differs, in a message

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
    """One test of one run, which is a seed of `method`; `cases` are its rows by name.

    `given` is the folder that the user named: the run's, the test's or the cross-validation's.
    """

    run: Run
    test: StoredTest
    method: str
    cases: dict[str, CaseRow]
    given: str = ""

    @property
    def folder(self) -> Path:
        """The test's folder."""
        return self.test.folder

    def columns(self, order: Sequence[str], names: Sequence[str]) -> NDArray[np.float64]:
        """`textseg.metrics.summary.case_columns` of the cases, in the order given: [N, 2 K]."""
        rows = table_rows([self.cases[name] for name in order])
        return case_columns(rows, protocol=self.test.protocol, names=names)


def load_results(
    runs: Sequence[str], *, captions: str, data: str | None, names: Sequence[str] | None
) -> list[Result]:
    """Read the results of every run, all over the same cases with the same truth.

    Raises:
        UserError: a run has no such result, or results differ in what must be equal.
    """
    labels = [None] * len(runs) if names is None else list(names)
    if len(labels) != len(runs):
        raise UserError(
            f"names gives {len(labels)} names for {len(runs)} runs",
            "give one name for each run; runs of one name are seeds of one method",
        )
    if names is not None and not all(name.strip() for name in names):
        raise UserError(f"names={list(names)} has an empty one", "give each run a name")
    tests = [test for given in runs if (test := Run.of_folder(given)[1])]
    if len(tests) == len(runs):  # else captions and data are of the others
        for test in tests:
            check_test_chosen(test, captions, data)
    results = [
        replace(_result(folder, captions, data, name or own), given=given)
        for given, name in zip(runs, labels, strict=True)
        for folder, own in runs_of(given)
    ]
    for earlier, result in combinations(results, 2):
        if earlier.folder == result.folder:
            raise UserError(f"{result.folder} is given twice", "give each run once")
        _check_same_cases(earlier, result)
        if earlier.method == result.method:
            _check_seeds(earlier, result)
    return results


def check_test_chosen(test: Path, captions: str, data: str | None) -> None:
    """Check that captions and data, which the folder of a test settles, are not given otherwise.

    Args:
        test: folder of a single test.
        captions: as given; true, the default, passes.
        data: as given.

    Raises:
        UserError: they are.
    """
    own = test.parent.name
    given = {
        "captions": (captions, ("true", test.name)),
        "data": (data, (None, own, own.removeprefix("test_on_"))),
    }
    for name, (value, passing) in given.items():
        if value not in passing:
            raise UserError(
                f"{name}={value!r} is given beside {test}, which is a single test",
                f"leave {name} out, or give the folder of the run",
            )


def _result(given: str, captions: str, data: str | None, name: str | None) -> Result:
    """The results in a run's folder, or in the very folder of a test."""
    run, single_test = Run.of_folder(given)
    folder = single_test or run.tests_dir(data) / captions
    if not (folder / "cases.csv").is_file() or is_incomplete(folder):
        raise run.not_tested(captions, data)
    test = read_test(folder)
    method = name or run.experiment
    if name is None and single_test and test.caption_mode != captions:
        method += f" ({test.caption_mode} captions)"
    if name is None and test.averaging:
        method += f" ({test.averaging})"
    return Result(run, test, method, {row.case: row for row in test.cases})


def same_run_test(result: Result, mode: str) -> Result | None:
    """The test of the same run over the same cases with other captions; None if there is none."""
    folder = result.folder.with_name(result.folder.name.replace("true", mode, 1))
    missing = not (folder / "cases.csv").is_file() or is_incomplete(folder)
    if folder == result.folder or missing:
        return None
    test = read_test(folder)
    other = Result(result.run, test, result.method, {row.case: row for row in test.cases})
    same = other.cases.keys() == result.cases.keys() and all(
        other.cases[name].true == row.true for name, row in result.cases.items()
    )
    return other if same and test.averaging == result.test.averaging else None


def _check_same_cases(first: Result, other: Result) -> None:
    """Both are of the same cases with the same patients and truths, scored alike."""
    protocols = first.test.protocol, other.test.protocol
    if protocols[0] != protocols[1]:
        raise UserError(
            f"{first.folder} and {other.folder} are scored by the protocols {protocols}",
            "test both with the same model.protocol",
        )
    tolerances = first.test.tolerance, other.test.tolerance
    if tolerances[0] != tolerances[1]:
        raise UserError(
            f"nsd of {first.folder} and {other.folder} has the tolerances {tolerances}",
            "test both with the same model.nsd_tolerance",
        )
    missing = [name for name in first.cases if name not in other.cases]
    added = [name for name in other.cases if name not in first.cases]
    if missing or added:
        raise UserError(
            f"the cases differ: {other.folder} lacks {len(missing)} that {first.folder} has "
            f"({_some(missing)}), and has {len(added)} that it lacks ({_some(added)})",
            "test both on the same split of the same data",
        )
    for what, of in _EQUAL.items():
        _check_equal(first, other, what, of)
    for name in shared_strata([first, other]):
        _check_equal(first, other, f"strata by {name!r}", partial(_class_of, name=name))
    mode = first.test.caption_mode
    if mode == other.test.caption_mode:
        _check_equal(first, other, f"captions (caption mode {mode!r})", lambda row: row.caption)


def shared_strata(results: Sequence[Result]) -> list[str]:
    """Names of the user's own strata that every test has."""
    columns = [next(iter(result.cases.values())).strata for result in results]
    return [name for name in columns[0] if all(name in other for other in columns)]


def _class_of(row: CaseRow, name: str) -> str:
    return row.strata[name]


def _check_equal(first: Result, other: Result, what: str, of: Callable[[CaseRow], object]) -> None:
    pairs = [(row, other.cases[name]) for name, row in first.cases.items()]
    unlike = [(one, two) for one, two in pairs if of(one) != of(two)]
    if unlike:
        values = _some([f"{a.case}: {of(a)!r} and {of(b)!r}" for a, b in unlike])
        raise UserError(
            f"the {what} differ in {len(unlike)} of {len(pairs)} cases between {first.folder} and "
            f"{other.folder}: {values}",
            "test both on the same files with the same settings of data (captions, "
            "normalize_captions, seed, strata)",
        )


def _some(texts: Sequence[str]) -> str:
    """The first few of several texts."""
    return "; ".join([*texts[:_SHOWN], *(["..."] if len(texts) > _SHOWN else [])])


def _check_seeds(first: Result, other: Result) -> None:
    """Runs of one method differ in their seed and in nothing else that was trained."""
    remedy = f"leave one out, or give names, so that they are not both {first.method!r}"
    if first.test.caption_mode != other.test.caption_mode:
        raise UserError(
            f"{first.folder} and {other.folder} are both {first.method!r}, but of the caption "
            f"modes {first.test.caption_mode!r} and {other.test.caption_mode!r}",
            "give names that tell them apart",
        )
    if first.test.averaging != other.test.averaging:
        raise UserError(
            f"{first.folder} and {other.folder} are both {first.method!r}, but with averaging at "
            f"test time {first.test.averaging or 'none'!r} and {other.test.averaging or 'none'!r}",
            "give names that tell them apart",
        )
    both = f"{first.run.folder} and {other.run.folder} are both {first.method!r}"
    one, two = training_settings(first.run), training_settings(other.run)
    if one["seed_everything"] == two["seed_everything"]:
        raise UserError(f"{both} with seed_everything {one['seed_everything']}", remedy)
    free = {"seed_everything", *(k for k in NOT_ALWAYS_KNOWN if k not in one or k not in two)}
    differ = [k for k in sorted(one.keys() | two) if k not in free and one.get(k) != two.get(k)]
    if differ:
        values = _some([f"{k}: {one.get(k)} and {two.get(k)}" for k in differ])
        raise UserError(f"{both}, but differ in more than the seed: {values}", remedy)
