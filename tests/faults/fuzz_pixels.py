"""Kinds of hostile pictures and volumes."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from hypothesis import strategies as st
from PIL import Image

from datamodules.files.dicom import read_dicom_picture, read_header
from datamodules.files.nifti import read_nifti
from tests.datamodules.scan_files import header
from tests.faults.fuzz import kind, valid
from tests.faults.fuzz_tables import spoiled
from textseg.preprocess import examine_image, examine_mask, probe, read_image, read_mask

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
FORMATS = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "jpg": ("L", "RGB", "CMYK"),
    "bmp": ("1", "L", "P", "RGB"),
    "tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"),
    "gif": ("L", "P"),
    "webp": ("RGB", "RGBA"),
    "jp2": ("L", "RGB"),
    "ppm": ("L", "RGB"),
}
LOSSLESS = ("png", "bmp", "tif", "gif", "ppm")


def gray_picture(size: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@kind
def picture_valid(data: st.DataObject, folder: Path) -> bool:
    """8-bit gray and color without loss, in every format that keeps them."""
    size, seed = data.draw(SIZES), data.draw(st.integers(0, 99))
    suffix = data.draw(st.sampled_from(LOSSLESS))
    gray = gray_picture(size, seed)
    color = data.draw(st.booleans()) and suffix != "gif"
    values = np.stack([gray, gray[::-1], gray[:, ::-1]], axis=-1) if color else gray
    Image.fromarray(values).save(folder / f"a.{suffix}")
    with valid():
        found, header_says = read_image(folder / f"a.{suffix}"), probe(folder / f"a.{suffix}")
    expected = values if color else np.repeat(gray[..., None], 3, axis=2)
    return np.array_equal(found, expected) and header_says.size == size


@kind
def picture_any_mode(data: st.DataObject, folder: Path) -> bool:
    """Every mode of every format: of the picture's size, and a mask of 0 and 1, or refused."""
    suffix = data.draw(st.sampled_from(list(FORMATS)))
    mode = data.draw(st.sampled_from(FORMATS[suffix]))
    size, seed = data.draw(SIZES), data.draw(st.integers(0, 99))
    gray = gray_picture(size, seed)
    image = Image.fromarray(gray.astype(np.uint16) * 257 if mode == "I;16" else gray)
    image = image if mode == "I;16" else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = data.draw(st.integers(0, 9))
    image.save(folder / f"a.{suffix}", **({"exif": exif} if suffix in ("jpg", "png") else {}))
    return _sound(folder / f"a.{suffix}")


def _sound(path: Path) -> bool:
    """What is read of a file is an image and a mask of the size that its header gives."""
    found = probe(path)
    examined = examine_image(path)
    image, mask = read_image(path), read_mask(path)
    pixels = examine_mask(path).pixels
    return (
        image.dtype == np.uint8
        and image.shape == (*found.size, 3) == examined.pixels.shape
        and mask.shape == found.size == pixels.shape
        and bool(np.isin(mask, (0, 1)).all())
    )


@cache
def real_picture(suffix: str, mode: str) -> bytes:
    """A picture of a format and mode, as its program writes it."""
    gray = gray_picture((24, 31), 5)
    image = Image.fromarray(gray.astype(np.uint16) * 257 if mode == "I;16" else gray)
    stream = io.BytesIO()
    names = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}
    more = {"compression": "tiff_lzw"} if suffix == "tif" and mode == "RGB" else {}
    image = image if mode == "I;16" else image.convert(mode)
    image.save(stream, names.get(suffix, suffix.upper()), **more)
    return stream.getvalue()


@kind
def picture_spoiled(data: st.DataObject, folder: Path) -> bool:
    """Spoiled bytes of every format, in its header or anywhere."""
    suffix = data.draw(st.sampled_from(list(FORMATS)))
    content = real_picture(suffix, data.draw(st.sampled_from(FORMATS[suffix])))
    near = data.draw(st.booleans())
    changed = spoiled(data.draw, content[:120]) + content[120:] if near else b""
    (folder / f"a.{suffix}").write_bytes(changed or spoiled(data.draw, content))
    return _sound(folder / f"a.{suffix}")


@kind
def picture_png_spoiled(data: st.DataObject, folder: Path) -> bool:
    """A spoiled PNG, whose chunks have checksums: as it was, or refused."""
    content = real_picture("png", "L")
    (folder / "whole.png").write_bytes(content)
    (folder / "a.png").write_bytes(spoiled(data.draw, content))
    found = examine_image(folder / "a.png").pixels
    return np.array_equal(found, read_image(folder / "whole.png"))


@kind
def picture_that_is_none(data: st.DataObject, folder: Path) -> bool:
    """PostScript, scripts, archives and noise under a picture's name: refused, nothing started."""
    content = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.sampled_from(
                (
                    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
                    b"\x00\x00\x01\x00\x01\x00\x10\x10",
                    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
                    b"SIMPLE  =                    T",
                    b"PK\x03\x04",
                    b"%PDF-1.4\n",
                    b"8BPS\x00\x01",
                )
            ),
        )
    )
    name = data.draw(st.sampled_from(("a.png", "a.jpg", "a.tif", "a.bmp")))
    (folder / name).write_bytes(content)
    read_image(folder / name)
    return False


