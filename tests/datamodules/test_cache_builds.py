from __future__ import annotations

import errno
import multiprocessing
import pickle
import re
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.cache import pictures as cache_module
from datamodules.dataset import TextSegDataset, collate, to_batch
from tests.datamodules.png_folder import (
    dataset,
    folder_of,
    make,
    picture,
    same_sample,
)
from textseg.errors import UserError

FORK = multiprocessing.get_context("fork")  # a fresh interpreter takes seconds to import torch


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
        with pytest.raises(UserError, match=r"the cache of PngFolder.*\n.*cache=null"):
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
