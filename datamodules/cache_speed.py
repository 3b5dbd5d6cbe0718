"""How fast samples come from the cache and from files, on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle, islice

import numpy as np

from datamodules.base import TextSegDataModule
from datamodules.dataset import TextSegDataset
from datamodules.transforms import TrainAugmentation
from textseg.errors import UserError
from textseg.preprocess import checked_size, read_image, read_mask, resize_image, resize_mask


def measure_cache(datamodule: TextSegDataModule, *, rows: int = 200) -> dict[str, float]:
    """Times of training rows, each the median of `rows` readings, files and cache in turns.

    Args:
        datamodule: with a cache.
        rows: readings; a smaller split is gone through again.

    Returns:
        `decode_ms` to decode and resize an image and its mask, `cache_ms` to copy the same pixels
        out of the cache, and `ratio`, the one by the other; `sample_from_files_ms`,
        `sample_from_cache_ms` for whole samples without augmentation and
        `augmented_sample_from_cache_ms` with it; `cache_mib`, the cache's size on disk.

    Raises:
        UserError: the DataModule has no cache.
    """
    if datamodule.cache is None:
        raise UserError("cache=null: there is no cache to measure", "set cache=data/cache")
    records = datamodule.records("train")
    size = checked_size(datamodule.image_size)
    cached = datamodule.cached_rows("train")
    assert cached is not None

    def dataset(*, cache: bool, augment: bool = False) -> TextSegDataset:
        return TextSegDataset(
            records,
            root=datamodule.folder(),
            size=size,
            stage="train",
            augment=TrainAugmentation() if augment else None,
            cached=cached if cache else None,
        )

    def decode(row: int) -> object:
        mask = records[row].mask
        assert mask is not None
        return resize_image(read_image(records[row].image), size), resize_mask(
            read_mask(mask), size
        )

    def read(row: int) -> object:
        return np.array(cached.image(row)), cached.mask(row)  # copied, so that pages are touched

    times = _medians(
        {
            "decode_ms": decode,
            "cache_ms": read,
            "sample_from_files_ms": dataset(cache=False).__getitem__,
            "sample_from_cache_ms": dataset(cache=True).__getitem__,
            "augmented_sample_from_cache_ms": dataset(cache=True, augment=True).__getitem__,
        },
        list(islice(cycle(range(len(records))), rows)),
    )
    bytes_on_disk = sum(file.stat().st_size for file in cached.folder.iterdir())
    ratio = times["decode_ms"] / times["cache_ms"]
    return {**times, "ratio": ratio, "cache_mib": bytes_on_disk / 2**20}


def _medians(readers: dict[str, Callable[[int], object]], rows: list[int]) -> dict[str, float]:
    """Milliseconds of each reader; taken in turns, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    for read in readers.values():
        read(rows[0])  # opens the map, warms up
    for row in rows:
        for name, read in readers.items():
            start = time.perf_counter()
            read(row)
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(seconds)) * 1e3 for name, seconds in times.items()}
