"""An abdominal CT phantom: a liver on the picture's left with two to four distinct lesions.

Lesions differ by size, density and place only. The three are drawn so that each can be read from
the picture without doubt: radii leave a gap between small and large, contrast with the liver is at
least five noise sigmas, and centers keep `PLACE_MARGIN` from the axes through the liver's centroid.
Lengths are fractions of the picture's side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.phantoms.drawing import (
    Field,
    Flags,
    ellipse,
    outline,
    paint,
    smooth_field,
    to_bytes,
    unit_grid,
    wobble,
)

RADIUS = {"small": (0.056, 0.063), "large": (0.100, 0.112)}
CONTRAST = {"hypodense": (-48.0, -34.0), "hyperdense": (34.0, 48.0)}
PLACES = ("upper left", "upper right", "lower left", "lower right")
PLACE_MARGIN = 0.055  # between a lesion's center and either axis of the liver
LESION_GAP = 0.025  # between two lesions
RIM = 0.012  # liver tissue around a lesion
NOISE = 5.0  # sigma of the white noise, gray values

# Both sizes in every slice: with equal areas a blind union of two lesions would score Dice 0.667.
SIZES: dict[int, tuple[tuple[str, ...], ...]] = {
    2: (("large", "small"),),
    3: (("large", "large", "small"), ("large", "small", "small")),
    4: (("large", "large", "small", "small"), ("large", "small", "small", "small")),
}


class Traits(NamedTuple):
    """The traits of a lesion that an expression can name."""

    size: str
    density: str
    place: str


class Lesion(NamedTuple):
    """A lesion's traits and its mask [S, S] bool."""

    traits: Traits
    mask: Flags


class _Blob(NamedTuple):
    traits: Traits
    x: float
    y: float
    radius: float
    harmonics: Field


class Patient(NamedTuple):
    """Anatomy that the slices of one case share: axes and centers as x, y."""

    body: tuple[float, float]
    rim: float
    liver: tuple[float, float]
    liver_axes: tuple[float, float]
    taper: float
    liver_outline: Field
    spine: tuple[float, float]
    spleen: tuple[float, float]
    liver_gray: float


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a random anatomy."""
    return Patient(
        body=(rng.uniform(0.465, 0.485), rng.uniform(0.42, 0.45)),
        rim=rng.uniform(0.03, 0.045),
        liver=(rng.uniform(0.345, 0.37), rng.uniform(0.44, 0.47)),
        liver_axes=(rng.uniform(0.33, 0.37), rng.uniform(0.34, 0.38)),
        taper=rng.uniform(0.3, 0.5),
        liver_outline=wobble(rng, 4, 0.035),
        spine=(rng.uniform(0.50, 0.53), rng.uniform(0.74, 0.77)),
        spleen=(rng.uniform(0.80, 0.83), rng.uniform(0.56, 0.62)),
        liver_gray=rng.uniform(136, 146),
    )


def _cavity(patient: Patient, x: Field, y: Field) -> Field:
    """Signed distance to the abdominal wall's inner face."""
    width, height = patient.body
    return ellipse(x, y, (0.5, 0.5), (width - patient.rim, height - patient.rim))


def _liver(patient: Patient, x: Field, y: Field) -> Field:
    """Approximate signed distance to the liver's outline, positive inside."""
    across = (x - patient.liver[0]) / patient.liver_axes[0]
    narrowing = 1 - patient.taper * across.clip(0, 1)
    down = (y - patient.liver[1]) / (patient.liver_axes[1] * narrowing)
    shape = outline(np.arctan2(down, across), patient.liver_outline) - np.hypot(across, down)
    organ = shape * min(patient.liver_axes)
    wall = _cavity(patient, x, y) - 0.022
    spine = np.hypot(x - patient.spine[0], y - patient.spine[1]) - 0.145
    return np.minimum(np.minimum(organ, wall), spine)


def _draw_traits(rng: np.random.Generator, number: int) -> list[Traits]:
    """Distinct traits, large lesions first because they are the hardest to fit in."""
    options = SIZES[number]
    sizes = options[rng.integers(len(options))]
    while True:
        traits = [
            Traits(size, str(rng.choice(list(CONTRAST))), str(rng.choice(PLACES))) for size in sizes
        ]
        if len(set(traits)) == number:
            return traits


def _fit_lesion(
    rng: np.random.Generator,
    patient: Patient,
    center: tuple[float, float],
    traits: Traits,
    others: list[_Blob],
) -> _Blob | None:
    """The lesion at the first of 48 random centers where it fits, or None."""
    radius = rng.uniform(*RADIUS[traits.size])
    harmonics = wobble(rng, 2, 0.07)
    vertical, side = traits.place.split()
    reach = rng.uniform(PLACE_MARGIN, 0.30, (2, 48))
    x = center[0] + reach[0] * (1 if side == "right" else -1)
    y = center[1] + reach[1] * (1 if vertical == "lower" else -1)
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    extent = radius * outline(turn, harmonics) + RIM
    rim_x, rim_y = x[:, None] + extent * np.cos(turn), y[:, None] + extent * np.sin(turn)
    fits = (_liver(patient, rim_x, rim_y) > 0).all(axis=1)  # [48]
    largest = radius * float(outline(turn, harmonics).max())
    for other in others:
        reach_of_other = other.radius * float(outline(turn, other.harmonics).max())
        distance = np.hypot(x - other.x, y - other.y)
        fits &= distance > largest + reach_of_other + LESION_GAP
    if not fits.any():
        return None
    first = int(fits.argmax())
    return _Blob(traits, float(x[first]), float(y[first]), radius, harmonics)


