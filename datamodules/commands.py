"""What commands do with a dataset: audit it, prepare its cache, divide it into folds."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from contextlib import nullcontext
from inspect import isabstract
from pathlib import Path
from typing import Any

from datamodules.audit import UnknownShares, audit, format_audit, write_audit
from datamodules.base import TextSegDataModule, setting_names
from datamodules.base.folds import rows_to_divide, write_folds
from datamodules.captions.languages import LanguageSetting
from datamodules.files.checks import report_missing, split_missing, without_caption
from datamodules.files.manifest import SLICE
from textseg.errors import UserError
from textseg.output import output_folder
from textseg.preprocess import Resize
from textseg.tables import first_volume


def audit_dataset(
    root: str,
    *,
    dataset: str = "auto",
    captions: str | None = None,
    split: str | None = None,
    layout: str | None = None,
    mask_values: list[int] | None = None,
    image_size: int | list[int] = 224,
    resize: Resize = "stretch",
    language: LanguageSetting = "auto",
    max_tokens: int = 32,
    count_tokens: Callable[[str], int] | None = None,
    vocab_size: int = 512,
    unknown_shares: UnknownShares | None = None,
    output: str | None = None,
    cache: str = "data/cache",
) -> int:
    """Check a dataset on disk for everything that is wrong with it, in one pass.

    Args:
        root: the dataset's folder.
        dataset: qata, mosmed, duke, refhl, medclipseg, manifest, or the path of a DataModule's
            class such as own.OwnData; auto finds out from the files.
        captions: caption table or the folder that holds the tables; by default root is searched.
        split: one of the dataset's splits; by default its DataModule's.
        layout: where the images lie below root, where auto does not find out.
        mask_values: the values of masks' files that are foreground, such as [1, 2]; by default all
            above 127.
        image_size: side of the network's input, or [height, width]; lesions that vanish when their
            mask is resized to it are reported.
        resize: how masks come to that size: stretch, or pad, which keeps their aspect ratio.
        language: of the captions, as in training; auto finds out for each, and those that are in no
            known one, whose pictures are never mirrored, are reported.
        max_tokens: captions with more tokens than this, which a network would cut, are reported.
        count_tokens: the tokens of a caption; None leaves this check out.
        vocab_size: rows of the vocabulary of scratch, as of the network.
        unknown_shares: the share of unknown tokens of each caption, of the training captions, the
            captions and vocab_size; None leaves this check out.
        output: folder for audit.json and findings.csv; where it exists, <output>_2 and so on.
        cache: where the slices of volumes (Duke's NIfTI and DICOM) are kept, which are cut once,
            for the audit and for training; other datasets write nothing there.

    Returns:
        1 if anything is an error, else 0.

    Raises:
        UserError: root is no folder, there is no such dataset, or none fits.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"root={root} is not a folder", "give the unpacked dataset's folder")
    kind = _dataset_named(dataset, folder)
    settings: dict[str, Any] = {"captions": captions, "split": split, "layout": layout}
    settings["mask_values"] = mask_values
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given.keys() - setting_names(kind):
        raise UserError(f"{kind.__name__} has no setting {name}", f"leave --{name} out")
    given |= {"image_size": image_size, "resize": resize, "cache": cache}
    if language != "auto":
        given["language"] = language
    datamodule = kind(str(folder), **given)
    # Claimed before the long work rather than after it.
    with nullcontext() if output is None else output_folder(Path(output), "data audit") as claimed:
        result = audit(
            datamodule,
            count_tokens=count_tokens,
            max_tokens=max_tokens,
            unknown_shares=unknown_shares,
            vocab_size=vocab_size,
        )
        print(f"{kind.__name__}, {folder}")
        print(format_audit(result))
        if claimed is not None:
            write_audit(result, claimed.path, of={"dataset": kind.__name__, "root": str(folder)})
            print(f"written to {claimed.path}")
    return result.exit_status


def known_datasets() -> dict[str, type[TextSegDataModule]]:
    """Give the DataModules of this package by the name that `--dataset` takes."""
    package = importlib.import_module("datamodules")
    kinds = [getattr(package, name) for name in package.__all__]
    return {kind.name: kind for kind in kinds if kind.name is not None}


def detect_dataset(root: Path) -> type[TextSegDataModule]:
    """Find the one known DataModule that reads a folder, by its files' names; nothing is converted.

    Raises:
        UserError: none fits, or more than one.
    """
    datasets = known_datasets().values()
    fitting = [datamodule for datamodule in datasets if datamodule.fits(root)]
    if len(fitting) == 1:
        return fitting[0]
    remedy = f"name the dataset: {', '.join(known_datasets())}"
    if fitting:
        names = ", ".join(datamodule.__name__ for datamodule in fitting)
        raise UserError(f"root={root} could be more than one dataset: {names}", remedy)
    if volume := first_volume(root):
        raise UserError(f"root={root} holds volumes, such as {volume.name}, and no dataset", SLICE)
    searched = "; ".join(filter(None, (datamodule.recognized_by for datamodule in datasets)))
    cause = f"root={root} is not recognized as a dataset; looked for {searched}"
    raise UserError(cause, remedy)


def _dataset_named(dataset: str, root: Path) -> type[TextSegDataModule]:
    """The DataModule of a name or class path; of "auto", the one that fits the folder."""
    known = known_datasets()
    if dataset == "auto":
        return detect_dataset(root)
    if dataset in known:
        return known[dataset]
    module, _, name = dataset.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module or "datamodules"), name, None)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # something that the module imports
            raise
        kind = None
    if isinstance(kind, type) and issubclass(kind, TextSegDataModule) and not isabstract(kind):
        return kind
    raise UserError(
        f"dataset={dataset!r} is neither a known dataset nor the path of a DataModule's class",
        f"choose auto, {', '.join(known)}, or a class such as own.OwnData",
    )


def prepare_dataset(datamodule: TextSegDataModule) -> None:
    """Check a dataset and fill its cache before the first training.

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
    cached = datamodule.cached_rows("train")
    assert cached is not None
    mebibytes = sum(file.stat().st_size for file in cached.folder.iterdir()) / 2**20
    train, val = (len(datamodule.records(split)) for split in ("train", "val"))
    print(
        f"{train} train rows and {val} val rows; cache of {mebibytes:.0f} MiB in {cached.folder}, "
        f"ready after {seconds:.1f} s"
    )


def divide_dataset(datamodule: TextSegDataModule, folder: Path, folds: int, seed: int) -> Path:
    """Divide the patients of a dataset into folds, and write the table (`datamodules.base.folds`).

    The rows of train, val and test are divided together, whatever `split` says of them. Rows that
    are only predicted stay out, and so do those without their files where on_missing is skip.

    Args:
        datamodule: the dataset, as in an experiment's `data`.
        folder: an existing one, for the table.
        folds: their number.
        seed: of the division: equal data and seeds give equal tables.

    Raises:
        UserError: the dataset cannot be used, or its patients are too few.
    """
    root = datamodule.folder()
    splits = datamodule.read_records(root)
    listed = [row for part in splits.values() for row in part]
    rows, missing = split_missing(rows_to_divide(splits), scored=True)
    unlisted = without_caption(datamodule.all_images(root), listed)
    report_missing(missing, unlisted, root=root, on_missing=datamodule.on_missing)
    patients = [datamodule.patient_of(row) for row in rows]
    return write_folds(folder, rows, patients, root=root, folds=folds, seed=seed)
