"""Breast ultrasound with captions of MedCLIPSeg's kind, true of the mask, in BUSI's layout.

A scan shows layers of skin, fat, gland and muscle under speckle. It has one or two dark tumors or
none, and shadows as dark as these that are in no mask: only the caption's places tell them apart.
Benign tumors have a smooth outline, malignant ones an irregular one. Places are thirds of the
picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from datamodules.medclipseg.layouts import FOLDERS, IMAGES, MASKS, ORIGINAL, PROMPTS
from datamodules.phantoms.common import (
    check_counts,
    new_folder,
    random_stream,
    save_mask,
    write_table,
)
from datamodules.phantoms.drawing import (
    Field,
    Flags,
    irregular_disc,
    paint,
    smooth_field,
    to_bytes,
    unit_grid,
)
from textseg.tables import SPLITS

NONE = "No tumor in the breast ultrasound image.\n"
SIZES = {"small": 0.07, "medium": 0.11, "large": 0.15}  # radius as a share of the picture's side
SHAPES = {"circle": 1.0, "oval": 0.62}  # height over width
KINDS = {"benign": 0.05, "malignant": 0.26}  # depth of the outline's harmonics
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
NORMAL = 1 / 6  # share of scans without a tumor, as in BUSI
SHARES = (10, 25, 50)


class Tumor(NamedTuple):
    """One tumor: keys of `SIZES`, `SHAPES` and `KINDS`, and the row and column of its place."""

    size: str
    shape: str
    kind: str
    cell: tuple[int, int]

    @property
    def place(self) -> str:
        """Its place in words."""
        return f"{ROWS[self.cell[0]]} {COLUMNS[self.cell[1]]}".strip() or "center"


# --- drawing -----------------------------------------------------------------------------------


def draw_tumors(rng: np.random.Generator) -> list[Tumor]:
    """Draw none, one or two tumors of one size, shape and kind, as a caption can tell of."""
    if rng.random() < NORMAL:
        return []
    size, shape, kind = (str(rng.choice(list(names))) for names in (SIZES, SHAPES, KINDS))
    number = 2 if size == "small" and rng.random() < 0.3 else 1
    return [Tumor(size, shape, kind, cell) for cell in _cells(rng, number, taken=())]


def _cells(
    rng: np.random.Generator, number: int, taken: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    free = [(row, column) for row in range(3) for column in range(3) if (row, column) not in taken]
    return [free[index] for index in sorted(rng.choice(len(free), number, replace=False).tolist())]


def draw_scan(
    rng: np.random.Generator, tumors: Sequence[Tumor], image_size: int
) -> tuple[NDArray[np.uint8], Flags]:
    """Draw one scan, [S, S] uint8, and the mask [S, S] of all its tumors."""
    canvas = _tissue(rng, image_size)
    mask = np.zeros(canvas.shape, dtype=bool)
    shadows = _cells(rng, int(rng.integers(0, 3)), taken=[tumor.cell for tumor in tumors])
    for cell in shadows:
        size, shape = (str(rng.choice(list(names))) for names in (SIZES, SHAPES))
        _darken(canvas, rng, _blob(rng, Tumor(size, shape, "benign", cell), image_size), soft=3.0)
    for tumor in tumors:
        rho = _blob(rng, tumor, image_size)
        _darken(canvas, rng, rho, soft=1.5)
        mask |= rho < 1
    speckle = rng.rayleigh(1.0, canvas.shape).astype(np.float32) / 1.25
    canvas *= 0.55 + 0.45 * speckle
    return to_bytes(canvas), mask


def _tissue(rng: np.random.Generator, size: int) -> Field:
    """Layers that wave, brightest at the skin."""
    _, y = unit_grid(size)
    wave = 0.03 * smooth_field(rng, size, 4)
    canvas = np.full((size, size), 96.0, dtype=np.float32)
    for depth, gray in ((0.06, 190), (0.3, 120), (0.72, 88)):
        start = depth + rng.uniform(-0.03, 0.03)
        paint(canvas, y + wave - start, gray + rng.uniform(-10, 10), softness=size / 24)
    return canvas + 9 * smooth_field(rng, size, 12)


def _blob(rng: np.random.Generator, tumor: Tumor, size: int) -> Field:
    """Distance from a tumor's center, 1 on its outline, [S, S]; the center lies in its third."""
    x, y = unit_grid(size)
    row, column = tumor.cell
    down, across = ((cell + 0.5 + rng.uniform(-0.12, 0.12)) / 3 for cell in (row, column))
    radius = SIZES[tumor.size] * rng.uniform(0.92, 1.08)
    tall = radius * SHAPES[tumor.shape]
    return irregular_disc(rng, (x - across) / radius, (y - down) / tall, depth=KINDS[tumor.kind])


