"""The slices of one case: which are taken, and their pictures, masks and manifest rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage  # type: ignore[import-untyped]

from datamodules.files.volumes import Volume, axial_picture
from datamodules.refhl_seg.lesions import (
    CORNERS_TOUCH,
    Flags,
    Lesion,
    Scene,
    expression,
    lesions_of,
)
from datamodules.volumes.built_set import stable_number
from textseg.preprocess import Bytes, ct_window, resize_image, resize_mask

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


class SliceWriter:
    """Writes pictures and masks of slices, and counts what it wrote and what it left out.

    Args:
        folder: with images/ and masks/.
        settings: of the build.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.counts: Counter[str] = Counter()

    def write_case(self, case: str, image: Volume, labels: Volume) -> list[Row]:
        """Write slices of a volume in HU; return its manifest rows, still without their split."""
        lesion, liver = self.settings.lesion_label, self.settings.liver_label
        rows: list[Row] = []
        chosen: list[int] = []
        x, y, height = image.spacing
        apart = MIN_DISTANCE - 1e-3  # mm; headers are rounded
        for z in _by_preference(labels.values == lesion, self.settings.min_lesion_pixels):
            if len(chosen) == self.settings.slices_per_case:
                break
            if any(abs(z - other) * height < apart for other in chosen):
                continue
            drawn = axial_picture(labels.values, z)  # [H, W]
            scene = Scene(
                axial_picture(image.values, z),
                drawn == lesion,
                None if liver is None else drawn == liver,
                (y, x),  # rows run along y
            )
            new = self._write_slice(case, z, scene)
            if new:
                chosen.append(z)
                rows += new
        self.counts["slices"] += len(chosen)
        return rows

    def _write_slice(self, case: str, z: int, scene: Scene) -> list[Row]:
        """Write one slice; no rows where no lesion can be singled out."""
        height, width = scene.lesions.shape
        side = self.settings.image_size
        size = (height, width) if side is None else (side, side)
        lesions = lesions_of(scene)
        masks = [resize_mask(lesion.mask * np.uint8(255), size) for lesion in lesions]
        texts = self._expressions(case, z, lesions, masks)
        if not texts:
            return []
        stem = f"{case}_z{z:03d}"
        image = f"images/{stem}.png"
        window = self.settings.window_center, self.settings.window_width
        picture = resize_image(ct_window(scene.hounsfield, *window), size)
        Image.fromarray(picture).save(self.folder / image)
        spacing = [scene.spacing[0] * height / size[0], scene.spacing[1] * width / size[1]]
        rows = []
        for k, text in texts.items():
            mask = f"masks/{stem}_lesion{k + 1}.png"
            Image.fromarray(masks[k]).save(self.folder / mask)
            rows.append(
                {
                    "image": image,
                    "mask": mask,
                    "text": text,
                    "case_id": case,
                    "split": "",  # set when all cases are known
                    "lesion_id": k + 1,
                    "spacing": [round(length, 5) for length in spacing],
                    "attributes": lesions[k].attributes(),
                }
            )
        return rows

    def _expressions(
        self, case: str, z: int, lesions: list[Lesion], masks: list[Bytes]
    ) -> dict[int, str]:
        """The expressions of a slice by the number of their lesion, counted."""
        visible = [
            min(lesion.pixels, int(np.count_nonzero(mask))) >= self.settings.min_lesion_pixels
            for lesion, mask in zip(lesions, masks, strict=True)
        ]
        rng = np.random.default_rng([self.settings.seed, stable_number(case), z])
        texts: dict[int, str] = {}
        for k in np.flatnonzero(visible).tolist():
            others = lesions[:k] + lesions[k + 1 :]
            text = expression(rng, lesions[k], others, count=all(visible))
            if text is not None:
                texts[k] = text
        if texts:
            self.counts["slices_with_several"] += sum(visible) > 1
            self.counts["lesions_too_small"] += len(visible) - sum(visible)
            self.counts["lesions_not_told_apart"] += sum(visible) - len(texts)
        else:
            self.counts["slices_without_expression"] += 1
        return texts


def _by_preference(lesions: Flags, min_lesion_pixels: int) -> list[int]:
    """Slices [X, Y, Z] with lesions: first those that show several, then by lesion area."""
    areas = lesions.sum(axis=(0, 1))  # [Z]
    several = {}
    for z in np.flatnonzero(areas >= min_lesion_pixels).tolist():
        parts, _ = ndimage.label(lesions[:, :, z], CORNERS_TOUCH)
        large = np.count_nonzero(np.bincount(parts.ravel())[1:] >= min_lesion_pixels)
        if large:
            several[z] = large > 1
    return sorted(several, key=lambda z: (not several[z], -areas[z], z))
