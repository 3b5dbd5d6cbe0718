"""Compares runs over the same cases: scores, their differences, and how certain those are.

`textseg.report.write_comparison` writes tables, plots and a page of what is found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from textseg.compare.load import Result, load_results, shared_strata
from textseg.compare.results import (
    THESE_TWO,
    TRAININGS,
    Comparison,
    Difference,
    Method,
    Score,
    StratumDice,
)
from textseg.compare.statistics import (
    Resampled,
    holm,
    interval_test,
    paired_test,
    resample,
    score_with_interval,
)
from textseg.compare.strata import by_stratum
from textseg.compare.tables import plain_table
from textseg.compare.terms import differing_terms, shown_terms, unequal_terms_warning
from textseg.compare.words import word_use
from textseg.errors import UserError, check_at_least, check_distinct, check_seed
from textseg.metrics.bootstrap import RESAMPLES, Floats, bootstrap_warnings, patient_ids
from textseg.metrics.emptiness import emptiness_warnings
from textseg.metrics.scores import PRIMARY, SCORES
from textseg.metrics.summary import reported
from textseg.output import is_incomplete
from textseg.runs.cases import OUTLINES, CaseRow, table_rows

__all__ = [
    "Comparison",
    "Difference",
    "Method",
    "Score",
    "StratumDice",
    "compare",
    "plain_table",
    "score",
]

_FEW_SEEDS = {
    1: "one training of {}: intervals and p-values leave out how trainings of it differ; "
    "train three seeds or more",
    2: "two seeds of {}: the spread between trainings is hardly known, and intervals are wide; "
    "train three seeds or more",
}


def compare(
    runs: list[str],
    *,
    captions: str = "true",
    data: str | None = None,
    baseline: str | None = None,
    names: list[str] | None = None,
    endpoints: list[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare tested runs over the same cases, with intervals and a paired test.

    Runs of one experiment that differ in seed_everything alone are one method: its scores are means
    over seeds, and intervals come from patients and seeds resampled together.

    Args:
        runs: folders of two runs or more, runs/<config>/<time>; or folders of single tests, such as
            RUN/test/empty, to compare caption modes or a run's own test set with another's; a
            cross-validation's folder stands for a table of all its folds per seed.
        captions: caption mode of the tests to compare: true, empty or shuffled.
        data: other data that the runs were tested on, the <name> of RUN/test_on_<name>; null
            compares the tests on the runs' own data.
        baseline: method or run that the others are compared with; null is the first run's.
        names: a name for each run; runs of one name are seeds of one method. By default a run goes
            by the name of its experiment.
        endpoints: scores to give a p-value, corrected together by Holm's rule; null is dice alone,
            the primary endpoint, as every further one makes the correction stricter.
        resamples: draws of the bootstrap, and exchanges of the paired test.
        seed: of the draws; equal seeds give equal numbers.
    """
    check_at_least("resamples", resamples, 100, "give 1000 or more for a 95% interval")
    check_seed(seed)
    tested = _checked_endpoints(endpoints)
    results = load_results(runs, captions=captions, data=data, names=names)
    if len(results) < 2:
        raise UserError(
            f"runs={list(runs)} is too few to compare",
            "give two runs or more, runs/<config>/<time>",
        )
    found = _compared(_by_method(results, baseline), tested, resamples, seed)
    if len(found.methods) > 1:
        return found
    alone = "all runs are seeds of one method: there is nothing to compare it with"
    return replace(found, warnings=(*found.warnings, alone))


