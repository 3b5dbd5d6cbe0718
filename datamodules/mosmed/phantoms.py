"""CT slices whose captions follow MosMedData+'s template, true of the mask, in Kaggle's tree.

Sides are the viewer's. Each lung has coordinates of its own: v from 0 at its front (the picture's
upper end) to 1 at its back, u from -1 at its medial to 1 at its lateral border. Its thirds in v are
its upper, middle and lower zone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from datamodules.captions.lvit_template import COUNTS, NO_INFECTION, SIDES, ZONES
from datamodules.phantoms.common import check_counts, new_folder, random_stream, write_table
from datamodules.phantoms.drawing import (
    Chest,
    Field,
    Flags,
    ellipse,
    irregular_disc,
    paint,
    smooth_field,
    to_bytes,
    unit_grid,
)
from textseg.tables import SPLITS

POSITION_CHANCE = (0.25, 0.5, 0.1, 0.15)  # of the three zones and of "all", about as in the text
HEALTHY = 0.04  # chance of a slice without infection
OPACITY = (70.0, 120.0)  # gray values above the lung
ZONE_GAP = 0.025  # in v, between an infected area and the end of its zones
NARROW = 96  # pixels; below, two areas side by side would touch
RIM = (12, 17, 21)  # faint mask values beside 0, 1 and more mask pixels by their edges
TABLES = {  # as the browser and Excel leave LViT's workbooks
    "train": "Train_text_MosMedData+ 1(in).csv",
    "val": "Val_text_MosMedData+ 1(in).csv",
    "test": "Test_text_MosMedData+(in).csv",
}


class Area(NamedTuple):
    """One infected area: first zone, last zone + 1, and its position across the lung in u."""

    first: int
    last: int
    center: float
    wide: float


Areas = dict[str, list[Area]]


# --- drawing -----------------------------------------------------------------------------------


def draw_thorax(rng: np.random.Generator) -> Chest:
    """Draw a random anatomy and exposure."""
    return Chest(
        midline=rng.uniform(0.485, 0.515),
        top=rng.uniform(0.24, 0.30),
        height=rng.uniform(0.46, 0.52),
        width=rng.uniform(0.26, 0.30),
        heart=rng.uniform(0.06, 0.10),
        lung_gray=rng.uniform(28, 44),
        body_gray=rng.uniform(190, 212),
    )


def draw_areas(rng: np.random.Generator, abreast: int = 3) -> Areas:
    """Draw the infected areas of each side: in one zone, or such that all three are ill.

    At most `abreast` lie side by side in a lung. The template counts up to nine.
    """
    areas: Areas = {side: [] for side in SIDES}
    if rng.random() < HEALTHY:
        return areas
    extent = rng.choice(3, p=(0.45, 0.3, 0.25))
    for side in (SIDES, ("left",), ("right",))[extent]:
        position = int(rng.choice(4, p=POSITION_CHANCE))
        if position < len(ZONES):
            count = min(int(rng.integers(1, 4)), abreast)
            areas[side] = _side_by_side(rng, position, position + 1, count)
        elif rng.random() < 0.5:
            areas[side] = _side_by_side(rng, 0, len(ZONES), min(int(rng.integers(1, 3)), abreast))
        else:
            areas[side] = [
                area for zone in range(len(ZONES)) for area in _side_by_side(rng, zone, zone + 1, 1)
            ]
    return areas


def _side_by_side(rng: np.random.Generator, first: int, last: int, count: int) -> list[Area]:
    """Areas that fill the same zones, each in its own part of the lung's breadth."""
    part = 1.8 / count
    return [
        Area(first, last, -0.9 + part * (k + 0.5), part / 2 * float(rng.uniform(0.6, 0.75)))
        for k in range(count)
    ]