@kind
def picture_huge_by_header(data: st.DataObject, folder: Path) -> bool:
    """A small file of a huge picture: refused before it is decoded."""
    width, height = data.draw(
        st.tuples(st.integers(20_000, 2**31 - 1), st.integers(20_000, 2**31 - 1))
    )
    start = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(100_000))
    chunks = [(b"IHDR", start), (b"IDAT", body), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c))
        for name, c in chunks
    )
    ppm = f"P5 {width} {height} 255\n".encode() + bytes(100)
    (folder / "a.png").write_bytes(data.draw(st.sampled_from((content, ppm))))
    read = data.draw(st.sampled_from((probe, read_image, read_mask, examine_image, examine_mask)))
    read(folder / "a.png")
    return False


# --- volumes -----------------------------------------------------------------------------------

SHAPES = st.tuples(*[st.integers(1, 9)] * 3)
TYPES = ("uint8", "int16", "uint16", "int32", "float32", "float64")


@kind
def nifti_valid(data: st.DataObject, folder: Path) -> bool:
    """Any type, orientation and scale: what nibabel gives in its canonical order."""
    values = np.random.default_rng(data.draw(st.integers(0, 99))).integers(
        0, 200, data.draw(SHAPES)
    )
    affine = np.eye(4)
    axes = data.draw(st.permutations((0, 1, 2)))
    affine[:3, :3] = np.eye(3)[:, axes] * [data.draw(st.sampled_from((-1.5, 1, 2))) for _ in "xyz"]
    image = nibabel.Nifti1Image(values.astype(data.draw(st.sampled_from(TYPES))), affine)
    image.set_sform(affine, 1)
    image.header.set_slope_inter(data.draw(st.sampled_from((1, 2))), data.draw(st.integers(-9, 9)))
    path = folder / data.draw(st.sampled_from(("a.nii", "a.nii.gz")))
    nibabel.save(image, path)
    with valid():
        found = read_nifti(path)
    expected = nibabel.as_closest_canonical(nibabel.load(path))
    return np.allclose(found.values, expected.get_fdata()) and np.allclose(
        found.affine, expected.affine
    )


@kind
def nifti_spoiled(data: st.DataObject, folder: Path) -> bool:
    """A spoiled header or file: three axes of finite numbers, or refused."""
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.set_sform(np.eye(4), 1)
    content = image.to_bytes()
    near = data.draw(st.booleans())
    head = spoiled(data.draw, content[:352]) if near else content[:352]
    body = content[352:] if near else spoiled(data.draw, content[352:])
    path = folder / data.draw(st.sampled_from(("a.nii", "a.nii.gz")))
    whole = head + body
    path.write_bytes(gzip.compress(whole) if path.suffix == ".gz" else whole)
    if path.suffix == ".gz" and data.draw(st.booleans()):
        path.write_bytes(spoiled(data.draw, path.read_bytes()))
    found = read_nifti(path)
    return found.values.ndim == 3 and bool(np.isfinite(found.values).all())


@kind
def nifti_huge_by_header(data: st.DataObject, folder: Path) -> bool:
    """A small file that says it has billions of voxels."""
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4))
    content = bytearray(image.to_bytes())
    sides = [data.draw(st.integers(2000, 32767)) for _ in "xyz"]
    content[40:48] = struct.pack("<4h", 3, *sides)
    path = folder / data.draw(st.sampled_from(("a.nii", "a.nii.gz")))
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))
    read_nifti(path)
    return False


@cache
def real_dicom() -> bytes:
    """One slice as a scanner writes it."""
    stream = io.BytesIO()
    header(1, "1.2.3", gray_picture((8, 9), 3)).save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@kind
def dicom_spoiled(data: st.DataObject, folder: Path) -> bool:
    """Spoiled bytes of a DICOM file: a picture of the size that its header gives, or refused."""
    content = real_dicom()
    (folder / "a.dcm").write_bytes(
        spoiled(data.draw, content, start=data.draw(st.sampled_from((0, 132))))
    )
    found = read_dicom_picture(folder / "a.dcm")
    says = read_header(folder / "a.dcm")
    return found.values.shape[:2] == (says.Rows, says.Columns)


@kind
def dicom_huge_by_header(data: st.DataObject, folder: Path) -> bool:
    """A small file that says it has billions of pixels, or that inflates to gigabytes."""
    dataset = pydicom.dcmread(io.BytesIO(real_dicom()))
    dataset.Rows, dataset.Columns = data.draw(st.tuples(*[st.integers(20_000, 65_535)] * 2))
    dataset.save_as(folder / "a.dcm")
    read_dicom_picture(folder / "a.dcm")
    return False
