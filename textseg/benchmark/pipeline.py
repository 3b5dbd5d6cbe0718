"""The data alone, and how long a short training waits for it."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.profilers import SimpleProfiler
from tqdm import tqdm

from textseg.batch import Batch
from textseg.benchmark.device import synchronize
from textseg.benchmark.timing import MEMORY_FORMATS, WARM_UP, Mode, spread
from textseg.errors import UserError
from textseg.models.base import SegmentationModule

NEXT_BATCH = "[_TrainingEpochLoop].train_dataloader_next"  # Lightning's name of what is waited for
VARIANTS = {"augmented": True, "raw": False}


def loader_speed(
    datamodule: L.LightningDataModule, *, batches: int, rounds: int, device: torch.device
) -> dict[str, Any]:
    """Samples a second of the training loader, augmented and as they are stored, in turns.

    Each round begins the split's epoch anew. Batches that the workers fetch ahead of the clock are
    counted in neither samples nor time. A batch counts when it is on the device as a network gets
    it.

    Args:
        datamodule: set up for fit; its workers, batch size and cache are used.
        batches: timed in a round at most; an epoch may have fewer.
        rounds: passes of each variant; medians are reported.
        device: where the batches go.

    Returns:
        the data's settings, and for augmented and raw the samples a second, their spread and
        `augmented_ratio`, the one by the other.

    Raises:
        UserError: the split has too few batches to time one.
    """
    loaders: dict[str, tuple[Any, Any]] = {}
    for name, augment in VARIANTS.items():
        data: Any = copy.copy(datamodule)
        data.augment = augment
        loaders[name] = data, data.train_dataloader()
    workers = int(getattr(datamodule, "num_workers", 0))
    ahead = max(1, 2 * workers)  # torch's prefetch_factor is 2
    _check_length(len(loaders["raw"][1]), ahead + 1, "data_batches")
    speeds: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in tqdm(range(1 + rounds), desc="loading", unit="round", delay=2, leave=False):
        for name, (data, loader) in loaders.items():
            arriving = (_arrived(data, batch, device) for batch in loader)
            with closing(arriving):
                speeds[name].append(samples_a_second(arriving, ahead, batches))
    result: dict[str, Any] = {
        "loader_batch_size": getattr(datamodule, "batch_size", None),
        "loader_workers": workers,
        "loader_cached": getattr(datamodule, "cache", None) is not None,
    }
    for name, values in speeds.items():  # the first round starts the workers
        result[f"{name}_samples_per_s"] = statistics.median(values[1:])
        result[f"{name}_samples_per_s_spread"] = spread(values[1:])
    result["augmented_ratio"] = result["augmented_samples_per_s"] / result["raw_samples_per_s"]
    return result


def samples_a_second(
    loader: Iterable[Batch],
    ahead: int,
    batches: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Of `batches` batches at most, after the first `ahead`."""
    start, samples = clock(), 0
    for i, batch in enumerate(loader):
        if i < ahead:
            start = clock()
            continue
        samples += len(batch["text"])
        if i + 1 == ahead + batches:
            break
    return samples / (clock() - start)


def short_training(
    model: SegmentationModule,
    datamodule: L.LightningDataModule,
    *,
    steps: int,
    memory_format: str,
    mode: Mode,
    device: torch.device,
) -> dict[str, float]:
    """Samples a second of a training by Lightning's Trainer, and the share of time it waits.

    Waiting is the time in ``next(loader)`` by Lightning's profiler, over the time of the same
    steps. On a GPU the host may ask for a batch while the last one is still computed, so that this
    share is the most that can be waiting. What a frozen text encoder makes of the captions is
    cached before, as it is in every epoch but the first.

    Args:
        model: is trained.
        datamodule: set up for fit.
        steps: timed, after WARM_UP others; all in one epoch.
        memory_format: of weights, a key of MEMORY_FORMATS.
        mode: precision and compilation.
        device: where to train.

    Raises:
        UserError: an epoch has fewer steps.
    """
    total = WARM_UP + steps
    data: Any = copy.copy(datamodule)
    loader = data.train_dataloader()
    _check_length(len(loader), total, "training_steps")
    captions = _captions_of(loader, total)
    del loader  # and its workers
    model.to(memory_format=MEMORY_FORMATS[memory_format])
    mode.apply_to(model)
    profiler, watch = _Quiet(), _StepTimer(captions, device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            precision=mode.precision,
            max_epochs=1,
            limit_train_batches=total,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            profiler=profiler,
            callbacks=[watch],
        )
        trainer.fit(model.train(), datamodule=data)
    waited = sum(profiler.recorded_durations[NEXT_BATCH][WARM_UP:total])
    seconds = watch.ends[-1] - watch.ends[WARM_UP - 1]
    return {
        "training_samples_per_s": sum(watch.samples[WARM_UP:]) / seconds,
        "waiting_share": waited / seconds,
    }


class _Quiet(SimpleProfiler):
    """Prints no report of its own."""

    def describe(self) -> None:
        """Nothing."""


class _StepTimer(L.Callback):
    """Notes when a step ended; caches the captions before the first."""

    def __init__(self, captions: list[str], device: torch.device) -> None:
        self.ends: list[float] = []
        self.samples: list[int] = []
        self._captions, self._device = captions, device

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        model = cast(SegmentationModule, pl_module)
        if getattr(getattr(model, "text_encoder", None), "frozen", False):
            model.encode_text(self._captions)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # Waiting for the device in every step would hide nothing and cost what runs ahead.
        last = trainer.num_training_batches
        if batch_idx + 1 in (WARM_UP, last):
            synchronize(self._device)
        self.ends.append(time.perf_counter())
        self.samples.append(len(batch["text"]))


def _captions_of(loader: Iterable[Batch], batches: int) -> list[str]:
    """Distinct captions of the first batches, mirrored as the training will see them."""
    found: dict[str, None] = {}
    for i, batch in enumerate(loader):
        found |= dict.fromkeys(batch["text"])
        if i + 1 == batches:
            break
    return list(found)


def _arrived(data: L.LightningDataModule, batch: Batch, device: torch.device) -> Batch:
    """The batch as a network gets it: on the device, after the DataModule's hooks."""
    batch = data.on_before_batch_transfer(batch, 0)
    batch = data.transfer_batch_to_device(batch, device, 0)
    return cast(Batch, data.on_after_batch_transfer(batch, 0))


def _check_length(length: int, needed: int, setting: str) -> None:
    if length < needed:
        raise UserError(
            f"{setting} cannot be measured: an epoch has {length} batches, {needed} are needed",
            f"lower {setting}, data.batch_size or data.num_workers, or give more training rows",
        )
