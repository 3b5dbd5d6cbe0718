from __future__ import annotations

import errno
import json
import multiprocessing
import pickle
import re
import shutil
import time
from collections import namedtuple
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datamodules.base import TextSegDataModule
from datamodules.cache import pictures as cache_module
from datamodules.dataset import TextSegDataset, collate, to_batch
from datamodules.records import Record, case_name
from textseg.errors import UserError
from textseg.preprocess import read_image

FORK = multiprocessing.get_context("fork")  # a fresh interpreter takes seconds to import torch
SIZE = (32, 64)
SPLITS = ("train", "val", "test", "predict")
IMAGE_MODES = ("L", "RGB", "gray RGB", "I;16", "1", "RGBA", "P")
MASK_MODES = ("L", "1", "RGB", "RGBA", "faint L")
SIDES = ((40, 70), (32, 64), (33, 31))  # height, width; one needs no resizing


class PngFolder(TextSegDataModule):
    """Every kind of picture in every split, and two rows for each image."""

    def read_records(self, root: Path) -> dict[str, list[Record]]:
        count = 1 + max(int(path.stem[-2:]) for path in root.glob("image_*.png"))
        images = [root / f"image_{number:02}.png" for number in range(count)]
        if self.split == "mirrored":
            images = images[::-1]
        third = len(images) // 3
        parts = {"train": images[:third], "val": images[third:-third], "test": images[-third:]}
        return {
            split: [self._row(i, n) for i in part for n in (0, 1)] for split, part in parts.items()
        }

    def _row(self, image: Path, number: int) -> Record:
        mask = image.with_name(image.name.replace("image", f"mask{number}"))
        text = f"lesion {number} in the left lobe"
        return Record(image, mask, text, case_name(image, number), image.stem, number)

    def write_phantoms(self, folder: Path, rows: int) -> None:
        raise NotImplementedError


def save_image(path: Path, mode: str, side: tuple[int, int], rng: np.random.Generator) -> None:
    if mode == "I;16":
        Image.fromarray(rng.integers(0, 65536, side, dtype=np.uint16)).save(path)
        return
    color = Image.fromarray(rng.integers(0, 256, (*side, 3), dtype=np.uint8))
    image = color.convert("L").convert("RGB") if mode == "gray RGB" else color.convert(mode)
    image.save(path)


def save_mask(path: Path, mode: str, side: tuple[int, int], rng: np.random.Generator) -> None:
    values = rng.choice(np.array([0, 21, 255], dtype=np.uint8), side)
    if mode != "faint L":
        values = np.where(values > 127, 255, 0).astype(np.uint8)
    image = Image.fromarray(values)
    (image if mode == "faint L" else image.convert(mode)).save(path)


def write_pictures(root: Path) -> Path:
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for number in range(3 * len(IMAGE_MODES)):
        side = SIDES[number % 2 if number < 15 else 2]
        save_image(root / f"image_{number:02}.png", IMAGE_MODES[number % 7], side, rng)
        for which in (0, 1):
            mode = MASK_MODES[(number + which) % 5]
            save_mask(root / f"mask{which}_{number:02}.png", mode, side, rng)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def make(root: Path, **settings: Any) -> PngFolder:
    defaults = {"image_size": list(SIZE), "batch_size": 4, "num_workers": 0}
    cache = str(root.parent / "cache")
    return PngFolder(str(root), **{**defaults, "cache": cache, **settings})


def dataset(datamodule: TextSegDataModule, split: str) -> TextSegDataset:
    found = getattr(datamodule, f"{split}_dataloader")().dataset
    assert isinstance(found, TextSegDataset)
    return found


def folder_of(root: Path) -> Path:
    (folder,) = (root.parent / "cache").iterdir()
    return folder


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were filled."""
    filled: list[Path] = []
    write = cache_module._write

    def counted(folder: Path, **settings: Any) -> None:
        filled.append(folder)
        write(folder, **settings)

    monkeypatch.setattr(cache_module, "_write", counted)
    return filled


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a picture's file fails; use it after the cache is built."""

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("PIL.Image.open", refuse)


