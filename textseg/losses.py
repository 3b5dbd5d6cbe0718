"""Losses: logits in, scalar out, in fp32 even under autocast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _full_precision(tensor: Tensor) -> torch.autocast:
    """A context without autocast: sums of many pixels in half precision lose small lesions."""
    return torch.autocast(tensor.device.type, enabled=False)


def dice_loss(logits: Tensor, target: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Mean over the batch of 1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), p = sigmoid.

    Sums run over the pixels of one sample, so a small lesion counts as much as a large one. An
    empty mask contributes 1 - smooth / (sum(p) + smooth): 0 for an empty prediction, towards 1 for
    any other, so emptiness is rewarded and learnt.

    Args:
        logits: [B, 1, H, W].
        target: [B, 1, H, W], 0 or 1 (soft labels are allowed).
        smooth: added above and below, in pixels.
    """
    with _full_precision(logits):
        probs = logits.float().sigmoid().flatten(1)  # [B, HW]
        truth = target.float().flatten(1)
        overlap = 2 * (probs * truth).sum(1) + smooth
        return (1 - overlap / (probs.sum(1) + truth.sum(1) + smooth)).mean()


def segmentation_loss(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """L_seg = Dice + BCE, the same for every network.

    An empty mask contributes its BCE, and a Dice term that rewards emptiness (see `dice_loss`).

    Args:
        logits: [B, 1, H, W].
        target: [B, 1, H, W], 0 or 1.

    Returns:
        the scalars `loss_dice` and `loss_bce` (mean over all pixels), and their sum `loss`.
    """
    with _full_precision(logits):
        bce = F.binary_cross_entropy_with_logits(logits.float(), target.float())
    terms = {"loss_dice": dice_loss(logits, target), "loss_bce": bce}
    return {"loss": terms["loss_dice"] + terms["loss_bce"], **terms}


def text_to_pixel_contrastive_loss(
    text: Tensor, pixels: Tensor, mask: Tensor, log_temperature: Tensor, bias: Tensor
) -> Tensor:
    """Draws the expression to the pixels of the lesion it refers to, and away from all others.

    With z L2-normalised and s_j = <z_text, z_j> / tau + b, tau = exp(log_temperature), and m_j the
    mask averaged by area to the grid (nearest would lose small lesions):

        positives = sum(m_j * -log sigmoid(s_j)) / sum(m_j)
        negatives = sum((1 - m_j) * -log sigmoid(-s_j)) / sum(1 - m_j)
        loss      = mean over the batch of (positives + negatives) / 2

    Each class has its own mean, so that a small lesion counts. Lesions the expression does not
    refer to are negatives. An empty mask contributes its negative half alone, a full mask its
    positive half.

    Args:
        text: [B, D], the projected words.
        pixels: [B, D, h, w], the projected map.
        mask: [B, 1, H, W], 0 or 1.
        log_temperature: scalar, learnt.
        bias: scalar b, learnt.
    """
    with _full_precision(pixels):
        words = F.normalize(text.float(), dim=1)  # [B, D]
        places = F.normalize(pixels.float(), dim=1).flatten(2)  # [B, D, hw]
        scores = torch.einsum("bd,bdn->bn", words, places)  # [B, hw]
        scores = scores * (-log_temperature.float()).exp() + bias.float()
        grid = (pixels.shape[2], pixels.shape[3])
        # Pooled apart, because 1 minus a pooled full mask need not be exactly 0.
        inside = F.adaptive_avg_pool2d(mask.float(), grid).flatten(1)  # [B, hw]
        outside = F.adaptive_avg_pool2d(1 - mask.float(), grid).flatten(1)
        positives = _weighted_mean(-F.logsigmoid(scores), inside)
        negatives = _weighted_mean(-F.logsigmoid(-scores), outside)
        return (positives + negatives).mean() / 2


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """sum(weights * values) / sum(weights) over the last dimension, 0 where all weights are 0."""
    least = torch.finfo(weights.dtype).tiny
    return (weights * values).sum(1) / weights.sum(1).clamp_min(least)
