"""Where the images, masks and caption tables of MedCLIPSeg's datasets lie; the DataModule shows it.

All sixteen have one layout, so a dataset of one's own in these folders is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.files.checks import preview
from datamodules.files.layouts import ADDED_TO_NAMES, index_images
from datamodules.files.named_tables import named_table, plain_stem
from textseg.errors import Report, UserError, raise_error
from textseg.tables import (
    IMAGE_COLUMNS,
    SPLITS,
    TABLE_SUFFIXES,
    TEXT_COLUMNS,
    Row,
    check_split,
    find_column,
    images_in,
    match_key,
    optional_column,
    read_rows,
    resolve_inside,
)

DATASETS = (
    *("BKAI", "BRISC", "BTMRI", "BUID", "BUSBRA", "BUSI", "BUSUC", "CVC300", "ClinicDB"),
    *("ColonDB", "Covid19", "EUS", "ISIC", "Kvasir", "UDIAT", "UWaterlooSkinCancer"),
)
FOLDERS = {split: f"{split.title()}_Folder" for split in SPLITS}
IMAGES, MASKS = "img", "label"
PROMPTS = "Prompts_Folder"
ORIGINAL = "original"
MASK_COLUMNS = ("ground truth", "ground_truth", "mask")
# Datasets with lists of 10, 25 and 50 % of their training and validation rows.
WITH_SHARES = ("BTMRI", "BUSI", "Covid19", "EUS", "ISIC", "Kvasir")

_ALTERED = re.compile(r"test_text_(\w+)")


class Entry(NamedTuple):
    """A row of a caption table; `image` and `mask` need not exist."""

    image: Path
    mask: Path
    text: str
    row: int


# --- folders -----------------------------------------------------------------------------------


def dataset_folders(root: Path) -> list[Path]:
    """List the datasets that root is, or that lie in it under one of the sixteen names."""
    if _holds_images(root):
        return [root]
    return [root / name for name in DATASETS if _holds_images(root / name)]


def dataset_folder(root: Path) -> Path:
    """Find the one dataset that root is, or that lies in it.

    Raises:
        UserError: there is none, or more than one.
    """
    found = dataset_folders(root)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(folder.name for folder in found)
        remedy = f"set root to one of them, such as {found[0]}"
        raise UserError(f"root={root} holds {len(found)} datasets: {names}", remedy)
    looked = f"{{{','.join(FOLDERS.values())}}}/{{{IMAGES},{MASKS}}}"
    raise UserError(
        f"root={root} is no dataset in MedCLIPSeg's layout: looked for {looked} there and in "
        f"{', '.join(DATASETS)}",
        "set root to the unpacked dataset, such as data/BUSI",
    )


def _holds_images(folder: Path) -> bool:
    splits = (folder / name for name in FOLDERS.values())
    return any((split / IMAGES).is_dir() and (split / MASKS).is_dir() for split in splits)


def images_of(folder: Path, split: str) -> list[Path]:
    """List the images of a split; none where it has no folder."""
    images = folder / FOLDERS[split] / IMAGES
    return images_in(images) if images.is_dir() else []


# --- tables ------------------------------------------------------------------------------------


def prompt_folders(folder: Path, captions: Path | None) -> list[Path]:
    """List the folders in which the caption tables may lie.

    Raises:
        UserError: `captions` is a file.
    """
    if captions is not None and not captions.is_dir():
        raise UserError(
            f"captions={captions} is a file, but each split has a table of its own",
            f"give the folder that holds the tables, as {PROMPTS} does",
        )
    home = folder if captions is None else captions
    return [home / PROMPTS, home]


def split_table(prompts: Sequence[Path], split: str, percent: int = 100) -> Path | None:
    """Find the table of a split, or its list of some percent of the rows; None without one."""
    whole = f"{split}_text"
    if percent != 100:
        return named_table(prompts, (f"{whole}_{percent}",))
    return named_table(prompts, (f"{whole}_{ORIGINAL}", whole))


def published_shares(prompts: Sequence[Path]) -> list[int]:
    """List the percentages for which there is a list of training rows."""
    stems = (re.fullmatch(r"train_text_(\d+)", stem) for stem in _stems(prompts))
    return sorted({int(found[1]) for found in stems if found})


def altered_tables(prompts: Sequence[Path]) -> dict[str, Path]:
    """Find the tables of altered test captions by the name of the change."""
    stems = sorted({stem for stem in _stems(prompts) if _ALTERED.fullmatch(stem)})
    tables = {stem.removeprefix("test_text_"): named_table(prompts, (stem,)) for stem in stems}
    return {name: file for name, file in tables.items() if file and name != ORIGINAL}


def _stems(prompts: Sequence[Path]) -> list[str]:
    files = [file for folder in prompts if folder.is_dir() for file in folder.iterdir()]
    return [plain_stem(file.stem) for file in files if file.suffix.lower() in TABLE_SUFFIXES]


def read_entries(
    folder: Path,
    split: str,
    table: Path,
    report: Report = raise_error,
    *,
    needs_text: bool = True,
) -> list[Entry]:
    """Read a caption table, whose two columns of names are looked up in the split's own folders.

    A name is found as it is written, or else by `match_key`: in another case, with or without
    `mask_` and the extension. The same name may be another picture in another split.

    Args:
        folder: the dataset.
        split: train, val or test.
        table: the file; one without rows is a split without rows, which some datasets have.
        report: is told of what is wrong with columns and cells.
        needs_text: an empty caption is a mistake, not "".

    Raises:
        UserError: as `report` does.
    """
    rows = read_rows(table, report)
    if not rows:
        return []
    image = find_column(table, rows, IMAGE_COLUMNS, report)
    text = find_column(table, rows, TEXT_COLUMNS, report)
    mask = optional_column(table, rows, MASK_COLUMNS, report) or image
    splits = optional_column(table, rows, ("split",), report)
    images = _Files(folder / FOLDERS[split] / IMAGES)
    masks = _Files(folder / FOLDERS[split] / MASKS)
    entries = []
    for row in rows:
        check_split(row, splits, split, report)
        found = images.find(row, image, report), masks.find(row, mask, report)
        words = ""
        if text is not None and (needs_text or row.filled(text)):
            words = row.required(text, report, kind="").strip()
        if found[0] is not None and found[1] is not None:
            entries.append(Entry(found[0], found[1], words, row.number))
    return entries


class _Files:
    """The pictures of one folder by what tables call them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = index_images(folder) if folder.is_dir() else {}

    def find(self, row: Row, column: str | None, report: Report) -> Path | None:
        """The file that a cell names, or where it would be; None after a mistake in the cell."""
        name = "" if column is None else row.required(column, report)
        path = None
        if name:
            path = resolve_inside(self.folder, name, row, report, spare=ADDED_TO_NAMES)
        if path is None or path.is_file():
            return path
        return self.index.get(match_key(name), path)


def check_table(table: Path | None, percent: int, folder: Path, prompts: Sequence[Path]) -> Path:
    """Check that a split's table was found.

    Raises:
        UserError: it was not, with what there is instead.
    """
    if table is not None:
        return table
    if percent == 100:
        cause = f"no Train_text nor Test_text_{ORIGINAL} (.xlsx, .csv) in {preview(prompts)}"
        remedy = f"put MedCLIPSeg's {PROMPTS} into {folder}, or set captions to it"
        raise UserError(cause, remedy)
    shares = ", ".join(map(str, published_shares(prompts))) or "none"
    cause = f"percent={percent}: {folder.name} has no Train_text_{percent} (lists there: {shares})"
    remedy = f"leave percent at 100; lists are published for {', '.join(WITH_SHARES)}"
    raise UserError(cause, remedy)
