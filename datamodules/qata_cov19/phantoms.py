"""Chest films whose captions follow QaTa-COV19's template, true of the mask, in Kaggle's tree.

A film has two lungs with one to six faint infected areas, and a haze that is none. Sides are the
viewer's: the left lung is on the picture's left. Each lung has coordinates of its own: v from 0 at
the apex to 1 at the lateral angle above the diaphragm, u from -1 at its medial to 1 at its lateral
border. Its thirds in v are its upper, middle and lower zone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from datamodules.captions.lvit_template import COUNTS, SIDES, ZONES
from datamodules.phantoms.common import (
    check_counts,
    new_folder,
    random_stream,
    save_mask,
    write_table,
)
from datamodules.phantoms.drawing import (
    Chest,
    Field,
    Flags,
    irregular_disc,
    paint,
    smooth_field,
    to_bytes,
    unit_grid,
)

ZONE_CHANCE = (0.35, 0.55, 0.70)  # the lower zones fall ill more often
ZONE_GAP = 0.02  # in v, between an infected area and the end of its zones
OPACITY = (24.0, 42.0)  # gray values above the lung
HAZE = (14.0, 26.0)  # the same for a haze outside the mask, which only the caption rules out

Run = tuple[int, int]  # first zone and last zone + 1


# --- drawing -----------------------------------------------------------------------------------


def draw_chest(rng: np.random.Generator) -> Chest:
    """Draw a random anatomy and exposure."""
    return Chest(
        midline=rng.uniform(0.485, 0.515),
        top=rng.uniform(0.10, 0.15),
        height=rng.uniform(0.64, 0.70),
        width=rng.uniform(0.28, 0.32),
        heart=rng.uniform(0.07, 0.11),
        lung_gray=rng.uniform(52, 70),
        body_gray=rng.uniform(150, 172),
    )


def draw_areas(rng: np.random.Generator) -> dict[str, list[Run]]:
    """Draw for each side the runs of adjacent zones that one infected area each fills."""
    extent = rng.choice(3, p=(0.6, 0.2, 0.2))
    sides = (SIDES, ("left",), ("right",))[extent]
    areas: dict[str, list[Run]] = {side: [] for side in SIDES}
    for side in sides:
        ill = rng.random(3) < ZONE_CHANCE
        ill[rng.choice(3)] |= not ill.any()
        cut = rng.random(3) < 0.45
        for zone in np.flatnonzero(ill).tolist():
            runs = areas[side]
            if runs and runs[-1][1] == zone and not cut[zone]:
                runs[-1] = (runs[-1][0], zone + 1)
            else:
                runs.append((zone, zone + 1))
    return areas


def _lung(chest: Chest, side: str, size: int) -> tuple[Field, Field, Field]:
    """u, v and the approximate signed distance to one lung's outline, each [S, S]."""
    x, y = unit_grid(size)
    v = (y - chest.top) / chest.height
    inner = v.clip(0, 1)
    heart = chest.heart if side == "right" else 0.35 * chest.heart
    medial = 0.07 + 0.02 * inner + heart * np.exp(-(((v - 0.85) / 0.25) ** 2))
    lateral = 0.11 + chest.width * np.sqrt(1 - (1 - inner) ** 2)
    offset = (x - chest.midline) * (1 if side == "right" else -1)
    u = 2 * (offset - medial) / (lateral - medial) - 1
    dome = 0.88 + 0.12 * ((u + 1) / 2).clip(0, 1) ** 2
    edge = np.minimum(offset - medial, lateral - offset)
    ends = np.minimum(v, dome - v) * chest.height
    return u, v, np.minimum(edge, ends)


def _area(rng: np.random.Generator, u: Field, v: Field, run: Run) -> Field:
    """Distance from a blob's center, 1 on its outline, which keeps off other zones, [S, S]."""
    first, last = run[0] / 3 + ZONE_GAP, run[1] / 3 - ZONE_GAP
    tall = (last - first) / 2 * rng.uniform(0.84, 1.0)
    slack = (last - first) / 2 - tall
    center_v = (first + last) / 2 + rng.uniform(-slack, slack)
    wide = rng.uniform(0.5, 0.85)
    center_u = rng.uniform(-0.9 + wide, 0.9 - wide)
    return irregular_disc(rng, (u - center_u) / wide, (v - center_v) / tall, depth=0.09)


