"""The files of one segmented image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from textseg.preprocess import FULL_SCALE
from textseg.segment.network import Segmentation
from textseg.segment.rows import Row
from textseg.visualize.overlay import overlay


def write_masks(folder: Path, row: Row, result: Segmentation, *, probabilities: bool) -> None:
    """Write masks/, overlays/ and, if asked, probabilities/ of a row, named by its case."""
    name, caption = f"{row.case}.png", row.text or "(no text)"
    Image.fromarray(result.mask.astype(np.uint8) * 255).save(folder / "masks" / name)
    page = overlay(result.image, None, result.mask, caption=caption, title=[row.case])
    Image.fromarray(page).save(folder / "overlays" / name)
    if probabilities:
        levels = (result.probs.astype(np.float64) * FULL_SCALE).round().astype(np.uint16)
        Image.fromarray(levels).save(folder / "probabilities" / name)
