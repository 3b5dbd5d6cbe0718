"""What a file of pixels may be: every row of the table of `textseg.preprocess.pixel_files`."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from textseg.errors import UserError
from textseg.preprocess import (
    examine_image,
    examine_mask,
    image_pixels,
    probe,
    read_image,
    read_mask,
    turned_picture,
)
from textseg.preprocess.pixel_files import FORMATS
from textseg.tables import IMAGE_SUFFIXES, images_in, match_key

GRAY = np.random.default_rng(0).integers(0, 256, (12, 20), dtype=np.uint8)
MASK = np.zeros((12, 20), np.uint8)
MASK[3:9, 4:11] = 255


def saved(folder: Path, image: Image.Image, name: str = "a.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def refused(read: Any, path: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        read(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert str(path) in lines[0]
    assert [word for word in words if word not in str(error.value)] == []


# --- orientation

# By EXIF's definition: for each number, what was done to the picture before it was stored, so that
# a viewer that undoes it shows the picture.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: a.T[::-1],  # turned by a quarter against the clock
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: a.T[:, ::-1],
}
LOSSLESS = {"png": {}, "tif": {}, "webp": {"lossless": True}}


def turned(folder: Path, number: int, suffix: str) -> Path:
    """GRAY as viewers show the file."""
    image = Image.fromarray(np.ascontiguousarray(STORED[number](GRAY)))
    exif = Image.Exif()
    exif[0x0112] = number
    options: dict[str, Any] = {"exif": exif, **LOSSLESS.get(suffix, {"quality": 100})}
    return saved(folder, image, f"{number}.{suffix}", **options)


@pytest.mark.parametrize("suffix", [*LOSSLESS, "jpg"])
@pytest.mark.parametrize("number", STORED)
def test_every_orientation_is_read_as_viewers_show_it(
    tmp_path: Path, number: int, suffix: str
) -> None:
    path = turned(tmp_path, number, suffix)
    most = 0 if suffix in LOSSLESS else 3
    assert np.abs(read_image(path)[..., 0].astype(int) - GRAY).max() <= most
    assert read_image(path).shape == (12, 20, 3)
    header = probe(path)
    assert header.size == (12, 20)
    assert header.turned == (number != 1)
    assert ("turned" in examine_image(path).oddities) == (number != 1)
    # Not by path: Pillow garbles an uncompressed TIFF of orientation 5 to 8 that it maps.
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert np.array_equal(image_pixels(turned_picture(image)), read_image(path))


def test_a_mask_with_an_orientation_is_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](MASK)))
    path = saved(tmp_path, stored, exif=exif)
    assert np.array_equal(read_mask(path), MASK // 255)
    assert examine_mask(path).oddities["turned"] == "orientation 6"


@pytest.mark.parametrize("content", [b"\x00\x09", b"\x00\x00"])
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, content: bytes) -> None:
    tag = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01" + content + b"\0" * 6
    path = saved(tmp_path, Image.fromarray(GRAY), exif=b"Exif\0\0" + tag)
    assert np.array_equal(read_image(path)[..., 0], GRAY)
    assert not probe(path).turned


def test_an_orientation_after_a_pngs_pixels_is_found(tmp_path: Path) -> None:
    """Some programs write EXIF behind the pixels."""
    exif = Image.Exif()
    exif[0x0112] = 3
    plain = saved(tmp_path, Image.fromarray(GRAY)).read_bytes()
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    late = tmp_path / "late.png"
    late.write_bytes(plain[:-12] + chunk + plain[-12:])
    assert probe(late).turned
    assert np.array_equal(read_image(late)[..., 0], GRAY[::-1, ::-1])


# --- range and depth


def png16(values: np.ndarray, color: int) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write in color."""
    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1)
    packed = b"".join(b"\0" + row.tobytes() for row in rows)
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)),
        (b"IDAT", zlib.compress(packed)),
        (b"IEND", b""),
    ):
        out += (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )
    return out


@pytest.mark.parametrize("scale", [257, 64, 16])
@pytest.mark.parametrize("color", [False, True])
def test_12_and_14_bits_in_16_are_noticed_in_gray_and_in_color(
    tmp_path: Path, scale: int, color: bool
) -> None:
    path = tmp_path / "a.png"
    values = GRAY.astype(np.uint16) * scale
    path.write_bytes(png16(np.stack([values] * 3, -1), 2) if color else png16(values, 0))
    pixels, oddities = examine_image(path)
    assert np.abs(pixels[..., 0] - values / 65535 * 255).max() <= 1
    assert "deep" in oddities
    assert ("narrow" in oddities) == (scale < 257)


