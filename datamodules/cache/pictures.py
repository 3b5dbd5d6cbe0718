"""Decoded, resized pictures and masks in one memory-mapped file.

A cache folder holds every file that a dataset's captions name, in all splits:

    pixels.bin    images [H, W, 1] where the channels are equal, otherwise [H, W, 3], uint8; then
                  masks [H, W], eight pixels a byte
    index.json    where each file's pixels start, its size as viewers show it, or why it cannot be
                  read; what is odd about it; and a digest of an image's pixels

What is read from it equals, bit for bit, what decoding and resizing the file gives.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import __version__ as pillow_version
from tqdm import tqdm

from datamodules.cache.build_once import build_once, forget, is_complete, sources_identity
from datamodules.files.pixel_checks import Look
from textseg.errors import UserError
from textseg.preprocess import (
    PIXELS_VERSION,
    Bytes,
    Kind,
    Oddities,
    Resize,
    Size,
    examine_image,
    examine_mask,
    fit_image,
    fit_mask,
)

_THREADS = 4  # decoding releases Python's lock
_CHUNK = 256  # files decoded ahead of the writer at most
_ELSEWHERE = "set cache=FOLDER to one on another disk, or cache=null to read the files every time"


class Entry(NamedTuple):
    """A file in the cache.

    `start` is the offset of its pixels in bytes, `channels` 1 or 3 of an image and 0 of a mask,
    `height` and `width` those of the picture, `error` why it cannot be read, or ""; `digest` is of
    an image's pixels.
    """

    start: int
    channels: int
    height: int
    width: int
    error: str
    oddities: Oddities
    digest: str


class PictureCache:
    """A complete cache folder.

    Args:
        folder: the cache's.
        identity: what it was built with.
        size: height and width of every picture and mask.
    """

    def __init__(self, folder: Path, identity: str, *, size: Size) -> None:
        self.folder = folder
        self.identity = identity
        self.size = size
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self._images, self._masks = (
            {path: Entry(*values) for path, *values in index[kind]} for kind in ("images", "masks")
        )

    def rows(self, images: Iterable[Path], masks: Iterable[Path]) -> CachedRows:
        """Look up rows by their files; `masks` is empty where nothing is scored."""
        return CachedRows(
            self,
            [self._images[str(path)] for path in images],
            [self._masks[str(path)] for path in masks],
        )

    def look(self, path: Path, kind: Kind) -> Look:
        """Tell what is known of an image or a mask.

        Raises:
            UserError: the file cannot be read.
        """
        entry = (self._images if kind == "image" else self._masks)[str(path)]
        if entry.error:
            raise UserError(entry.error)
        size = entry.height, entry.width
        return Look(size, entry.digest, "turned" in entry.oddities, entry.oddities)

    def digests(self, images: Iterable[Path]) -> dict[Path, str]:
        """Digests of the pixels of those images that can be read."""
        entries = {path: self._images.get(str(path)) for path in images}
        return {path: e.digest for path, e in entries.items() if e is not None and e.digest}

    def has_recovered(
        self,
        images: Sequence[Path],
        masks: Sequence[Path],
        mask_values: Sequence[int] | None = None,
    ) -> bool:
        """Whether a file that could not be read can be now, though size and time are the same.

        This happens after a change of permissions or a failure of a network disk.
        """
        as_mask: _Decode = partial(_mask_pixels, mask_values=mask_values)
        kinds = ((images, self._images, _image_pixels), (masks, self._masks, as_mask))
        lacking = (
            (decode, path)
            for paths, entries, decode in kinds
            for path in paths
            if str(path) not in entries or entries[str(path)].error
        )
        return any(
            path.is_file() and not _attempt(decode, path, self.size).error
            for decode, path in lacking
        )


class CachedRows:
    """Pictures and masks of a split's rows.

    Holds flat arrays and opens the memory map in each process that reads, so that loader workers
    share the pages and take no copies of their own.

    Args:
        cache: where the pixels are.
        images: one entry a row.
        masks: one entry a row, or none where nothing is scored.
    """

    def __init__(
        self, cache: PictureCache, images: Sequence[Entry], masks: Sequence[Entry]
    ) -> None:
        assert not any(entry.error for entry in (*images, *masks)), "rows are checked"
        self.folder = cache.folder
        self.identity = cache.identity
        self.size = cache.size
        self._images = np.array([entry[:4] for entry in images], dtype=np.int64)  # [N, 4]
        self._mask_starts = np.array([entry.start for entry in masks], dtype=np.int64)
        self._pixels: Bytes | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels": None}  # a pickled map would be a copy of all pixels

    def image(self, row: int) -> Bytes:
        """Return an image [H, W, 3], or [H, W, 1] where the channels are equal; read-only."""
        start, channels, _, _ = self._images[row].tolist()
        height, width = self.size
        pixels = self._map()[start : start + height * width * channels]
        return pixels.reshape(height, width, channels)

    def mask(self, row: int) -> Bytes:
        """Return a mask [H, W] of 0 and 1."""
        start, (height, width) = int(self._mask_starts[row]), self.size
        packed = self._map()[start : start + _packed_bytes(self.size)]
        return np.unpackbits(packed, count=height * width).reshape(height, width)

    def original_size(self, row: int) -> Size:
        """Return height and width of a row's image on disk."""
        _, _, height, width = self._images[row].tolist()
        return height, width

    def _map(self) -> Bytes:
        if self._pixels is None:
            file = self.folder / "pixels.bin"
            mapped = np.memmap(file, dtype=np.uint8, mode="r") if file.exists() else None
            # Checked after opening: a folder replaced from now on leaves the opened file alone.
            if mapped is None or not is_complete(self.folder, self.identity):
                raise UserError(
                    f"{self.folder} was rebuilt or removed while in use",
                    "start again, and leave the dataset and its cache alone meanwhile",
                )
            self._pixels = mapped.view(np.ndarray)  # slices of a memmap cost more
        return self._pixels


