"""The table of cases and its summary: rows, intervals over patients, and masks of logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.metrics.pairs import (
    assert_same_rows,
    blobs,
    counted,
    fill,
    pairs_with_empty_ones,
    tabulate,
)
from textseg.metrics import bootstrap, case_table
from textseg.metrics import scores as metrics
from textseg.metrics import summary as test_set
from textseg.metrics.case_table import CaseTable
from textseg.metrics.scores import CaseTableRows


def loop_interval(scores: np.ndarray, groups: list[str], draws: int) -> np.ndarray:
    """n - 1 of n patients, one after the other; percentiles, widened as Student's t is."""
    from scipy.stats import norm, t

    names, rng, means = sorted(set(groups)), np.random.default_rng(99), []
    members = {name: [i for i, g in enumerate(groups) if g == name] for name in names}
    for _ in range(draws):
        drawn = [i for name in rng.choice(names, len(names) - 1) for i in members[name]]
        means.append(scores[drawn].mean())
    wider = t.ppf(0.975, len(names) - 1) / norm.ppf(0.975)
    return scores.mean() + wider * (np.quantile(means, [0.025, 0.975]) - scores.mean())


def test_a_probability_of_exactly_one_half_is_background() -> None:
    logits = torch.tensor([-1e-6, 0.0, 1e-6])
    assert case_table.threshold_logits(logits).tolist() == [False, False, True]


def test_the_cheap_counts_never_read_a_value_from_the_device() -> None:
    """The meta device has no values: waiting for one would raise."""
    table = CaseTable().to("meta")
    masks = torch.ones(3, 8, 8, dtype=torch.bool, device="meta")
    index = torch.arange(3, device="meta")
    table.update(masks, masks, index, torch.ones(3, 2, device="meta"))
    assert [(tuple(part.shape), part.dtype) for part in table.rows] == [((3, 13), torch.int64)]


def test_the_table_stays_exact_when_the_network_turns_to_half_precision() -> None:
    table = CaseTable(surface=True)
    fill(table, [blobs(0), blobs(1)], [100_001, 100_003])
    network = torch.nn.ModuleDict({"table": table}).to(torch.bfloat16)
    assert_same_rows(
        network["table"].compute(),
        tabulate([blobs(0), blobs(1)], [100_001, 100_003], surface=True),
    )


def test_rows_are_sorted_by_index_and_repeats_are_dropped() -> None:
    pairs = [blobs(seed) for seed in range(4)]
    order = [3, 1, 0, 2, 1, 3]
    shuffled = tabulate([pairs[i] for i in order], order, surface=True)
    assert shuffled.index.tolist() == [0, 1, 2, 3]
    assert_same_rows(shuffled, tabulate(pairs, surface=True))


def test_a_batch_tensor_and_a_list_of_masks_give_the_same_rows() -> None:
    pairs = [blobs(seed) for seed in range(3)]
    table = CaseTable()
    pred, truth = (torch.stack(masks) for masks in zip(*pairs, strict=True))
    table.update(pred, truth.float(), torch.arange(3), torch.full((3, 2), float("nan")))
    assert_same_rows(table.compute(), tabulate(pairs))


def test_a_reset_table_has_no_cases_and_no_scores() -> None:
    table = CaseTable()
    fill(table, [blobs(0)], [0])
    table.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        rows = table.compute()
    result = test_set.summary(rows)
    assert result["cases"] == 0
    assert np.isnan(result["dice"])
    assert np.isnan(result["dice_ci_low"])


def test_the_summary_has_the_names_that_are_logged() -> None:
    counts = {"cases", "cases_without_lesion", "empty_cases", "bootstrap_units"}
    masks = {"hd95_q1", "hd95_median", "hd95_q3", "surface_undefined", "surface_unit"}
    scores = set(metrics.SCORES)
    for surface in (True, False):
        rows = tabulate(pairs_with_empty_ones(6), surface=surface)
        for groups in (None, list("aabbcc")):
            known = {name for name in scores if surface or not metrics.SCORES[name].masks}
            known -= set() if groups else {"dice_patient"}
            result = test_set.summary(rows, groups)
            ends = {f"{name}_ci_{end}" for name in known for end in ("low", "high")}
            assert set(result) == known | ends | counts | (masks if surface else set())
            for name in known:
                assert result[f"{name}_ci_low"] <= result[name] <= result[f"{name}_ci_high"], name