def _free_zone(rng: np.random.Generator, areas: dict[str, list[Run]]) -> tuple[str, Run] | None:
    """A zone without infection for the haze, in half of the films."""
    free = [
        (side, (zone, zone + 1))
        for side in SIDES
        for zone in range(3)
        if not any(first <= zone < last for first, last in areas[side])
    ]
    if not free or rng.random() < 0.5:
        return None
    return free[rng.integers(len(free))]


def _paint_body(canvas: Field, chest: Chest, rng: np.random.Generator) -> None:
    """Soft tissue, shoulders, mediastinum, spine and the bowel below the diaphragm."""
    x, y = unit_grid(canvas.shape[0])
    offset = np.abs(x - chest.midline)
    shoulder = 0.20 + 0.30 * (y / 0.16).clip(0, 1)
    paint(canvas, np.minimum(shoulder - offset, 0.49 - offset), chest.body_gray, softness=6)
    below = np.minimum(y - (chest.top + 0.9 * chest.height), 0.49 - offset)
    paint(canvas, below, chest.body_gray + 22, softness=14)
    paint(canvas, 0.11 - offset, chest.body_gray + 24, softness=10)
    spine = 0.035 - offset
    paint(canvas, spine, chest.body_gray + 34 + 5 * np.sin(90 * y), softness=6)
    windpipe = np.minimum(0.016 - offset, chest.top + 0.22 - y)
    paint(canvas, windpipe, chest.body_gray - 18, softness=5)
    canvas += rng.uniform(-8, 8) * (x - 0.5)  # an uneven exposure


def _paint_bones(canvas: Field, chest: Chest, lungs: Field, rng: np.random.Generator) -> None:
    """Ribs and collarbones as faint bands, fainter outside the lungs."""
    x, y = unit_grid(canvas.shape[0])
    offset = np.abs(x - chest.midline)
    strength = 5 + 9 * (lungs * canvas.shape[0] / 4 + 0.5).clip(0, 1)
    start = chest.top - 0.03 + rng.uniform(-0.015, 0.015)
    phase = (y - start - 0.55 * offset**2 - 0.10 * offset) / 0.082
    band = ((np.abs(phase - phase.round()) * -1 + 0.19) * 8).clip(0, 1)
    canvas += strength * band * ((phase > -0.3) & (phase < 9.3) & (offset < 0.45))
    collar = chest.top + 0.075 - 0.28 * (offset - 0.04)
    bone = ((0.014 - np.abs(y - collar)) * 150).clip(0, 1) * ((offset > 0.05) & (offset < 0.38))
    canvas += 16 * bone


def draw_film(
    rng: np.random.Generator, chest: Chest, areas: dict[str, list[Run]], image_size: int
) -> tuple[NDArray[np.uint8], Flags]:
    """Draw one film, [S, S] uint8, and the mask [S, S] of the given infected areas by side."""
    canvas = np.full((image_size, image_size), 8.0, dtype=np.float32)
    mask = np.zeros(canvas.shape, dtype=bool)
    patchy = 1 + 0.16 * smooth_field(rng, image_size, 22)
    haze = _free_zone(rng, areas)
    _paint_body(canvas, chest, rng)
    lungs = np.full(canvas.shape, -1.0, dtype=np.float32)
    veil = np.zeros_like(canvas)  # what infection and haze add
    for side in SIDES:
        u, v, inside = _lung(chest, side, image_size)
        hilum = np.exp(-(((u + 1) / 0.55) ** 2) - ((v - 0.45) / 0.2) ** 2)
        texture = 3 * smooth_field(rng, image_size, 26) * (1 + 2 * hilum)
        paint(canvas, inside, chest.lung_gray + 12 * v + 34 * hilum + texture, softness=4)
        lungs = np.maximum(lungs, inside)
        for run in areas[side]:
            rho = _area(rng, u, v, run)
            veil += rng.uniform(*OPACITY) * patchy * ((1.15 - rho) / 0.4).clip(0, 1) * (inside > 0)
            mask |= (rho < 1) & (inside > 0)
        if haze is not None and haze[0] == side:
            rho = _area(rng, u, v, haze[1])
            veil += rng.uniform(*HAZE) * patchy * ((1.15 - rho) / 0.6).clip(0, 1) * (inside > 0)
    canvas += veil
    _paint_bones(canvas, chest, lungs, rng)
    canvas += 3 * smooth_field(rng, image_size, 7)
    canvas += 5 * rng.standard_normal(canvas.shape, dtype=np.float32)
    return to_bytes(canvas), mask