def _lung(thorax: Chest, side: str, size: int) -> tuple[Field, Field, Field]:
    """u, v and the approximate signed distance to one lung's outline, each [S, S]."""
    x, y = unit_grid(size)
    v = (y - thorax.top) / thorax.height
    bow = (1 - np.abs(2 * v - 1).clip(0, 1) ** 2.6) ** (1 / 2.6)
    heart = thorax.heart if side == "right" else 0.3 * thorax.heart
    middle = 0.06 + thorax.width / 2
    medial = middle - thorax.width / 2 * bow + heart * np.exp(-(((v - 0.4) / 0.25) ** 2))
    lateral = middle + thorax.width / 2 * bow
    offset = (x - thorax.midline) * (1 if side == "right" else -1)
    u = 2 * (offset - medial) / (lateral - medial).clip(1e-3) - 1
    edge = np.minimum(offset - medial, lateral - offset)
    ends = np.minimum(v, 1 - v) * thorax.height
    return u, v, np.minimum(edge, ends)


def _area(rng: np.random.Generator, thorax: Chest, area: Area, u: Field, v: Field) -> Field:
    """Distance from an area's center, 1 on its outline, which keeps off other zones, [S, S]."""
    gap = max(ZONE_GAP, 1.2 / (thorax.height * u.shape[0]))
    first, last = area.first / 3 + gap, area.last / 3 - gap
    tall = (last - first) / 2 * rng.uniform(0.85, 1.0)
    slack = (last - first) / 2 - tall
    down = (v - (first + last) / 2 - rng.uniform(-slack, slack)) / tall
    across = (u - area.center) / area.wide
    return irregular_disc(rng, across, down, depth=0.08)


def _paint_body(canvas: Field, thorax: Chest, rng: np.random.Generator) -> None:
    """The table, soft tissue, ribs, breastbone and spine."""
    x, y = unit_grid(canvas.shape[0])
    center = (thorax.midline, thorax.top + 0.5 * thorax.height)
    paint(canvas, 0.006 - np.abs(y - 0.93 - 0.15 * (x - 0.5) ** 2), 150, softness=2)
    body = ellipse(x, y, center, (0.47, 0.5 * thorax.height + 0.11))
    paint(canvas, body, thorax.body_gray + 5 * smooth_field(rng, canvas.shape[0], 9), softness=2)
    turn = np.arctan2(y - center[1], x - center[0])
    ring = 0.016 - np.abs(ellipse(x, y, center, (0.41, 0.5 * thorax.height + 0.055)))
    ribs = np.minimum(ring, 0.05 * (np.sin(9 * turn + rng.uniform(0, 6)) - 0.3))
    paint(canvas, ribs, 246, softness=3)
    below = thorax.top + thorax.height
    paint(canvas, ellipse(x, y, (thorax.midline, below - 0.03), (0.05, 0.06)), 250, softness=4)
    paint(canvas, ellipse(x, y, (thorax.midline, thorax.top - 0.035), (0.06, 0.018)), 244)


def draw_slice(
    rng: np.random.Generator, thorax: Chest, areas: Areas, image_size: int
) -> tuple[NDArray[np.uint8], Flags]:
    """Draw one slice, [S, S] uint8, and the mask [S, S] of its infected areas by side."""
    canvas = np.full((image_size, image_size), 8.0, dtype=np.float32)
    mask = np.zeros(canvas.shape, dtype=bool)
    _paint_body(canvas, thorax, rng)
    patchy = 1 + 0.12 * smooth_field(rng, image_size, 20)
    for side in SIDES:
        u, v, inside = _lung(thorax, side, image_size)
        vessels = (smooth_field(rng, image_size, 30) - 1.6).clip(0, 1) * 150
        lung = thorax.lung_gray + 6 * v + 3 * smooth_field(rng, image_size, 12) + vessels
        for area in areas[side]:
            rho = _area(rng, thorax, area, u, v)
            lung += rng.uniform(*OPACITY) * patchy * ((1.15 - rho) / 0.3).clip(0, 1)
            mask |= (rho < 1) & (inside > 0)
        paint(canvas, inside, np.minimum(lung, thorax.body_gray), softness=2)
    canvas += 5 * rng.standard_normal(canvas.shape, dtype=np.float32)
    return to_bytes(canvas), mask


def with_rim(mask: Flags) -> NDArray[np.uint8]:
    """Draw a mask [H, W] as the real files have it: 255, and `RIM` on each pixel touching it."""
    padded = np.pad(mask, 1).astype(np.uint8)
    by_edge = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    by_corner = padded[:-2, :-2] + padded[:-2, 2:] + padded[2:, :-2] + padded[2:, 2:]
    rim = np.array(RIM, dtype=np.uint8)[by_edge.clip(0, 2)]
    values = np.where(by_edge + by_corner > 0, rim, 0)
    return np.where(mask, 255, values).astype(np.uint8)


