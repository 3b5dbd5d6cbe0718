"""One record -> one sample -> a LoadedBatch -> a Batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from datamodules.cache.pictures import CachedRows
from datamodules.captions.modes import key
from datamodules.captions.rephrasing import rephrasings
from datamodules.records import Record, Stage
from datamodules.transforms import TrainAugmentation
from textseg.batch import EMPTY_CAPTION_ID, Batch, LoadedBatch, stable_id
from textseg.preprocess import (
    Bytes,
    Frame,
    Resize,
    Size,
    fit_image,
    fit_mask,
    frame_of,
    read_image,
    read_mask,
)

UNKNOWN_SPACING = (float("nan"), float("nan"))


class Sample(TypedDict, total=False):
    """A LoadedBatch's fields for one row; `mask` is [1, H, W], `truth` [H0, W0].

    `image` is [3, H, W], or [1, H, W] where the channels are equal.
    """

    image: Tensor
    mask: Tensor
    truth: Tensor
    text: str
    caption_id: int
    image_id: int
    index: int
    case: str
    case_id: str
    original_size: Size
    frame: Frame
    file: str
    spacing: tuple[float, float]


class TextSegDataset(Dataset[Sample]):
    """Reads, resizes and augments rows.

    Args:
        records: the split's rows.
        root: the dataset's folder; images are identified by their path below it.
        size: height and width of the network's input.
        resize: how pictures and masks come to that size.
        stage: masks come in all but predict, masks at their own resolution in test.
        augment: applied if given, seeded from (seed, epoch, index).
        paraphrase: probability of another wording, drawn likewise.
        caption_dropout: probability of an empty caption, drawn by (seed, epoch, index).
        seed: of all that is drawn.
        cached: the same rows' pictures and masks; without it files are read.
        mask_values: the values of a mask's file that are foreground; None takes those above 127.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        root: Path,
        size: Size,
        resize: Resize = "stretch",
        stage: Stage,
        augment: TrainAugmentation | None = None,
        paraphrase: float = 0.0,
        caption_dropout: float = 0.0,
        seed: int = 0,
        cached: CachedRows | None = None,
        mask_values: Sequence[int] | None = None,
    ) -> None:
        self.records = list(records)
        self.size = size
        self.resize: Resize = resize
        self.stage = stage
        self.augment = augment
        self.paraphrase = paraphrase
        self.caption_dropout = caption_dropout
        self.seed = seed
        self.cached = cached
        self.mask_values = mask_values
        self._image_ids = np.array(
            [stable_id(_identity(record.image, root)) for record in records], dtype=np.int64
        )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        """The sample at an index, or at (epoch, index) as `EpochSampler` draws them."""
        epoch, index = item if isinstance(item, tuple) else (0, item)
        record = self.records[index]
        image, original_size = self._image(index)
        sample = Sample(
            text=record.text,
            caption_id=stable_id(key(record.text)),
            image_id=int(self._image_ids[index]),
            index=index,
            case=record.case,
            case_id=record.case_id,
            original_size=original_size,
            spacing=record.spacing or UNKNOWN_SPACING,
        )
        if self.stage in ("test", "predict"):
            sample["file"] = str(record.image)
        if self.resize != "stretch":
            sample["frame"] = frame_of(original_size, self.size, self.resize)
        if self.stage == "predict":
            sample["image"] = _image_tensor(image)
            return sample
        mask, truth = self._mask(index)
        if truth is not None:
            sample["truth"] = torch.from_numpy(truth.copy())
        if self.augment is not None:
            seed = augmentation_seed(self.seed, epoch, index)
            image, mask, sample["text"] = self.augment(image, mask, record.text, seed)
        self._vary_words(sample, epoch, index)
        sample["image"] = _image_tensor(image)
        sample["mask"] = torch.from_numpy(mask.copy())[None]  # [1, H, W]
        return sample

    def _vary_words(self, sample: Sample, epoch: int, index: int) -> None:
        """Reword or drop a training caption, after the mirror, which needs the words as they were.

        A caption keeps its identity in another wording: rows with one caption are no negatives of
        each other.
        """
        sample["caption_id"] = stable_id(key(sample["text"]))
        if drawn("paraphrase", self.seed, epoch, index) < self.paraphrase:
            wordings = rephrasings(sample["text"]) or (sample["text"],)
            choice = drawn("wording", self.seed, epoch, index)
            sample["text"] = wordings[int(choice * len(wordings))]
        if drawn("caption_dropout", self.seed, epoch, index) < self.caption_dropout:
            sample["text"], sample["caption_id"] = "", EMPTY_CAPTION_ID

    def _image(self, index: int) -> tuple[Bytes, Size]:
        """[H, W, 3], or [H, W, 1] where the channels are equal, and the size on disk."""
        if self.cached is not None:
            return self.cached.image(index), self.cached.original_size(index)
        image = read_image(self.records[index].image)
        return fit_image(image, self.size, self.resize), (image.shape[0], image.shape[1])

    def _mask(self, index: int) -> tuple[Bytes, Bytes | None]:
        """[H, W], and in test the mask at its own resolution, which a cache does not hold."""
        if self.cached is not None and self.stage != "test":
            return self.cached.mask(index), None
        path = self.records[index].mask
        assert path is not None
        truth = read_mask(path, self.mask_values)
        return fit_mask(truth, self.size, self.resize), truth if self.stage == "test" else None


