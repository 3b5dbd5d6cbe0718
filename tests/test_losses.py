"""Losses against numpy, and what empty masks and saturated logits do to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, log_loss
from torch import Tensor

from textseg.batch import EMPTY_CAPTION_ID
from textseg.losses import (
    all_gather_with_grad,
    contrastive_targets,
    dice_loss,
    segmentation_loss,
    soft_cross_entropy,
    text_to_pixel_contrastive_loss,
)


def numpy_soft_dice(logits: np.ndarray, target: np.ndarray, smooth: float) -> float:
    losses = []
    for row, truth in zip(logits, target, strict=True):
        probs = 1 / (1 + np.exp(-row.astype(np.float64)))
        overlap = sum(p * t for p, t in zip(probs.ravel(), truth.ravel(), strict=True))
        losses.append(1 - (2 * overlap + smooth) / (probs.sum() + truth.sum() + smooth))
    return float(np.mean(losses))


def area_mean(mask: np.ndarray, grid: int) -> np.ndarray:
    step = mask.shape[0] // grid
    return np.array(
        [
            [mask[i * step : (i + 1) * step, j * step : (j + 1) * step].mean() for j in range(grid)]
            for i in range(grid)
        ]
    )


def numpy_contrastive(
    text: np.ndarray, pixels: np.ndarray, mask: np.ndarray, tau: float, bias: float
) -> float:
    halves = []
    grid = pixels.shape[-1]
    for words, places, lesion in zip(text, pixels, mask, strict=True):
        weight = area_mean(lesion[0], grid)
        above = {True: 0.0, False: 0.0}
        below = {True: 0.0, False: 0.0}
        for i in range(grid):
            for j in range(grid):
                vector = places[:, i, j]
                cosine = words @ vector / (np.linalg.norm(words) * np.linalg.norm(vector))
                score = cosine / tau + bias
                for inside, share in ((True, weight[i, j]), (False, 1 - weight[i, j])):
                    above[inside] += share * np.log1p(np.exp(-score if inside else score))
                    below[inside] += share
        halves.append(sum(above[k] / below[k] for k in above if below[k] > 0) / 2)
    return float(np.mean(halves))


def lesion_mask(*, side: int = 16) -> Tensor:
    mask = torch.zeros(2, 1, side, side)
    mask[0, 0, 3:9, 2:7] = 1
    mask[1, 0, 10:12, 10:15] = 1
    return mask


def embeddings(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(2, 6, generator=generator)
    pixels = torch.randn(2, 6, 4, 4, generator=generator)
    return text, pixels, torch.tensor(0.07).log(), torch.tensor(-0.3)


def aligned_pixels(text: Tensor, mask: Tensor, *, sign: float = 1.0) -> Tensor:
    """A map that points along the caption inside the mask and against it outside: [B, D, H, W]."""
    return sign * text[:, :, None, None] * (2 * mask - 1)


@pytest.mark.parametrize("smooth", [1.0, 0.25])
def test_dice_loss_equals_a_numpy_sum_per_sample(smooth: float) -> None:
    logits = torch.randn(3, 1, 9, 7, generator=torch.Generator().manual_seed(1))
    target = (torch.rand(3, 1, 9, 7, generator=torch.Generator().manual_seed(2)) > 0.7).float()
    expected = numpy_soft_dice(logits.numpy(), target.numpy(), smooth)
    assert dice_loss(logits, target, smooth=smooth).item() == pytest.approx(expected, abs=1e-6)


def test_dice_loss_of_saturated_logits_is_one_minus_the_f1_score() -> None:
    generator = torch.Generator().manual_seed(3)
    target = (torch.rand(1, 1, 20, 20, generator=generator) > 0.5).float()
    pred = torch.rand(1, 1, 20, 20, generator=generator) > 0.5
    loss = dice_loss(torch.where(pred, 200.0, -200.0), target, smooth=0)
    f1 = f1_score(target.flatten().numpy(), pred.flatten().numpy())
    assert loss.item() == pytest.approx(1 - f1, abs=1e-6)


def test_a_small_lesion_weighs_as_much_in_the_dice_loss_as_a_large_one() -> None:
    small, large = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    small[..., :4, :4], large[..., :28, :28] = 1, 1
    target = torch.cat([small, large])
    missed_small = torch.cat([torch.zeros_like(small), large]) * 60 - 30
    missed_large = torch.cat([small, torch.zeros_like(large)]) * 60 - 30
    losses = dice_loss(missed_small, target), dice_loss(missed_large, target)
    assert losses[0].item() == pytest.approx(0.5, abs=0.04)
    assert losses[1].item() == pytest.approx(0.5, abs=0.04)


def test_bce_equals_the_log_loss_of_scikit_learn() -> None:
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    terms = segmentation_loss(logits, lesion_mask(side=16)[..., ::2, ::2])
    probs = logits.double().sigmoid().flatten().numpy()
    expected = log_loss(lesion_mask(side=16)[..., ::2, ::2].flatten().numpy(), probs)
    assert terms["loss_bce"].item() == pytest.approx(expected, abs=1e-6)


def test_the_total_is_the_plain_sum_of_dice_and_bce() -> None:
    terms = segmentation_loss(torch.randn(2, 1, 16, 16), lesion_mask())
    assert set(terms) == {"loss", "loss_dice", "loss_bce"}
    assert all(term.ndim == 0 for term in terms.values())
    assert terms["loss"].item() == (terms["loss_dice"] + terms["loss_bce"]).item()


def test_both_terms_are_near_zero_when_right_and_large_when_wrong() -> None:
    sure = (lesion_mask() * 2 - 1) * 30
    right, wrong = segmentation_loss(sure, lesion_mask()), segmentation_loss(-sure, lesion_mask())
    for name in ("loss_dice", "loss_bce"):
        assert right[name].item() < 1e-4
        assert wrong[name].item() > 0.8


def test_an_empty_mask_rewards_an_empty_prediction() -> None:
    empty = torch.zeros(1, 1, 16, 16)
    quiet, loud = torch.full_like(empty, -30.0), torch.full_like(empty, 30.0)
    assert dice_loss(quiet, empty).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(loud, empty).item() > 0.99
    logits = torch.zeros_like(empty, requires_grad=True)
    segmentation_loss(logits, empty)["loss"].backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all(), "a step downhill must lower every logit"


def test_an_empty_mask_contributes_to_the_batch_mean() -> None:
    target = torch.cat([lesion_mask()[:1], torch.zeros(1, 1, 16, 16)])
    logits = torch.cat([(lesion_mask()[:1] * 2 - 1) * 30, torch.full((1, 1, 16, 16), 30.0)])
    assert dice_loss(logits, target).item() == pytest.approx((1 - 1 / 257) / 2, abs=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_contrastive_loss_equals_a_numpy_loop(seed: int) -> None:
    text, pixels, log_temperature, bias = embeddings(seed)
    loss = text_to_pixel_contrastive_loss(text, pixels, lesion_mask(), log_temperature, bias)
    expected = numpy_contrastive(
        text.double().numpy(), pixels.double().numpy(), lesion_mask().numpy(), 0.07, -0.3
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mask_of_one_class_contributes_only_the_half_it_has(value: float) -> None:
    text, pixels, log_temperature, bias = embeddings()
    mask = torch.full((2, 1, 16, 16), value)
    loss = text_to_pixel_contrastive_loss(text, pixels, mask, log_temperature, bias)
    expected = numpy_contrastive(
        text.double().numpy(), pixels.double().numpy(), mask.numpy(), 0.07, -0.3
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    mixed = torch.cat([mask[:1], lesion_mask()[1:]])
    loss = text_to_pixel_contrastive_loss(text, pixels, mixed, log_temperature, bias)
    assert torch.isfinite(loss)


def test_an_empty_mask_pushes_every_pixel_away() -> None:
    text, pixels, log_temperature, _ = embeddings()
    bias = torch.zeros((), requires_grad=True)
    mask = torch.zeros(2, 1, 16, 16)
    text_to_pixel_contrastive_loss(text, pixels, mask, log_temperature, bias).backward()
    assert bias.grad is not None
    assert bias.grad.item() > 0, "a step downhill must lower every score"


def test_the_contrastive_loss_is_low_for_aligned_pixels_and_high_for_opposed_ones() -> None:
    text, _, log_temperature, _ = embeddings()
    bias = torch.zeros(())
    aligned = aligned_pixels(text, lesion_mask())
    right = text_to_pixel_contrastive_loss(text, aligned, lesion_mask(), log_temperature, bias)
    wrong = text_to_pixel_contrastive_loss(text, -aligned, lesion_mask(), log_temperature, bias)
    assert right.item() < 1e-5
    assert wrong.item() == pytest.approx(1 / 0.07, rel=1e-4)


def test_a_lesion_the_caption_does_not_name_is_a_negative() -> None:
    text, _, log_temperature, bias = embeddings()
    both = lesion_mask()[:1].maximum(lesion_mask()[1:])
    pixels = aligned_pixels(text[:1], both)
    named = text_to_pixel_contrastive_loss(text[:1], pixels, both, log_temperature, bias)
    one = text_to_pixel_contrastive_loss(text[:1], pixels, lesion_mask()[:1], log_temperature, bias)
    assert one.item() > named.item() + 0.1


def test_a_one_pixel_lesion_survives_the_coarse_grid() -> None:
    text, pixels, log_temperature, bias = embeddings()
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 5, 6] = 1
    loss = text_to_pixel_contrastive_loss(text, pixels, mask, log_temperature, bias)
    empty = text_to_pixel_contrastive_loss(
        text, pixels, torch.zeros_like(mask), log_temperature, bias
    )
    assert (loss - empty).abs().item() > 0.01


def test_the_length_of_the_embeddings_changes_nothing() -> None:
    text, pixels, log_temperature, bias = embeddings()
    plain = text_to_pixel_contrastive_loss(text, pixels, lesion_mask(), log_temperature, bias)
    scaled = text_to_pixel_contrastive_loss(
        text * 50, pixels * 0.01, lesion_mask(), log_temperature, bias
    )
    assert scaled.item() == pytest.approx(plain.item(), rel=1e-5)


def test_losses_stay_in_fp32_under_autocast() -> None:
    text, pixels, log_temperature, bias = embeddings()
    logits = torch.randn(2, 1, 16, 16).bfloat16()
    plain = segmentation_loss(logits.float(), lesion_mask())
    contrast = (text, pixels, lesion_mask(), log_temperature, bias)
    with torch.autocast("cpu", torch.bfloat16):
        terms = segmentation_loss(logits, lesion_mask())
        contrastive = text_to_pixel_contrastive_loss(*contrast)
    assert {term.dtype for term in (*terms.values(), contrastive)} == {torch.float32}
    assert all(terms[name].item() == plain[name].item() for name in plain)
    assert contrastive.item() == text_to_pixel_contrastive_loss(*contrast).item()


@pytest.mark.parametrize("size", [1e4, -1e4, 3e38])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradients_are_finite_at_extreme_logits(size: float, value: float) -> None:
    logits = torch.full((2, 1, 8, 8), size, requires_grad=True)
    target = torch.full((2, 1, 8, 8), value)
    dice_loss(logits, target).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_gradients_of_both_losses_are_finite_far_from_the_origin(size: float) -> None:
    logits = torch.full((2, 1, 16, 16), size, requires_grad=True)
    segmentation_loss(logits, lesion_mask())["loss"].backward()
    text, pixels, _, _ = embeddings()
    leaves = [text * size, pixels * 0, torch.tensor(-6.0), torch.tensor(size)]
    for leaf in leaves:
        leaf.requires_grad_()
    text_to_pixel_contrastive_loss(*leaves[:2], lesion_mask(), *leaves[2:]).backward()
    for leaf in (logits, *leaves):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


# --- contrastive batches


def numpy_matching(
    scores: np.ndarray, captions: list[int], images: list[int], present: list[bool]
) -> float:
    """Mean over present rows of the soft cross-entropy, straight from the specification's words."""
    losses = []
    count = len(captions)
    for i in range(count):
        if not present[i]:
            continue
        candidates, positives = [], []
        for j in range(count):
            if not present[j] or (images[i] == images[j] and captions[i] != captions[j]):
                continue
            candidates.append(scores[i, j])
            if captions[i] == captions[j]:
                positives.append(scores[i, j])
        candidates += list(scores[i, count:])
        total = math.log(sum(math.exp(c) for c in candidates))
        losses.append(-sum(p - total for p in positives) / len(positives))
    return sum(losses) / len(losses) if losses else 0.0


