"""Pictures as PIL holds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textseg.preprocess import read_image
from textseg.segment.pictures import read_picture


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_pil_image_is_converted_as_the_same_image_in_a_file(mode: str, tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (9, 12), dtype=np.uint8)
    if mode.startswith("I"):
        picture = Image.fromarray(gray.astype(np.uint16) * 251)
    else:
        picture = Image.fromarray(gray).convert(mode)
    assert picture.mode == mode
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_picture(picture).pixels, read_image(tmp_path / "a.png"))
