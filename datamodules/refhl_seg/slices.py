"""The slices of one case: which are taken, and their pictures, masks and manifest rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.files.volumes import Volume, axial_picture
from datamodules.refhl_seg.lesions import Lesion, Scene, expression, lesions_of
from textseg.preprocess import ct_window, resize_image, resize_mask

MIN_DISTANCE = 10.0  # mm between two chosen slices of a case; nearer ones show nearly the same

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """The settings of `build_refhl`, which explains them."""

    lesion_label: int
    liver_label: int | None
    window_center: float
    window_width: float
    min_lesion_pixels: int
    slices_per_case: int
    image_size: int | None
    seed: int


def write_slices(
    folder: Path,
    case: str,
    image: Volume,
    labels: Volume,
    settings: Settings,
    counts: Counter[str],
) -> list[Row]:
    """Write slices of a case.

    Args:
        folder: with images/ and masks/.
        case: its name.
        image: in HU.
        labels: on the image's grid.
        settings: of the build.
        counts: of what was written and left out; added to.

    Returns:
        the case's rows for the manifest, without their split.
    """
    rows: list[Row] = []
    chosen: list[int] = []
    x, y, height = image.spacing
    apart = MIN_DISTANCE - 1e-3  # mm; headers are rounded
    for z in _order(labels.values == settings.lesion_label, settings.min_lesion_pixels):
        if len(chosen) == settings.slices_per_case:
            break
        if any(abs(z - other) * height < apart for other in chosen):
            continue
        scene = _scene(image, labels, z, settings, spacing=(y, x))  # rows run along y
        new = _write_slice(folder, case, z, scene, settings, counts)
        if new:
            chosen.append(z)
            rows += new
    counts["slices"] += len(chosen)
    return rows


def _order(lesions: NDArray[np.bool_], min_lesion_pixels: int) -> Iterator[int]:
    """Slices [X, Y, Z] with lesions: first those that show several, then by lesion area."""
    areas = lesions.sum(axis=(0, 1))  # [Z]
    several = {}
    for z in np.flatnonzero(areas >= min_lesion_pixels).tolist():
        scene = Scene(lesions[:, :, z], lesions[:, :, z], None, (1.0, 1.0))
        large = sum(lesion.pixels >= min_lesion_pixels for lesion in lesions_of(scene))
        if large:
            several[z] = large > 1
    yield from sorted(several, key=lambda z: (not several[z], -areas[z], z))


def _scene(
    image: Volume, labels: Volume, z: int, settings: Settings, *, spacing: tuple[float, float]
) -> Scene:
    drawn = axial_picture(labels.values, z)  # [H, W]
    return Scene(
        axial_picture(image.values, z),
        drawn == settings.lesion_label,
        None if settings.liver_label is None else drawn == settings.liver_label,
        spacing,
    )


def _write_slice(
    folder: Path, case: str, z: int, scene: Scene, settings: Settings, counts: Counter[str]
) -> list[Row]:
    """Write picture and masks of one slice; no rows where no lesion can be singled out."""
    height, width = scene.lesions.shape
    side = settings.image_size
    size = (height, width) if side is None else (side, side)
    lesions = lesions_of(scene)
    written = [
        resize_mask(lesion.mask.astype(np.uint8) * np.uint8(255), size) for lesion in lesions
    ]
    visible = [
        min(lesion.pixels, int(np.count_nonzero(mask))) >= settings.min_lesion_pixels
        for lesion, mask in zip(lesions, written, strict=True)
    ]
    rng = np.random.default_rng([settings.seed, stable_number(case), z])
    texts: dict[int, str] = {}
    for k, lesion in enumerate(lesions):
        others = [other for other in lesions if other is not lesion]
        text = expression(rng, lesion, others, count=all(visible)) if visible[k] else None
        if text is not None:
            texts[k] = text
    if not texts:
        counts["slices_without_expression"] += 1
        return []
    counts["slices_with_several"] += visible.count(True) > 1
    counts["lesions_too_small"] += visible.count(False)
    counts["lesions_not_told_apart"] += visible.count(True) - len(texts)
    stem = f"{case}_z{z:03d}"
    picture = ct_window(scene.hounsfield, settings.window_center, settings.window_width)
    Image.fromarray(resize_image(picture, size)).save(folder / "images" / f"{stem}.png")
    spacing = [scene.spacing[0] * height / size[0], scene.spacing[1] * width / size[1]]
    rows = []
    for k, text in texts.items():
        mask = f"masks/{stem}_lesion{k + 1}.png"
        Image.fromarray(written[k]).save(folder / mask)
        rows.append(_row(case, f"images/{stem}.png", mask, text, k + 1, spacing, lesions[k]))
    return rows


def _row(
    case: str,
    image: str,
    mask: str,
    text: str,
    lesion_id: int,
    spacing: list[float],
    lesion: Lesion,
) -> Row:
    return {
        "image": image,
        "mask": mask,
        "text": text,
        "case_id": case,
        "split": "",  # set when all cases are known
        "lesion_id": lesion_id,
        "spacing": [round(length, 5) for length in spacing],
        "attributes": lesion.attributes(),
    }


def stable_number(name: str) -> int:
    """Digest a name to 64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
