"""Synthetic data in the real on-disk layouts, for the quickstart and the tests.

`write_refhl` poses a true referring task: every lesion of a slice has a row of its own, so a
network that cannot read cannot know which one is meant. Measured on 300 training slices of seed 0
(seed 1 lies lower), text-blind predictions reach a mean Dice over rows of 0.477 (all
lesions), 0.345 (the largest, the smallest or any one) and at most 0.477 (an oracle that chooses the
best lesions or parts of lesions anew for each slice).

`write_qata` writes chest films whose captions follow QaTa-COV19's template, true of the mask.

A picture depends on (seed, split, index) alone, not on how many are written. Words take the
viewer's side: "left" is the picture's left.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import combinations, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from datamodules.phantoms_abdomen import Traits, draw_patient, draw_slice
from datamodules.phantoms_chest import SIDES, ZONES, Run, draw_areas, draw_chest, draw_film
from textseg.errors import UserError

SPLITS = ("train", "val", "test")
SMALLEST = 32  # pixels; below, a small lesion has no pixels to speak of

WORDS = {  # the first of each is the commonest
    "small": ("small", "small", "little"),
    "large": ("large", "large", "big"),
    "hypodense": ("hypodense", "hypodense", "dark", "hypoattenuating"),
    "hyperdense": ("hyperdense", "hyperdense", "dense", "hyperattenuating"),
    "upper left": ("upper left", "upper left", "top left"),
    "upper right": ("upper right", "upper right", "top right"),
    "lower left": ("lower left", "lower left", "bottom left"),
    "lower right": ("lower right", "lower right", "bottom right"),
}
PLACE_PHRASES = (
    "in the {} liver",
    "in the {} of the liver",
    "at the {} of the liver",
    "in the {} part of the liver",
)
COUNTS = ("zero", "one", "two", "three", "four", "five", "six")


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(key))


def _check(image_size: int, seed: int, **counts: int) -> None:
    """Refuse numbers that no data set can be written from."""
    if counts["train"] < 1:
        raise UserError(f"train={counts['train']}", "ask for at least one training image")
    for name, count in counts.items():
        if count < 0:
            raise UserError(f"{name}={count} is negative", "ask for 0 images or more")
    if image_size < SMALLEST:
        raise UserError(
            f"image_size={image_size} is too small to show a lesion",
            f"choose at least {SMALLEST} pixels, better 96 or more",
        )
    if seed < 0:
        raise UserError(f"seed={seed} is negative", "choose 0 or any positive integer")


def _claim(folder: Path) -> Path:
    """Create the folder; a file or a folder with anything in it is refused."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} is not an empty folder",
            "name a new folder, or remove this one if its data are no longer needed",
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _save_mask(mask: NDArray[np.bool_], path: Path) -> None:
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(path)


# ------------------------------------------------------------------------------------ RefHL-Seg


def _telling(traits: Traits, others: list[Traits]) -> list[tuple[str, ...]]:
    """Every choice of traits, by name, that fits this lesion and no other in its slice."""
    return [
        names
        for length in (1, 2, 3)
        for names in combinations(Traits._fields, length)
        if all(any(getattr(o, n) != getattr(traits, n) for n in names) for o in others)
    ]


def _say(rng: np.random.Generator, traits: Traits, names: tuple[str, ...]) -> str:
    """An expression with the named traits, in one of several word orders."""
    word = {name: str(rng.choice(WORDS[getattr(traits, name)])) for name in names}
    adjectives = [word[name] for name in ("size", "density") if name in word]
    where = str(rng.choice(PLACE_PHRASES)).format(word["place"]) if "place" in word else ""
    article = str(rng.choice(["the ", ""]))
    order = rng.integers(4)
    noun = "lesion" if where else str(rng.choice(["liver lesion", "lesion", "lesion of the liver"]))
    before = " ".join([*adjectives, noun])
    if order == 1 and where:
        return f"{where}, {article}{before}"
    if order == 2 and where and adjectives:
        return f"{article}lesion {where}, {' and '.join(adjectives)}"
    if order == 3 and adjectives:
        place = f", {where.removeprefix('in the ').removeprefix('at the ')}" if where else ""
        return f"{article}{' '.join(adjectives[::-1])} lesion{place}"
    return f"{article}{before} {where}".rstrip()


