"""Intervals that cover, tests of the right size, and a correction, against other computations."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, permutation_test, t

from tests.metrics.pairs import counted
from textseg.compare import statistics
from textseg.compare.statistics import (
    bootstrap,
    estimated,
    holm,
    interval_test,
    paired_test,
    patient_sums,
    resample,
    run_scores,
    score_with_interval,
)
from textseg.metrics.bootstrap import SeedVariance, patient_ids, shape_of
from textseg.metrics.scores import MAIN
from textseg.metrics.summary import mean_scores, score_intervals

Floats = NDArray[np.float64]


def columns(quality: Floats, area: Floats) -> Floats:
    """Runs whose prediction is as large as the truth, so that Dice is the overlap: [S, N, 8]."""
    both, one = quality * area, np.ones_like(quality)
    union = 2 * area - both
    pairs = (quality, one), (both / union, one), (2 * both, 2 * area * one), (both, union)
    return np.stack([part for pair in pairs for part in pair], axis=-1)


def flips_by_hand(one: Floats, other: Floats) -> list[float]:
    """p of each score from all exchanges of patients, one after the other."""
    observed, reached, total = None, np.zeros(4), 0
    for swap in product([False, True], repeat=len(one)):  # the first exchanges nobody
        kept, given = (
            run_scores(np.where(np.array(swap)[:, None], two, first)[None])[0]
            for first, two in ((one, other), (other, one))
        )
        difference = np.abs(kept - given)
        observed = difference if observed is None else observed
        reached += difference >= observed - 1e-12
        total += 1
    return (reached / total).tolist()


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(20)


def test_scores_of_a_run_equal_those_of_the_metrics(generator: np.random.Generator) -> None:
    true = generator.integers(0, 50, 40)
    predicted = generator.integers(0, 50, 40)
    both = (np.minimum(true, predicted) * generator.random(40)).astype(np.int64)
    rows = counted(both, predicted, true)
    union = predicted + true - both
    dice = np.where(predicted + true > 0, 2 * both / np.maximum(predicted + true, 1), 1.0)
    iou = np.where(union > 0, both / np.maximum(union, 1), 1.0)
    one = np.ones(40)
    parts = [dice, one, iou, one, 2 * both, predicted + true, both, union]
    table = np.stack(parts, axis=1)[None]
    patient = generator.integers(0, 9, 40)
    patient[:9] = np.arange(9)
    patient = patient_ids([f"p{number}" for number in patient], 40)
    found = resample([table], patient, resamples=4000, seed=1)
    value, low, high = score_with_interval(found, 0)[:3]
    assert dict(zip(MAIN, value, strict=True)) == pytest.approx(mean_scores(rows))
    own = score_intervals(rows, [f"p{number}" for number in patient], resamples=4000, seed=1)
    ends = np.array([own[name] for name in MAIN]).T
    assert (low, high) == (pytest.approx(ends[0]), pytest.approx(ends[1]))


def test_there_is_no_global_score_without_any_foreground() -> None:
    sums = np.zeros((1, 3, 8))
    sums[..., [1, 3]] = 1
    assert run_scores(sums)[0, :2].tolist() == [0, 0]
    assert np.isnan(run_scores(sums)[0, 2:]).all()


def test_the_interval_covers_the_true_difference_at_its_nominal_rate() -> None:
    """200 patients of 1 to 3 images that are alike; Dice of the better method grows with size.

    400 repetitions have a standard error of 1.1%: test_bootstrap_coverage.py has more of them.
    """
    generator = np.random.default_rng(3)
    gain, slope, area_mean, area_range = 0.05, 0.1, 550.0, 900.0
    by_size = slope * (area_range**2 / 12) / area_mean**2  # E[area * quality] / E[area] beyond gain
    truth = np.array([gain, gain + by_size])
    repetitions, covered = 400, np.zeros(2)
    for repetition in range(repetitions):
        cases = generator.integers(1, 4, 200)
        patient = np.repeat(np.arange(200), cases)
        alike = generator.normal(0, 0.06, 200)[patient]
        area = area_mean + area_range * (generator.random(len(patient)) - 0.5)
        noise = generator.normal(0, 0.05, (2, len(patient)))
        effect = generator.normal(0, 0.04, 200)[patient]  # the gain differs between patients
        base = 0.6 + alike + noise[0]
        better = 0.6 + gain + slope * (area / area_mean - 1) + alike + effect + noise[1]
        table = [columns(one[None], area) for one in (better, base)]
        found = resample(table, patient, resamples=600, seed=repetition)
        _, low, high = score_with_interval(found, 0, 1)[:3]
        covered += (low[[0, 2]] <= truth) & (truth <= high[[0, 2]])
    assert ((covered / repetitions >= 0.917) & (covered / repetitions <= 0.983)).all(), covered


def test_the_spread_is_that_of_a_two_way_analysis_of_variance(
    generator: np.random.Generator,
) -> None:
    """Patients, trainings and their interaction by mean squares, as textbooks have them."""
    patients, trainings = 60, 4
    values = 0.6 + generator.normal(0, 0.05, patients) + generator.normal(0, 0.02, (trainings, 1))
    values = values + generator.normal(0, 0.04, (trainings, patients))
    rows, columns_mean, grand = values.mean(axis=1), values.mean(axis=0), values.mean()
    rest = values - rows[:, None] - columns_mean + grand
    ms_rest = (rest**2).sum() / ((patients - 1) * (trainings - 1))
    ms_trainings = patients * ((rows - grand) ** 2).sum() / (trainings - 1)
    ms_patients = trainings * ((columns_mean - grand) ** 2).sum() / (patients - 1)
    cells = patients * trainings
    expected = (ms_trainings + ms_patients - ms_rest) / cells
    found = resample(
        [columns(values, np.full(patients, 100.0))], np.arange(patients), resamples=20_000, seed=0
    )
    own = score_with_interval(found, 0)
    assert own.seed_variance[0] == pytest.approx((ms_trainings - ms_rest) / cells, rel=0.05)
    assert own.draws[:, 0].var() + own.seed_variance[0] == pytest.approx(expected, rel=0.05)
    of_patients = shape_of(found.left_out[0].mean(axis=0)).degrees_of_freedom[0]
    weights = (ms_patients / cells) ** 2 / of_patients + (ms_trainings / cells) ** 2 / (
        trainings - 1
    )
    assert own.shape.degrees_of_freedom[0] == pytest.approx(expected**2 / weights, rel=0.1)
    half = t.ppf(0.975, own.shape.degrees_of_freedom[0]) * np.sqrt(expected)
    assert (own.high[0] - own.low[0]) / 2 == pytest.approx(half, rel=0.05)


def test_trainings_that_differ_less_than_patients_explain_add_nothing(
    generator: np.random.Generator,
) -> None:
    values = np.stack([base := generator.random(50), np.roll(base, 1)])  # of equal means
    found = resample([columns(values, np.full(50, 100.0))], np.arange(50), resamples=500, seed=0)
    assert score_with_interval(found, 0).seed_variance[0] == 0


def test_patients_all_alike_leave_the_t_interval_of_the_seeds() -> None:
    values = np.array([0.50, 0.56, 0.68, 0.70])
    table = columns(np.tile(values[:, None], 5), np.full(5, 100.0))
    own = score_with_interval(resample([table], np.arange(5), resamples=200, seed=0), 0)
    known = t.interval(0.95, 3, values.mean(), values.std(ddof=1) / 2)
    assert (own.low[0], own.high[0]) == pytest.approx(known)


@pytest.mark.parametrize("runs", [(1, 2), (3, 3), (5, 2)])
def test_p_is_below_a_twentieth_exactly_where_the_interval_leaves_out_zero(
    generator: np.random.Generator, runs: tuple[int, int]
) -> None:
    decided = []
    for repetition in range(60):
        area = generator.uniform(50, 500, 30)
        shift = generator.uniform(-0.06, 0.06)
        tables = [
            columns(0.5 + 0.3 * generator.random((count, 30)) + more, area)
            for count, more in zip(runs, (0, shift), strict=True)
        ]
        gap = score_with_interval(
            resample(tables, np.arange(30), resamples=150, seed=repetition), 0, 1
        )
        outside = (gap.low > 0) | (gap.high < 0)
        assert ((interval_test(gap) < 0.05) == outside).all()
        decided += outside.tolist()
    assert 0.1 < np.mean(decided) < 0.9, "an example that could not tell"


@pytest.mark.parametrize(
    ("one", "other", "patients"), [(1, 1, 30), (0, 0, 30), (1, 0, 30), (0, 1, 8), (1, 0, 2)]
)
def test_all_or_none_of_both_methods_leaves_a_difference_its_doubt(
    one: int, other: int, patients: int
) -> None:
    area = np.full(patients, 100.0)
    tables = [columns(np.full((1, patients), float(value)), area) for value in (one, other)]
    gap = score_with_interval(resample(tables, np.arange(patients), resamples=99, seed=0), 0, 1)
    limits = [
        binomtest(value * patients, patients).proportion_ci(method="exact")
        for value in (one, other)
    ]
    below = np.hypot(one - limits[0].low, limits[1].high - other)
    above = np.hypot(limits[0].high - one, other - limits[1].low)
    ends = max(-1, one - other - below), min(1, one - other + above)
    assert (gap.low[0], gap.high[0]) == pytest.approx(ends)
    outside = gap.low[0] > 0 or gap.high[0] < 0
    assert (interval_test(gap)[0] < 0.05) == outside
    assert outside == (one != other and patients > 2)


def test_p_of_a_normal_spread_is_that_of_students_t(generator: np.random.Generator) -> None:
    draws = generator.normal(0.02, 0.006, (100_000, 1))
    value, none = np.array([0.02]), np.array([0.0])
    left_out = norm.ppf((np.arange(40) + 0.5) / 40)[:, None]
    seeds = [SeedVariance(none + 0.008**2, none + 0.008**2, 3)]
    gap = estimated(value, draws, left_out, seeds, bounds=(-1, 1))
    expected = 2 * t.sf(0.02 / 0.01, gap.shape.degrees_of_freedom[0])
    assert interval_test(gap)[0] == pytest.approx(expected, rel=0.02)
    far = estimated(value * 9, draws + 0.16, left_out, [], bounds=(-1, 1))
    assert interval_test(far)[0] == pytest.approx(1 / 100_001), "never 0"
    assert interval_test(estimated(none, draws * 0, left_out, [], bounds=(-1, 1)))[0] == 1
    assert np.isnan(interval_test(estimated(value, draws, left_out[:1], [], bounds=(-1, 1)))[0])


def null_comparisons(
    seeds: int, noise: float, repetitions: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Trainings of two methods that are one, on 200 patients: p < 0.05, and 0 left out."""
    generator = np.random.default_rng([seeds, round(1e4 * noise)])
    small, outside = np.zeros((2, repetitions), dtype=bool)
    for repetition in range(repetitions):
        patients = 0.7 + generator.normal(0, 0.1, 200)
        tables = [
            columns(
                patients
                + generator.normal(0, noise, (seeds, 1))
                + generator.normal(0, 0.028, (seeds, 200)),
                np.full(200, 100.0),
            )[..., :2]
            for _ in range(2)
        ]
        found = resample(tables, np.arange(200), resamples=400, seed=repetition, names=["dice"])
        gap = score_with_interval(found, 0, 1)
        outside[repetition] = gap.low[0] > 0 or gap.high[0] < 0
        small[repetition] = interval_test(gap)[0] < 0.05
        if seeds == 1:
            pair = found.sums[0], found.sums[1]
            p = paired_test(*pair, permutations=400, seed=repetition, names=["dice"])
            small[repetition] = p[0] < 0.05
    return small, outside


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.003, 0.006])
@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_methods_are_told_apart_in_one_of_twenty_comparisons_of_seeds(
    seeds: int, noise: float
) -> None:
    """3000 repetitions have a standard error of 0.35%."""
    small, outside = null_comparisons(seeds, noise, 3000)
    print(seeds, noise, small.mean())
    assert (small == outside).all()
    assert 0.03 <= small.mean() <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "least"), [(0.003, 0.2), (0.006, 0.4)])
