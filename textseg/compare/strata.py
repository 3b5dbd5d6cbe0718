"""Dice and its difference from the baseline by the true lesions, and by the user's own columns.

No p-values here: with three groupings or more, four classes each and several methods, one in twenty
of so many tests would be below 0.05 with nothing behind it. An interval shows size and doubt of a
difference that the whole test set has established; one stratum by itself establishes none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan

import numpy as np

from textseg.compare.results import StratumDice
from textseg.compare.statistics import resample, score_with_interval
from textseg.metrics.bootstrap import Floats, Ints, patient_ids
from textseg.metrics.strata import NUMBERS, SIDES, SIZES, number_class
from textseg.runs import CaseRow

# The grouping -> its classes in their order, and the class of a case.
_OF_LESIONS: dict[str, tuple[Sequence[str], Callable[[CaseRow], str]]] = {
    "size": (SIZES, lambda case: case.lesion_size),
    "number": (NUMBERS, lambda case: number_class(case.lesion_number)),
    "side": (SIDES, lambda case: case.lesion_side),
}


def groupings(
    cases: Sequence[CaseRow], own: Sequence[str]
) -> dict[str, tuple[Sequence[str], list[str]]]:
    """Grouping -> its classes in their order, and the class of each case."""
    found: dict[str, tuple[Sequence[str], list[str]]] = {
        name: (order, [class_of(case) for case in cases])
        for name, (order, class_of) in _OF_LESIONS.items()
    }
    for name in own:
        classes = [case.strata[name] for case in cases]
        found[name] = sorted(set(classes)), classes
    return found


def by_stratum(
    columns: Mapping[str, Floats],
    cases: Sequence[CaseRow],
    patient: Ints,
    own: Sequence[str] = (),
    *,
    resamples: int,
    seed: int,
) -> tuple[StratumDice, ...]:
    """Score each class that occurs, for each method, the baseline first.

    `columns` are those of dice for each method, and `patient` of each case, as
    `statistics.resample` takes them; `own` are names of the user's strata. Each class has a
    bootstrap of its own, over the patients who have a case in it.
    """
    strata = []
    for grouping, (order, of_cases) in groupings(cases, own).items():
        classes = np.array(of_cases)
        for name in order:
            keep = np.flatnonzero(classes == name)
            if not len(keep):
                continue
            number = patient_ids([str(one) for one in patient[keep]], len(keep))
            part = [one[:, keep] for one in columns.values()]
            found = resample(part, number, resamples=resamples, seed=seed, names=("dice",))
            for row, method in enumerate(columns):
                value = float(found.runs[row].mean())
                gap = [nan] * 3
                if row:
                    less = score_with_interval(found, row, 0)
                    gap = [float(x[0]) for x in (less.value, less.low, less.high)]
                counts = len(keep), found.patients
                strata.append(StratumDice(grouping, name, method, *counts, value, *gap))
    return tuple(strata)
