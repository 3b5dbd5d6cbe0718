"""Scores stratified by the size, number and side of the true lesions, or any other classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textseg.metrics.bootstrap import count_patients
from textseg.metrics.lesions import label_lesions
from textseg.metrics.scores import CaseTableRows, Protocol, select
from textseg.metrics.summary import mean_scores, score_intervals

Side = Literal["none", "left", "right", "both"]
SIZES = ("none", "small", "medium", "large")
NUMBERS = ("0", "1", "2", "3+")
SIDES = ("none", "left", "right", "both")
GROUPINGS = ("size", "number", "side")  # that every test has
ONE_SIDED = 0.9  # share of the foreground that must lie in one half


class TruthFacts(NamedTuple):
    """Number of lesions (connected components) of a mask, and the side they are on."""

    lesions: int
    side: Side


def describe_truth(truth: NDArray[Any]) -> TruthFacts:
    """Count the lesions of a mask [H, W], nonzero is foreground, and find their side.

    Lesions are components of pixels that touch, at corners too. The side is left or right where at
    least nine tenths of the foreground lie in that half of the picture (the middle column of an odd
    width counts for neither), and otherwise both.
    """
    mask = np.asarray(truth) != 0
    if not mask.any():
        return TruthFacts(0, "none")
    columns = mask.sum(axis=0)
    half = len(columns) // 2
    left, right = int(columns[:half].sum()), int(columns[len(columns) - half :].sum())
    side: Side = "both"
    if max(left, right) >= ONE_SIDED * (left + right) and left != right:
        side = "left" if left > right else "right"
    return TruthFacts(label_lesions(mask)[1], side)


def size_classes(
    true: NDArray[np.int64], pixels: NDArray[np.int64]
) -> tuple[list[str], list[float]]:
    """Classify each case by lesion size, and give the two cut points.

    Small, medium and large are thirds of this set's cases with a lesion, by the share of the image
    that their whole foreground takes: small up to the first cut, medium up to the second. Equal
    shares are in one class, so thirds may be uneven.

    Args:
        true, pixels: [N], pixels of the truth and of the image.

    Returns:
        N of `SIZES`, and the cuts as shares of the image; no cuts where no case has a lesion.
    """
    share = true / pixels
    lesions = share[share > 0]
    if not len(lesions):
        return [SIZES[0]] * len(true), []
    cuts = np.quantile(lesions, [1 / 3, 2 / 3], method="inverted_cdf")
    numbers = np.where(share > 0, 1 + np.searchsorted(cuts, share, side="left"), 0)
    return [SIZES[number] for number in numbers], cuts.tolist()


def number_class(lesions: int) -> str:
    """Class of a number of lesions: 0, 1, 2 or 3+."""
    return NUMBERS[min(lesions, len(NUMBERS) - 1)]


def by_stratum(
    rows: CaseTableRows,
    groups: Sequence[str | None],
    classes: Sequence[str],
    order: Sequence[str],
    *,
    protocol: Protocol = "standard",
) -> dict[str, dict[str, float | int]]:
    """Score each class that occurs, both conventions with their 95% intervals.

    Args:
        rows: the table, N cases.
        groups: the patient or study of each case; "" or None for a case that is alone.
        classes: the class of each case.
        order: every class there may be, in the order of the result.
        protocol: of the scores.

    Returns:
        class -> cases, patients, and `MAIN`, each with `_ci_low` and `_ci_high`, which are NaN
        where there is one patient only.
    """
    strata: dict[str, dict[str, float | int]] = {}
    for name in order:
        keep = [i for i, own in enumerate(classes) if own == name]
        if not keep:
            continue
        part, patients = select(rows, np.array(keep)), [groups[i] for i in keep]
        intervals = score_intervals(part, patients, protocol=protocol)
        strata[name] = {"cases": len(keep), "patients": count_patients(patients, len(keep))}
        for score, value in mean_scores(part, protocol=protocol).items():
            low, high = intervals[score]
            strata[name] |= {score: value, f"{score}_ci_low": low, f"{score}_ci_high": high}
    return strata
