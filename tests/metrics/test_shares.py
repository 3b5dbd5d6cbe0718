"""Intervals of shares, against scipy's Wilson interval and arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, norm, t  # type: ignore[import-untyped]

from textseg.metrics.shares import effective_number, share_interval, wilson_interval


@pytest.mark.parametrize(("hits", "cases"), [(0, 30), (30, 30), (1, 30), (15, 30), (7, 9), (0, 1)])
def test_of_independent_cases_the_interval_is_wilsons_at_the_ends_too(
    hits: int, cases: int
) -> None:
    wanted = binomtest(hits, cases).proportion_ci(method="wilson")
    values = [True] * hits + [False] * (cases - hits)
    for groups in (None, [""] * cases, [f"p{number}" for number in range(cases)]):
        found = share_interval(values, groups)
        assert found.value == hits / cases
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_thirty_of_thirty_leave_room_below_and_none_above() -> None:
    found = share_interval([True] * 30)
    assert (round(found.low, 3), found.high) == (0.886, 1.0)
    none = share_interval([False] * 30)
    assert (none.low, round(none.high, 3)) == (0.0, 0.114)


def test_cases_of_one_patient_that_agree_count_once() -> None:
    values, groups = [True] * 30, [f"p{number // 10}" for number in range(30)]
    assert (share_interval(values, groups).low, 1.0) == pytest.approx(wilson_interval(1.0, 3))
    # Patients of 8, 1 and 1 cases tell less than three do: (8 + 1 + 1)^2 / (64 + 1 + 1).
    patients = np.array([0] * 8 + [1, 2])
    assert effective_number(np.ones(10), patients) == pytest.approx(100 / 66)


def test_where_both_answers_are_common_the_variance_between_patients_is_estimated() -> None:
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 5)
    rates = generator.beta(2, 2, 40)
    values = (generator.uniform(size=200) < rates[patients]).astype(float)
    share, sums = values.mean(), np.array([values[patients == p].sum() for p in range(40)])
    # By hand: the variance of a mean over 40 equal patients is that of their means over 40.
    variance = (sums / 5).var(ddof=1) / 40
    shrink = (norm.ppf(0.975) / t.ppf(0.975, 39)) ** 2
    wanted = shrink * share * (1 - share) / variance
    assert 40 < wanted < 200
    assert effective_number(values, patients) == pytest.approx(wanted)


def test_patients_of_one_mind_and_patients_that_differ_within_bound_the_number() -> None:
    patients = np.repeat(np.arange(20), 10)
    alike = (patients % 2).astype(float)
    assert effective_number(alike, patients) == 20, "t is not allowed to make it fewer"
    mixed = np.tile([0.0, 1.0], 100)
    assert effective_number(mixed, patients) == 200, "no more than there are cases"


def test_a_share_of_nothing_is_undefined() -> None:
    found = share_interval([])
    assert np.isnan([found.value, found.low, found.high]).all()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("alike", [0.05, 0.5])
def test_intervals_of_shares_hold_the_truth_in_most_repetitions(share: float, alike: float) -> None:
    """60 patients of 1 to 9 cases, whose rates are beta distributed with correlation `alike`."""
    generator = np.random.default_rng([int(100 * share), int(100 * alike)])
    scale = (1 - alike) / alike
    held = []
    for _ in range(1000):
        sizes = generator.integers(1, 10, 60)
        patients = np.repeat(np.arange(60), sizes)
        rates = generator.beta(share * scale, (1 - share) * scale, 60)
        values = generator.uniform(size=len(patients)) < rates[patients]
        found = share_interval(values, [str(patient) for patient in patients])
        held.append(found.low <= share <= found.high)
    assert np.mean(held) >= 0.93
