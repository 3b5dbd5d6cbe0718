"""A prone breast MRI phantom in three dimensions: two breasts with one or more enhancing tumors.

Lengths are RAS millimeters about the middle of the field of view: x to the patient's right, y to
anterior, z to superior. A clock's face is read from in front of the patient: 3 o'clock is lateral
in the left breast and medial in the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.phantoms.drawing import smooth_field

Array = NDArray[Any]
Point = tuple[float, float, float]
Side = Literal["L", "R"]

FIELD_OF_VIEW = (320.0, 320.0, 120.0)  # mm
NIPPLE_TO_MIDLINE = 68.0
BREAST_DEPTH = -25.0  # y of the ellipsoids' center, behind the chest wall
BREAST_RADII = (52.0, 95.0, 55.0)
GLAND = ((68.0, 5.0, 0.0), (30.0, 45.0, 32.0))
CHEST = ((0.0, -110.0), (150.0, 95.0))
HEART = ((-25.0, -75.0), (45.0, 30.0))
REACH = 24.0  # from the breast's axis to a tumor of the clock's face

AIR, FAT, GLAND_GRAY, MUSCLE, NOISE = 6.0, 45.0, 110.0, 90.0, 4.0
TUMOR = (82.0, 270.0, 245.0, 225.0, 210.0)  # before contrast, then phase by phase: washes out
HEART_GRAY = (70.0, 290.0, 250.0, 235.0, 225.0)

FORMS = (  # of the sheet's free text; their number is odd, so that each meets both makers
    *("hour", "side", "quadrant", "range", "bilateral", "direction", "half hour", "subareolar"),
    *("two sites", "calcifications", "hour"),
)


class Ellipsoid(NamedTuple):
    """Center and radii in mm."""

    center: Point
    radii: Point


@dataclass(frozen=True)
class Patient:
    """A patient's entries in the sheets, and tumors that agree with them.

    Args:
        number: from 1; odd ones were scanned by GE, even ones by Siemens.
        side: the breast whose tumors are annotated.
        position: the sheet's free text.
        location: "L", "R" or "" where it was not collected; of bilateral cancer perhaps the side
            that is not annotated.
        multifocal: two tumors in the annotated breast.
        subtype: code 0 to 3 of the sheet.
        grade: 1 to 3.
        tumors: annotated.
        others: in the other breast, of bilateral cancer; nothing annotates them.
        table: z of the field's middle in the scanner's own frame.
    """

    number: int
    side: Side
    position: str
    location: str
    multifocal: bool
    subtype: int
    grade: int
    tumors: tuple[Ellipsoid, ...]
    others: tuple[Ellipsoid, ...]
    table: float

    @property
    def bilateral(self) -> bool:
        """Whether both breasts have a tumor."""
        return bool(self.others)

    @property
    def siemens(self) -> bool:
        """Whether the scanner, which decides how slices are stored, is Siemens' and not GE's."""
        return self.number % 2 == 0

    @property
    def downward(self) -> bool:
        """Whether slices are stored from head to foot."""
        return self.number % 4 in (0, 3)

    @property
    def phases(self) -> int:
        """Volumes of the patient: one before contrast and two to four after it."""
        return 3 + self.number % 3


def draw_patient(rng: np.random.Generator, number: int) -> Patient:
    """Draw a patient; the forms of the position text take turns."""
    form = FORMS[(number - 1) % len(FORMS)]
    side: Side = "L" if rng.random() < 0.5 else "R"
    other: Side = "R" if side == "L" else "L"
    several = form == "two sites" or (form != "subareolar" and rng.random() < 0.35)
    reach = 4.0 if form == "subareolar" else REACH
    position, hours = _position(rng, form, side)
    location: str = side
    others: tuple[Ellipsoid, ...] = ()
    if form == "bilateral":
        hour = int(rng.integers(1, 13))
        sites = [position, f"{other} {hour}"]
        position = ", ".join(sites if rng.random() < 0.5 else sites[::-1])
        location = str(rng.choice(["L", "R"]))
        others = (_tumor(rng, other, hour, REACH, float(rng.uniform(-5, 25)), 12.0),)
    elif number % 4 == 0:
        location = ""
    return Patient(
        number=number,
        side=side,
        position=position,
        location=location,
        multifocal=several,
        subtype=int(rng.integers(4)),
        grade=int(rng.integers(1, 4)),
        tumors=_tumors(rng, side, hours, reach, several),
        others=others,
        table=float(rng.uniform(-40, 40)),
    )


def _position(rng: np.random.Generator, form: str, side: Side) -> tuple[str, tuple[float, float]]:
    """The text, and the clock hours of a first and of a second tumor."""
    hour = int(rng.integers(1, 13))
    if form == "quadrant":
        upper, outer = rng.random(2) < 0.5
        middle = (1.5 if upper else 4.5) if outer else (10.5 if upper else 7.5)
        clock = middle if side == "L" else 12 - middle
        words = f"{'upper' if upper else 'lower'} {'outer' if outer else 'inner'}"
        return f"{side} {words} quadrant", (clock, clock)
    lateral = form == "direction" and rng.random() < 0.5
    if form == "direction":
        hour = 3 if lateral == (side == "L") else 9
    following = hour % 12 + 1
    half = hour + 0.5
    text, first, second = {
        "side": ("", hour, hour),
        "range": (f" {hour}-{following}", half, half),
        "half hour": (f" {hour}:30", half, half),
        "direction": (f" {hour} {'lateral' if lateral else 'medial'}", hour, hour),
        "subareolar": (" subareolar", hour, hour),
        "two sites": (f" {hour}, {side} {following}", hour, hour + 1),
        "calcifications": (f" {hour} with calcs", hour, hour),
    }.get(form, (f" {hour}", hour, hour))
    return f"{side}{text}", (first, second)


def _tumors(
    rng: np.random.Generator, side: Side, hours: tuple[float, float], reach: float, several: bool
) -> tuple[Ellipsoid, ...]:
    """One tumor, or a deep one and a smaller one in front of it."""
    if not several:
        depth = 45.0 if reach < REACH else float(rng.uniform(-5, 25))
        return (_tumor(rng, side, hours[0], reach, depth, float(rng.uniform(12, 16))),)
    deep = _tumor(rng, side, hours[0], reach, float(rng.uniform(-10, 0)), 13.5)
    front = deep.center[1] + deep.radii[1] + 11 + 9
    return deep, _tumor(rng, side, hours[1], reach, front, 8.5)


def _tumor(
    rng: np.random.Generator, side: Side, hour: float, reach: float, depth: float, radius: float
) -> Ellipsoid:
    """At an hour of the breast's clock, `reach` mm from its axis and at y = `depth`."""
    angle = hour / 6 * np.pi
    midline = NIPPLE_TO_MIDLINE if side == "R" else -NIPPLE_TO_MIDLINE
    center = (midline - reach * float(np.sin(angle)), depth, reach * float(np.cos(angle)))
    x, y, z = (radius * rng.uniform(0.92, 1.0, 3)).tolist()
    return Ellipsoid(center, (x, y, z * 1.15))  # some reach up and down, for slices are thick


