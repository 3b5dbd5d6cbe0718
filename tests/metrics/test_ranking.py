"""Which cases are shown: the best, the median and the worst."""

from __future__ import annotations

import numpy as np
import pytest

from textseg.metrics.ranking import choose


def test_best_median_and_worst_are_ranked_over_all_cases() -> None:
    dice = [0.5, 0.9, 0.1, 0.7, 0.3, 0.8, 0.2, 0.6, 0.4]  # rank 5 1 9 3 7 2 8 4 6
    found = choose(dice, [True] * 9, range(9), 2)
    assert found.best == (1, 5)
    assert found.median == (7, 0)  # ranks 4 and 5: as near to the middle as rank 6, and better
    assert found.worst == (2, 6)
    assert found.rank == (5, 1, 9, 3, 7, 2, 8, 4, 6)


@pytest.mark.parametrize("pictured", [0, 1, 2, 3, 4, 7, 11, 30])
def test_no_case_is_shown_twice_and_only_those_with_pictures(pictured: int) -> None:
    dice = np.random.default_rng(0).uniform(size=30).tolist()
    known = np.random.default_rng(1).permutation(30)[:pictured].tolist()
    found = choose(dice, [True] * 30, known, 4)
    shown = found.shown()
    assert len(set(shown)) == len(shown) == min(pictured, 12)
    assert set(shown) <= set(known)
    if pictured:
        assert dice[found.best[0]] == max(dice[i] for i in known)
    if found.worst:
        assert dice[found.worst[0]] == min(dice[i] for i in known)


def test_the_best_are_cases_with_a_lesion_as_far_as_there_are_any() -> None:
    dice = [1.0, 1.0, 0.9, 0.2, 0.5, 0.0]
    lesions = [False, False, True, True, True, False]
    found = choose(dice, lesions, range(6), 1)
    assert (found.best, found.worst) == ((2,), (5,))
    assert found.rank[2] == 3, "ranks are over all cases"
    assert choose(dice, [False] * 6, range(6), 1).best == (0,)
    assert choose(dice[:3], lesions[:3], range(3), 1).best == (2,)
