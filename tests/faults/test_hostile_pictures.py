"""Pictures, volumes and checkpoints of a stranger: named formats, and sizes before pixels."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from datamodules.files.dicom import read_dicom_picture, read_dicom_series
from datamodules.files.nifti import read_nifti
from tests.datamodules.scan_files import header, scan_values, write_series
from textseg.checkpoint import read_checkpoint
from textseg.errors import UserError
from textseg.limits import CHECKPOINT_BYTES, LIMITS, PIXELS, VOXELS
from textseg.preprocess import examine_image, probe, read_image, read_mask
from textseg.segment.rows import read_rows, unreadable

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
READERS = (probe, read_image, read_mask, examine_image)


def png(width: int, height: int, *, rows: int = 0) -> bytes:
    """A gray PNG that says it is of a size, with the first rows of it."""
    start = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes((width + 1) * rows))
    chunks = [(b"IHDR", start), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c))
        for name, c in chunks
    )


def refused(read: Callable[[], object], *words: str) -> None:
    """Refused in two lines that hold some words."""
    with pytest.raises(UserError) as error:
        read()
    assert len(str(error.value).splitlines()) == 2
    assert [word for word in words if word not in str(error.value)] == []


# --- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif"])
def test_postscript_under_a_pictures_name_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def started(*args: object, **more: object) -> None:
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(subprocess.Popen, "__init__", started)
    (tmp_path / name).write_bytes(EPS)
    for read in READERS:
        refused(lambda read=read: read(tmp_path / name), name)


@pytest.mark.parametrize("read", READERS)
def test_a_huge_picture_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    def decoded(image: Image.Image) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(Image.Image, "load", decoded)
    for side in (13_000, 2**31 - 1):
        (tmp_path / "x.png").write_bytes(png(side, side))
        refused(lambda: read(tmp_path / "x.png"), "x.png", f"{side * side:,}", PIXELS.variable)


def test_the_limit_of_pixels_is_overridden_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.png").write_bytes(png(20, 12, rows=12))
    monkeypatch.setenv(PIXELS.variable, "239")
    refused(lambda: read_image(tmp_path / "x.png"), "240", "239")
    monkeypatch.setenv(PIXELS.variable, "240")
    assert read_image(tmp_path / "x.png").shape == (12, 20, 3)


def test_a_picture_over_pillows_own_limit_is_opened_where_ours_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Image.MAX_IMAGE_PIXELS
    monkeypatch.setenv(PIXELS.variable, str(10**9))
    (tmp_path / "x.png").write_bytes(png(20_000, 20_000, rows=1))
    assert probe(tmp_path / "x.png").size == (20_000, 20_000)
    assert usual == Image.MAX_IMAGE_PIXELS  # other users of Pillow keep its limit


def test_a_file_larger_than_any_picture_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PIXELS.variable, "1000")
    (tmp_path / "x.png").write_bytes(png(20, 12, rows=12) + bytes(9000))
    refused(lambda: read_image(tmp_path / "x.png"), "x.png", PIXELS.variable)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.variable)
@pytest.mark.parametrize("given", ["many", "-1", "1e9", "٣"])
def test_a_limit_that_is_no_number_is_named(
    monkeypatch: pytest.MonkeyPatch, limit: type[PIXELS], given: str
) -> None:
    monkeypatch.setenv(limit.variable, given)
    refused(lambda: limit.check(1, "x"), limit.variable, given)
    monkeypatch.setenv(limit.variable, "")
    limit.check(limit.usual, "x")
    refused(lambda: limit.check(limit.usual + 1, "x"), limit.variable)


def test_what_cannot_be_read_in_a_folder_is_listed_and_the_rest_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(20, 12, rows=12))
    (tmp_path / "b.png").write_bytes(png(13_000, 13_000, rows=1))
    (tmp_path / "c.png").write_bytes(EPS)
    (tmp_path / "d.png").symlink_to(tmp_path / "d.png")
    (tmp_path / "e.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "f.png").mkdir()
    rows = list(read_rows(tmp_path, "disc", None))
    assert len(rows) == 6
    assert [path.name for path in unreadable(rows)] == [f"{name}.png" for name in "bcdef"]


def test_a_tiff_whose_second_page_has_no_size_is_refused(tmp_path: Path) -> None:
    """Pillow raises a TypeError where it counts the pages."""
    Image.new("L", (12, 20)).save(tmp_path / "x.tif")
    content = bytearray((tmp_path / "x.tif").read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, start)
    struct.pack_into("<I", content, start + 2 + 12 * entries, len(content))
    (tmp_path / "x.tif").write_bytes(bytes(content) + bytes(6))  # a page without any entry
    for read in READERS:
        refused(lambda read=read: read(tmp_path / "x.tif"), "x.tif")


# --- volumes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_huge_volume_is_refused_by_its_header(tmp_path: Path, suffix: str) -> None:
    content = bytearray(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4)).to_bytes())
    content[40:48] = struct.pack("<4h", 3, 30_000, 30_000, 30_000)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(gzip.compress(bytes(content)) if suffix == ".nii.gz" else bytes(content))
    refused(lambda: read_nifti(path), "27,000,000,000,000", VOXELS.variable)


def test_the_limit_of_voxels_holds_for_a_series_and_is_overridden_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_series(tmp_path / "series", scan_values())
    for file in list(folder.iterdir()):
        file.rename(file.with_suffix(".dcm"))
    voxels = scan_values().size
    monkeypatch.setenv(VOXELS.variable, str(voxels - 1))
    refused(lambda: read_dicom_series(folder), f"{voxels:,}", VOXELS.variable)
    monkeypatch.setenv(VOXELS.variable, str(voxels))
    assert read_dicom_series(folder).values.size == voxels


def slice_of(rows: int, columns: int) -> pydicom.Dataset:
    return header(1, "1.2.3", np.zeros((rows, columns), np.int16))


def test_a_huge_dicom_picture_is_refused_by_its_header(tmp_path: Path) -> None:
    dataset = slice_of(4, 4)
    dataset.Rows = dataset.Columns = 60_000
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    refused(lambda: read_dicom_picture(tmp_path / "x.dcm"), "3,600,000,000", PIXELS.variable)


def test_a_deflated_dicom_file_is_inflated_no_further_than_a_picture_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = slice_of(50, 50)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    assert read_dicom_picture(tmp_path / "x.dcm").values.shape == (50, 50)
    monkeypatch.setenv(PIXELS.variable, "100")
    refused(lambda: read_dicom_picture(tmp_path / "x.dcm"), "deflated", PIXELS.variable)


def test_a_dicom_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.dcm"
    slice_of(4, 4).save_as(file, enforce_file_format=True)
    content = file.read_bytes()
    for end in range(len(content)):
        file.write_bytes(content[:end])
        refused(lambda: read_dicom_picture(file), str(file))


# --- checkpoints -------------------------------------------------------------------------------


def test_a_compressed_checkpoint_is_refused_by_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, small = tmp_path / "plain.ckpt", tmp_path / "small.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(100_000)}}, plain)
    with zipfile.ZipFile(plain) as whole, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as out:
        for name in whole.namelist():
            out.writestr(name, whole.read(name))
    assert small.stat().st_size < 10_000
    monkeypatch.setenv(CHECKPOINT_BYTES.variable, "300000")
    monkeypatch.setattr(torch, "load", _loads_plain_files(torch.load))
    refused(lambda: read_checkpoint(small), "small.ckpt", CHECKPOINT_BYTES.variable)
    assert len(read_checkpoint(plain)["state_dict"]["a"]) == 100_000  # no limit on what torch wrote


def _loads_plain_files(load: Callable[..., object]) -> Callable[..., object]:
    def loaded(path: Path, **more: object) -> object:
        assert Path(path).name == "plain.ckpt"
        return load(path, **more)

    return loaded


def test_records_that_lie_over_each_other_count_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x/data/0", bytes(10_000))
        first = archive.infolist()[0]
        for number in range(1, 9):
            again = zipfile.ZipInfo(f"x/data/{number}")
            again.header_offset, again.file_size = first.header_offset, first.file_size
            again.compress_size, again.CRC = first.compress_size, first.CRC
            archive.filelist.append(again)
        archive._didModify = True
    (tmp_path / "x.ckpt").write_bytes(stream.getvalue())
    monkeypatch.setenv(CHECKPOINT_BYTES.variable, "50000")
    refused(lambda: read_checkpoint(tmp_path / "x.ckpt"), "90,000", CHECKPOINT_BYTES.variable)