def score(run: str, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Score a run or a cross-validation by itself, as `compare` would.

    Args:
        run: its folder.
        resamples, seed: as of `compare`.
    """
    results = load_results([run], captions="true", data=None, names=None)
    return _compared(_by_method(results, None), (PRIMARY,), resamples, seed)


def _checked_endpoints(endpoints: Sequence[str] | None) -> tuple[str, ...]:
    """The scores that get a p-value."""
    asked = (PRIMARY,) if endpoints is None else tuple(endpoints)
    if not asked:
        raise UserError("endpoints=[] names no score", f"leave it out for {PRIMARY}, or name some")
    check_distinct("endpoints", asked)
    unknown = [name for name in asked if name not in SCORES]
    if unknown:
        raise UserError(f"endpoints={list(asked)} has {unknown[0]!r}", f"choose of {list(SCORES)}")
    return asked


def _by_method(results: Sequence[Result], baseline: str | None) -> dict[str, list[Result]]:
    """Results by method; the baseline, a method's name or one of the runs, comes first."""
    methods: dict[str, list[Result]] = {}
    for result in results:
        methods.setdefault(result.method, []).append(result)
    if baseline is None:
        return methods
    by_run = {result.given: result.method for result in results}
    name = baseline if baseline in methods else by_run.get(baseline)
    if name is None:
        raise UserError(
            f"baseline={baseline!r} is none of the methods", f"choose of {list(methods)}"
        )
    return {name: methods[name], **methods}


def _compared(
    methods: dict[str, list[Result]], endpoints: Sequence[str], resamples: int, seed: int
) -> Comparison:
    """Everything that a comparison finds, the first method being the baseline."""
    first = next(iter(methods.values()))[0]
    cases = tuple(first.cases.values())
    patient = patient_ids([case.patient for case in cases], len(cases))
    names = reported(table_rows(cases), [case.case_id for case in cases])
    columns = {
        name: np.stack([one.columns(list(first.cases), names) for one in own])
        for name, own in methods.items()
    }
    at = 2 * names.index(PRIMARY)
    dice = {name: one[..., at : at + 2] for name, one in columns.items()}
    own_strata = shared_strata([one for own in methods.values() for one in own])
    terms = differing_terms(methods)
    tests = [one.test for own in methods.values() for one in own]
    draws = {"resamples": resamples, "seed": seed}
    found = resample(list(columns.values()), patient, names=names, **draws)
    return Comparison(
        baseline=next(iter(methods)),
        methods=_methods(methods, found),
        differences=_differences(list(methods), found, endpoints, seed),
        strata=by_stratum(dice, cases, patient, own_strata, **draws),
        cases=cases,
        patients=found.patients,
        case_dice=np.stack([one[..., 0].mean(axis=0) for one in dice.values()]),
        captions=tuple(dict.fromkeys(test.caption_mode for test in tests)),
        words=word_use(methods, list(first.cases), patient, **draws),
        terms=shown_terms(terms),
        warnings=(*_warnings(methods, cases), *unequal_terms_warning(terms, list(methods))),
        own_strata=tuple(own_strata),
    )


def _methods(methods: dict[str, list[Result]], found: Resampled) -> tuple[Method, ...]:
    out = []
    for number, (name, results) in enumerate(methods.items()):
        runs = found.runs[number]
        spread = runs.std(axis=0, ddof=1) if len(runs) > 1 else np.full(len(found.names), np.nan)
        own = score_with_interval(found, number)
        table = zip(found.names, own.value, spread, own.low, own.high, strict=True)
        scores = {score: Score(*map(float, row)) for score, *row in table}
        folders = tuple(str(result.folder) for result in results)
        out.append(Method(name, folders, scores, results[0].test.averaging))
    return tuple(out)


def _differences(
    names: Sequence[str], found: Resampled, endpoints: Sequence[str], seed: int
) -> tuple[Difference, ...]:
    if len(names) < 2:
        return ()
    gaps = [score_with_interval(found, number, 0) for number in range(1, len(names))]
    tested = _positions(found, endpoints)
    p, corrected = np.full((2, len(gaps), len(found.names)), np.nan)
    kinds = [_p_is_of(found, number) for number in range(1, len(names))]
    for row, (gap, kind) in enumerate(zip(gaps, kinds, strict=True)):
        own = _exchanged(found, row + 1, seed) if kind == THESE_TWO else interval_test(gap)
        p[row, tested] = own[tested]
    family = p[:, tested]
    family[~np.isnan(family)] = holm(family[~np.isnan(family)])
    corrected[:, tested] = family
    out = []
    for row, (name, kind) in enumerate(zip(names[1:], kinds, strict=True)):
        numbers = (gaps[row].value, gaps[row].low, gaps[row].high, p[row], corrected[row])
        table = zip(found.names, *numbers, strict=True)
        for score, *values in table:
            value, low, high, single, all_together = map(float, values)
            out.append(Difference(name, score, value, low, high, single, all_together, kind))
    return tuple(out)


def _p_is_of(found: Resampled, number: int) -> str:
    """What a p-value of a method against the baseline speaks of."""
    single = len(found.runs[0]) == len(found.runs[number]) == 1
    return THESE_TWO if single else TRAININGS


def _exchanged(found: Resampled, number: int, seed: int) -> Floats:
    permutations = len(found.draws[0])
    pair = found.sums[number], found.sums[0]
    return paired_test(*pair, permutations=permutations, seed=seed, names=found.names)


def _positions(found: Resampled, endpoints: Sequence[str]) -> list[int]:
    """Positions of the endpoints among the scores that the tests have."""
    missing = [name for name in endpoints if name not in found.names]
    if missing:
        raise UserError(
            f"endpoints={list(endpoints)}: the tests have no {missing[0]}",
            f"choose of {list(found.names)}",
        )
    return [found.names.index(name) for name in endpoints]


def _warnings(methods: dict[str, list[Result]], cases: Sequence[CaseRow]) -> tuple[str, ...]:
    """What a reader must know before believing a number, as sentences."""
    warnings = bootstrap_warnings([case.case_id for case in cases], len(cases))
    warnings += emptiness_warnings([case.caption for case in cases], [case.true for case in cases])
    for seeds, warning in _FEW_SEEDS.items():
        names = ", ".join(name for name, results in methods.items() if len(results) == seeds)
        if names:
            warnings.append(warning.format(names))
    weak = sorted({case.truth for case in cases} - {OUTLINES})
    if weak:
        warnings.append(f"the truth is {', '.join(weak)}, not outlines: scores are against those")
    results = [one for own in methods.values() for one in own]
    known = {name for one in results for row in one.cases.values() for name in row.strata}
    partial = sorted(known - {*shared_strata(results)})
    if partial:
        warnings.append(f"not every test has strata by {', '.join(partial)}: they are left out")
    for folder in (result.folder for result in results):
        others = folder.parent.glob(f"{folder.name}_[0-9]*")
        again = sorted(path.name for path in others if not is_incomplete(path))
        if again:
            warnings.append(f"{folder} was tested again ({', '.join(again)}): first used")
    return tuple(warnings)
