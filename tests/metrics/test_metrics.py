"""The table and its numbers against scikit-learn, torchmetrics, MONAI and scipy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.metrics.pairs import (
    UNKNOWN,
    Pair,
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


def boundary_distances(pred: Tensor, truth: Tensor, spacing: Sequence[float]) -> list[np.ndarray]:
    """From each boundary to the other, by all pairs of points."""
    from scipy.ndimage import binary_erosion
    from scipy.spatial.distance import cdist

    edges = [m.numpy() & ~binary_erosion(m.numpy()) for m in (pred, truth)]
    points = [np.argwhere(edge) * np.asarray(spacing) for edge in edges]
    table = cdist(*points)
    return [table.min(axis=1), table.min(axis=0)]


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


def random_masks(seed: int, number: int = 60) -> list[Pair]:
    """Masks of any density, none and all included, of any size from one pixel up."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(number):
        size = tuple(rng.integers(1, 16, 2))
        shares = rng.choice([0.0, 0.02, 0.3, 0.8, 1.0], 2)
        pred, truth = (torch.from_numpy(rng.random(size) < share) for share in shares)
        pairs.append((pred, truth))
    one, other = torch.zeros(5, 7, dtype=torch.bool), torch.zeros(5, 7, dtype=torch.bool)
    one[2, 3], other[4, 6] = True, True
    return [*pairs, (one, one), (one, other), (one, one ^ one), (one ^ one, one), (one, ~one)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_mask_scores_as_in_scikit_learn_and_torchmetrics(seed: int) -> None:
    from sklearn.metrics import f1_score, jaccard_score
    from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

    pairs = random_masks(seed)
    rows = tabulate(pairs)
    flat = [(t.flatten().numpy(), p.flatten().numpy()) for p, t in pairs]
    assert sum(not (t.any() or p.any()) for t, p in flat) > 0, "both empty"
    assert sum(t.sum() == 1 and p.sum() == 1 for t, p in flat) > 1, "one pixel each"
    ours = metrics.dice(rows), metrics.iou(rows)
    for scores, reference in zip(ours, (f1_score, jaccard_score), strict=True):
        theirs = [reference(t, p, zero_division=1.0) for t, p in flat]
        np.testing.assert_allclose(scores, theirs, rtol=1e-12)
    # torchmetrics gives 0 where both are empty, as LViT's protocol does.
    ours = metrics.dice(rows, protocol="lvit"), metrics.iou(rows, protocol="lvit")
    for scores, score_of in zip(ours, (binary_f1_score, binary_jaccard_index), strict=True):
        theirs = [score_of(p.flatten().long(), t.flatten().long()).item() for p, t in pairs]
        np.testing.assert_allclose(scores, theirs, atol=1e-6)
    pred, truth = (np.concatenate(parts) for parts in zip(*((p, t) for t, p in flat), strict=True))
    assert test_set.mean_scores(rows)["dice_global"] == pytest.approx(
        f1_score(truth, pred), rel=1e-12
    )
    assert test_set.mean_scores(rows)["iou_global"] == pytest.approx(
        jaccard_score(truth, pred), rel=1e-12
    )
    assert test_set.mean_scores(rows)["miou"] == pytest.approx(metrics.iou(rows).mean())


@pytest.mark.parametrize("masks", [0, 2])
def test_there_are_no_global_scores_of_a_set_without_a_lesion(masks: int) -> None:
    nothing, something = torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    for pred in (nothing, something):
        rows = metrics.select(tabulate([(pred, nothing)] * 2), np.arange(masks))
        assert np.isnan(list(test_set.mean_scores(rows).values())[2:]).all()
        result = test_set.summary(rows)
        assert np.isnan([result["dice_global"], result["dice_global_ci_low"]]).all()


def test_scores_equal_torchmetrics() -> None:
    from torchmetrics.classification import BinaryJaccardIndex
    from torchmetrics.segmentation import DiceScore

    pairs = [blobs(seed) for seed in range(5)]
    rows = tabulate(pairs)
    pred, truth = (torch.stack(masks)[:, None] for masks in zip(*pairs, strict=True))
    mean = DiceScore(num_classes=1, average="micro", input_format="one-hot")
    assert test_set.mean_scores(rows)["dice"] == pytest.approx(mean(pred, truth).item(), abs=1e-6)
    pooled = BinaryJaccardIndex()(pred, truth.long()).item()
    assert test_set.mean_scores(rows)["iou_global"] == pytest.approx(pooled, abs=1e-6)


def test_per_image_dice_equals_monai_also_for_empty_masks() -> None:
    from monai.metrics import compute_dice

    pairs = pairs_with_empty_ones(7)
    expected = [compute_dice(p[None, None], t[None, None], True, False).item() for p, t in pairs]
    np.testing.assert_allclose(metrics.dice(tabulate(pairs)), expected, atol=1e-6)


def test_empty_masks_score_one_together_and_zero_apart() -> None:
    rows = tabulate(pairs_with_empty_ones(3))
    assert metrics.dice(rows).tolist() == metrics.iou(rows).tolist() == [1.0, 0.0, 0.0]
    assert metrics.dice(rows, protocol="lvit").tolist() == [0.0, 0.0, 0.0]
    assert metrics.iou(rows, protocol="lvit").tolist() == [0.0, 0.0, 0.0]
    assert test_set.summary(rows)["empty_cases"] == 1
    assert test_set.summary(rows)["dice"] == pytest.approx(1 / 3)
    assert test_set.summary(rows, protocol="lvit")["dice"] == 0


def test_iou_is_d_over_two_minus_d_for_global_scores_only() -> None:
    scores = test_set.mean_scores(tabulate([blobs(seed) for seed in range(8)]))
    pooled, mean = scores["dice_global"], scores["dice"]
    assert scores["iou_global"] == pytest.approx(pooled / (2 - pooled), rel=1e-12)
    assert abs(scores["miou"] - mean / (2 - mean)) > 1e-4


def test_precision_counts_cases_whose_iou_exceeds_the_threshold() -> None:
    truth = torch.zeros(4, 5, dtype=torch.bool)
    truth[:2] = True  # 10 pixels
    preds = []
    for hits in (4, 5, 6, 7, 10):  # IoU 0.4, 0.5, 0.6, 0.7, 1
        pred = torch.zeros(20, dtype=torch.bool)
        pred[:hits] = True
        preds.append(pred.reshape(4, 5))
    result = test_set.summary(tabulate([(pred, truth) for pred in preds]))
    assert result["pixel_recall"] == pytest.approx(np.mean([0.4, 0.5, 0.6, 0.7, 1]))
    shares = [result[f"precision_at_{t}"] for t in (0.5, 0.6, 0.7, 0.8, 0.9)]
    assert shares == [0.6, 0.4, 0.2, 0.2, 0.2]


def test_a_probability_of_exactly_one_half_is_background() -> None:
    logits = torch.tensor([-1e-6, 0.0, 1e-6])
    assert case_table.threshold_logits(logits).tolist() == [False, False, True]


@pytest.mark.parametrize("spacing", [UNKNOWN, (1.0, 1.0), (0.7, 2.5)])
def test_surface_scores_equal_all_pairs_of_boundary_points(spacing: tuple[float, float]) -> None:
    pixel, line = torch.zeros(24, 20), torch.zeros(24, 20)
    pixel[0, 0], line[23, 4:9] = 1, 1
    pairs = [blobs(seed) for seed in range(4)]
    pairs += [(pixel.bool(), line.bool()), (pixel.bool(), pairs[0][1]), (pixel.bool(),) * 2]
    rows = tabulate(pairs, spacing=spacing, surface=True)
    scale = (1.0, 1.0) if np.isnan(spacing).any() else spacing
    for row, (pred, truth) in enumerate(pairs):
        there, back = boundary_distances(pred, truth, scale)
        expected = max(np.percentile(there, 95), np.percentile(back, 95))
        assert rows.hd95[row] == pytest.approx(expected, rel=1e-5)
        near = np.concatenate([there, back]) <= 2.0
        assert rows.nsd[row] == pytest.approx(near.mean(), rel=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 3.0), (4.0, 0.25)])