def picture(sample: Any) -> torch.Tensor:
    """[1, 3, H, W] in [0, 1]: a cache keeps one channel of a gray picture, a file gives three."""
    return to_batch(collate([sample]))["image"]


def same_sample(left: Any, right: Any) -> None:
    assert set(left) == set(right)
    for field, value in left.items():
        if field == "image":
            assert value.dtype == right[field].dtype == torch.uint8
            assert torch.equal(picture(left), picture(right))
        elif isinstance(value, torch.Tensor):
            assert value.dtype == right[field].dtype
            assert torch.equal(value, right[field]), field
        elif field == "spacing":
            assert np.array_equal(value, right[field], equal_nan=True)
        else:
            assert (type(value), value) == (type(right[field]), right[field]), field


# --- the same pixels


@pytest.mark.parametrize("split", SPLITS)
def test_samples_from_the_cache_equal_samples_from_files_bit_for_bit(
    root: Path, split: str
) -> None:
    cached, plain = (dataset(make(root, cache=c), split) for c in (str(root / "c"), None))
    assert cached.cached is not None
    assert plain.cached is None
    assert len(cached) == len(plain) == 14
    for index in range(len(plain)):
        for epoch in range(4 if split == "train" else 1):
            same_sample(cached[epoch, index], plain[epoch, index])


def test_batches_from_the_cache_equal_batches_from_files(root: Path) -> None:
    for split in SPLITS:
        left, right = (
            getattr(make(root, cache=c), f"{split}_dataloader")() for c in (str(root / "c"), None)
        )
        for a, b in zip(map(to_batch, left), map(to_batch, right), strict=True):
            assert a["image"].is_contiguous()
            assert torch.equal(a["image"], b["image"])
            assert a["text"] == b["text"]
            if split != "predict":
                assert torch.equal(a["mask"], b["mask"])


def test_the_cache_holds_what_pillow_and_numpy_make_of_the_files(root: Path) -> None:
    datamodule = make(root)
    rows = datamodule.cached_rows("train")
    assert rows is not None
    for index, record in enumerate(datamodule.records("train")):
        with Image.open(record.image) as image:
            assert rows.original_size(index) == (image.height, image.width)
            if image.mode == "RGB":
                resized = np.asarray(image.resize((64, 32), Image.Resampling.BILINEAR))
                assert np.array_equal(np.broadcast_to(rows.image(index), (32, 64, 3)), resized)
        assert record.mask is not None
        with Image.open(record.mask) as opened:
            mask = np.asarray(opened.convert("L").resize((64, 32), Image.Resampling.NEAREST))
        assert np.array_equal(rows.mask(index), mask > 127)


def test_a_gray_picture_takes_one_byte_a_pixel_and_a_mask_one_bit(root: Path) -> None:
    make(root).setup()
    index = json.loads((folder_of(root) / "index.json").read_text())
    channels = {Path(path).name: count for path, _, count, *_ in index["images"]}
    assert len(channels) == 21
    for number, name in enumerate(sorted(channels)):
        assert channels[name] == (3 if IMAGE_MODES[number % 7] in ("RGB", "RGBA", "P") else 1)
    pixels = SIZE[0] * SIZE[1]
    expected = sum(channels.values()) * pixels + 42 * pixels // 8
    assert (folder_of(root) / "pixels.bin").stat().st_size == expected


def test_samples_are_read_without_opening_the_files(root: Path, request: Any) -> None:
    make(root).setup()
    request.getfixturevalue("no_decoding")
    datamodule = make(root)
    for split in ("train", "val", "predict"):
        assert len([dataset(datamodule, split)[i] for i in range(14)]) == 14
    with pytest.raises(AssertionError, match=r"mask0_14\.png was read"):
        dataset(datamodule, "test")[0]  # the truth, at its own resolution