def augmentation_seed(seed: int, epoch: int, index: int) -> int:
    """Hash these numbers alone to a seed, the same in every worker, process and restart."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def drawn(what: str, seed: int, epoch: int, index: int) -> float:
    """Draw a number in [0, 1) from these alone, independent of every other `what`."""
    digest = hashlib.blake2b(f"{what}/{seed}/{epoch}/{index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32


def _identity(image: Path, root: Path) -> str:
    return image.relative_to(root).as_posix() if image.is_relative_to(root) else image.name


def _image_tensor(image: Bytes) -> Tensor:
    """[H, W, C] -> [C, H, W]; a copy, because a cache's pixels cannot be written to."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))


def collate(samples: list[Sample]) -> LoadedBatch:
    """Samples of one split, stacked as `LoadedBatch` says."""
    channels = max(s["image"].shape[0] for s in samples)
    batch = LoadedBatch(
        image=torch.stack([s["image"].expand(channels, -1, -1) for s in samples]),  # [B, C, H, W]
        text=[s["text"] for s in samples],
        caption_id=torch.tensor([s["caption_id"] for s in samples], dtype=torch.int64),
        image_id=torch.tensor([s["image_id"] for s in samples], dtype=torch.int64),
        index=torch.tensor([s["index"] for s in samples], dtype=torch.int64),
        case=[s["case"] for s in samples],
        case_id=[s["case_id"] for s in samples],
        original_size=torch.tensor([s["original_size"] for s in samples], dtype=torch.int64),
        spacing=torch.tensor([s["spacing"] for s in samples], dtype=torch.float32),
    )
    if "frame" in samples[0]:
        batch["frame"] = torch.tensor([s["frame"] for s in samples], dtype=torch.int64)
    if "file" in samples[0]:
        batch["file"] = [s["file"] for s in samples]
    if "mask" in samples[0]:
        batch["mask"] = torch.stack([s["mask"] for s in samples])  # [B, 1, H, W]
    if "truth" in samples[0]:
        batch["truth"] = [s["truth"] for s in samples]
    return batch


def to_batch(loaded: LoadedBatch) -> Batch:
    """Bytes to numbers, where the batch is.

    Pixels that are numbers already stay as they are, so that a DataModule with a loader of its own
    may yield a Batch.
    """
    batch: Batch = {**loaded}
    image = batch["image"]  # [B, 1 or 3, H, W]
    if image.dtype == torch.uint8:
        # A GPU multiplies by the rounded 1 / 255 where the divisor is a number, not a tensor.
        full_scale = torch.full((), 255, dtype=torch.float32, device=image.device)
        batch["image"] = (image.expand(-1, 3, -1, -1) / full_scale).contiguous()  # [B, 3, H, W]
    if "mask" in batch and batch["mask"].dtype == torch.uint8:
        batch["mask"] = batch["mask"].float()
    return batch


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Shuffles and yields (epoch, index), so that a worker knows the epoch it augments for.

    A DistributedSampler because Lightning calls `set_epoch` on it, resumed runs included, and does
    not wrap it in another under DDP. Without a process group it is a plain seeded shuffle.
    """

    def __init__(self, dataset: TextSegDataset, *, seed: int = 0) -> None:
        ranks, rank = 1, 0
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            ranks, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        # Processes share the rows evenly; of each epoch's order the last few are left out, so that
        # no row counts twice and the steps are those of one process with a batch as large.
        super().__init__(
            dataset,
            num_replicas=ranks,
            rank=rank,
            shuffle=True,
            seed=seed,
            drop_last=len(dataset) > ranks,
        )

    def __iter__(self) -> Iterator[tuple[int, int]]:
        indices: Iterator[int] = super().__iter__()  # type: ignore[assignment]
        return ((self.epoch, index) for index in indices)