# --- voxels


def draw_anatomy(
    rng: np.random.Generator, patient: Patient, shape: tuple[int, int, int]
) -> tuple[list[Array], Array]:
    """Draw the patient's volumes and the mask of the annotated tumors.

    Returns:
        arrays [X, Y, Z] on the canonical grid: int16 gray values before contrast and at
        `patient.phases` - 1 times after, and bool.
    """
    steps = spacing(shape)
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, steps, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    chest, heart = (
        np.broadcast_to(np.hypot((x - at) / wide, (y - deep) / high) < 1, shape)
        for (at, deep), (wide, high) in (CHEST, HEART)
    )
    tissue, gland = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    texture = smooth_field(rng, shape[0], 7)[:, : shape[1], None]
    for sign in (-1.0, 1.0):
        skin = Ellipsoid((sign * NIPPLE_TO_MIDLINE, BREAST_DEPTH, 0.0), BREAST_RADII)
        tissue |= (_depth(x, y, z, skin) > 0) & ~chest
        (across, deep, high), radii = GLAND
        gland |= _depth(x, y, z, Ellipsoid((sign * across, deep, high), radii)) + 0.1 * texture > 0
    tumor = _union(x, y, z, patient.tumors) & tissue
    bright = tumor | (_union(x, y, z, patient.others) & tissue)

    def phase(number: int) -> Array:
        canvas = np.full(shape, AIR)
        canvas[chest] = MUSCLE + 8 * min(number, 1)
        canvas[tissue] = FAT
        canvas[gland & tissue] = GLAND_GRAY + 20 * min(number, 1)
        canvas[heart & chest] = HEART_GRAY[number]
        canvas[bright] = TUMOR[number]
        canvas += NOISE * rng.standard_normal(shape)
        return canvas.round().clip(0, 4095).astype(np.int16)

    return [phase(number) for number in range(patient.phases)], tumor


def spacing(shape: Sequence[int]) -> Point:
    """Return mm between voxels."""
    x, y, z = (extent / n for extent, n in zip(FIELD_OF_VIEW, shape, strict=True))
    return x, y, z


def _depth(x: Array, y: Array, z: Array, body: Ellipsoid) -> Array:
    """1 at the center, 0 on the surface."""
    parts = [
        ((axis - middle) / radius) ** 2
        for axis, middle, radius in zip((x, y, z), body.center, body.radii, strict=True)
    ]
    return 1 - np.sqrt(parts[0] + parts[1] + parts[2])


def _union(x: Array, y: Array, z: Array, bodies: Sequence[Ellipsoid]) -> Array:
    """The voxels within any body."""
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=bool)
    for body in bodies:
        inside |= _depth(x, y, z, body) > 0
    return inside
