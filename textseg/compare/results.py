"""Results of a comparison, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textseg.runs import CaseRow

TRAININGS = "trainings and patients"  # of the methods' kind
THESE_TWO = "these two trainings"


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
    """A method, its runs (one for each seed) and its scores by name, of `SCORES`.

    `averaging` is what logits were averaged over at test time, such as "ensemble of 3, tta flip".
    """

    name: str
    runs: tuple[str, ...]
    scores: dict[str, Score]
    averaging: str = ""


@dataclass(frozen=True)
class Difference:
    """Score of `method` minus score of the baseline, with its 95% interval.

    `p` is NaN unless the score is an endpoint; `p_holm` is the same corrected for all p-values of
    the comparison, and `p_is_of` what they speak of: `TRAININGS` or `THESE_TWO`.
    """

    method: str
    score: str
    value: float
    low: float
    high: float
    p: float
    p_holm: float
    p_is_of: str


@dataclass(frozen=True)
class StratumDice:
    """A method's dice in one class of cases, and its difference from the baseline's.

    `grouping` is size, number or side of the true lesions, or a column of the user's own; `name` is
    that of the class, such as small.
    `difference`, `low` and `high` are NaN for the baseline, the latter with one patient too.
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
class WordUse:
    """A method's dice with empty or shuffled captions, and how much more it has with true ones.

    `gain` has a 95% interval, which is NaN with one patient.
    """

    method: str
    captions: str
    dice: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Everything that `compare` finds.

    Args:
        baseline: the method that the others are compared with; the first of `methods`.
        methods: in the order of the runs.
        differences: for each other method one for each score.
        strata: for each class of each grouping one for each method.
        cases: the N cases; captions are those of the baseline's first run.
        patients: their number; a case without a patient counts alone.
        case_dice: [M, N], mean over each method's seeds.
        captions: the caption modes of the runs.
        words: for each method and each other caption mode that all of its runs were tested with.
        terms: everything else in which methods differ: name -> a value for each method.
        warnings: what a reader must know before believing a number.
        own_strata: names of the groupings that are columns of the user's own.
    """

    baseline: str
    methods: tuple[Method, ...]
    differences: tuple[Difference, ...]
    strata: tuple[StratumDice, ...]
    cases: tuple[CaseRow, ...]
    patients: int
    case_dice: NDArray[np.float64]
    captions: tuple[str, ...]
    words: tuple[WordUse, ...]
    terms: dict[str, tuple[str, ...]]
    warnings: tuple[str, ...]
    own_strata: tuple[str, ...] = ()