def test_without_a_cache_nothing_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    datamodule = make(root, cache=None)
    datamodule.prepare_data()
    datamodule.setup()
    assert dataset(datamodule, "val")[0]["image"].shape == (3, *SIZE)
    assert [path.name for path in root.parent.iterdir()] == ["pictures"]


# --- when it is built


def test_every_way_in_builds_it_once_for_all_splits(root: Path, builds: list[Path]) -> None:
    for start in (
        lambda d: d.prepare_data(),
        lambda d: d.setup("fit"),
        lambda d: d.setup("test"),
        lambda d: d.records("predict"),
        lambda d: d.val_dataloader(),
    ):
        start(make(root))
    make(root, split="mirrored").setup()
    make(root, caption_mode="empty", augment=False, seed=7).setup()
    assert len(builds) == 1


def test_another_size_has_a_cache_of_its_own(root: Path, builds: list[Path]) -> None:
    for size in ([32, 64], 32, [64, 32], [32, 64]):
        make(root, image_size=size).setup()
    assert len(builds) == len(list((root.parent / "cache").iterdir())) == 3


def test_a_changed_file_is_read_anew(root: Path, builds: list[Path]) -> None:
    before = picture(dataset(make(root), "val")[0])
    path = make(root).records("val")[0].image
    with Image.open(path) as image:
        values = 255 - np.asarray(image)
    Image.fromarray(values).save(path)
    after = picture(dataset(make(root), "val")[0])
    assert not torch.equal(before, after)
    assert torch.equal(after, picture(dataset(make(root, cache=None), "val")[0]))
    assert len(builds) == 2
    assert len(list((root.parent / "cache").iterdir())) == 1, "rebuilt in place"


