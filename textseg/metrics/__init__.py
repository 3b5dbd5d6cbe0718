"""The one place that defines Dice and IoU: a table with one row per case, everything else derived.

`CaseTable` is the only state. It holds pixel counts (and surface distances at test time), so both
meanings of "Dice" found in print are functions of the same rows:

* per image (`dice`, `miou`): the mean over cases of each case's own score;
* global (`dice_global`, `iou_global`): one count of pixels over the whole split. Only here does
  IoU = D / (2 - D) hold exactly between the two reported numbers.

Conventions: a pixel is foreground where its probability exceeds 0.5, that is where its logit
exceeds 0; only the foreground class is scored; an empty truth with an empty prediction scores 1 and
is counted in `empty_cases`, an empty truth with any prediction scores 0; logits are resized to the
truth, the truth never is. `protocol="lvit"` follows LViT's test code (arXiv 2206.14718) instead,
for comparison with its table only: empty with empty scores 0, and `lvit_pair` resizes the truth.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from textseg.metrics.bootstrap import (
    FEW_PATIENTS,
    Floats,
    Ints,
    bootstrap_warnings,
    patient_draws,
    patient_ids,
    t_adjusted_interval,
)

__all__ = [
    "FEW_PATIENTS",
    "LVIT_SIDE",
    "THRESHOLDS",
    "TOLERANCE",
    "UNITS",
    "CaseTable",
    "Floats",
    "Ints",
    "Protocol",
    "Rows",
    "bootstrap_interval",
    "bootstrap_warnings",
    "dice",
    "dice_global",
    "iou",
    "iou_global",
    "lvit_pair",
    "mean_scores",
    "patient_ids",
    "precision_at",
    "resize_logits",
    "select",
    "summary",
    "surface_scores",
    "threshold_logits",
]

Protocol = Literal["standard", "lvit"]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)  # of precision_at_<t>
TOLERANCE = 2.0  # of nsd, in the unit of the distances
LVIT_SIDE = 224

UNITS = ("", "px", "mm")  # by their code in a row; "" where distances were not asked for
_COLUMNS = 7  # index, intersection, predicted, true, unit, hd95, nsd
_COUNTS = 4
_NAN_BITS = int(np.array(np.nan).view(np.int64))


class Rows(NamedTuple):
    """What is known of N cases, sorted by index, one row per index.

    | field | shape | meaning |
    |---|---|---|
    | index | [N] int64 | position in the split |
    | intersection | [N] int64 | pixels in prediction and truth |
    | predicted, true | [N] int64 | pixels in the prediction, in the truth |
    | unit | [N] int64 | of the distances: 0 not asked for, 1 pixels, 2 millimetres |
    | hd95, nsd | [N] float64 | NaN where a mask is empty, or where not asked for |
    """

    index: Ints  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    intersection: Ints
    predicted: Ints
    true: Ints
    unit: Ints
    hd95: Floats
    nsd: Floats


def threshold_logits(logits: Tensor) -> Tensor:
    """Logits of any shape to a bool mask: probability > 0.5, which is logit > 0."""
    return logits > 0


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear by pixel centers, in fp32: [h, w] -> [H, W], or [1, h, w] -> [1, H, W].

    At test time the logits go to the truth's own resolution, never the other way round.
    """
    planes = logits.float().reshape(1, 1, *logits.shape[-2:])
    resized = F.interpolate(planes, size=tuple(size), mode="bilinear", align_corners=False)
    return resized.reshape(*logits.shape[:-2], *resized.shape[-2:])


