"""Lesions found, missed and invented: components of two masks matched one to one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_TOUCHING = np.ones((3, 3), dtype=int)  # diagonal neighbors belong together


class LesionCounts(NamedTuple):
    """Components of a truth and a prediction, and pairs of them with IoU > 0 and IoU > 0.5."""

    true: int
    predicted: int
    matched: int
    matched_half: int


def label_lesions(mask: NDArray[Any]) -> tuple[NDArray[np.int32], int]:
    """Number the lesions of a mask [H, W]: components of pixels that touch, at corners too."""
    from scipy import ndimage  # type: ignore[import-untyped]  # takes a while

    return ndimage.label(np.asarray(mask) != 0, _TOUCHING)


def match_lesions(pred: NDArray[Any], truth: NDArray[Any]) -> LesionCounts:
    """Match lesions of a prediction and a truth [H, W], each with one at most, by largest IoU.

    Pairs are taken in the order of their IoU, the greatest first, and those with a lesion that is
    taken are passed over (greedy matching by the localization criterion; Maier-Hein et al., Metrics
    reloaded, 2024). So two lesions that a prediction merges are one found and one missed, and a
    lesion that it tears in two is one found and one false alarm. Above 0.5 no lesion can have two
    partners.
    """
    true, lesions = label_lesions(truth)
    found, predicted = label_lesions(pred)
    shared, sizes = np.unique(
        np.stack([true, found], axis=-1)[(true > 0) & (found > 0)], axis=0, return_counts=True
    )
    true_area, found_area = (np.bincount(labels.ravel()) for labels in (true, found))
    iou = sizes / (true_area[shared[:, 0]] + found_area[shared[:, 1]] - sizes)
    pairs: list[float] = []
    taken: tuple[set[int], set[int]] = set(), set()
    for position in np.argsort(-iou, kind="stable"):
        one, other = shared[position].tolist()
        if one not in taken[0] and other not in taken[1]:
            taken[0].add(one)
            taken[1].add(other)
            pairs.append(float(iou[position]))
    return LesionCounts(lesions, predicted, len(pairs), sum(value > 0.5 for value in pairs))