def correlated_rows() -> tuple[CaseTableRows, list[str]]:
    """30 patients of 8 nearly equal slices each."""
    groups = [f"patient {i // 8}" for i in range(240)]
    rng = np.random.default_rng(5)
    both = np.repeat(rng.integers(5, 95, 30), 8) + rng.integers(-3, 4, 240)
    hundred = np.full(240, 100)
    return counted(both, hundred, hundred), groups


def test_the_interval_of_a_mean_is_that_of_dice() -> None:
    rows, groups = correlated_rows()
    low, high = test_set.score_intervals(rows, groups, seed=5)["dice"]
    found = bootstrap.mean_interval(metrics.dice(rows), groups, seed=5)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.low < found.value < found.high
    one = bootstrap.mean_interval(np.array([0.5, 1.0]), ["p", "p"])
    assert one.value == 0.75
    assert np.isnan([one.low, one.high]).all(), "a single patient"


def test_the_bootstrap_interval_equals_a_plain_loop_over_patients() -> None:
    rows, groups = correlated_rows()
    intervals = test_set.score_intervals(rows, groups)
    expected = loop_interval(metrics.dice(rows), groups, 2000)
    width = expected[1] - expected[0]
    np.testing.assert_allclose(intervals["dice"], expected, atol=0.08 * width)
    # Equal areas in all cases: the pooled Dice is the mean Dice, and so are their intervals.
    np.testing.assert_allclose(intervals["dice_global"], intervals["dice"], rtol=1e-12)


def test_drawing_whole_patients_widens_the_interval_of_correlated_slices() -> None:
    rows, groups = correlated_rows()
    low, high = test_set.score_intervals(rows)["dice"]
    grouped_low, grouped_high = test_set.score_intervals(rows, groups)["dice"]
    assert grouped_high - grouped_low > 2 * (high - low)
    assert test_set.summary(rows, groups)["bootstrap_units"] == 30


def test_cases_without_a_patient_are_drawn_alone() -> None:
    rows, groups = correlated_rows()
    alone = test_set.score_intervals(rows)
    assert test_set.score_intervals(rows, [""] * 240) == alone
    assert test_set.score_intervals(rows, [None] * 240) == alone
    some = [*groups[:16], *[""] * 224]
    assert test_set.summary(rows, some)["bootstrap_units"] == 2 + 224
    with pytest.raises(ValueError, match="3 patients for 240 cases"):
        test_set.score_intervals(rows, ["a", "b", "c"])


def test_a_stratum_scores_like_a_table_of_its_own() -> None:
    pairs = [blobs(seed) for seed in range(6)]
    part = metrics.select(tabulate(pairs), np.array([False, True] * 3))
    assert test_set.mean_scores(part) == test_set.mean_scores(tabulate(pairs[1::2], [1, 3, 5]))


@pytest.mark.parametrize("leading", [(), (1,)])
def test_logits_are_resized_by_pixel_centers_in_full_precision(leading: tuple[int, ...]) -> None:
    cv2 = pytest.importorskip("cv2")
    logits = torch.randn(*leading, 8, 6, generator=torch.Generator().manual_seed(0))
    resized = case_table.resize_logits(logits.bfloat16(), (19, 25))
    assert resized.shape == (*leading, 19, 25)
    expected = cv2.resize(logits.bfloat16().float().numpy().reshape(8, 6), (25, 19))
    np.testing.assert_allclose(resized.numpy().reshape(19, 25), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(224, 224), (512, 512), (672, 448), (300, 401), (150, 180)])
def test_lvit_grows_the_truth_as_its_loader_does(size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    truth = (torch.rand(size, generator=torch.Generator().manual_seed(1)) > 0.97).to(torch.uint8)
    pred, grown = case_table.lvit_pair(torch.full((1, 96, 96), 2.0), truth)
    expected = cv2.resize(truth.numpy() * 255, (224, 224)) > 0
    assert pred.shape == grown.shape == (224, 224)
    assert pred.all()
    # OpenCV weighs in steps of 1/2048, which decides a few pixels at an odd ratio of sizes.
    assert (grown.numpy() != expected).mean() <= (1e-4 if size == (300, 401) else 0)