def open_cache(
    cache: Path,
    images: Iterable[Path],
    masks: Iterable[Path],
    *,
    size: Size,
    resize: Resize,
    name: str,
    mask_values: Sequence[int] | None = None,
) -> PictureCache:
    """Open the cache of these files, built first if there is none or if a file has changed.

    Args:
        cache: the folder of all caches.
        images: image files; those that do not exist are left out.
        masks: mask files, likewise.
        size: height and width of the network's input.
        resize: how pictures and masks come to that size.
        name: the DataModule's, for the folder and for messages.
        mask_values: of `read_mask`.

    Raises:
        UserError: the cache cannot be written, or needs more space than there is.
    """
    images, masks = (sorted(set(paths), key=str) for paths in (images, masks))
    settings = [size, resize, *[mask_values] * (mask_values is not None)]
    names = "\0".join(map(str, [*settings, *images, "", *masks]))
    digest = hashlib.blake2b(names.encode(errors="surrogateescape"), digest_size=6).hexdigest()
    # A dataset whose captions name other files has a folder of its own: two runs that see the same
    # root differently must not rebuild one folder in turns.
    folder = (cache.expanduser() / f"{name}-{digest}").absolute()
    identity = sources_identity([*images, *masks], PIXELS_VERSION, pillow_version, *settings)
    given: dict[str, Any] = {"size": size, "resize": resize, "mask_values": mask_values}
    write = partial(_write, images=images, masks=masks, name=name, **given)
    for attempt in range(2):
        build_once(
            folder, write, identity=identity, what=f"the cache of {name}", elsewhere=_ELSEWHERE
        )
        opened = PictureCache(folder, identity, size=size)
        if attempt or not opened.has_recovered(images, masks, mask_values):
            break
        forget(folder)
    return opened


