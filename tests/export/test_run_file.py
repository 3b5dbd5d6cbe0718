"""The one-file loader reads and resizes as the suite does, by an implementation of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from textseg.errors import UserError
from textseg.metrics.case_table import resize_logits
from textseg.preprocess import BROKEN, examine_image, fit_image, frame_of, read_image

run = pytest.importorskip("textseg.export.run", reason="needs the extra [export]")

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (20, 31), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (20, 31, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (20, 31), dtype=np.uint16)


def turned(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def clear(values: np.ndarray, opacity: int) -> Image.Image:
    picture = Image.fromarray(values).convert("RGBA")
    picture.putalpha(opacity)
    return picture


TAKEN: dict[str, Callable[[Path], None]] = {
    "gray.png": lambda file: Image.fromarray(GRAY).save(file),
    "color.jpg": lambda file: Image.fromarray(COLOR).save(file),
    "cmyk.jpg": lambda file: Image.fromarray(COLOR).convert("CMYK").save(file),
    "bits.png": lambda file: Image.fromarray(GRAY > 99).save(file),
    "deep.png": lambda file: Image.fromarray(DEEP).save(file),
    "deep.tif": lambda file: Image.fromarray(DEEP).save(file),
    "palette.png": lambda file: Image.fromarray(COLOR).convert("P").save(file),
    "opaque.png": lambda file: clear(COLOR, 255).save(file),
    **{
        f"turned{number}.{kind}": lambda file, number=number: Image.fromarray(COLOR).save(
            file, exif=turned(number)
        )
        for number in (2, 6, 7)
        for kind in ("png", "jpg", "tif")
    },
}
REFUSED: dict[str, Callable[[Path], None]] = {
    "clear.png": lambda file: clear(COLOR, 200).save(file),
    "float.tif": lambda file: Image.fromarray(GRAY.astype(np.float32)).save(file),
    "frames.gif": lambda file: Image.fromarray(GRAY).save(
        file, save_all=True, append_images=[Image.fromarray(255 - GRAY)]
    ),
    "cut.png": lambda file: file.write_bytes(b"\x89PNG\r\n\x1a\n"),
    "text.png": lambda file: file.write_text("no picture") and None,
}


@pytest.mark.parametrize("name", TAKEN)
def test_an_image_file_has_the_same_pixels(name: str, tmp_path: Path) -> None:
    TAKEN[name](tmp_path / name)
    found = run.read_image(tmp_path / name)
    assert np.array_equal(found, read_image(tmp_path / name))
    assert found.shape in ((20, 31, 3), (31, 20, 3))


@pytest.mark.parametrize(("bits", "kind"), [(12, "png"), (14, "tif"), (4, "png"), (8, "png")])
def test_a_file_of_another_range_is_warned_of_where_the_suite_does(
    bits: int, kind: str, tmp_path: Path
) -> None:
    deep = GRAY.astype(np.uint16) * 2 ** max(0, bits - 8)
    Image.fromarray(deep if bits > 8 else GRAY // 2 ** (8 - bits)).save(tmp_path / f"a.{kind}")
    odd = examine_image(tmp_path / f"a.{kind}").oddities
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.read_image(tmp_path / f"a.{kind}")
    assert ("narrow" in odd) == (bits != 8)
    assert [odd["narrow"] in str(one.message) for one in caught] == [True] * (bits != 8)


@pytest.mark.parametrize("name", REFUSED)
def test_an_image_file_that_the_suite_refuses_is_refused(name: str, tmp_path: Path) -> None:
    REFUSED[name](tmp_path / name)
    with pytest.raises(UserError):
        read_image(tmp_path / name)
    with pytest.raises(run.InputError, match=name):
        run.read_image(tmp_path / name)


@pytest.mark.parametrize("own", [(20, 31), (31, 20), (32, 64), (1, 500)])
@pytest.mark.parametrize("resize", ["stretch", "pad"])
def test_a_picture_comes_to_the_networks_size_in_the_same_way(
    own: tuple[int, int], resize: str
) -> None:
    pixels = RNG.integers(0, 256, (*own, 3), dtype=np.uint8)
    place = run.frame(own, (32, 64), resize)
    assert place == frame_of(own, (32, 64), resize)  # type: ignore[arg-type]
    wanted = fit_image(pixels, (32, 64), resize)  # type: ignore[arg-type]
    assert np.array_equal(run.fit(pixels, (32, 64), place), wanted)


@pytest.mark.parametrize("size", [(5, 9), (32, 64), (70, 41), (1, 1)])
def test_logits_are_resized_as_torch_does(size: tuple[int, int]) -> None:
    plane = RNG.normal(size=(32, 64)).astype(np.float32) * 5
    wanted = resize_logits(torch.from_numpy(plane), size).numpy()
    np.testing.assert_allclose(run.resize_logits(plane, size), wanted, rtol=0, atol=2e-5)


def test_what_breaks_a_reading_is_the_same_in_both() -> None:
    assert set(run.BROKEN) == set(BROKEN)