def test_another_version_of_the_preprocessing_is_built_anew(
    root: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(root).setup()
    monkeypatch.setattr(cache_module, "PIXELS_VERSION", -1)
    make(root).setup()
    assert len(builds) == 2


def test_missing_files_are_told_before_anything_is_cached(root: Path, builds: list[Path]) -> None:
    (root / "image_03.png").unlink()
    datamodule = make(root)
    datamodule.prepare_data()
    with pytest.raises(UserError, match="2 captions without their image"):
        datamodule.setup("fit")
    assert builds == []
    with pytest.warns(UserWarning, match="2 captions without their image"):
        make(root, on_missing="skip").setup("fit")
    assert len(builds) == 1


def test_a_file_that_comes_later_is_cached_then(root: Path, builds: list[Path]) -> None:
    stored = (root / "image_03.png").read_bytes()
    (root / "image_03.png").unlink()
    with pytest.warns(UserWarning, match="2 captions"):
        make(root, on_missing="skip").setup()
    (root / "image_03.png").write_bytes(stored)
    assert len(dataset(make(root), "train")) == 14
    assert len(builds) == 2


def test_a_folder_rebuilt_while_in_use_is_noticed_by_who_opens_it_late(root: Path) -> None:
    early, late = dataset(make(root), "val"), dataset(make(root), "val")
    before = early[0]["image"]
    (root / "image_00.png").touch()
    make(root).setup()
    assert torch.equal(early[0]["image"], before), "opened before: goes on with the old pixels"
    with pytest.raises(UserError, match=r"PngFolder-\w+ was rebuilt or removed while"):
        late[0]
    removed = dataset(make(root), "val")
    shutil.rmtree(root.parent / "cache")
    with pytest.raises(UserError, match=r"PngFolder-\w+ was rebuilt or removed while"):
        removed[0]


# --- bad files


def test_bad_files_are_named_as_without_a_cache(root: Path, builds: list[Path]) -> None:
    first, second = root / "image_00.png", root / "mask1_01.png"
    first.write_bytes(first.read_bytes()[:300])
    second.write_bytes(b"no picture")
    Image.new("L", (40, 48)).save(root / "mask0_02.png")
    causes = []
    for cache in (None, "cache", "cache"):  # built, then found
        with pytest.raises(UserError) as error:
            make(root, cache=None if cache is None else str(root / cache)).setup("fit")
        assert len(str(error.value).splitlines()) == 2
        causes.append(re.sub(r"\([^()]*\)", "()", str(error.value)))  # Pillow's own words
    assert causes[0] == causes[1] == causes[2]
    assert "4 of 14 rows of train cannot be used" in causes[0]
    assert f"{first} cannot be read as an image" in causes[0]
    assert f"{second} cannot be read as an image" in causes[0]
    assert f"image_02.png is 40x70 but {root / 'mask0_02.png'} is 48x40" in causes[0]
    assert len(builds) == 1


def test_bad_files_of_other_splits_are_no_hindrance(root: Path) -> None:
    (root / "image_20.png").write_bytes(b"no picture")
    (root / "mask0_20.png").write_bytes(b"no mask")
    make(root).setup("fit")
    with pytest.raises(UserError, match=r"2 of 14 rows of test cannot be used: .*image_20\.png"):
        make(root).setup("test")


@pytest.mark.parametrize("cut", [6, 12, 40, 1000])
@pytest.mark.parametrize("name", ["image_00.png", "mask0_00.png"])
def test_a_png_cut_short_anywhere_is_named(root: Path, name: str, cut: int) -> None:
    path = root / name
    path.write_bytes(path.read_bytes()[:-cut])
    for cache in (None, str(root / "cache")):
        with pytest.raises(UserError, match=rf"{name} cannot be read as an image \(.+\)"):
            make(root, cache=cache).setup("fit")


def test_a_header_that_claims_a_gigantic_picture_is_named(root: Path) -> None:
    path = root / "image_00.png"
    Image.new("L", (8, 8)).save(path, format="BMP")
    content = bytearray(path.read_bytes())
    content[18:26] = (90_000).to_bytes(4, "little") * 2  # width and height
    path.write_bytes(content)
    for cache in (None, str(root / "cache")):
        with pytest.raises(UserError, match=r"image_00\.png cannot be read .*exceeds limit"):
            make(root, cache=cache).setup("fit")


def test_a_jpeg_cut_short_is_found_although_it_has_no_checksum(root: Path) -> None:
    path = root / "image_00.png"
    with Image.open(root / "image_01.png") as image:
        image.save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserError, match=r"image_00\.png cannot be read as an image .*truncated"):
        make(root).setup("fit")


