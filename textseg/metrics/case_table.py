"""The case table: masks in, one row of pixel counts and surface distances per case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from textseg.metrics.lesions import match_lesions
from textseg.metrics.scores import TOLERANCE, UNITS, CaseTableRows

LVIT_SIDE = 224

_COLUMNS = len(CaseTableRows._fields)
_CHEAP = 5  # index, intersection, predicted, true, pixels
_FLOATS = 3  # hd95, nsd, diagonal
_NAN_BITS = int(np.array(np.nan).view(np.int64))


def threshold_logits(logits: Tensor, above: float = 0.0) -> Tensor:
    """Threshold logits of any shape to a bool mask: logit > above; 0 is probability 0.5."""
    return logits > above


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear by pixel centers, in fp32: [h, w] -> [H, W], or [1, h, w] -> [1, H, W].

    At test time the logits go to the truth's own resolution, never the other way round.
    """
    planes = logits.float().reshape(1, 1, *logits.shape[-2:])
    resized = F.interpolate(planes, size=tuple(size), mode="bilinear", align_corners=False)
    return resized.reshape(*logits.shape[:-2], *resized.shape[-2:])


def without_border(planes: Tensor, frames: Tensor | None) -> Tensor | list[Tensor]:
    """Cut B planes [B, ..., H, W] to their pictures: B of [..., h, w].

    Args:
        planes: logits or masks at the network's input size.
        frames: [B, 4] top, left, height, width; None where pictures fill the input.
    """
    if frames is None:
        return planes
    return [
        plane[..., top : top + height, left : left + width]
        for plane, (top, left, height, width) in zip(planes, frames.tolist(), strict=True)
    ]


def lvit_pair(logits: Tensor, truth: Tensor, above: float = 0.0) -> tuple[Tensor, Tensor]:
    """The two masks LViT's test compares, for `protocol="lvit"`.

    Its loader resizes the mask, an 8-bit image of 0 and 255, bilinearly to 224 and takes what is
    left above 0, so masks grow by up to a pixel. What rounds to 0 of 255 is not above 0. Gray rims
    below 128 in a mask file are already gone from `truth`, although LViT's loader would keep them.

    Returns:
        pred and truth, both bool [224, 224], of logits [h, w] or [1, h, w] and truth [H0, W0].
    """
    size = (LVIT_SIDE, LVIT_SIDE)
    grown = resize_logits(truth.float() * 255, size).round() > 0
    return threshold_logits(resize_logits(logits, size), above).reshape(size), grown


def surface_scores(
    pred: Tensor, truth: Tensor, spacing: Sequence[float], tolerance: float = TOLERANCE
) -> tuple[float, float, float, int]:
    """hd95, nsd, the image's diagonal and the code of their unit for one case, by MONAI.

    With d(a, B) the distance of boundary pixel a to the boundary B:
    hd95 = max(P95 of d(p, T) over p in P, P95 of d(t, P) over t in T), and
    nsd = share of all boundary pixels, of both masks, with d <= tolerance.

    Args:
        pred, truth: bool [H, W].
        spacing: millimetres per pixel, rows then columns; NaN where unknown, and then distances and
            tolerance are in pixels.
        tolerance: of nsd, in the unit of the distances.

    Returns:
        hd95 is NaN where either mask is empty: there is no distance to a boundary that is not. nsd
        is 0 there, as no boundary agrees with another, and 1 where both masks are empty.
    """
    known = bool(np.isfinite(spacing).all() and min(spacing) > 0)
    unit = UNITS.index("mm" if known else "px")
    height, width = truth.shape
    diagonal = float(
        np.hypot(height * spacing[0], width * spacing[1]) if known else np.hypot(height, width)
    )
    if not (pred.any() and truth.any()):
        return np.nan, float(not (pred.any() or truth.any())), diagonal, unit
    there, back = _boundary_distances(
        pred.cpu().numpy(), truth.cpu().numpy(), spacing if known else (1.0, 1.0)
    )
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    nsd = np.mean(np.concatenate([there, back]) <= tolerance)
    return float(hd95), float(nsd), diagonal, unit