def test_surface_scores_of_any_masks_equal_a_loop_over_boundary_pixels(
    spacing: tuple[float, float],
) -> None:
    """Boundary pixels by their four neighbors, distances one by one: numpy and nothing else."""
    pairs = [(p, t) for p, t in random_masks(7, 40) if p.any() and t.any()]
    rows = tabulate(pairs, spacing=spacing, surface=True)
    assert len(pairs) > 15
    assert set(rows.unit.tolist()) == {2}, "in millimetres"
    for row, pair in enumerate(pairs):
        one, other = (edge_points(mask.numpy()) for mask in pair)
        there = [min(distance(a, b, spacing) for b in other) for a in one]
        back = [min(distance(a, b, spacing) for a in one) for b in other]
        expected = max(np.percentile(there, 95), np.percentile(back, 95))
        assert rows.hd95[row] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        near = np.mean([value <= 2.0 for value in there + back])
        assert rows.nsd[row] == pytest.approx(near, rel=1e-5)


def edge_points(mask: np.ndarray) -> list[tuple[int, int]]:
    """Foreground pixels with background, or the end of the image, above, below or beside them."""
    padded = np.pad(mask, 1)
    return [
        (y, x)
        for y, x in np.argwhere(mask).tolist()
        if not all(padded[y + 1 + dy, x + 1 + dx] for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)))
    ]