def test_16_bit_gray_is_scaled_over_its_whole_range(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 65535]], np.uint16)
    path = saved(tmp_path, Image.fromarray(values))
    assert read_image(path)[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("values", [GRAY.astype(np.int32) - 1024, GRAY.astype(np.int32) * 1000])
def test_gray_beyond_16_bits_is_refused_with_its_range(tmp_path: Path, values: np.ndarray) -> None:
    path = saved(tmp_path, Image.fromarray(values), "a.tif")
    refused(read_image, path, f"{values.min():g} to {values.max():g}", "window")
    with pytest.raises(UserError, match="the PIL image"):
        image_pixels(turned_picture(Image.fromarray(values)))


@pytest.mark.parametrize("read", [read_image, read_mask, probe, examine_image, examine_mask])
def test_float_files_are_refused_by_everyone(tmp_path: Path, read: Any) -> None:
    path = saved(tmp_path, Image.fromarray(GRAY.astype(np.float32) / 255), "a.tif")
    refused(read, path, "mode F", "0..255")


def test_white_as_zero_is_refused_in_16_bits_and_read_in_8(tmp_path: Path) -> None:
    """Pillow inverts 8 bits by itself, and leaves 16 as they are."""
    deep = Image.fromarray(GRAY.astype(np.uint16) * 257)
    path = saved(tmp_path, deep, "deep.tif", tiffinfo={262: 0})
    refused(read_image, path, "white as 0")
    refused(probe, path, "white as 0")
    data = bytearray(saved(tmp_path, Image.fromarray(GRAY), "a.tif").read_bytes())
    entry = data.index(struct.pack("<HHI", 262, 3, 1))
    data[entry + 8 : entry + 10] = b"\0\0"
    (tmp_path / "a.tif").write_bytes(data)
    assert np.array_equal(read_image(tmp_path / "a.tif")[..., 0], 255 - GRAY)


# --- frames, formats, colors


@pytest.mark.parametrize("suffix", ["tif", "gif", "png"])
def test_a_file_of_several_pictures_is_refused_with_their_number(
    tmp_path: Path, suffix: str
) -> None:
    others = [Image.fromarray(255 - GRAY)]
    path = saved(
        tmp_path, Image.fromarray(GRAY), f"a.{suffix}", save_all=True, append_images=others
    )
    refused(read_image, path, "2 pictures")
    refused(probe, path, "2 pictures")


def test_of_a_cameras_jpeg_the_picture_is_read_and_not_its_preview(tmp_path: Path) -> None:
    others = [Image.fromarray(255 - GRAY)]
    path = tmp_path / "a.jpg"
    Image.fromarray(GRAY).save(path, "MPO", save_all=True, append_images=others, quality=100)
    assert np.abs(read_image(path)[..., 0].astype(int) - GRAY).max() <= 3


def test_other_formats_are_not_opened_whatever_they_are_called(tmp_path: Path) -> None:
    image = Image.fromarray(GRAY).convert("RGB")
    for name in ("EPS", "PDF", "ICO"):
        buffer = io.BytesIO()
        image.save(buffer, name)
        (tmp_path / "a.png").write_bytes(buffer.getvalue())
        refused(read_image, tmp_path / "a.png", "PNG, JPEG")
    (tmp_path / "a.png").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 99)
    refused(read_image, tmp_path / "a.png", "DICOM")