def _boundary_distances(
    pred: np.ndarray, truth: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """d(p, T) of every p in P and d(t, P) of every t in T; neither mask is empty.

    MONAI's own functions of both scores crop by its transforms, once each, which takes ten times
    as long as the distances.
    """
    # Imported here because it takes seconds, and only a test needs it.
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    either = pred | truth
    box = tuple(
        slice(found[0], found[-1] + 1)
        for found in (np.flatnonzero(either.any(axis)) for axis in (1, 0))
    )
    edges = get_mask_edges(pred[box], truth[box], crop=False)
    there, back = (
        get_surface_distance(one, other, "euclidean", spacing)
        for one, other in (edges, edges[::-1])
    )
    return np.asarray(there), np.asarray(back)


def _gather_rows(result: Tensor, group: Any = None) -> list[Tensor]:
    """Gather [N_rank, 13] from all ranks, N_rank differing or zero.

    A rank that saw no batch gets a one-dimensional float stand-in from torchmetrics. Ranks that
    gather tensors of unlike dimension or type crash or hang, so it becomes zero rows here.
    """
    if result.ndim == 1:
        result = torch.empty(0, _COLUMNS, dtype=torch.int64, device=result.device)
    return gather_all_tensors(result, group)


class CaseTable(Metric):
    """One row per case, gathered over processes, de-duplicated and sorted by index.

    Two processes give exactly the rows of one: `DistributedSampler` repeats cases to make ranks
    even, and of rows with an equal index only one is kept. The state is int64 throughout (distances
    by their float64 bits), so it stays exact whatever the precision of the network, and on devices
    without float64. `compute()` returns `CaseTableRows`.

    Args:
        surface: also hd95, nsd and lesions. They need the masks on the CPU; without them an update
            never waits for the device.
        tolerance: of nsd, in millimetres, or in pixels where the spacing is unknown.
    """

    is_differentiable = False
    full_state_update = False
    rows: list[Tensor]

    def __init__(self, *, surface: bool = False, tolerance: float = TOLERANCE) -> None:
        super().__init__(dist_sync_fn=_gather_rows)
        self.surface, self.tolerance = surface, tolerance
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(
        self,
        pred: Sequence[Tensor] | Tensor,
        truth: Sequence[Tensor] | Tensor,
        index: Tensor,
        spacing: Tensor,
    ) -> None:
        """Append B rows.

        Args:
            pred: [B, H, W], or B masks [H, W] whose sizes may differ; nonzero is foreground.
            truth: likewise, each of its prediction's size.
            index: [B] int64, position in the split.
            spacing: [B, 2] millimetres per pixel, NaN where unknown; read only if `surface`.
        """
        masks = [(p.bool(), t.bool()) for p, t in zip(pred, truth, strict=True)]
        assert all(p.shape == t.shape for p, t in masks), "prediction and truth differ in size"
        counts = [torch.stack([(p & t).sum(), p.sum(), t.sum()]) for p, t in masks]
        device = self.device
        pixels = torch.tensor([[t.numel()] for _, t in masks], device=device)
        cheap = [index.to(device)[:, None], torch.stack(counts).to(device), pixels]
        left = torch.cat(cheap, dim=1)
        self.rows.append(torch.cat([left, self._surface(masks, spacing).to(device)], dim=1))

    def _surface(self, masks: list[tuple[Tensor, Tensor]], spacing: Tensor) -> Tensor:
        """The columns from unit on: [B, 8] int64, distances by their float64 bits."""
        if not self.surface:
            nothing = torch.zeros(
                (len(masks), _COLUMNS - _CHEAP), dtype=torch.int64, device=self.device
            )
            nothing[:, -_FLOATS:] = _NAN_BITS
            return nothing
        counts, distances = [], []
        for (pred, truth), scale in zip(masks, spacing.tolist(), strict=True):
            *values, unit = surface_scores(pred, truth, scale, self.tolerance)
            counts.append([unit, *match_lesions(pred.cpu().numpy(), truth.cpu().numpy())])
            distances.append(values)
        bits = np.array(distances, dtype=np.float64).view(np.int64)
        return torch.from_numpy(np.concatenate([np.array(counts, dtype=np.int64), bits], axis=1))

    def compute(self) -> CaseTableRows:
        """All cases of all processes, each once, in the order of their index."""
        parts = [self.rows] if isinstance(self.rows, Tensor) else self.rows
        blank = torch.empty(0, _COLUMNS, dtype=torch.int64)
        table = torch.cat([blank, *(part.cpu() for part in parts)]).numpy()
        _, first = np.unique(table[:, 0], return_index=True)
        columns = table[first].T  # [13, N]
        distances = np.ascontiguousarray(columns[-_FLOATS:]).view(np.float64)
        return CaseTableRows(*columns[:-_FLOATS], *distances)