def distance(a: tuple[int, int], b: tuple[int, int], spacing: tuple[float, float]) -> float:
    return float(np.hypot((a[0] - b[0]) * spacing[0], (a[1] - b[1]) * spacing[1]))


def squares(found: int, number: int = 10) -> list[Pair]:
    """Cases of one lesion each in 30 x 40 pixels: the first `found` drawn perfectly, no others."""
    truth = torch.zeros(30, 40, dtype=torch.bool)
    truth[5:15, 5:15] = True
    return [(truth if case < found else truth & ~truth, truth) for case in range(number)]


def test_five_of_ten_lesions_missed_and_the_others_perfect() -> None:
    result = test_set.summary(tabulate(squares(5), surface=True))
    assert result["dice"] == result["dice_with_lesion"] == result["nsd"] == 0.5
    assert result["hd95"] == result["hd95_median"] == 0
    assert result["surface_undefined"] == 5
    assert result["hd95_penalized"] == pytest.approx(50 / 2), "half the diagonal of 30 x 40"
    assert result["missed_rate"] == result["lesion_sensitivity"] == 0.5
    assert result["lesion_precision"] == 1
    millimetres = test_set.summary(tabulate(squares(5), spacing=(2.0, 3.0), surface=True))
    assert millimetres["hd95_penalized"] == pytest.approx(np.hypot(60, 120) / 2)
    for name in ("nsd", "hd95_penalized", "lesion_sensitivity", "missed_rate", "area_error"):
        assert result[f"{name}_ci_low"] < result[name] < result[f"{name}_ci_high"]


def test_nsd_of_one_empty_mask_is_zero_as_in_monai_and_of_two_is_one() -> None:
    from monai.metrics import compute_surface_dice

    pairs = pairs_with_empty_ones(5)
    rows = tabulate(pairs, surface=True)
    assert rows.nsd[2:].tolist() == [1, 0, 0]
    for (pred, truth), own in zip(pairs[3:], rows.nsd[3:], strict=True):
        pair = pred[None, None], truth[None, None]
        assert compute_surface_dice(*pair, class_thresholds=[2.0]).item() == own
    assert np.isnan(rows.hd95[2:]).all()
    result = test_set.summary(rows)
    assert result["surface_undefined"] == 3
    assert result["hd95"] == pytest.approx(rows.hd95[:2].mean())
    sizes = [np.hypot(*truth.shape) for _, truth in pairs[3:]]
    penalized = [*rows.hd95[:2], 0, *sizes]
    assert result["hd95_penalized"] == pytest.approx(np.mean(penalized))