@pytest.mark.parametrize(
    ("mode", "name"),
    [("CMYK", "a.tif"), ("YCbCr", "a.jpg"), ("P", "a.png"), ("P", "a.gif"), ("1", "a.png")],
)
def test_other_modes_are_read_as_their_colors(tmp_path: Path, mode: str, name: str) -> None:
    colors = np.repeat(np.repeat(GRAY[:3, :4], 8, 0), 8, 1)
    picture = Image.fromarray(np.stack([colors, 255 - colors, colors // 2], -1))
    if mode == "1":
        picture = Image.fromarray(colors > 127)
    wanted = np.asarray(picture.convert("RGB"))
    options = {"quality": 100, "subsampling": 0} if name.endswith("jpg") else {}
    path = saved(tmp_path, picture.convert(mode), name, **options)
    most = {"1": 0, "CMYK": 0, "YCbCr": 6}.get(mode, 60)  # of a palette of 216 colors
    assert np.abs(read_image(path).astype(int) - wanted).max() <= most
    assert read_image(path).std() > 20


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_a_folder_is_searched_for_every_format_that_is_opened(suffix: str, tmp_path: Path) -> None:
    formats = Image.registered_extensions()
    assert {formats[one] for one in IMAGE_SUFFIXES} == {*FORMATS}
    mode = "1" if suffix == ".pbm" else "L"
    Image.new(mode, (8, 8), 1).save(tmp_path / f"a{suffix}")
    (found,) = images_in(tmp_path)
    assert read_image(found).shape == (8, 8, 3)
    assert match_key(f"mask_A{suffix}") == "a"


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L"])
def test_an_image_with_transparent_pixels_is_refused(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(GRAY // 2)
    if mode in ("LA", "RGBA"):
        solid = picture.convert(mode)
        solid.putalpha(255)
        assert np.array_equal(read_image(saved(tmp_path, solid))[..., 0], GRAY // 2)
        picture = picture.convert(mode)
        picture.putalpha(Image.fromarray(MASK))
        path = saved(tmp_path, picture)
    else:
        path = saved(tmp_path, picture.convert(mode), transparency=int(GRAY[0, 0]) // 2)
    refused(read_image, path, "transparent")


# --- masks


def alpha(opacity: np.ndarray, color: Sequence[int] = (255, 255, 255)) -> Image.Image:
    pixels = np.zeros((*opacity.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = color, opacity
    return Image.fromarray(pixels)


def palette(entries: np.ndarray, colors: Sequence[int]) -> Image.Image:
    image = Image.frombytes("P", entries.shape[::-1], entries.astype(np.uint8).tobytes())
    image.putpalette(list(colors))
    return image


TRUTH = MASK // 255
READ_AS_DRAWN = {
    "gray": Image.fromarray(MASK),
    "1 bit": Image.fromarray(MASK > 0),
    "16 bits": Image.fromarray(MASK.astype(np.uint16) * 257),
    "one color": Image.fromarray(np.stack([MASK, 0 * MASK, 0 * MASK], -1)),
    "white, drawn by opacity": alpha(MASK),
    "red, drawn by opacity": alpha(MASK, (200, 0, 0)),
    "half opaque": alpha(MASK // 255 * 150),
    "gray and opacity": Image.merge("LA", [Image.fromarray(0 * MASK + 255), Image.fromarray(MASK)]),
    "opaque color": Image.fromarray(np.stack([MASK] * 3 + [0 * MASK + 255], -1)),
    "palette": palette(TRUTH, (0, 0, 0, 128, 0, 0)),
}


@pytest.mark.parametrize("kind", READ_AS_DRAWN)
def test_a_mask_is_what_viewers_show_as_bright(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, READ_AS_DRAWN[kind])
    assert np.array_equal(read_mask(path), TRUTH)
    assert not set(examine_mask(path).oddities) & {"empty", "erased", "classes", "inverted"}


def test_a_palettes_transparent_entry_is_background(tmp_path: Path) -> None:
    picture = palette(TRUTH, (255, 255, 255, 255, 255, 255))
    path = saved(tmp_path, picture, transparency=bytes([0, 255]))
    assert np.array_equal(read_mask(path), TRUTH)


@pytest.mark.parametrize(
    "image",
    [
        alpha(MASK, (0, 0, 0)),
        Image.fromarray(np.stack([MASK] * 3 + [0 * MASK], -1)),
        Image.fromarray(np.stack([0 * MASK, MASK], -1), "LA"),
    ],
    ids=["black on transparent", "transparent all over", "black on transparent gray"],
)
def test_a_mask_whose_colors_and_opacity_disagree_is_refused(
    tmp_path: Path, image: Image.Image
) -> None:
    refused(read_mask, saved(tmp_path, image), "in doubt")


def test_an_empty_layer_is_an_empty_mask(tmp_path: Path) -> None:
    for image in (alpha(0 * MASK), alpha(0 * MASK, (0, 0, 0)), Image.fromarray(0 * MASK)):
        assert examine_mask(saved(tmp_path, image)).oddities == {"empty": "0"}


def test_a_mask_in_16_bit_color_is_refused_as_its_values_are_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png16(np.stack([TRUTH.astype(np.uint16)] * 3, -1), 2))
    refused(read_mask, path, "16-bit color")
    with pytest.raises(UserError, match="16-bit color"):
        probe(path, "mask")


CLASSES = np.zeros((12, 20), np.uint8)
CLASSES[1:6, 2:8], CLASSES[6:11, 2:8], CLASSES[2:9, 12:18] = 1, 2, 3
VOC = (0, 0, 0, 128, 0, 0, 0, 64, 0, 64, 64, 0)  # its entries 1 to 3, two of them below 128


@pytest.mark.parametrize("mask_values", [[1], [2], [1, 3], [3, 2, 1], [0]])
@pytest.mark.parametrize("form", ["gray", "16 bits", "palette", "gray RGB", "opaque"])
def test_mask_values_pick_classes_by_value_or_by_entry(
    tmp_path: Path, form: str, mask_values: list[int]
) -> None:
    image = {
        "gray": Image.fromarray(CLASSES),
        "16 bits": Image.fromarray(CLASSES.astype(np.uint16)),
        "palette": palette(CLASSES, VOC),
        "gray RGB": Image.fromarray(np.stack([CLASSES] * 3, -1)),
        "opaque": Image.fromarray(np.stack([CLASSES] * 3 + [0 * CLASSES + 255], -1)),
    }[form]
    path = saved(tmp_path, image)
    wanted = np.isin(CLASSES, mask_values)
    assert np.array_equal(read_mask(path, mask_values), wanted)
    assert examine_mask(path, mask_values).oddities == {}
    assert examine_mask(path, [77]).oddities == {"empty": "0, 1, 2, 3"}


def test_mask_values_need_exact_gray(tmp_path: Path) -> None:
    color = Image.fromarray(np.stack([CLASSES, 0 * CLASSES, CLASSES], -1))
    for path, word in (
        (saved(tmp_path, color), "in color"),
        (saved(tmp_path, Image.fromarray(CLASSES), "a.jpg"), "JPEG"),
    ):
        refused(lambda path: read_mask(path, [1]), path, word, "mask_values")


LEVELS = np.array([0, 100, 128, 255], np.uint8)


@pytest.mark.parametrize(
    ("image", "odd"),
    [
        (Image.fromarray(CLASSES), {"empty": "0, 1, 2, 3", "erased": "1, 2, 3"}),
        (Image.fromarray(TRUTH), {"empty": "0, 1", "erased": "1"}),
        (palette(CLASSES, VOC), {"classes": "1, 2, 3"}),
        (palette(2 * TRUTH, VOC), {"empty": "0, 64", "erased": "2"}),
        (Image.fromarray(LEVELS[CLASSES]), {"classes": "100, 128, 255"}),
        (
            Image.fromarray(np.array([0, 1, 2, 255], np.uint8)[CLASSES]),
            {"faint": "1, 2"},
        ),
        (
            Image.fromarray(
                np.array([[0] * 3, [255, 0, 0], [0, 255, 0], [0] * 3], np.uint8)[CLASSES]
            ),
            {"classes": "(0, 255, 0), (255, 0, 0)"},
        ),
        (Image.fromarray(255 - MASK), {"inverted": "82% of the picture and all four corners"}),
        (Image.fromarray(0 * MASK + 255), {"inverted": "100% of the picture and all four corners"}),
    ],
)
def test_what_a_mask_may_mean_otherwise_is_noted(
    tmp_path: Path, image: Image.Image, odd: dict[str, str]
) -> None:
    assert examine_mask(saved(tmp_path, image)).oddities == odd


def test_smoothed_edges_and_the_noise_of_jpeg_are_no_classes(tmp_path: Path) -> None:
    big = Image.fromarray(MASK).resize((160, 96), Image.Resampling.BICUBIC)
    rim = MASK.copy()
    rim[2, 4:11], rim[9, 4:11] = 12, 21
    for image, options in (
        (big, {}),
        (big, {"format": "JPEG", "quality": 60}),
        (Image.fromarray(rim), {}),
    ):
        mask = examine_mask(saved(tmp_path, image, **options))
        assert mask.oddities == {}
        assert len(np.unique(mask.values)) > 3