def test_a_file_that_can_be_read_again_is_noticed_though_it_looks_unchanged(
    root: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a change of permissions, which root could not test, size and mtime are the same."""

    def denied(path: Path) -> Any:
        if path.name == "image_00.png":
            raise UserError(f"{path} cannot be read as an image (Permission denied)")
        return read_image(path)

    monkeypatch.setattr(cache_module, "read_image", denied)
    for _ in range(2):
        with pytest.raises(UserError, match=r"image_00\.png .*Permission denied"):
            make(root).setup("fit")
    assert len(builds) == 1
    monkeypatch.setattr(cache_module, "read_image", read_image)
    make(root).setup("fit")
    assert len(builds) == 2


# --- space, accidents, competitors


def test_too_little_space_is_told_before_anything_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    needed = 21 * 32 * 64 + 42 * 32 * 64 // 8
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(9**9, 0, needed - 1))
    with pytest.raises(UserError) as error:
        make(root).setup()
    cause, remedy = str(error.value).splitlines()
    assert re.search(r"at least 0\.1 MiB, but .*/cache has 0\.1 MiB left", cause)
    assert "cache=FOLDER" in remedy
    assert "cache=null" in remedy
    assert list((root.parent / "cache").iterdir()) == []
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(9**9, 0, needed))
    make(root).setup()


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, written = cache_module._append, []

    def fill(file: Any, pixels: Any) -> None:
        written.append(file.name)
        if len(written) > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(file, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_append", fill)
        with pytest.raises(UserError, match=r"disk of .*cache is full.*\n.*cache=null"):
            make(root).setup()
    assert len(written) == 11
    assert list((root.parent / "cache").iterdir()) == []
    assert len(dataset(make(root), "train")) == 14


def test_a_folder_that_cannot_be_made_is_named_with_both_ways_out(root: Path) -> None:
    with pytest.raises(
        UserError, match=r"the cache of PngFolder cannot be written.*\n.*cache=null"
    ):
        make(root, cache=str(root / "image_00.png" / "cache")).setup()


def build_until_killed(root: Path, started: Path) -> None:
    def stop(file: Any, pixels: Any) -> None:
        file.write(pixels.tobytes())
        file.flush()
        started.write_text("")
        time.sleep(600)

    cache_module._append = stop
    make(root).setup()


def test_a_killed_build_is_not_taken_for_whole_and_is_built_anew(
    root: Path, builds: list[Path]
) -> None:
    process = FORK.Process(target=build_until_killed, args=(root, root.parent / "started"))
    process.start()
    end = time.monotonic() + 60
    while not (root.parent / "started").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.join()
    assert list((root.parent / "cache").iterdir()), "the half-built one is there"
    cached, plain = (
        dataset(make(root, cache=c), "val") for c in (str(root.parent / "cache"), None)
    )
    same_sample(cached[3], plain[3])
    assert len(builds) == 1
    assert len(list((root.parent / "cache").iterdir())) == 1


def compete(root: Path, counts: Path, start: Barrier) -> None:
    write = cache_module._write

    def counted(folder: Path, **settings: Any) -> None:
        with counts.open("a") as file:
            file.write("built\n")
        time.sleep(0.3)
        write(folder, **settings)

    cache_module._write = counted
    start.wait(60)
    datamodule = make(root)
    datamodule.prepare_data()
    datamodule.setup()
    cached, plain = dataset(datamodule, "val"), dataset(make(root, cache=None), "val")
    same_sample(cached[5], plain[5])


def test_two_processes_at_once_build_once_and_both_read(root: Path) -> None:
    start, counts = FORK.Barrier(2), root.parent / "counts"
    running = [FORK.Process(target=compete, args=(root, counts, start)) for _ in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
        assert process.exitcode == 0
    assert counts.read_text() == "built\n"


# --- workers


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_the_same_by_fork_and_by_spawn(root: Path, method: str) -> None:
    data = dataset(make(root), "val")
    expected = [data[i] for i in range(len(data))]  # opens the map before the workers start
    loader = DataLoader(
        data,
        batch_size=7,
        num_workers=1,
        multiprocessing_context=method,
        collate_fn=collate,
    )
    images = torch.cat([to_batch(batch)["image"] for batch in loader])
    assert torch.equal(images, torch.cat([picture(sample) for sample in expected]))


def test_a_pickled_dataset_carries_no_pixels(root: Path) -> None:
    data = dataset(make(root, image_size=256), "val")
    before = len(pickle.dumps(data))
    expected = data[0]
    pickled = pickle.dumps(data)
    assert len(pickled) == before < 20_000
    assert (folder_of(root) / "pixels.bin").stat().st_size > 1_000_000
    same_sample(pickle.loads(pickled)[0], expected)


def private_memory() -> int:
    """Bytes that this process has written to and no other shares."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


def read_everything(data: TextSegDataset, grown: Any) -> None:
    before = private_memory()
    for index in range(len(data)):
        assert data.cached is not None
        int(data.cached.image(index).max()) + int(data.cached.mask(index).max())
    grown.value = private_memory() - before


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells it")
def test_a_worker_that_reads_every_row_keeps_no_pixels_of_its_own(root: Path) -> None:
    data = dataset(make(root, image_size=1024), "val")
    pixels = (folder_of(root) / "pixels.bin").stat().st_size
    assert pixels > 30 * 2**20
    grown = FORK.Value("q", -1)
    process = FORK.Process(target=read_everything, args=(data, grown))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert -(2**20) < grown.value < 6 * 2**20, "one mask at a time, not a share of the cache"