def expression(rng: np.random.Generator, traits: Traits, others: list[Traits]) -> str:
    """Words true of one lesion and of none of the others.

    Half of the expressions name size, density and place; the rest leave out what is not needed.
    """
    choices = _telling(traits, others)
    full = rng.random() < 0.5
    names = choices[-1] if full else choices[rng.integers(len(choices))]
    return _say(rng, traits, names)


def _slices(seed: int, split: int) -> Iterator[tuple[int, int]]:
    """Case number and slice number of image 0, 1, ..., both from 1; two to four slices a case."""
    case = 0
    while True:
        case += 1
        for number in range(int(_rng(seed, split, case, 1).integers(2, 5))):
            yield case, number + 1


def _write_slice(
    folder: Path, seed: int, split: int, index: int, place: tuple[int, int], image_size: int
) -> list[dict[str, object]]:
    """Image and masks of one slice; returns its rows for the manifest."""
    case, number = place
    case_rng, rng = _rng(seed, split, case, 2), _rng(seed, split, index, 3)
    patient = draw_patient(case_rng)
    spacing = round(float(case_rng.uniform(360, 420)) / image_size, 3)  # field of view, mm
    drawn = draw_slice(rng, patient, int(rng.integers(2, 5)), image_size)
    case_id = f"{SPLITS[split]}{case:04d}"
    stem = f"{case_id}_{number:02d}"
    image = f"images/{stem}.png"
    Image.fromarray(drawn.image).save(folder / image)
    rows: list[dict[str, object]] = []
    for lesion_id, lesion in enumerate(drawn.lesions, start=1):
        mask = f"masks/{stem}_lesion{lesion_id}.png"
        _save_mask(lesion.mask, folder / mask)
        others = [other.traits for other in drawn.lesions if other is not lesion]
        rows.append(
            {
                "image": image,
                "mask": mask,
                "text": expression(rng, lesion.traits, others),
                "case_id": case_id,
                "split": SPLITS[split],
                "lesion_id": lesion_id,
                "spacing": [spacing, spacing],
                "attributes": lesion.traits._asdict(),
            }
        )
    return rows


def write_refhl(
    folder: Path, *, train: int, val: int, test: int, image_size: int = 128, seed: int = 0
) -> None:
    """Write abdominal phantoms with `manifest.jsonl`, one row a lesion.

    Files are `images/<case>_<slice>.png` (mode L) and `masks/<case>_<slice>_lesion<k>.png`
    ({0, 255}). A row holds image, mask, text, case_id, split, lesion_id, spacing (mm per pixel) and
    attributes (size, density, place); paths are relative to `folder`. No case is in two splits.

    Args:
        folder: a new or empty folder.
        train: slices in train, at least 1; each has two to four lesions, so about 3 rows.
        val: slices in val.
        test: slices in test.
        image_size: side in pixels.
        seed: the same seed writes the same bytes.

    Raises:
        UserError: the folder is not empty, or a number is out of range.
    """
    _check(image_size, seed, train=train, val=val, test=test)
    folder = _claim(Path(folder))
    for name in ("images", "masks"):
        (folder / name).mkdir()
    with (folder / "manifest.jsonl").open("w", encoding="utf-8", newline="\n") as manifest:
        for split, count in enumerate((train, val, test)):
            places = islice(_slices(seed, split), count)
            bar = tqdm(places, f"RefHL {SPLITS[split]}", total=count, delay=2, unit="slice")
            for index, place in enumerate(bar):
                for row in _write_slice(folder, seed, split, index, place, image_size):
                    manifest.write(json.dumps(row) + "\n")


