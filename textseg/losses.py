"""Losses: logits in, scalar out, in fp32 even under autocast."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from textseg.batch import EMPTY_CAPTION_ID
from textseg.errors import UserError

DICE_BCE = {"dice": 1.0, "bce": 1.0}
FOCAL_GAMMA = 2.0  # Lin et al. 2017
TVERSKY_ALPHA, TVERSKY_BETA = 0.3, 0.7  # of false positives and negatives: Salehi et al. 2017


def _full_precision(tensor: Tensor) -> torch.autocast:
    """A context without autocast: sums of many pixels in half precision lose small lesions."""
    return torch.autocast(tensor.device.type, enabled=False)


def dice_loss(logits: Tensor, target: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Mean over the batch of 1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), p = sigmoid.

    Sums run over the pixels of one sample, so a small lesion counts as much as a large one. An
    empty mask contributes 1 - smooth / (sum(p) + smooth): 0 for an empty prediction, towards 1 for
    any other, so emptiness is rewarded and learned.

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


def bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy, mean over all pixels; an empty mask contributes as any other.

    Args:
        logits: [B, 1, H, W].
        target: [B, 1, H, W], 0 or 1.
    """
    with _full_precision(logits):
        return F.binary_cross_entropy_with_logits(logits.float(), target.float())


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017, arXiv 1708.02002), mean over all pixels of (1 - q)^2 * -log q.

    q is the probability of the pixel's own class, by MONAI; no class is weighted. An empty mask
    contributes as any other.

    Args:
        logits: [B, 1, H, W].
        target: [B, 1, H, W], 0 or 1.
    """
    from monai.losses import FocalLoss

    with _full_precision(logits):
        return FocalLoss(gamma=FOCAL_GAMMA)(logits.float(), target.float())


def tversky_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Tversky loss (Salehi et al. 2017, arXiv 1706.05721), by MONAI: misses cost most.

    Mean over the batch of 1 - (TP + 1) / (TP + 0.3 FP + 0.7 FN + 1), TP = sum(p t),
    FP = sum(p (1 - t)), FN = sum((1 - p) t), p = sigmoid. An empty mask contributes
    1 - 1 / (0.3 sum(p) + 1): 0 for an empty prediction, towards 1 for any other.

    Args:
        logits: [B, 1, H, W].
        target: [B, 1, H, W], 0 or 1.
    """
    from monai.losses import TverskyLoss

    with _full_precision(logits):
        loss = TverskyLoss(alpha=TVERSKY_ALPHA, beta=TVERSKY_BETA, smooth_nr=1, smooth_dr=1)
        return loss(logits.float().sigmoid(), target.float())


def boundary_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Boundary loss (Kervadec et al. 2019, arXiv 1812.07032), by MONAI: mean over pixels of p * d.

    p = sigmoid, d the signed distance to the lesion's border in pixels: above 0 outside, 0 at the
    border, below 0 inside. So it grows with the image, is below 0 for a good mask, and is no loss
    by itself: give it a small weight beside others. An empty or a full mask has no border and
    contributes 0, without a gradient. The distances are computed on the CPU.

    Args:
        logits: [B, 1, H, W].
        target: [B, 1, H, W], 0 or 1.

    Raises:
        UserError: MONAI is older than 1.6.
    """
    try:
        from monai.losses import BoundaryLoss
    except ImportError as error:
        raise UserError(
            "segmentation_loss has boundary, which the installed MONAI does not know",
            "pip install 'monai>=1.6', which wants torch 2.8, or leave boundary out",
        ) from error

    with _full_precision(logits):
        return BoundaryLoss()(logits.float().sigmoid(), target.float())


SEGMENTATION_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dice": dice_loss,
    "bce": bce_loss,
    "focal": focal_loss,
    "tversky": tversky_loss,
    "boundary": boundary_loss,
}


def check_segmentation_loss(weights: Mapping[str, float]) -> dict[str, float]:
    """The terms that have a weight, checked.

    Args:
        weights: name of a loss -> its weight.

    Raises:
        UserError: a name is unknown, a weight is negative or not finite, or all are 0.
    """
    for name, weight in weights.items():
        if name not in SEGMENTATION_LOSSES:
            known = list(SEGMENTATION_LOSSES)
            near = difflib.get_close_matches(name, known, n=1)
            raise UserError(
                f"segmentation_loss={dict(weights)} has an unknown loss {name!r}",
                f"did you mean {near[0]!r}?" if near else f"choose of {known}",
            )
        if not 0 <= weight < math.inf:
            raise UserError(
                f"segmentation_loss={dict(weights)} gives {name!r} the weight {weight}",
                "give 0 or more; 0 leaves the term out",
            )
    terms = {name: weight for name, weight in weights.items() if weight}
    if not terms:
        raise UserError(
            f"segmentation_loss={dict(weights)} has no term with a weight",
            f"give for example {DICE_BCE}",
        )
    return terms


def segmentation_loss(
    logits: Tensor, target: Tensor, weights: Mapping[str, float] = DICE_BCE
) -> dict[str, Tensor]:
    """L_seg: losses of the mask by name, weighted; by default Dice + BCE.

    What an empty mask contributes is said at each loss.

    Args:
        logits: [B, 1, H, W].
        target: [B, 1, H, W], 0 or 1.
        weights: name of a loss in SEGMENTATION_LOSSES -> its weight.

    Returns:
        the scalars `loss_<name>`, unweighted, and their weighted sum `loss`.
    """
    terms = {name: SEGMENTATION_LOSSES[name](logits, target) for name in weights}
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return {"loss": total, **{f"loss_{name}": term for name, term in terms.items()}}


def text_to_pixel_contrastive_loss(
    text: Tensor,
    pixels: Tensor,
    mask: Tensor,
    log_temperature: Tensor,
    bias: Tensor,
    caption_id: Tensor | None = None,
) -> Tensor:
    """Contrast of an expression with pixels: those of its lesion are positives, others negatives.

    With z L2-normalized and s_j = <z_text, z_j> / tau + b, tau = exp(log_temperature), and m_j the
    mask averaged by area to the grid (nearest would lose small lesions):

        positives = sum(m_j * -log sigmoid(s_j)) / sum(m_j)
        negatives = sum((1 - m_j) * -log sigmoid(-s_j)) / sum(1 - m_j)
        loss      = mean over the batch of (positives + negatives) / 2

    Each class has its own mean, so that a small lesion counts. Lesions the expression does not
    refer to are negatives. An empty mask contributes its negative half alone, a full mask its
    positive half, an empty caption, which names nothing, 0.

    Args:
        text: [B, D], projections of the text.
        pixels: [B, D, h, w], projections of the map.
        mask: [B, 1, H, W], 0 or 1.
        log_temperature: learned scalar.
        bias: learned scalar b.
        caption_id: [B] int64 (`stable_id`), which tells empty captions; without it none is.
    """
    with _full_precision(pixels):
        words = F.normalize(text.float(), dim=1)  # [B, D]
        points = F.normalize(pixels.float(), dim=1).flatten(2)  # [B, D, hw]
        scores = torch.einsum("bd,bdn->bn", words, points)  # [B, hw]
        scores = scores * (-log_temperature.float()).exp() + bias.float()
        grid = (pixels.shape[2], pixels.shape[3])
        # Pooled apart, because 1 minus a pooled full mask need not be exactly 0.
        inside = F.adaptive_avg_pool2d(mask.float(), grid).flatten(1)  # [B, hw]
        outside = F.adaptive_avg_pool2d(1 - mask.float(), grid).flatten(1)
        positives = _weighted_mean(-F.logsigmoid(scores), inside)
        negatives = _weighted_mean(-F.logsigmoid(-scores), outside)
        rows = positives + negatives  # [B]
        if caption_id is not None:
            rows = rows * (caption_id != EMPTY_CAPTION_ID)
        return rows.mean() / 2


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """sum(weights * values) / sum(weights) over the last dimension, 0 where all weights are 0."""
    least = torch.finfo(weights.dtype).tiny
    return (weights * values).sum(1) / weights.sum(1).clamp_min(least)


class _GatherRows(torch.autograd.Function):
    """All-gather with a gradient; torch's own is deprecated for a private one."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(
            memory_format=torch.contiguous_format
        )  # of the gathered rows, on this process
        torch.distributed.all_reduce(total)
        return total[ctx.rows * torch.distributed.get_rank() :][: ctx.rows]


