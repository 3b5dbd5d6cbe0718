"""What callbacks ask a trainer, and the folders and masks that they write."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lightning as L
import numpy as np
import torch.distributed
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor

from textseg.batch import Batch
from textseg.metrics.case_table import without_border
from textseg.metrics.text import to_json
from textseg.models.base import SegmentationModule
from textseg.models.scoring import caption_mode_of
from textseg.output import OutputFolder, claim_folder, write_picture, write_text
from textseg.preprocess import Bytes, read_image, resize_image
from textseg.runs.cases import OUTLINES
from textseg.runs.folder import AVERAGING, VARIANTS, Run, data_identity

T = TypeVar("T")
Kind = TypeVar("Kind", bound=L.Callback)


def callbacks_of(trainer: Any, kind: type[Kind]) -> list[Kind]:
    """The callbacks of one class; `Trainer.callbacks` exists, but Lightning does not declare it."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]


@contextmanager
def only_progress_bars(trainer: L.Trainer) -> Iterator[None]:
    """Run a trainer without its callbacks, which write the results of tests, but for its bars."""
    own = trainer.callbacks  # type: ignore[attr-defined]
    bars = [callback for callback in own if isinstance(callback, ProgressBar)]
    trainer.callbacks = bars  # type: ignore[attr-defined]
    try:
        yield
    finally:
        trainer.callbacks = own  # type: ignore[attr-defined]


def rows_in(loader: Any) -> int:
    """Rows of a loader's whole dataset, not of this process's part."""
    return len(loader.dataset)


def gather_by_index(cases: dict[int, T]) -> dict[int, T]:
    """The results of all processes by index; they meet here."""
    if not torch.distributed.is_initialized():
        return cases
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, cases)
    return {index: case for part in parts for index, case in part.items()}


def new_output_dir(trainer: L.Trainer, name: str) -> OutputFolder:
    """Create a new folder `name` in the run, the same on every process, marked as incomplete.

    One that an ended command left incomplete is begun anew. Of logits that are averaged the name
    says so, such as test/true_ensemble_flip. The first process alone can finish it.
    """
    network = trainer.lightning_module
    assert isinstance(network, SegmentationModule)
    folder = Path(trainer.default_root_dir) / f"{name}{averaging_suffix(network)}"
    claimed = claim_folder(folder, name) if trainer.is_global_zero else OutputFolder(folder)
    claimed.path = Path(trainer.strategy.broadcast(str(claimed.path)))
    return claimed


def new_test_dir(trainer: L.Trainer) -> OutputFolder:
    """Create a new folder for a test with the trainer's data and captions."""
    return new_output_dir(trainer, f"{test_dir_name(trainer)}/{caption_mode_of(trainer)}")


def test_dir_name(trainer: L.Trainer) -> str:
    """Name of the run's folder for results on the data in use: test, or test_on_<name>.

    Only the first process reads the run's config; on the others the name is test.
    """
    data = getattr(trainer, "datamodule", None)
    if data is None or not trainer.is_global_zero:
        return "test"
    # From Python, data may be of a class that has none of these.
    settings = {
        name: getattr(data, name, None) for name in (*VARIANTS, "root", "split", "synthesize")
    }
    settings["captions"] = getattr(data, "captions_path", None)
    identity = data_identity(type(data).__name__, settings)
    return Run(Path(trainer.default_root_dir)).results_dir(identity).name


def averaging_of(network: SegmentationModule, captions: Sequence[str]) -> dict[str, Any]:
    """How masks are made: tta, with what it left out, ensemble, tiles, threshold, temperature."""
    found: dict[str, Any] = {"tta": network.tta, "ensemble": list(network.ensemble)}
    if network.tta != "none":
        found["unmirrored"] = network.unmirrored(captions)
    if network.tiles is not None:
        found |= {"tile_size": network.tiles.size, "tile_overlap": network.tiles.overlap}
    return found | {"threshold": network.mask_threshold, "temperature": network.mask_temperature}


def averaging_suffix(network: SegmentationModule) -> str:
    """The end of the name of a folder of results: "", or _ensemble, _flip, _tiles, ..."""
    parts = ["ensemble"] * bool(network.ensemble) + [network.tta] * (network.tta != "none")
    parts += ["tiles"] * (network.tiles is not None)
    parts += [f"threshold{network.mask_threshold:.4g}"] * (network.mask_threshold != 0.5)
    parts += [f"temperature{network.mask_temperature:.4g}"] * (network.mask_temperature != 1.0)
    return "".join(f"_{part}" for part in parts)


def write_averaging(folder: Path, network: SegmentationModule, captions: Sequence[str]) -> None:
    """Write averaging.json beside masks: `averaging_of` the network, and the number of cases."""
    found = averaging_of(network, captions) | {"cases": len(captions)}
    write_text(folder / AVERAGING, to_json(found))


def mask_source_of(trainer: L.Trainer) -> str:
    """What true masks are made of: outlines, or what the DataModule names instead."""
    datamodule = getattr(trainer, "datamodule", None)
    return getattr(datamodule, "mask_source", "") or OUTLINES


def evenly_spaced(count: int, total: int) -> set[int]:
    """Pick `count` indices evenly from range(total), ends included."""
    return set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist())


def picture_of(batch: Batch, row: int) -> Bytes:
    """Image that the network was given, at the file's size: [H0, W0, 3] uint8."""
    (inner,) = without_border(batch["image"][row : row + 1], frame_in(batch, row))  # [3, h, w]
    image = (inner.float().cpu().permute(1, 2, 0).numpy() * 255).round()
    height, width = batch["original_size"][row].tolist()
    return resize_image(image.clip(0, 255).astype(np.uint8), (height, width))


def original_picture(trainer: L.Trainer, batch: Batch, row: int) -> Bytes:
    """Image of one row of a test or prediction as its file holds it: [H0, W0, 3] uint8.

    Of data that name no files (a DataModule from Python) it is `picture_of` the batch.
    """
    splits: dict[Any, str] = {TrainerFn.TESTING: "test", TrainerFn.PREDICTING: "predict"}
    split = splits.get(trainer.state.fn)
    records = getattr(getattr(trainer, "datamodule", None), "records", None)
    if split is None or records is None:
        return picture_of(batch, row)
    return read_image(records(split)[int(batch["index"][row])].image)


def frame_in(batch: Batch, row: int) -> Tensor | None:
    """The frame of one row, [1, 4]; None where pictures fill the input."""
    return batch["frame"][row : row + 1] if "frame" in batch else None


def mask_bytes(mask: Tensor) -> Bytes:
    """Copy a mask to the CPU as uint8, same shape."""
    return mask.cpu().numpy().astype(np.uint8)


def write_mask(mask: Tensor, path: Path) -> None:
    """Write a mask [H, W] as an 8-bit PNG of 0 and 255."""
    write_picture(path, mask_bytes(mask) * 255)


class PackedMask(NamedTuple):
    """A mask in some hundred bytes, so that those of a whole test can wait for their ranking."""

    shape: tuple[int, int]
    bits: bytes


def pack_mask(mask: NDArray[Any]) -> PackedMask:
    """Pack a mask [H, W]; nonzero is foreground."""
    height, width = mask.shape
    return PackedMask((height, width), zlib.compress(np.packbits(mask != 0).tobytes(), 1))


def unpack_mask(packed: PackedMask) -> Bytes:
    """Unpack to [H, W] uint8 of 0 and 1."""
    bits = np.frombuffer(zlib.decompress(packed.bits), dtype=np.uint8)
    height, width = packed.shape
    return np.unpackbits(bits, count=height * width).reshape(height, width)