# ---------------------------------------------------------------------------------- QaTa-COV19


class _Film(NamedTuple):
    name: str
    subject: int  # decides the anatomy


def qata_caption(areas: dict[str, list[Run]]) -> str:
    """The data set's own template, for the runs of infected zones on each side."""
    where = []
    for side in SIDES:
        ill = [ZONES[zone] for first, last in areas[side] for zone in range(first, last)]
        if ill:
            where.append(f"{'all' if len(ill) == len(ZONES) else ' '.join(ill)} {side} lung")
    count = sum(len(runs) for runs in areas.values())
    extent = "Bilateral" if len(where) == 2 else "Unilateral"
    noun = "area" if count == 1 else "areas"
    return f"{extent} pulmonary infection, {COUNTS[count]} infected {noun}, {' and '.join(where)}."


def _films(seed: int, split: int) -> Iterator[_Film]:
    """Names of film 0, 1, ... as in the archive; covid_<n> (two in five) in train only.

    A numbered subject has one to three films. Even subjects are train's and odd ones test's.
    """
    index = 0
    for subject in range(45_000):
        rng = _rng(seed, split, subject, 4)
        if split == 0 and rng.random() < 0.55:  # 0.55 of the subjects is 0.38 of the films
            yield _Film(f"covid_{2 * index + 1 + int(rng.integers(2))}.png", subject)
            index += 1
            continue
        number = 3000 + (2 * subject + split) * 7919 % 90_000  # 7919 is coprime to 90,000
        for _ in range(int(rng.integers(1, 4))):
            session = 1000 + (2 * index + split) * 6271 % 90_000
            index += 1
            yield _Film(
                f"sub-S{number:05d}_ses-E{session:05d}_run-1_bp-chest_vp-ap_dx.png", subject
            )


def _write_films(folder: Path, seed: int, split: int, count: int, image_size: int) -> None:
    """One set: `Images/`, `Ground-truths/` and its captions table."""
    name = ("train", "test")[split]
    images = folder / "QaTa-COV19" / "QaTa-COV19-v2" / f"{name.title()} Set" / "Images"
    masks = images.with_name("Ground-truths")
    images.mkdir(parents=True)
    masks.mkdir()
    rows: list[tuple[str, str]] = []
    bar = tqdm(islice(_films(seed, split), count), f"QaTa {name}", count, delay=2, unit="film")
    for index, film in enumerate(bar):
        rng = _rng(seed, split, index, 5)
        chest = draw_chest(_rng(seed, split, film.subject, 6))
        drawn = draw_film(rng, chest, draw_areas(rng), image_size)
        Image.fromarray(drawn.image).save(images / film.name)
        _save_mask(drawn.mask, masks / f"mask_{film.name}")
        rows.append((f"mask_{film.name}", qata_caption(drawn.areas)))
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("Image", "Description"))
        writer.writerows(sorted(rows))


def write_qata(
    folder: Path, *, train: int, test: int, image_size: int = 224, seed: int = 0
) -> None:
    """Write chest phantoms in the layout of Kaggle's QaTa-COV19 with `train.csv` and `test.csv`.

    Images are mode L under `QaTa-COV19/QaTa-COV19-v2/{Train Set,Test Set}/Images`, masks ({0, 255})
    beside them in `Ground-truths` as `mask_<name>`. The tables, in `folder` itself, have the
    columns Image (the mask's name, in plain string order) and Description. No subject is in both.

    Args:
        folder: a new or empty folder.
        train: films in the train set, at least 1.
        test: films in the test set.
        image_size: side in pixels.
        seed: the same seed writes the same bytes.

    Raises:
        UserError: the folder is not empty, or a number is out of range.
    """
    _check(image_size, seed, train=train, test=test)
    folder = _claim(Path(folder))
    for split, count in enumerate((train, test)):
        _write_films(folder, seed, split, count, image_size)