def _darken(canvas: Field, rng: np.random.Generator, rho: Field, *, soft: float) -> None:
    paint(canvas, (1 - rho) / 8, rng.uniform(26, 44), softness=soft)


# --- words and files ---------------------------------------------------------------------------


def tumor_caption(tumors: Sequence[Tumor], change: str = ORIGINAL) -> str:
    """Word a caption by the dataset's template, or one of its altered forms.

    Args:
        tumors: those of the scan, alike but for their places.
        change: original, missing_location, underdescriptive, overdescriptive or contradictory.
    """
    if not tumors:
        return NONE
    first = tumors[0]
    count, noun = ("One", "tumor") if len(tumors) == 1 else ("Two", "tumors")
    kind = f"{first.size} {first.shape}-shaped {first.kind} {noun}"
    places = ", ".join(tumor.place for tumor in tumors)
    return {
        "original": f"{count} {kind} at the {places} in the breast ultrasound image.\n",
        "missing_location": f"{count} {kind} in the breast ultrasound image.",
        "underdescriptive": f"{first.kind.title()} {noun} in the breast ultrasound image.",
        "overdescriptive": f"{count} {kind} with posterior shadowing and a complex inner texture "
        f"at the {places} in the breast ultrasound image.",
        "contradictory": f"Breast appears normal, yet {count.lower()} {kind} at the {places}.",
    }[change]


CHANGES = ("contradictory", "missing_location", "overdescriptive", "underdescriptive")


def _write_split(folder: Path, seed: int, split: int, count: int, image_size: int) -> None:
    """One split's scans with its caption tables."""
    name = SPLITS[split]
    home = folder / FOLDERS[name]
    scans: list[tuple[str, list[Tumor]]] = []
    bar = tqdm(range(count), f"BUSI {name}", delay=2, unit="scan")
    for index in bar:
        rng = random_stream(seed, split, index, 21)
        tumors = draw_tumors(rng)
        image, mask = draw_scan(rng, tumors, image_size)
        kind = tumors[0].kind if tumors else "normal"
        file = f"{len(SPLITS) * index + split + 1}_{kind}.png"  # no number is in two splits
        Image.fromarray(image).save(home / IMAGES / file)
        save_mask(mask, home / MASKS / file)
        scans.append((file, tumors))
    scans.sort()
    title = name.title()
    if name == "test":
        for change in (ORIGINAL, *CHANGES):
            _write_captions(folder, f"Test_text_{change}", scans, change)
        return
    _write_captions(folder, f"{title}_text", scans)
    for percent in SHARES:
        every = 100 // percent
        _write_captions(folder, f"{title}_text_{percent}", scans[::every])


def _write_captions(
    folder: Path, stem: str, scans: Sequence[tuple[str, list[Tumor]]], change: str = ORIGINAL
) -> None:
    rows = [(file, tumor_caption(tumors, change), file) for file, tumors in scans]
    columns = ("Image", "Description", "Ground Truth")
    write_table(folder / PROMPTS / f"{stem}.csv", columns, rows)


def write_medclipseg(
    folder: Path, *, train: int, val: int, test: int, image_size: int = 128, seed: int = 0
) -> None:
    """Write ultrasound phantoms in the layout of MedCLIPSeg's BUSI.

    Images (mode L) and masks ({0, 255}) of the same name lie in `<split>_Folder/{img,label}`. The
    tables in `Prompts_Folder`, as .csv, hold the captions, the altered ones of test, and the lists
    of 10, 25 and 50 %. `train`, which is at least 1, `val` and `test` are numbers of scans,
    `image_size` is the side in pixels. The same seed writes the same bytes.

    Raises:
        UserError: the folder is not empty, or a number is out of range.
    """
    check_counts(image_size, seed, train=train, val=val, test=test)
    inner = [f"{name}/{kind}" for name in FOLDERS.values() for kind in (IMAGES, MASKS)]
    folder = new_folder(folder, PROMPTS, *inner)
    for split, count in enumerate((train, val, test)):
        _write_split(folder, seed, split, count, image_size)
