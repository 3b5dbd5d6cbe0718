"""Dice and its difference from the baseline by size, number and side of the true lesions.

No p-values here: with three groupings, four classes each and several methods, one in twenty of so
many tests would be below 0.05 with nothing behind it. An interval shows size and doubt of a
difference that the whole test set has established; one stratum by itself establishes none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from textseg.compare import statistics
from textseg.compare.results import StratumDice
from textseg.metrics.bootstrap import Floats, Ints
from textseg.metrics.scores import SCORES
from textseg.metrics.strata import NUMBERS, SIDES, SIZES, number_class
from textseg.runs import CaseRow

_DICE = SCORES.index("dice")
# The grouping -> its classes in their order, and the class of a case.
_GROUPINGS: dict[str, tuple[Sequence[str], Callable[[CaseRow], str]]] = {
    "size": (SIZES, lambda case: case.lesion_size),
    "number": (NUMBERS, lambda case: number_class(case.lesion_number)),
    "side": (SIDES, lambda case: case.lesion_side),
}


def by_stratum(
    columns: Mapping[str, Floats],
    cases: Sequence[CaseRow],
    patient: Ints,
    *,
    resamples: int,
    seed: int,
) -> tuple[StratumDice, ...]:
    """Score each class that occurs, for each method, the baseline first.

    Args:
        columns: of each method [S, N, C], see `statistics.patient_sums`; the first is the baseline.
        cases: N cases.
        patient: [N], the patient's number.
        resamples: draws of the bootstrap in each class, over the patients who have a case in it.
        seed: of the draws.
    """
    strata: list[StratumDice] = []
    for grouping, (order, class_of) in _GROUPINGS.items():
        classes = np.array([class_of(case) for case in cases])
        for name in order:
            keep = np.flatnonzero(classes == name)
            if not len(keep):
                continue
            _, number = np.unique(patient[keep], return_inverse=True)
            part = {method: one[:, keep] for method, one in columns.items()}
            strata += _one_class(grouping, name, part, number, resamples, seed)
    return tuple(strata)


def _one_class(
    grouping: str,
    name: str,
    columns: Mapping[str, Floats],
    patient: Ints,
    resamples: int,
    seed: int,
) -> Iterator[StratumDice]:
    counts = np.bincount(patient)
    sums = [statistics.patient_sums(one, patient) for one in columns.values()]
    draws = statistics.bootstrap(sums, counts, resamples=resamples, seed=seed)[..., [_DICE]]
    runs = [statistics.run_scores(one, counts)[:, [_DICE]] for one in sums]  # M of [S, 1]
    for row, method in enumerate(columns):
        gap = low = high = float("nan")
        if row:
            gap = float(runs[row].mean() - runs[0].mean())
            ends = statistics.interval(
                draws[:, row] - draws[:, 0], runs[row], runs[0], patients=len(counts)
            )
            low, high = (float(end[0]) for end in ends)
        value = float(runs[row].mean())
        sizes = {"cases": len(patient), "patients": len(counts)}
        yield StratumDice(
            grouping, name, method, **sizes, dice=value, difference=gap, low=low, high=high
        )