def test_quartiles_of_hd95_are_those_of_the_defined_cases() -> None:
    rows = tabulate([blobs(seed) for seed in range(6)], surface=True)
    result = test_set.summary(rows)
    found = [result[f"hd95_{name}"] for name in ("q1", "median", "q3")]
    assert found == pytest.approx(np.percentile(rows.hd95, [25, 50, 75]).tolist())


def test_the_tolerance_of_nsd_is_a_setting() -> None:
    pred, truth = torch.zeros(2, 20, 20, dtype=torch.bool)
    pred[5:10, 5:10], truth[5:10, 9:14] = True, True
    found = {}
    for tolerance in (1.0, 2.0, 5.0):
        table = CaseTable(surface=True, tolerance=tolerance)
        fill(table, [(pred, truth)], [0])
        near = np.concatenate(boundary_distances(pred, truth, (1.0, 1.0))) <= tolerance
        found[tolerance] = table.compute().nsd[0]
        assert found[tolerance] == pytest.approx(near.mean())
    assert found[1.0] < found[2.0] < found[5.0] == 1


@pytest.mark.parametrize(
    ("spacings", "unit"),
    [
        ([UNKNOWN, UNKNOWN], "px"),
        ([(1.0, 1.0), (2.0, 2.0)], "mm"),
        ([(1.0, 1.0), (1.0, float("nan"))], "mixed"),
    ],
)
def test_pixels_and_millimetres_are_never_averaged(spacings: list, unit: str) -> None:
    preds, truths = zip(blobs(0), blobs(1), strict=True)
    table = CaseTable(surface=True)
    table.update(preds, truths, torch.arange(2), torch.tensor(spacings))
    result = test_set.summary(table.compute())
    assert result["surface_unit"] == unit
    distances = [result[name] for name in ("hd95", "hd95_penalized", "nsd", "hd95_median")]
    assert np.isnan(distances).tolist() == [unit == "mixed"] * 4
    assert result["lesion_sensitivity"] > 0, "counts have no unit"


@pytest.mark.parametrize("seed", [3, 4])
def test_pixel_precision_and_recall_equal_scikit_learn(seed: int) -> None:
    from sklearn.metrics import precision_score, recall_score

    pairs = random_masks(seed)
    result = test_set.summary(tabulate(pairs))
    flat = [(t.flatten().numpy(), p.flatten().numpy()) for p, t in pairs]
    precision = [precision_score(t, p) for t, p in flat if p.any()]
    recall = [recall_score(t, p) for t, p in flat if t.any()]
    assert result["pixel_precision"] == pytest.approx(np.mean(precision))
    assert result["pixel_recall"] == pytest.approx(np.mean(recall))
    error = [abs(int(p.sum()) - int(t.sum())) / t.sum() for t, p in flat if t.any()]
    assert result["area_error"] == pytest.approx(np.mean(error))


def test_cases_with_and_without_a_lesion_are_scored_apart() -> None:
    pairs = random_masks(6)
    result = test_set.summary(tabulate(pairs))
    empty = [p.float().mean().item() for p, t in pairs if not t.any()]
    lesions = [(p, t) for p, t in pairs if t.any()]
    assert len(empty) > 5
    assert result["cases_without_lesion"] == len(empty)
    assert result["false_alarm_rate"] == pytest.approx(np.mean([share > 0 for share in empty]))
    assert result["false_area"] == pytest.approx(np.mean(empty))
    assert result["missed_rate"] == pytest.approx(np.mean([not p.any() for p, _ in lesions]))
    assert result["dice_with_lesion"] == test_set.summary(tabulate(lesions))["dice"]
    none = test_set.summary(tabulate(lesions))
    assert np.isnan([none["false_alarm_rate"], none["false_area"]]).all()


def test_surface_scores_are_absent_unless_asked_for() -> None:
    rows = tabulate([blobs(0), blobs(1)], spacing=(1.0, 1.0))
    assert np.isnan(rows.hd95).all()
    assert not {"hd95", "nsd", "surface_unit", "lesion_f1"} & set(test_set.summary(rows))


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
