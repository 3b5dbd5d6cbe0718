"""Chooses the cases to show: the best, the median and the worst by Dice."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Choice:
    """Positions of the cases to show, and the rank of every case.

    Args:
        best: the best first, those with a lesion before those without.
        median: those nearest to the middle of the ranking, the better first.
        worst: the worst first.
        rank: of every case, 1 for the best; cases of equal Dice rank in the order they came in.
    """

    best: tuple[int, ...]
    median: tuple[int, ...]
    worst: tuple[int, ...]
    rank: tuple[int, ...]

    def groups(self) -> dict[str, tuple[int, ...]]:
        """Each kind of which there are cases, by its heading."""
        kinds = {"Best": self.best, "Median": self.median, "Worst": self.worst}
        return {heading: positions for heading, positions in kinds.items() if positions}

    def shown(self) -> tuple[int, ...]:
        """Positions of all the cases to show."""
        return (*self.best, *self.median, *self.worst)


def choose(
    dice: Sequence[float], lesions: Sequence[bool], pictured: Collection[int], count: int
) -> Choice:
    """Choose up to `count` cases of each kind among the positions `pictured`, none twice.

    There are fewer of each kind where pictures do not suffice for three kinds. An image without a
    lesion in which nothing is outlined has a Dice of 1 and shows nothing, so it is among the best
    only where cases with a lesion do not suffice.

    Args:
        dice: of every case.
        lesions: whether it has one.
        pictured: positions of the cases with a picture.
        count: of each kind, at most.
    """
    order = np.argsort(-np.asarray(dice, dtype=np.float64), kind="stable").tolist()
    rank = {position: number for number, position in enumerate(order, start=1)}
    known = [position for position in order if position in pictured]
    each = min(count, -(-len(known) // 3))
    best = sorted(known, key=lambda position: not lesions[position])[:each]  # stable: by rank
    left = [position for position in known if position not in best]
    worst = left[::-1][:each]
    left = left[: len(left) - len(worst)]
    middle = (len(order) + 1) / 2
    left.sort(key=lambda position: abs(rank[position] - middle))  # stable: the better first
    median = sorted(left[:each], key=rank.__getitem__)
    ranks = (rank[position] for position in range(len(order)))
    return Choice(tuple(best), tuple(median), tuple(worst), tuple(ranks))
