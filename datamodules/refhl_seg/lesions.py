"""The lesions of one slice: traits that are certain of each, and expressions that single it out.

A trait between two of the limits below, such as a diameter of 25 mm, is uncertain: it is neither
named nor used to distinguish lesions. Upper is anterior, and left is the picture's left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from datamodules.captions.expressions import (
    TRAITS,
    choose_traits,
    distinguishing_traits,
    rank_expression,
    trait_expression,
)

SMALL, LARGE = 20.0, 30.0  # mm, the most of a small and the least of a large lesion's diameter
DENSE = 15.0  # HU, the least between a hypo- or hyperdense lesion's mean and the liver's median
ALIKE = 5.0  # HU, the most between an isodense lesion's mean and the liver's median
OFF_CENTER = 6.0  # mm, the least between the centroids of lesion and liver to name a direction
ON_ONE_SIDE = 0.7  # of the lesion's pixels lie in that direction at least
CLEARLY_LARGER = 1.5  # times in area: the least between the largest or smallest and the others
FEWEST_PIXELS = 10  # below, noise decides a lesion's density
FEWEST_LIVER_PIXELS = 50  # below, the liver of a slice gives neither a center nor a density

CORNERS_TOUCH = np.ones((3, 3))  # 8 neighbors

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Scene(NamedTuple):
    """One slice as a picture; row 0 is anterior.

    Args:
        hounsfield: [H, W].
        lesions: [H, W], all of them.
        liver: [H, W] without the lesions, or None where it is not outlined.
        spacing: mm between rows and between columns.
    """

    hounsfield: NDArray[Any]
    lesions: Flags
    liver: Flags | None
    spacing: tuple[float, float]


@dataclass(frozen=True)
class Lesion:
    """A 2-D connected component (8 neighbors) of a slice's lesions.

    Args:
        mask: [H, W].
        diameter: mm, of the disc of its area.
        contrast: HU above the liver's median; None where either has too few pixels.
        size: small, large or None where uncertain; so are the next.
        density: hypodense, isodense, hyperdense.
        vertical: upper, lower.
        side: left, right; the picture's.
        rank: only, largest, smallest; among all lesions of the slice.
    """

    mask: Flags
    diameter: float
    contrast: float | None
    size: str | None
    density: str | None
    vertical: str | None
    side: str | None
    rank: str | None

    @property
    def place(self) -> str | None:
        """Upper left, and so on; None where either word is uncertain."""
        return f"{self.vertical} {self.side}" if self.vertical and self.side else None

    @property
    def pixels(self) -> int:
        """Area in pixels."""
        return int(self.mask.sum())

    def attributes(self) -> dict[str, object]:
        """Collect the traits that are certain, for the manifest."""
        traits: dict[str, object] = {name: getattr(self, name) for name in (*TRAITS, "rank")}
        traits["diameter_mm"] = round(self.diameter, 1)
        traits["contrast_hu"] = None if self.contrast is None else round(self.contrast, 1)
        return {name: value for name, value in traits.items() if value is not None}


def lesions_of(scene: Scene) -> list[Lesion]:
    """Measure every component of the slice, even of one pixel; the largest comes first."""
    parts, _ = ndimage.label(scene.lesions, CORNERS_TOUCH)
    areas = np.bincount(parts.ravel())[1:]  # pixels
    order = np.argsort(-areas, kind="stable")
    return [
        _measured(scene, parts == k + 1, _rank(areas[k], np.delete(areas, k)))
        for k in order.tolist()
    ]


def _measured(scene: Scene, mask: Flags, rank: str | None) -> Lesion:
    row, column = scene.spacing
    diameter = 2 * float(np.sqrt(mask.sum() * row * column / np.pi))
    size = "small" if diameter <= SMALL else "large" if diameter >= LARGE else None
    contrast: float | None = None
    vertical = side = None
    if scene.liver is not None and scene.liver.sum() >= FEWEST_LIVER_PIXELS:
        liver_gray = float(np.median(scene.hounsfield[scene.liver]))
        if mask.sum() >= FEWEST_PIXELS:
            contrast = float(scene.hounsfield[mask].mean(dtype=np.float64)) - liver_gray
        organ = np.argwhere(scene.liver | scene.lesions).mean(axis=0)
        below, right = ((np.argwhere(mask) - organ) * scene.spacing).T  # mm
        vertical, side = _direction(below, "upper", "lower"), _direction(right, "left", "right")
    return Lesion(mask, diameter, contrast, size, _density(contrast), vertical, side, rank)


def _direction(offsets: Floats, negative: str, positive: str) -> str | None:
    """The word for where a lesion's pixels lie, where they lie there clearly."""
    forward = offsets.mean() > 0
    share = np.mean((offsets > 0) if forward else (offsets < 0))
    if abs(offsets.mean()) < OFF_CENTER or share < ON_ONE_SIDE:
        return None
    return positive if forward else negative


def _density(contrast: float | None) -> str | None:
    if contrast is None or ALIKE < abs(contrast) < DENSE:
        return None
    if abs(contrast) <= ALIKE:
        return "isodense"
    return "hypodense" if contrast < 0 else "hyperdense"


def _rank(area: np.int_, others: NDArray[np.int_]) -> str | None:
    if not len(others):
        return "only"
    if area >= CLEARLY_LARGER * others.max():
        return "largest"
    return "smallest" if CLEARLY_LARGER * area <= others.min() else None


# --- words


def expression(
    rng: np.random.Generator, lesion: Lesion, others: Sequence[Lesion], *, count: bool
) -> str | None:
    """Word an expression that is true of this lesion and clearly false of the others, or None.

    A quarter names the rank where there is one. Half of the rest names all traits that are certain,
    the other half may leave out what is not needed. `count` allows the number of lesions, which
    does not fit where some are too small to be seen.
    """
    certain = [name for name in TRAITS if getattr(lesion, name) is not None]
    distinguishing = distinguishing_traits(
        certain, others, lambda other, name: _differ(lesion, other, name)
    )
    if lesion.rank is not None and (not distinguishing or rng.random() < 0.25):
        return rank_expression(rng, lesion.rank, len(others) + 1 if count else None)
    if not distinguishing:
        return None
    names = choose_traits(rng, distinguishing)
    return trait_expression(rng, {name: getattr(lesion, name) for name in names})


def _differ(lesion: Lesion, other: Lesion, name: str) -> bool:
    """Whether the trait of one lesion is clearly false of the other."""
    parts = ("vertical", "side") if name == "place" else (name,)
    return any(
        getattr(other, part) is not None and getattr(other, part) != getattr(lesion, part)
        for part in parts
    )
