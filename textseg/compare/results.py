"""Results of a comparison, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textseg.runs import CaseRow


@dataclass(frozen=True)
class Score:
    """A method's score: mean over its seeds, their standard deviation, and the 95% interval.

    `std` is NaN with one seed, `low` and `high` with one patient.
    """

    value: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class Method:
    """A method, its runs (one for each seed) and its scores by the names of `SCORES`."""

    name: str
    runs: tuple[str, ...]
    scores: dict[str, Score]


@dataclass(frozen=True)
class Difference:
    """Score of `method` minus score of the baseline, with its 95% interval.

    `p` is of the paired test, `p_holm` the same corrected for the number of methods that are
    compared with the baseline.
    """

    method: str
    score: str
    value: float
    low: float
    high: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class StratumDice:
    """A method's dice in one class of cases, and its difference from the baseline's.

    Args:
        grouping: size, number or side, of the true lesions.
        name: of the class, such as small.
        method: whose dice it is.
        cases, patients: how many the class has.
        dice: mean over its seeds.
        difference: from the baseline's, with its 95% interval; NaN for the baseline itself.
        low, high: of the difference; NaN for the baseline, and with one patient.
    """

    grouping: str
    name: str
    method: str
    cases: int
    patients: int
    dice: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Everything that `compare` finds.

    Args:
        baseline: the method that the others are compared with; the first of `methods`.
        methods: every method, in the order of the runs, the baseline first.
        differences: for each other method one for each of `SCORES`.
        strata: for each class of size, number and side of lesions one for each method.
        cases: the N cases; captions are those of the baseline's first run.
        patients: number of patients; a case without one counts alone.
        case_dice: [M, N], Dice of each case, mean over the method's seeds.
        captions: the caption modes of the runs.
        warnings: what a reader must know before believing a number.
    """

    baseline: str
    methods: tuple[Method, ...]
    differences: tuple[Difference, ...]
    strata: tuple[StratumDice, ...]
    cases: tuple[CaseRow, ...]
    patients: int
    case_dice: NDArray[np.float64]
    captions: tuple[str, ...]
    warnings: tuple[str, ...]