# --- words and files ---------------------------------------------------------------------------


def _position(areas: list[Area]) -> str:
    """The one word that names a side's zones, "" for a healthy side."""
    ill = sorted({zone for area in areas for zone in range(area.first, area.last)})
    if not ill:
        return ""
    if len(ill) == len(ZONES):
        return "all"
    assert len(ill) == 1, "the template has one word a side"
    return ZONES[ill[0]]


def mosmed_caption(areas: Areas) -> str:
    """Word a caption by the dataset's own template, with its quirks.

    "areas" even for one; an empty left position where only the right lung is ill; a second period
    after "all right lung".
    """
    count = sum(len(side) for side in areas.values())
    if not count:
        return NO_INFECTION
    left, right = (_position(areas[side]) for side in SIDES)
    extent = "Bilateral" if left and right else "Unilateral"
    where = f"{left} left lung".lstrip()
    if right:
        where += f" and {right} right lung" + ("." if right == "all" else "")
    return f"{extent} pulmonary infection, {COUNTS[count]} infected areas, {where}."


def _slices(seed: int, split: int) -> Iterator[tuple[str, int]]:
    """Name and study of slice 0, 1, ...; a study's number modulo three is its split's."""
    study = 0
    while True:
        rng = random_stream(seed, split, study, 14)
        number = len(SPLITS) * study + split
        families = (
            f"Jun_coronacases_case{number + 1}",
            f"Morozov_study_{255 + number:04d}",
            f"Jun_radiopaedia_{4 + number}_{85_506 + number}_{rng.integers(2)}_case{number + 1}",
            f"bjorke_{number + 1}",
        )
        family = int(rng.choice(len(families), p=(0.4, 0.3, 0.2, 0.1)))
        first = int(rng.integers(8, 120))
        if family == len(families) - 1:  # single slices
            yield f"{families[family]}.png", study
        else:
            for number in range(first, first + int(rng.integers(2, 5))):
                yield f"{families[family]}_{number}.png", study
        study += 1


def _write_slices(folder: Path, seed: int, split: int, count: int, image_size: int) -> None:
    """One split's slices and its captions table, whose rows are in LViT's order."""
    rows: list[tuple[str, str]] = []
    name = SPLITS[split]
    slices = islice(_slices(seed, split), count)
    bar = tqdm(slices, f"MosMed {name}", total=count, delay=2, unit="slice")
    for index, (file, study) in enumerate(bar):
        rng = random_stream(seed, split, index, 15)
        thorax = draw_thorax(random_stream(seed, split, study, 16))
        areas = draw_areas(rng, 1 if image_size < NARROW else 3)
        image, mask = draw_slice(rng, thorax, areas, image_size)
        Image.fromarray(image).convert("RGB").save(folder / "frames" / file)
        Image.fromarray(with_rim(mask)).convert("RGB").save(folder / "masks" / file)
        rows.append((file, mosmed_caption(areas)))
    rows.sort(key=lambda row: row[0].casefold())
    write_table(folder / TABLES[name], ("Image", "text"), rows, separator=";")


def write_mosmed(
    folder: Path, *, train: int, val: int, test: int, image_size: int = 256, seed: int = 0
) -> None:
    """Write CT phantoms in the layout of Kaggle's MosMedData+ with LViT's tables beside it.

    `frames/` and `masks/` hold RGB PNGs of the same names; masks are 0 and 255 with a rim of 12, 17
    and 21 one pixel wide. The tables, separated by ;, have the columns Image and text. No study is
    in two splits, unlike in the real dataset. `train`, which is at least 1, `val` and `test` are
    numbers of slices, `image_size` is the side in pixels (512 in the real dataset). The same seed
    writes the same bytes.

    Raises:
        UserError: the folder is not empty, or a number is out of range.
    """
    check_counts(image_size, seed, train=train, val=val, test=test)
    folder = new_folder(folder, "frames", "masks")
    for split, count in enumerate((train, val, test)):
        _write_slices(folder, seed, split, count, image_size)
