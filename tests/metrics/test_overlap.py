"""Scores of overlapping masks against scikit-learn, torchmetrics and MONAI."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.metrics.pairs import blobs, pairs_with_empty_ones, random_masks, tabulate
from textseg.metrics import scores as metrics
from textseg.metrics import summary as test_set


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