def lvit_pair(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The two masks LViT's test compares, for `protocol="lvit"`.

    Its loader resizes the mask, an 8-bit image of 0 and 255, bilinearly to 224 and takes what is
    left above 0, so masks grow by up to a pixel. What rounds to 0 of 255 is not above 0. Gray rims
    below 128 in a mask file are already gone from `truth`, although LViT's loader would keep them.

    Args:
        logits: [h, w] or [1, h, w].
        truth: [H0, W0], 0 or 1, at the image's own resolution.

    Returns:
        pred and truth, both bool [224, 224].
    """
    size = (LVIT_SIDE, LVIT_SIDE)
    grown = resize_logits(truth.float() * 255, size).round() > 0
    return threshold_logits(resize_logits(logits, size)).reshape(size), grown


def surface_scores(
    pred: Tensor, truth: Tensor, spacing: Sequence[float], *, tolerance: float = TOLERANCE
) -> tuple[float, float, int]:
    """hd95, nsd and the code of their unit for one case, by MONAI.

    With d(a, B) the distance of boundary pixel a to the boundary B:
    hd95 = max(P95 of d(p, T) over p in P, P95 of d(t, P) over t in T), and
    nsd = share of all boundary pixels, of both masks, with d <= tolerance.

    Args:
        pred, truth: bool [H, W].
        spacing: millimetres per pixel, rows then columns; NaN where unknown, and then distances and
            tolerance are in pixels.
        tolerance: of nsd.

    Returns:
        (NaN, NaN, unit) where either mask is empty: there is no distance to a boundary that is not.
    """
    known = bool(np.isfinite(spacing).all() and min(spacing) > 0)
    unit = UNITS.index("mm" if known else "px")
    if not (pred.any() and truth.any()):
        return np.nan, np.nan, unit
    # Imported here because it takes seconds, and only a test needs it.
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    pair = pred.cpu()[None, None], truth.cpu()[None, None]  # [1, 1, H, W]
    options: Any = {"include_background": True, "spacing": list(spacing) if known else None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # MONAI's, about its own calls
        hd95 = compute_hausdorff_distance(*pair, percentile=95, **options)
        nsd = compute_surface_dice(*pair, class_thresholds=[tolerance], **options)
    return float(hd95), float(nsd), unit


def _gather_rows(result: Tensor, group: Any = None) -> list[Tensor]:
    """Gather [N_rank, 7] from all ranks, N_rank differing or zero.

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
    without float64. `compute()` returns `Rows`.

    Args:
        surface: also hd95 and nsd. They need the masks on the CPU; without them an update never
            waits for the device.
        tolerance: of nsd, in millimetres where the spacing is known and in pixels elsewhere.
    """

    is_differentiable = False
    full_state_update = False
    rows: list[Tensor]

    def __init__(self, *, surface: bool = False, tolerance: float = TOLERANCE) -> None:
        super().__init__(dist_sync_fn=_gather_rows)
        self.surface = surface
        self.tolerance = tolerance
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
        left = torch.cat([index.to(device)[:, None], torch.stack(counts).to(device)], dim=1)
        self.rows.append(torch.cat([left, self._surface(masks, spacing).to(device)], dim=1))

    def _surface(self, masks: list[tuple[Tensor, Tensor]], spacing: Tensor) -> Tensor:
        """The columns unit, hd95 and nsd: [B, 3] int64, distances by their float64 bits."""
        if not self.surface:
            nothing = torch.full((len(masks), 3), _NAN_BITS, device=self.device)
            nothing[:, 0] = 0
            return nothing
        scores = [
            surface_scores(p, t, s, tolerance=self.tolerance)
            for (p, t), s in zip(masks, spacing.tolist(), strict=True)
        ]
        unit = np.array([[unit] for *_, unit in scores], dtype=np.int64)
        values = np.array([[hd95, nsd] for hd95, nsd, _ in scores])
        return torch.from_numpy(np.concatenate([unit, values.view(np.int64)], axis=1))

    def compute(self) -> Rows:
        """All cases of all processes, each once, in the order of their index."""
        parts = [self.rows] if isinstance(self.rows, Tensor) else self.rows
        blank = torch.empty(0, _COLUMNS, dtype=torch.int64)
        table = torch.cat([blank, *(part.cpu() for part in parts)]).numpy()
        _, first = np.unique(table[:, 0], return_index=True)
        columns = table[first].T  # [7, N]
        distances = np.ascontiguousarray(columns[_COUNTS + 1 :]).view(np.float64)
        return Rows(*columns[: _COUNTS + 1], *distances)


def select(rows: Rows, keep: NDArray[Any]) -> Rows:
    """The rows a bool mask or an array of positions keeps: a stratum, a patient."""
    return Rows(*(column[keep] for column in rows))


def _ratio(above: NDArray[Any], below: NDArray[Any], empty: float) -> Floats:
    """above / below elementwise, `empty` where below is 0."""
    out = np.full(np.shape(below), empty, dtype=np.float64)
    return np.divide(above, below, out=out, where=np.asarray(below) != 0)


def _empty_score(protocol: Protocol) -> float:
    return 0.0 if protocol == "lvit" else 1.0


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def dice(rows: Rows, *, protocol: Protocol = "standard") -> Floats:
    """Foreground Dice of each case, 2 |P and T| / (|P| + |T|): [N].

    Both masks empty: 1, or 0 with `protocol="lvit"`. Only the truth empty: 0.
    """
    return _ratio(2 * rows.intersection, rows.predicted + rows.true, _empty_score(protocol))


def iou(rows: Rows, *, protocol: Protocol = "standard") -> Floats:
    """Foreground IoU of each case, |P and T| / |P or T|: [N]; empty masks as in `dice`."""
    union = rows.predicted + rows.true - rows.intersection
    return _ratio(rows.intersection, union, _empty_score(protocol))


def _pooled(sums: NDArray[Any]) -> dict[str, Floats]:
    """Global scores from sums [..., 3] of intersection, predicted, true; 1 without foreground."""
    both, predicted, true = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    return {
        "dice_global": _ratio(2 * both, predicted + true, 1.0),
        "iou_global": _ratio(both, predicted + true - both, 1.0),
    }


def _counts(rows: Rows) -> Ints:
    return np.stack([rows.intersection, rows.predicted, rows.true], axis=1)  # [N, 3]


def dice_global(rows: Rows) -> float:
    """2 sum|P and T| / (sum|P| + sum|T|), pixels summed over all cases; 1 if there are none."""
    return float(_pooled(_counts(rows).sum(axis=0))["dice_global"])


def iou_global(rows: Rows) -> float:
    """sum|P and T| / sum|P or T| over all cases: "overall IoU" in referring segmentation."""
    return float(_pooled(_counts(rows).sum(axis=0))["iou_global"])


def precision_at(rows: Rows, threshold: float, *, protocol: Protocol = "standard") -> float:
    """Share of cases whose IoU exceeds the threshold (equal is not enough)."""
    return _mean((iou(rows, protocol=protocol) > threshold).astype(np.float64))


def mean_scores(rows: Rows, *, protocol: Protocol = "standard") -> dict[str, float]:
    """The four scores of a validation: both conventions, NaN (per image) without cases."""
    return {
        "dice": _mean(dice(rows, protocol=protocol)),
        "miou": _mean(iou(rows, protocol=protocol)),
        "dice_global": dice_global(rows),
        "iou_global": iou_global(rows),
    }


def bootstrap_interval(
    rows: Rows,
    groups: Sequence[str | None] | None = None,
    *,
    protocol: Protocol = "standard",
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Intervals of dice, miou, dice_global and iou_global by a bootstrap over patients.

    A patient brings all of its cases: slices of one patient are alike, and drawing them singly
    makes the interval too narrow. `textseg.metrics.bootstrap` tells the method and its sources.

    Args:
        rows: the table, N cases.
        groups: N patients or studies; "" or None for a case that is alone. None: every case is.
        protocol: as in `dice`.
        resamples: number of draws.
        level: coverage.
        seed: of the draws; equal seeds give equal intervals.

    Returns:
        name -> (low, high); NaN with fewer than two units to draw from.
    """
    number = patient_ids(groups, len(rows.index))
    scores = np.stack([dice(rows, protocol=protocol), iou(rows, protocol=protocol)], axis=1)
    columns = np.concatenate([scores, np.ones((len(number), 1)), _counts(rows)], axis=1)  # [N, 6]
    own = mean_scores(rows, protocol=protocol)
    size = int(number.max(initial=-1)) + 1
    if size < 2:  # one unit drawn again and again shows no spread
        return dict.fromkeys(own, (float("nan"), float("nan")))
    sums = np.zeros((size, columns.shape[1]))
    np.add.at(sums, number, columns)
    generator = np.random.default_rng(seed)
    total = np.concatenate([drawn @ sums for drawn in patient_draws(generator, size, resamples)])
    means = {"dice": total[:, 0] / total[:, 2], "miou": total[:, 1] / total[:, 2]}
    every = means | _pooled(total[:, 3:])
    draws = np.stack([every[name] for name in own], axis=1)  # [R, 4]
    estimate = np.array(list(own.values()))
    ends = t_adjusted_interval(draws, estimate, freedom=size - 1.0, level=level)
    pairs = zip(*(end.tolist() for end in ends), strict=True)
    return dict(zip(own, pairs, strict=True))


def _surface_summary(rows: Rows) -> dict[str, float | int | str]:
    """Means of hd95 and nsd over the cases that have them, with the count of those that do not."""
    asked = rows.unit > 0
    if not asked.any():
        return {}
    units = {UNITS[code] for code in rows.unit[asked]}
    defined = asked & ~np.isnan(rows.hd95)
    return {
        "hd95": _mean(rows.hd95[defined]),
        "nsd": _mean(rows.nsd[defined]),
        "surface_undefined": int((asked & ~defined).sum()),
        "surface_unit": units.pop() if len(units) == 1 else "mixed",
    }


def summary(
    rows: Rows,
    groups: Sequence[str | None] | None = None,
    *,
    protocol: Protocol = "standard",
    seed: int = 0,
) -> dict[str, float | int | str]:
    """Everything a test reports, by the names that are logged.

    Both conventions with their 95% intervals over patients (`<name>_ci_low`, `<name>_ci_high`; see
    `bootstrap_interval`), `precision_at_<t>`, `cases`, `empty_cases` (truth and prediction both
    empty) and `bootstrap_units` (patients, and cases without one). If distances were asked for:
    `hd95` and `nsd`, means over the cases where both masks have foreground, `surface_undefined`
    (the cases left out: a missed lesion is among them, so read hd95 beside the Dice) and
    `surface_unit` ("px", "mm", or "mixed" where the means mix both).

    Args:
        rows: the table, N cases.
        groups: N patients or studies; "" or None for a case that is alone.
        protocol: as in `dice`.
        seed: of the bootstrap.
    """
    number = patient_ids(groups, len(rows.index))
    result: dict[str, float | int | str] = {**mean_scores(rows, protocol=protocol)}
    for threshold in THRESHOLDS:
        result[f"precision_at_{threshold}"] = precision_at(rows, threshold, protocol=protocol)
    result |= _surface_summary(rows)
    result["cases"] = len(rows.index)
    result["empty_cases"] = int(((rows.true == 0) & (rows.predicted == 0)).sum())
    result["bootstrap_units"] = int(number.max(initial=-1)) + 1
    intervals = bootstrap_interval(rows, groups, protocol=protocol, seed=seed)
    for name, (low, high) in intervals.items():
        result[f"{name}_ci_low"], result[f"{name}_ci_high"] = low, high
    return result
