"""A folder in which one image cannot be segmented, and images larger than a tile."""

from __future__ import annotations

import csv
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import textseg
from tests.forked import forked
from tests.segment.refusals import message
from tests.tiny_run import call, masks_in
from textseg.errors import PartialError, UserError
from textseg.segment import network as network_module
from textseg.segment import segment


def write_picture(path: Path, height: int, width: int) -> None:
    values = np.random.default_rng(height).integers(0, 256, (height, width), dtype=np.uint8)
    Image.fromarray(values).save(path)


def write_unreadable(path: Path) -> None:
    """A PNG whose checksums are right and whose pixels cannot be unpacked."""
    header = struct.pack(">IIBBBBB", 40, 40, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", b"not zlib at all"), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sound pictures, one that is cut short and one that unpacks to nothing."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, side in (("a", 40), ("d", 50)):
        write_picture(folder / f"{name}.png", side, side)
    data = (folder / "a.png").read_bytes()
    (folder / "b.png").write_bytes(data[: len(data) // 2])
    write_unreadable(folder / "c.png")
    return folder


def left_out(output: Path) -> list[str]:
    with (output / "left_out.csv").open(newline="", encoding="utf-8") as lines:
        return [Path(row["file"]).name for row in csv.DictReader(lines) if row["reason"]]


def test_images_that_cannot_be_read_are_named_and_the_others_are_segmented(
    folder: Path, image_only: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with pytest.raises(PartialError) as error:
        segment(str(folder), ckpt_path=image_only, output=str(output), device="cpu")
    cause, remedy = message(error)
    assert "b.png" in cause
    assert str(output) in remedy
    assert left_out(output) == ["b.png", "c.png"]
    assert {name: mask.shape for name, mask in masks_in(output / "masks").items()} == {
        "a__0.png": (40, 40),
        "d__3.png": (50, 50),
    }


def test_the_command_ends_with_status_1_where_some_were_left_out(
    folder: Path, image_only: str, tmp_path: Path
) -> None:
    outcome = call("segment", str(folder), "--ckpt_path", image_only, cwd=tmp_path)
    assert outcome.status == 1
    assert str(tmp_path / "segmented") in outcome.out
    assert "b.png" in outcome.message()[0]


def test_where_none_can_be_read_it_is_an_error_as_of_one(
    folder: Path, image_only: str, tmp_path: Path
) -> None:
    for name in "ad":
        (folder / f"{name}.png").unlink()
    for place in (folder, folder / "c.png"):
        with pytest.raises(UserError) as error:
            segment(str(place), ckpt_path=image_only, output=str(tmp_path / "out"), device="cpu")
        assert not isinstance(error.value, PartialError)
        assert ("b.png" if place == folder else "c.png") in str(error.value)


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_an_image_that_takes_too_much_memory_does_not_end_the_others(
    folder: Path,
    image_only: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    plain = network_module.resize_logits

    def small_only(logits: object, size: tuple[int, int]) -> object:
        if size[0] > 45:
            raise error
        return plain(logits, size)  # type: ignore[arg-type]

    monkeypatch.setattr(network_module, "resize_logits", small_only)
    with pytest.raises(PartialError):
        segment(str(folder), ckpt_path=image_only, output=str(tmp_path / "out"), device="cpu")
    assert left_out(tmp_path / "out") == ["b.png", "c.png", "d.png"]
    assert set(masks_in(tmp_path / "out/masks")) == {"a__0.png"}


def test_another_error_of_the_network_is_not_taken_for_a_lack_of_memory(
    folder: Path, image_only: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(logits: object, size: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(network_module, "resize_logits", broken)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        segment(str(folder), ckpt_path=image_only, output=str(tmp_path / "out"), device="cpu")


def test_a_picture_that_fits_a_tile_is_segmented_in_one_pass(
    image_only: str, tmp_path: Path
) -> None:
    whole = textseg.load(image_only, device="cpu")
    tiled = textseg.load(image_only, device="cpu", tile_size=64, tile_overlap=0.5)
    for name, side in (("fits", 64), ("large", 100)):
        write_picture(tmp_path / f"{name}.png", side, side)
    one, other = (net.segment(tmp_path / "fits.png") for net in (whole, tiled))
    assert np.array_equal(one.probs, other.probs)
    one, other = (net.segment(tmp_path / "large.png") for net in (whole, tiled))
    assert other.probs.shape == (100, 100)
    assert np.abs(one.probs - other.probs).max() > 1e-3


def test_threshold_and_temperature_hold_for_tiles(image_only: str, tmp_path: Path) -> None:
    write_picture(tmp_path / "large.png", 100, 80)
    plain, scaled = (
        textseg.load(image_only, device="cpu", tile_size=64, **given).segment(
            tmp_path / "large.png"
        )
        for given in ({}, {"threshold": 0.4, "temperature": 3.0})
    )
    logits = np.log(plain.probs.astype(np.float64) / (1 - plain.probs.astype(np.float64)))
    wanted = 1 / (1 + np.exp(-logits / 3))
    assert scaled.probs == pytest.approx(wanted, abs=1e-5)
    sure = np.abs(wanted - 0.4) > 1e-5
    assert np.array_equal(scaled.mask[sure], wanted[sure] > 0.4)
    with pytest.raises(UserError, match="tile_size"):
        textseg.load(image_only, device="cpu", tile_size=64, threshold="best")


def test_tiles_are_named_where_results_are(image_only: str, tmp_path: Path) -> None:
    write_picture(tmp_path / "large.png", 100, 80)
    arguments = ["--ckpt_path", image_only, "--tile_size", "64"]
    outcome = call("segment", str(tmp_path / "large.png"), *arguments, cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    assert "tiles of 64" in outcome.out
    said = (tmp_path / "segmented/averaging.json").read_text()
    assert '"tile_size": 64' in said
    refused = call(
        "segment", str(tmp_path / "large.png"), "--ckpt_path", image_only, "--tile_size", "8",
        cwd=tmp_path,
    )  # fmt: skip
    assert refused.status == 2
    assert "tile_size=8" in refused.message()[0]


# --- several million pixels --------------------------------------------------------------------

LIMIT = 1024  # MiB beyond a small picture's, for one of 6000 x 4000


def print_memory(checkpoint: str, image: str, output: str) -> None:
    import resource

    segment(image, ckpt_path=checkpoint, output=output, device="cpu", tile_size=1024)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, flush=True)


@pytest.mark.slow
def test_a_picture_of_24_million_pixels_takes_a_stated_memory(
    image_only: str, tmp_path: Path
) -> None:
    peaks = []
    for name, (height, width) in (("small", (1024, 1024)), ("large", (4000, 6000))):
        write_picture(tmp_path / f"{name}.png", height, width)
        image, output = str(tmp_path / f"{name}.png"), str(tmp_path / name)
        done = forked(print_memory, image_only, image, output, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        peaks.append(float(done.stdout.split()[-1]))
    assert masks_in(tmp_path / "large/masks")["large__0.png"].shape == (4000, 6000)
    assert peaks[1] - peaks[0] < LIMIT, peaks