CAPTION_IDS, IMAGE_IDS = [7, 7, 9, 4, 9, 5], [1, 2, 3, 3, 3, 6]
PRESENT = [True, True, False, True, True, True]


@pytest.mark.parametrize("further", [0, 2])
@pytest.mark.parametrize("present", [[True] * 6, PRESENT, [False] * 6])
def test_the_matching_loss_equals_a_loop_over_rows(present: list[bool], further: int) -> None:
    torch.manual_seed(0)
    scores = 3 * torch.randn(6, 6 + further, dtype=torch.float64)
    targets = contrastive_targets(
        torch.tensor(CAPTION_IDS), torch.tensor(IMAGE_IDS), torch.tensor(present)
    )
    wanted = numpy_matching(scores.numpy(), CAPTION_IDS, IMAGE_IDS, present)
    assert soft_cross_entropy(scores, targets).item() == pytest.approx(wanted, rel=1e-5, abs=1e-7)


def test_rows_with_one_caption_share_their_target_and_other_words_of_an_image_are_left_out() -> (
    None
):
    targets = contrastive_targets(torch.tensor([7, 7, 9]), torch.tensor([1, 2, 2]))
    half = [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    assert targets.positives.tolist() == half
    assert targets.candidates.tolist() == [[True] * 3, [True, True, False], [True, False, True]]
    assert targets.anchors.tolist() == [True] * 3


def test_an_absent_row_gets_no_gradient_and_a_batch_of_them_a_finite_zero() -> None:
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ids = torch.tensor(CAPTION_IDS), torch.tensor(IMAGE_IDS)
    soft_cross_entropy(scores, contrastive_targets(*ids, torch.tensor(PRESENT))).backward()
    assert scores.grad is not None
    assert scores.grad[2].abs().sum() == scores.grad[:, 2].abs().sum() == 0
    assert scores.grad.abs().sum() > 0
    scores.grad = None
    loss = soft_cross_entropy(scores, contrastive_targets(*ids, torch.zeros(6, dtype=torch.bool)))
    loss.backward()
    assert loss.item() == 0
    assert (scores.grad == 0).all()


def test_an_empty_caption_is_neither_anchor_nor_candidate() -> None:
    """Two rows without words are no positives of each other, nor negatives of those with words."""
    captions = torch.tensor([7, EMPTY_CAPTION_ID, 9, EMPTY_CAPTION_ID])
    images = torch.tensor([1, 2, 3, 4])
    targets = contrastive_targets(captions, images)
    without = contrastive_targets(captions[[0, 2]], images[[0, 2]])
    assert targets.anchors.tolist() == [True, False, True, False]
    assert torch.equal(targets.positives[[0, 2]][:, [0, 2]], without.positives)
    scores = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss = soft_cross_entropy(scores, targets)
    loss.backward()
    worded = soft_cross_entropy(scores.detach()[[0, 2]][:, [0, 2]], without)
    assert loss.item() == pytest.approx(worded.item())
    assert scores.grad is not None
    assert scores.grad[[1, 3]].abs().sum() == scores.grad[:, [1, 3]].abs().sum() == 0
    lesions = torch.tensor([True, True, False, True])
    present = contrastive_targets(captions, images, lesions).anchors
    assert present.tolist() == [True, False, False, False]


def test_an_empty_caption_contributes_nothing_to_the_contrast_with_pixels() -> None:
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(3, 8, generator=draw, requires_grad=True)
    pixels = torch.randn(3, 8, 4, 4, generator=draw)
    mask = (torch.rand(3, 1, 16, 16, generator=draw) > 0.6).float()
    scalars = torch.tensor(-1.0), torch.tensor(0.3)
    ids = torch.tensor([5, EMPTY_CAPTION_ID, 5])
    loss = text_to_pixel_contrastive_loss(text, pixels, mask, *scalars, ids)
    loss.backward()
    alone = [
        text_to_pixel_contrastive_loss(text[[i]], pixels[[i]], mask[[i]], *scalars) for i in (0, 2)
    ]
    assert loss.item() == pytest.approx((alone[0] + alone[1]).item() / 3)
    assert text.grad is not None
    assert text.grad[1].abs().sum() == 0 < text.grad[0].abs().sum()
    whole = text_to_pixel_contrastive_loss(text, pixels, mask, *scalars)
    named = text_to_pixel_contrastive_loss(text, pixels, mask, *scalars, torch.tensor([1, 2, 3]))
    assert torch.equal(whole, named)


def test_in_a_batch_of_one_caption_with_equal_scores_the_loss_is_log_of_its_size() -> None:
    scores = torch.ones(5, 5, requires_grad=True)
    loss = soft_cross_entropy(scores, contrastive_targets(torch.zeros(5), torch.arange(5)))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(5))
    assert scores.grad is not None
    assert scores.grad.abs().max() < 1e-7


def test_the_matching_loss_stays_in_fp32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = soft_cross_entropy(
            torch.ones(2, 2, dtype=torch.bfloat16),
            contrastive_targets(torch.arange(2), torch.arange(2)),
        )
    assert loss.dtype == torch.float32


def test_alone_a_process_gathers_its_own_rows() -> None:
    rows = torch.randn(3, 2)
    assert all_gather_with_grad(rows) is rows