# --- words and files ---------------------------------------------------------------------------


def qata_caption(areas: dict[str, list[Run]]) -> str:
    """Word a caption by the dataset's own template, for the infected zones on each side."""
    where = []
    for side in SIDES:
        ill = [ZONES[zone] for first, last in areas[side] for zone in range(first, last)]
        if ill:
            where.append(f"{'all' if len(ill) == len(ZONES) else ' '.join(ill)} {side} lung")
    count = sum(len(runs) for runs in areas.values())
    extent = "Bilateral" if len(where) == 2 else "Unilateral"
    noun = "area" if count == 1 else "areas"
    return f"{extent} pulmonary infection, {COUNTS[count]} infected {noun}, {' and '.join(where)}."


def _films(seed: int, split: int) -> Iterator[tuple[str, int]]:
    """Name and subject of film 0, 1, ...; even subjects are train's and odd ones test's."""
    index = 0
    for subject in range(45_000):
        rng = random_stream(seed, split, subject, 4)
        if split == 0 and rng.random() < 0.55:  # 0.55 of the subjects is 0.38 of the films
            yield f"covid_{2 * index + 1 + int(rng.integers(2))}.png", subject
            index += 1
            continue
        number = 3000 + (2 * subject + split) * 7919 % 90_000  # 7919 is coprime to 90,000
        for _ in range(int(rng.integers(1, 4))):
            session = 1000 + (2 * index + split) * 6271 % 90_000
            index += 1
            yield f"sub-S{number:05d}_ses-E{session:05d}_run-1_bp-chest_vp-ap_dx.png", subject


def _write_films(folder: Path, seed: int, split: int, count: int, image_size: int) -> None:
    """One set: `Images/`, `Ground-truths/` and its captions table."""
    name = ("train", "test")[split]
    images = folder / "QaTa-COV19" / "QaTa-COV19-v2" / f"{name.title()} Set" / "Images"
    masks = images.with_name("Ground-truths")
    images.mkdir(parents=True)
    masks.mkdir()
    rows: list[tuple[str, str]] = []
    bar = tqdm(islice(_films(seed, split), count), f"QaTa {name}", count, delay=2, unit="film")
    for index, (film, subject) in enumerate(bar):
        rng = random_stream(seed, split, index, 5)
        chest = draw_chest(random_stream(seed, split, subject, 6))
        areas = draw_areas(rng)
        image, mask = draw_film(rng, chest, areas, image_size)
        Image.fromarray(image).save(images / film)
        save_mask(mask, masks / f"mask_{film}")
        rows.append((f"mask_{film}", qata_caption(areas)))
    write_table(folder / f"{name}.csv", ("Image", "Description"), sorted(rows))


def write_qata(
    folder: Path, *, train: int, test: int, image_size: int = 224, seed: int = 0
) -> None:
    """Write chest phantoms in the layout of Kaggle's QaTa-COV19 with `train.csv` and `test.csv`.

    Images are mode L under `QaTa-COV19/QaTa-COV19-v2/{Train Set,Test Set}/Images`, masks ({0, 255})
    beside them in `Ground-truths` as `mask_<name>`. The tables, in `folder` itself, have the
    columns Image (the mask's name, in plain string order) and Description. No subject is in both.
    `train`, which is at least 1, and `test` are numbers of films, `image_size` is the side in
    pixels. The same seed writes the same bytes.

    Raises:
        UserError: the folder is not empty, or a number is out of range.
    """
    check_counts(image_size, seed, train=train, test=test)
    folder = new_folder(folder)
    for split, count in enumerate((train, test)):
        _write_films(folder, seed, split, count, image_size)