def _packed_bytes(size: Size) -> int:
    return -(-size[0] * size[1] // 8)


def _write(
    folder: Path,
    *,
    images: Sequence[Path],
    masks: Sequence[Path],
    size: Size,
    resize: Resize,
    name: str,
    mask_values: Sequence[int] | None,
) -> None:
    images, masks = (list(filter(Path.is_file, paths)) for paths in (images, masks))
    _check_space(folder, len(images), len(masks), size)
    index: dict[str, list[tuple[object, ...]]] = {"images": [], "masks": []}
    start, total = 0, len(images) + len(masks)
    as_image = partial(_image_pixels, resize=resize)
    as_mask = partial(_mask_pixels, resize=resize, mask_values=mask_values)
    kinds: tuple[tuple[str, Sequence[Path], _Decode], ...] = (
        ("images", images, as_image),
        ("masks", masks, as_mask),
    )
    with (
        (folder / "pixels.bin").open("wb") as file,
        ThreadPoolExecutor(_THREADS) as pool,
        tqdm(total=total, desc=f"caching {name}", delay=2, unit="file") as bar,
    ):
        for kind, paths, decode in kinds:
            for path, decoded in _decoded(pool, paths, decode, size):
                _, channels, size_on_disk, *known = decoded
                index[kind].append((str(path), start, channels, *size_on_disk, *known))
                _append(file, decoded.pixels)
                start += decoded.pixels.size
                bar.update()
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def _check_space(folder: Path, images: int, masks: int, size: Size) -> None:
    """Refuse what cannot fit even if every picture is gray."""
    needed = images * size[0] * size[1] + masks * _packed_bytes(size)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the cache needs at least {needed / 2**20:,.1f} MiB, but {folder.parent} has"
            f" {free / 2**20:,.1f} MiB left",
            f"free some space, or {_ELSEWHERE}",
        )


class _Decoded(NamedTuple):
    """A file's flat pixels as they are stored; none where `error` says why it cannot be read."""

    pixels: Bytes
    channels: int
    size: Size
    error: str
    oddities: Oddities
    digest: str = ""


_Decode = Callable[[Path, Size], _Decoded]


def _image_pixels(path: Path, size: Size, resize: Resize = "stretch") -> _Decoded:
    """Decode and resize an image; one channel where all three are equal."""
    image, oddities = examine_image(path)
    resized = fit_image(image, size, resize)
    red, green, blue = (resized[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        resized = red[..., None]
    size_on_disk = image.shape[0], image.shape[1]
    digest = hashlib.blake2b(repr(size_on_disk).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).tobytes())
    known = size_on_disk, "", oddities, digest.hexdigest()
    return _Decoded(resized.reshape(-1), resized.shape[2], *known)


def _mask_pixels(
    path: Path,
    size: Size,
    resize: Resize = "stretch",
    mask_values: Sequence[int] | None = None,
) -> _Decoded:
    """Decode and resize a mask, and pack eight pixels into a byte."""
    mask, _, oddities = examine_mask(path, mask_values)
    size_on_disk = mask.shape[0], mask.shape[1]
    return _Decoded(np.packbits(fit_mask(mask, size, resize)), 0, size_on_disk, "", oddities)


def _attempt(decode: _Decode, path: Path, size: Size) -> _Decoded:
    try:
        return decode(path, size)
    except UserError as error:
        return _Decoded(np.empty(0, dtype=np.uint8), 0, (0, 0), str(error), {})


def _decoded(
    pool: ThreadPoolExecutor, paths: Sequence[Path], decode: _Decode, size: Size
) -> Iterator[tuple[Path, _Decoded]]:
    """Files in order, a bounded number of them decoded ahead."""
    attempt = partial(_attempt, decode, size=size)
    waiting = iter(paths)
    while chunk := list(islice(waiting, _CHUNK)):
        yield from zip(chunk, pool.map(attempt, chunk), strict=True)


def _append(file: BinaryIO, pixels: Bytes) -> None:
    file.write(pixels.tobytes())