def test_one_seed_a_method_tells_equal_methods_apart_far_too_often(
    noise: float, least: float
) -> None:
    """What the warning about one seed is for: p speaks of these two trainings alone."""
    small, outside = null_comparisons(1, noise, 300)
    print(noise, small.mean(), outside.mean())
    assert small.mean() > least
    assert outside.mean() > least
    assert (small == outside).mean() > 0.9, "both are over patients"


def test_the_same_patients_are_drawn_for_every_method(generator: np.random.Generator) -> None:
    sums = patient_sums(columns(generator.random((1, 30)), np.full(30, 100.0)), np.arange(30))
    better = sums + np.array([0.1, 0, 0, 0, 0, 0, 0, 0])
    one, other = bootstrap([sums, better], resamples=300, seed=0)
    assert other[:, 0, 0] - one[:, 0, 0] == pytest.approx(0.1)
    assert one[:, 0, 0].std() > 0.01


def test_equal_seeds_give_equal_draws_and_others_do_not(generator: np.random.Generator) -> None:
    sums = patient_sums(columns(generator.random((2, 9)), np.full(9, 100.0)), np.arange(9))
    one, same, other = (bootstrap([sums], resamples=300, seed=s)[0] for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_paired_test_equals_scipys_where_both_are_exact(generator: np.random.Generator) -> None:
    area = np.full(9, 100.0)
    one, other = generator.random((2, 9)) * 0.3 + np.array([[0.6], [0.5]])
    pair = [patient_sums(columns(v[None], area), np.arange(9)) for v in (one, other)]
    found = paired_test(*pair, permutations=512, seed=0)
    known = permutation_test(
        (one, other),
        lambda x, y: np.mean(x) - np.mean(y),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert 0.01 < known.pvalue < 0.9, "an example that could not tell"
    assert found[0] == pytest.approx(known.pvalue)


def test_the_exact_test_exchanges_whole_patients(generator: np.random.Generator) -> None:
    patient = np.array([0, 0, 0, 1, 2, 2, 3, 4, 5, 5, 6])
    area = generator.uniform(50, 500, len(patient))
    quality = generator.random((2, len(patient))) * 0.3 + np.array([[0.65], [0.5]])
    one, other = (patient_sums(columns(q[None], area), patient) for q in quality)
    found = paired_test(one, other, permutations=128, seed=0)
    assert found.tolist() == pytest.approx(flips_by_hand(one[0], other[0]))
    drawn = paired_test(one, other, permutations=127, seed=0)
    assert drawn == pytest.approx(found, abs=0.15)
    assert not np.allclose(drawn * 128, found * 128), "127 are too few to look at all 128"


def test_a_drawn_p_is_never_zero_and_counts_the_data_themselves() -> None:
    area = np.full(40, 100.0)
    one, other = (
        patient_sums(columns(np.full((1, 40), q), area), np.arange(40)) for q in (0.9, 0.2)
    )
    found = paired_test(one, other, permutations=999, seed=0)
    assert found.tolist() == pytest.approx([1 / 1000] * 4)


def test_smaller_parts_draw_the_same_exchanges(
    generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    quality = generator.random((2, 40)) * 0.3 + np.array([[0.55], [0.5]])
    area = np.full(40, 100.0)
    one, other = (patient_sums(columns(q[None], area), np.arange(40)) for q in quality)
    whole = paired_test(one, other, permutations=999, seed=0)
    assert 1 / 1000 < whole[0] < 1
    monkeypatch.setattr(statistics, "_MOST_SIGNS", 7 * 40)
    assert paired_test(one, other, permutations=999, seed=0).tolist() == whole.tolist()


def test_equal_methods_have_a_p_of_one() -> None:
    sums = patient_sums(columns(np.full((2, 30), 0.5), np.full(30, 9.0)), np.arange(30))
    assert paired_test(sums, sums[:1], permutations=99, seed=0).tolist() == [1] * 4


@pytest.mark.parametrize(("patients", "permutations"), [(40, 399), (8, 256)])
def test_the_paired_test_has_the_right_size_under_no_difference(
    patients: int, permutations: int
) -> None:
    """At 5% it rejects 5% of the time; skewed differences and unlike areas included."""
    generator = np.random.default_rng(8)
    repetitions, rejected = 800, np.zeros(4)
    for repetition in range(repetitions):
        area = generator.uniform(50, 1000, patients)
        both = 0.5 + 0.2 * generator.beta(2, 5, (2, patients))  # exchangeable within a patient
        one, other = (patient_sums(columns(q[None], area), np.arange(patients)) for q in both)
        rejected += paired_test(one, other, permutations=permutations, seed=repetition) <= 0.05
    assert ((rejected / repetitions > 0.033) & (rejected / repetitions < 0.067)).all(), rejected


def test_holm_equals_a_worked_example() -> None:
    # 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 raised to the one before.
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]
    assert holm(np.array([0.2])).tolist() == [0.2]


def test_holm_rejects_as_the_step_down_procedure_does(generator: np.random.Generator) -> None:
    for _ in range(200):
        p = generator.random(5) ** 3
        rejected = set()
        for step, number in enumerate(sorted(range(5), key=lambda n: p[n])):
            if p[number] > 0.05 / (5 - step):
                break
            rejected.add(number)
        assert {n for n, value in enumerate(holm(p)) if value <= 0.05} == rejected