def all_gather_with_grad(rows: Tensor) -> Tensor:
    """All-gather rows [B, ...] with gradients: [processes * B, ...], in the order of ranks.

    Gradients flow back to the process a row came from, summed over the processes that used it.
    Where each of P processes computes the same loss L of all rows x_0, ..., x_{P-1}, process r has
    P dL/dx_r dx_r/dw, and DDP's mean over processes is dL/dw, the gradient of one process with all
    rows. A loss that is a mean over rows or pixels needs no gathering: the mean of the processes'
    losses is that of all rows. B must be the same on every process.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return rows
    return _GatherRows.apply(rows.contiguous())


class ContrastiveTargets(NamedTuple):
    """Positives and candidates of each anchor in a contrastive batch of N rows.

    positives [N, N]: 1/n for each of an anchor's n positives, else 0; candidates [N, N] bool: what
    enters the softmax; anchors [N] bool: rows that contribute to the loss.
    """

    positives: Tensor
    candidates: Tensor
    anchors: Tensor


def contrastive_targets(
    caption_id: Tensor, image_id: Tensor, present: Tensor | None = None
) -> ContrastiveTargets:
    """Positives and candidates of each row, by caption and image.

    Rows with the same caption are positives of each other: at batch 32 a row of QaTa has about four
    others with its very caption. Rows of the same image with another caption are neither positives
    nor negatives. A row with an empty caption is not present: it says nothing of its image.

    Args:
        caption_id, image_id: [N] int64 (`stable_id`).
        present: [N] bool; rows that are False are neither anchors nor candidates.
    """
    diagonal = torch.eye(len(caption_id), dtype=torch.bool, device=caption_id.device)
    worded = caption_id != EMPTY_CAPTION_ID
    present = worded if present is None else present & worded
    same_caption = caption_id[:, None] == caption_id[None, :]
    same_image = image_id[:, None] == image_id[None, :]
    # A row that is not present keeps itself, so that no softmax is empty; it is no anchor.
    positive = (same_caption & present[None, :]) | diagonal
    candidates = ((same_caption | ~same_image) & present[None, :]) | diagonal
    return ContrastiveTargets(positive / positive.sum(1, keepdim=True), candidates, present)


def soft_cross_entropy(scores: Tensor, targets: ContrastiveTargets) -> Tensor:
    """Mean over anchors i of -sum_j positives_ij log softmax_j(scores_ij), j over the candidates.

    0, connected to the graph, where there is no anchor.

    Args:
        scores: [N, M]; columns beyond N are further negatives of each row.
        targets: of the N rows.
    """
    with _full_precision(scores):
        further = scores.shape[1] - scores.shape[0]
        candidates = F.pad(targets.candidates, (0, further), value=True)
        positives = F.pad(targets.positives, (0, further))
        log_probs = scores.float().masked_fill(~candidates, -torch.inf).log_softmax(1)
        rows = -(positives * log_probs.masked_fill(positives == 0, 0.0)).sum(1)
        return (rows * targets.anchors).sum() / targets.anchors.sum().clamp_min(1)
