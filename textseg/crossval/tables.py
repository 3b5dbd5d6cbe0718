"""The tests of all folds put together: for each seed a table that holds every case once."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml

from textseg.errors import UserError
from textseg.metrics.text import aligned, to_json
from textseg.output import whole_text, write_text, writing
from textseg.runs import CaseRow, Run, StoredTest, table_rows, write_cases
from textseg.runs.crossval import Crossval
from textseg.runs.folder import CAPTION_MODES, RUN_CONFIG

# What metrics.json says of a network and a test; all else in it is of the cases.
_OF_THE_TEST = (
    *("caption_mode", "protocol", "truth", "tta", "ensemble", "reads_text"),
    *("parameters", "versions", "nsd_tolerance"),
)


def write_seed(plan: Crossval, seed: int) -> None:
    """Write a seed's folder, which reads as that of a run, unless it is there.

    Raises:
        UserError: a case is in two folds, or the folds were tested in different ways.
    """
    folder = plan.seed_run(seed).folder
    if folder.exists():
        return
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    folds = [plan.tests(fold, seed) for fold in range(1, plan.folds + 1)]
    runs = [run for fold in range(1, plan.folds + 1) if (run := plan.run(fold, seed))]
    for mode in (m for m in CAPTION_MODES if all(m in tests for tests in folds)):
        _write_test(aside / "test" / mode, [tests[mode] for tests in folds], plan)
    _write_curves(aside / "metrics.csv", runs)
    settings = runs[0].settings()
    settings["data"]["init_args"]["fold"] = None
    write_text(aside / RUN_CONFIG, yaml.safe_dump(settings, sort_keys=False))
    with writing(folder):
        aside.replace(folder)


def _write_test(folder: Path, tests: Sequence[StoredTest], plan: Crossval) -> None:
    from textseg.callbacks.results_writer import scored_cases  # imports torch

    first = tests[0].metrics
    for test in tests[1:]:
        unlike = [
            x for x in _OF_THE_TEST if test.metrics.get(x) != first.get(x) and x != "versions"
        ]
        if unlike:
            values = first.get(unlike[0]), test.metrics.get(unlike[0])
            raise UserError(
                f"{unlike[0]} is {values[0]!r} in {tests[0].folder} and {values[1]!r} in "
                f"{test.folder}",
                "test them in the same way; remove the folder of the one that is wrong",
            )
    cases = list(chain.from_iterable(test.cases for test in tests))
    if len({case.case for case in cases}) < len(cases):
        raise UserError(f"{folder} would hold a case twice", f"restore {plan.folder / plan.table}")
    sizes, scores = scored_cases(table_rows(cases), cases, tests[0].protocol)
    versions = dict.fromkeys(str(test.metrics.get("versions")) for test in tests)
    metrics = {name: first[name] for name in _OF_THE_TEST if name in first}
    metrics |= scores | {"versions": "; ".join(versions)}
    if "unmirrored" in first:
        metrics["unmirrored"] = sum(test.metrics["unmirrored"] for test in tests)
    listed = _listed(plan)
    if len(cases) < listed:
        metrics["warnings"].append(f"{len(cases)} of {listed} cases were tested")
    folder.mkdir(parents=True)
    rows = [replace(case, lesion_size=size) for case, size in zip(cases, sizes, strict=True)]
    write_cases(folder / "cases.csv", rows)
    write_text(folder / "metrics.json", to_json(metrics))
    for kind in ("overlays", "explain"):
        for picture in chain.from_iterable(test.pictures(kind).values() for test in tests):
            (folder / kind).mkdir(exist_ok=True)
            _link(picture, folder / kind / picture.name)


def _listed(plan: Crossval) -> int:
    """Number of rows that were divided."""
    with (plan.folder / plan.table).open(newline="", encoding="utf-8") as stream:
        return sum(1 for _ in csv.DictReader(stream))


def _link(picture: Path, to: Path) -> None:
    """Show a picture in a second folder; where the disk has no links, a copy of it."""
    with suppress(OSError):
        os.link(picture, to)
        return
    shutil.copyfile(picture, to)


def _write_curves(file: Path, runs: Sequence[Run]) -> None:
    """Write metrics.csv of means over the folds that got to an epoch."""
    values: dict[int, dict[str, list[float]]] = {}
    for run in runs:
        for key, points in run.curves().items():
            for epoch, value in points:
                values.setdefault(epoch, {}).setdefault(key, []).append(value)
    keys = list(dict.fromkeys(key for row in values.values() for key in row))
    with whole_text(file, newline="") as stream:
        writer = csv.DictWriter(stream, ["epoch", *keys])
        writer.writeheader()
        for epoch in sorted(values):
            row: dict[str, Any] = {key: fmean(found) for key, found in values[epoch].items()}
            writer.writerow({"epoch": epoch, **row})


def by_fold(plan: Crossval) -> str:
    """A line for each fold: patients, cases, and dice, its mean and deviation over seeds."""
    lines = [["fold", "patients", "cases", "dice (mean ± standard deviation over seeds)"]]
    for fold in range(1, plan.folds + 1):
        tests = [plan.tests(fold, seed)["true"] for seed in plan.all_seeds]
        cases: Sequence[CaseRow] = tests[0].cases
        means = [fmean(case.dice for case in test.cases) for test in tests]
        spread = f" ± {np.std(means, ddof=1):.3f}" if len(means) > 1 else ""
        patients = len({case.patient for case in cases})
        lines.append([str(fold), str(patients), str(len(cases)), f"{fmean(means):.3f}{spread}"])
    return "\n".join(aligned(lines))