def _draw_blobs(
    rng: np.random.Generator, patient: Patient, center: tuple[float, float], number: int
) -> list[_Blob]:
    """`number` lesions in random order; traits are drawn again until all have room."""
    for _ in range(200):
        blobs: list[_Blob] = []
        for traits in _draw_traits(rng, number):
            blob = _fit_lesion(rng, patient, center, traits, blobs)
            if blob is None:
                break
            blobs.append(blob)
        if len(blobs) == number:
            return [blobs[k] for k in rng.permutation(number)]
    raise AssertionError("the liver has no room for the lesions: its axes are drawn too short")


def _paint_surroundings(canvas: Field, patient: Patient, rng: np.random.Generator) -> None:
    """Fat rim, wall, ribs, stomach, spleen, kidney, spine and aorta on [S, S]."""
    x, y = unit_grid(canvas.shape[0])
    cavity = _cavity(patient, x, y)
    paint(canvas, ellipse(x, y, (0.5, 0.5), patient.body), 62.0)
    paint(canvas, cavity, 108.0)  # muscle
    paint(canvas, cavity - 0.016, 76.0)  # fat between the organs
    turn = 12 * np.arctan2(y - 0.5, x - 0.5) / (2 * np.pi) + rng.uniform(0, 1)
    along = (turn - turn.round()) * (2 * np.pi / 12) * patient.body[1]
    paint(canvas, 0.013 * (1 - np.hypot(along / 0.020, (cavity + 0.004) / 0.013)), 205.0)  # ribs
    stomach = (rng.uniform(0.68, 0.72), rng.uniform(0.30, 0.34))
    paint(canvas, np.minimum(ellipse(x, y, stomach, (0.16, 0.12)), cavity - 0.02), 112.0)
    paint(canvas, ellipse(x, y, (stomach[0], stomach[1] - 0.05), (0.08, 0.035)), 18.0)
    spleen = np.minimum(ellipse(x, y, patient.spleen, (0.105, 0.19)), cavity - 0.02)
    paint(canvas, spleen, 119.0)
    paint(canvas, ellipse(x, y, (0.685, 0.71), (0.062, 0.085)), 172.0)  # kidney
    paint(canvas, ellipse(x, y, (0.675, 0.71), (0.022, 0.04)), 110.0)
    paint(canvas, ellipse(x, y, patient.spine, (0.078, 0.062)), 208.0)
    paint(canvas, ellipse(x, y, (patient.spine[0], patient.spine[1] + 0.075), (0.03, 0.02)), 95.0)
    aorta = (patient.spine[0] + 0.06, patient.spine[1] - 0.095)
    paint(canvas, ellipse(x, y, aorta, (0.03, 0.03)), 178.0)


def _paint_vessels(canvas: Field, liver: Field, patient: Patient, rng: np.random.Generator) -> None:
    """Three faint, thin, curved vessels that stay inside the liver."""
    x, y = unit_grid(canvas.shape[0])
    root_x, root_y = patient.liver[0] + 0.12, patient.liver[1] + 0.08
    for angle in np.array((2.5, 3.4, 4.2)) + rng.uniform(-0.25, 0.25, 3):
        along = (x - root_x) * np.cos(angle) + (y - root_y) * np.sin(angle)
        across = (y - root_y) * np.cos(angle) - (x - root_x) * np.sin(angle)
        bend = 0.04 * np.sin(9 * along + angle)
        width = 0.011 - 0.02 * along.clip(0, 0.3)
        vessel = np.minimum(np.minimum(width - np.abs(across - bend), along), liver - 0.03)
        paint(canvas, vessel, patient.liver_gray + 9)


def draw_slice(
    rng: np.random.Generator, patient: Patient, number: int, image_size: int
) -> tuple[NDArray[np.uint8], list[Lesion]]:
    """Draw one slice of a patient, [S, S] uint8, and two to four lesions in random order."""
    x, y = unit_grid(image_size)
    liver = _liver(patient, x, y)
    tissue = liver > 0
    center = (float(x[tissue].mean()), float(y[tissue].mean()))
    blobs = _draw_blobs(rng, patient, center, number)
    canvas = np.full((image_size, image_size), 6.0, dtype=np.float32)
    _paint_surroundings(canvas, patient, rng)
    paint(canvas, liver, patient.liver_gray, softness=1.5)
    _paint_vessels(canvas, liver, patient, rng)
    lesions = []
    for blob in blobs:
        theta = np.arctan2(y - blob.y, x - blob.x)
        edge = blob.radius * outline(theta, blob.harmonics)
        inside = edge - np.hypot(x - blob.x, y - blob.y)
        gray = patient.liver_gray + rng.uniform(*CONTRAST[blob.traits.density])
        paint(canvas, inside, gray, softness=1.5)
        lesions.append(Lesion(blob.traits, inside > 0))
    in_body = ellipse(x, y, (0.5, 0.5), patient.body) > 0
    canvas += in_body * (
        2.0 * smooth_field(rng, image_size, 9) + 2.0 * smooth_field(rng, image_size, 28)
    )
    canvas += NOISE * rng.standard_normal(canvas.shape, dtype=np.float32)
    return to_bytes(canvas), lesions
