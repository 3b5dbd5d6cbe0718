"""Chest films whose captions follow QaTa-COV19's template, true of the mask, in Kaggle's tree."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

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
from datamodules.qata_cov19.chest import Run, draw_areas, draw_chest, draw_film


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
