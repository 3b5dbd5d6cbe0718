"""What `textseg data` does: audit a dataset, prepare its cache. Importable without the CLI."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from datamodules.audit import audit, format_audit, write_audit
from datamodules.audit.detect import detect_dataset
from datamodules.base import TextSegDataModule
from datamodules.cache_speed import measure_cache
from datamodules.duke_breast_mri.datamodule import DukeBreastMRIDataModule
from datamodules.mosmed.datamodule import MosMedDataModule
from datamodules.own_data import ManifestDataModule
from datamodules.qata_cov19.datamodule import QaTaCov19DataModule
from datamodules.refhl_seg.datamodule import RefHLSegDataModule
from textseg.errors import UserError

DATASETS: dict[str, type[TextSegDataModule]] = {
    "qata": QaTaCov19DataModule,
    "mosmed": MosMedDataModule,
    "duke": DukeBreastMRIDataModule,
    "refhl": RefHLSegDataModule,
    "manifest": ManifestDataModule,
}


def audit_dataset(
    root: str,
    *,
    dataset: Literal["auto", "qata", "mosmed", "duke", "refhl", "manifest"] = "auto",
    captions: str | None = None,
    split: str | None = None,
    layout: str | None = None,
    image_size: int | list[int] = 224,
    max_tokens: int = 32,
    count_tokens: Callable[[str], int] | None = None,
    output: str | None = None,
    cache: str = "data/cache",
) -> int:
    """Look for everything that is wrong with a dataset on disk, in one pass.

    Args:
        root: the dataset's folder.
        dataset: which reader; auto finds out from the files.
        captions: caption table or the folder that holds the tables; by default looked for in root.
        split: one of the dataset's splits; by default its DataModule's.
        layout: where the images lie below root, where auto does not find out.
        image_size: side of the network's input, or [height, width]; lesions that vanish when their
            mask is resized to it are reported.
        max_tokens: captions with more tokens than this, which a network would cut, are reported.
        count_tokens: the tokens of a caption; None leaves this check out.
        output: folder for audit.json and findings.csv.
        cache: where the slices of volumes (Duke's NIfTI and DICOM) are kept, which are cut once,
            for the audit and for training; other datasets write nothing there.

    Returns:
        1 if anything is an error, else 0.

    Raises:
        UserError: root is no folder, or no reader fits it.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"root={root} is not a folder", "give the unpacked dataset's folder")
    kind = detect_dataset(folder) if dataset == "auto" else DATASETS[dataset]
    settings: dict[str, Any] = {"captions": captions, "split": split, "layout": layout}
    given = {name: value for name, value in settings.items() if value is not None}
    if "layout" in given and "layout" not in inspect.signature(kind).parameters:
        raise UserError(
            f"{kind.__name__} has no setting layout", "leave --layout out for this dataset"
        )
    home = None if output is None else _fresh(Path(output).expanduser())
    datamodule = kind(str(folder), image_size=image_size, cache=cache, **given)
    result = audit(datamodule, count_tokens=count_tokens, max_tokens=max_tokens)
    print(f"{kind.__name__}, {folder}")
    print(format_audit(result))
    if home is not None:
        write_audit(result, home)
        print(f"written to {home}")
    return result.exit_status


def _fresh(folder: Path) -> Path:
    """The folder, made before the long work rather than after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output={folder} cannot be made ({error.strerror})", "name a folder"
        ) from error
    return folder


def prepare_dataset(datamodule: TextSegDataModule) -> None:
    """Check a dataset and fill its cache before the first training, and say what that gains.

    Args:
        datamodule: the dataset, as in an experiment's `data`.

    Raises:
        UserError: the dataset cannot be used, or it has no cache.
    """
    if datamodule.cache is None:
        raise UserError("data.cache is null: there is nothing to prepare", "set data.cache")
    start = time.perf_counter()
    datamodule.prepare_data()
    datamodule.setup("fit")
    seconds = time.perf_counter() - start
    rows = {split: len(datamodule.records(split)) for split in ("train", "val")}
    cached = datamodule.cached_rows("train")
    assert cached is not None
    figures = measure_cache(datamodule)
    print(
        f"{rows['train']} train rows and {rows['val']} val rows; cache of "
        f"{figures['cache_mib']:.0f} MiB in {cached.folder}, ready after {seconds:.1f} s\n"
        f"an image and its mask: {figures['decode_ms']:.2f} ms from files, "
        f"{figures['cache_ms']:.3f} ms from the cache ({figures['ratio']:.0f} times as fast)\n"
        f"a whole sample: {figures['sample_from_files_ms']:.2f} ms from files, "
        f"{figures['sample_from_cache_ms']:.2f} ms from the cache, "
        f"{figures['augmented_sample_from_cache_ms']:.2f} ms with augmentation"
    )
