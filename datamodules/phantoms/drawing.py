"""Drawing on a unit canvas: irregular outlines, soft edges, smooth random fields.

Coordinates are fractions of the picture's side, x to the right and y downwards, so a phantom is the
same drawing at every resolution.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]


class Chest(NamedTuple):
    """The anatomy that all pictures of one patient share, in fractions of the picture's side."""

    midline: float
    top: float  # of the lungs; so are height and width
    height: float
    width: float
    heart: float
    lung_gray: float
    body_gray: float


@lru_cache(maxsize=4)
def unit_grid(size: int) -> tuple[Field, Field]:
    """Return x and y of the pixel centers, each [size, size] float32 in (0, 1)."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(axis, axis)
    x.flags.writeable = y.flags.writeable = False
    return x, y


def wobble(rng: np.random.Generator, number: int, depth: float) -> Field:
    """Draw an outline's harmonics, [number, 3]: order (from 2), amplitude, phase."""
    order = np.arange(2, 2 + number, dtype=np.float64)
    amplitude = depth * rng.uniform(0.4, 1.0, number) * 2 / order
    return np.stack([order, amplitude, rng.uniform(0, 2 * np.pi, number)], axis=1)


def outline(theta: Field, harmonics: Field) -> Field:
    """Radius at each angle in radians: 1 + the sum of the harmonics; its mean over a turn is 1."""
    radius = np.ones_like(theta)
    for order, amplitude, phase in harmonics:
        radius += float(amplitude) * np.cos(float(order) * theta + float(phase))
    return radius


def irregular_disc(rng: np.random.Generator, across: Field, down: Field, *, depth: float) -> Field:
    """Distance from the center of a randomly outlined disc, [S, S]: below 1 is inside.

    Args:
        rng: decides the outline.
        across: horizontal distance from the center in units of the disc's radius.
        down: vertical distance likewise; the outline stays within the unit disc.
        depth: amplitude of the outline's three harmonics.
    """
    shape = wobble(rng, 3, depth)
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    largest = float(outline(turn, shape).max())
    distance: Field = np.hypot(down, across) * largest / outline(np.arctan2(down, across), shape)
    return distance


def ellipse(x: Field, y: Field, center: tuple[float, float], axes: tuple[float, float]) -> Field:
    """Approximate signed distance to an ellipse (center and semi-axes as x, y), positive inside."""
    rho = np.hypot((x - center[0]) / axes[0], (y - center[1]) / axes[1])
    return (1 - rho) * min(axes)


def paint(canvas: Field, inside: Field, value: Field | float, softness: float = 1.0) -> None:
    """Blend `value` into `canvas` [S, S] where the signed distance `inside` is positive.

    The edge is `softness` pixels wide.
    """
    alpha = np.clip(inside * (canvas.shape[0] / softness) + 0.5, 0, 1)
    canvas += alpha * (value - canvas)


def smooth_field(rng: np.random.Generator, size: int, cells: int) -> Field:
    """Draw a field [size, size] of unit variance at its `cells` x `cells` nodes."""
    nodes = rng.standard_normal((cells, cells), dtype=np.float32)
    return np.asarray(Image.fromarray(nodes).resize((size, size), Image.Resampling.BICUBIC))


def to_bytes(canvas: Field) -> NDArray[np.uint8]:
    """Round gray values and clip them to [0, 255]."""
    return canvas.round().clip(0, 255).astype(np.uint8)
