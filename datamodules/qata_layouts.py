"""Where QaTa-COV19-v2's images and caption tables lie in the trees that circulate.

`qata_cov19` shows the trees. Version 1, which the archive holds beside version 2, has no train and
test folders and so fits none of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from datamodules.checks import first_few, inside
from datamodules.tables import (
    IMAGE_COLUMNS,
    IMAGE_SUFFIXES,
    TABLE_SUFFIXES,
    Caption,
    match_key,
    place,
    read_captions,
    read_rows,
)
from textseg.errors import UserError

Layout = Literal["auto", "kaggle", "lvit", "languide", "sgseg", "prepared"]
SPLITS = ("train", "val", "test")

Names = tuple[str, ...]


@dataclass(frozen=True)
class Shape:
    """A family of trees: any base, any name of each split's folder, any pair of subfolders."""

    bases: Names
    train: Names
    val: Names
    test: Names
    folders: tuple[tuple[str, str], ...]  # images, masks

    def description(self) -> str:
        """The family in one line, for the message that nothing fits."""
        pairs = " or ".join(f"{images}+{masks}" for images, masks in self.folders)
        base = next((f"[{base}/]" for base in self.bases if base), "")
        return f"{base}{{{'|'.join(self.train)}}}/{{{pairs}}}"


SHAPES: dict[str, Shape] = {
    "kaggle": Shape(
        bases=("", "QaTa-COV19-v2", "QaTa-COV19/QaTa-COV19-v2"),
        train=("Train Set",),
        val=(),
        test=("Test Set",),
        folders=(("Images", "Ground-truths"),),
    ),
    "lvit": Shape(
        bases=(
            "",
            *("QaTa-Covid19", "Covid19", "QaTa-COV19"),
            *("datasets/QaTa-Covid19", "datasets/Covid19"),
        ),
        train=("Train_Folder",),
        val=("Val_Folder",),
        test=("Test_Folder",),
        folders=(("img", "labelcol"),),
    ),
    "sgseg": Shape(
        bases=("", "QaTa", "data/QaTa"),
        train=("images/train",),
        val=("images/valid", "images/val"),
        test=("images/test",),
        folders=(("images", "masks"),),
    ),
    "languide": Shape(
        bases=("", "QaTa-COV19-v2", "data/QaTa-COV19-v2", "QaTa-COV19", "QaTa"),
        train=("Train", "train"),
        val=("Val", "val", "valid"),
        test=("Test", "test"),
        folders=(("Images", "GTs"), ("Images", "Ground-truths"), ("images", "masks")),
    ),
    "prepared": Shape(
        bases=("", "QaTa_prepared"),
        train=("train", "train_and_val/train_subset"),
        val=("val", "train_and_val/val"),
        test=("test",),
        folders=(("image", "mask"), ("Images", "Ground-truths"), ("images", "masks")),
    ),
}


@dataclass(frozen=True)
class Folders:
    """One split's image and mask folders."""

    images: Path
    masks: Path


@dataclass(frozen=True)
class Tree:
    """A layout found on disk; a split without folders of its own is absent from `splits`."""

    layout: str
    base: Path
    splits: dict[str, Folders]


def find_tree(root: Path, layout: Layout) -> Tree:
    """The first family that fits, or the one asked for.

    Raises:
        UserError: nothing fits; the message lists what was looked for.
    """
    wanted = SHAPES if layout == "auto" else {layout: SHAPES[layout]}
    for name, shape in wanted.items():
        for base in shape.bases:
            tree = _fit(name, shape, root / base)
            if tree is not None:
                return tree
    looked = "; ".join(f"{name}: {shape.description()}" for name, shape in wanted.items())
    raise UserError(
        f"no QaTa-COV19-v2 images below root={root} (layout={layout}); looked for {looked}",
        "set root to the folder that holds one of these (version 2 of the dataset, not version 1)",
    )


def _fit(name: str, shape: Shape, base: Path) -> Tree | None:
    splits = {}
    for split, names in zip(SPLITS, (shape.train, shape.val, shape.test), strict=True):
        folders = _folders(base, names, shape.folders)
        if folders is not None:
            splits[split] = folders
    return Tree(name, base, splits) if "train" in splits else None


def _folders(base: Path, names: Names, pairs: tuple[tuple[str, str], ...]) -> Folders | None:
    for name, (images, masks) in product(names, pairs):
        folders = Folders(base / name / images, base / name / masks)
        if folders.images.is_dir() and folders.masks.is_dir():
            return folders
    return None


def index_images(folder: Path) -> dict[str, Path]:
    """Image files by what they have in common with their mask and caption.

    SGSeg's tree holds byte-identical copies under a second spelling; the first by name is taken.
    """
    index: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            index.setdefault(match_key(path.name), path)
    return index


# --- caption tables ----------------------------------------------------------------------------

# File names without extension, compared without case; the first that is there counts.
TABLE_NAMES: dict[str, Names] = {
    "train": ("train", "train_val_text", "train_text_for_covid19", "train_text"),
    "val": ("val", "valid", "val_text_for_covid19", "val_text"),
    "test": ("test", "test_text_for_covid19", "test_text"),
}
_JOINT = ("annotation", "annotations", "sgseg_annotation")  # one file for every split
_TEXT_FOLDERS = ("", "Text", "text", "prompt", "prompts")

Tables = dict[str, list[Caption]]


def read_tables(root: Path, tree: Tree, captions: Path | None) -> Tables:
    """The rows of the train, val (where there is one) and test tables.

    Args:
        root: the dataset's folder.
        tree: its images.
        captions: a file with a split column or SGSeg's json, or the folder that holds the tables;
            None looks in the usual places.

    Raises:
        UserError: a table is missing or cannot be used.
    """
    if captions is not None and not captions.exists():
        raise UserError(
            f"captions={captions} does not exist",
            "give a caption table, or the folder that holds train.csv and test.csv",
        )
    if captions is not None and captions.is_file():
        return _joint_table(root, captions)
    places = [captions] if captions is not None else _unique([root, tree.base])
    folders = [place / name for place in places for name in _TEXT_FOLDERS]
    tables: Tables = {}
    for split in SPLITS:
        table = _find_table(split, folders, tree if captions is None else None)
        if table is not None:
            tables[split] = _read(root, table)
    if "train" in tables and "test" in tables:
        return tables
    for folder in folders:
        joint = _named(folder, _JOINT)
        if joint is not None:
            return _joint_table(root, joint)
    missing = next(split for split in ("train", "test") if split not in tables)
    raise UserError(
        f"no {missing} captions in {first_few(_unique(places))}: looked there and in Text, prompt "
        f"and prompts for {', '.join(TABLE_NAMES[missing])} (.csv, .xlsx) and annotation.json",
        "download LViT's text annotations and set captions to their folder",
    )


def id_lists(root: Path, tree: Tree, captions: Path | None) -> dict[str, set[str]] | None:
    """The keys that LViT's Train_ID and Val_ID workbooks list, where both are there."""
    places = [root, tree.base, tree.splits["train"].images.parent]
    if captions is not None:
        places.insert(0, captions.parent if captions.is_file() else captions)
    folders = [place / name for place in places for name in _TEXT_FOLDERS]
    lists = {}
    for split in ("train", "val"):
        file = _first(_named(folder, (f"{split}_id",)) for folder in folders)
        if file is None:
            return None
        lists[split] = {match_key(name) for name in _id_names(file)}
    return lists


def _id_names(file: Path) -> list[str]:
    rows = read_rows(file)
    if not rows:
        raise UserError(f"{file} has no rows", "is it LViT's workbook, complete?")
    column = next((name for name in rows[0] if name.casefold() in IMAGE_COLUMNS), None)
    if column is None:
        raise UserError(
            f"{file} has the columns {', '.join(rows[0])}",
            "it needs one named Image, as LViT's has",
        )
    return [str(row[column]) for row in rows]


def _read(root: Path, file: Path) -> list[Caption]:
    captions = read_captions(file)
    for caption in captions:
        inside(root, caption.name, f"{file}, {place(file, caption.row)}")
    return captions


def _joint_table(root: Path, file: Path) -> Tables:
    tables: Tables = {}
    for caption in _read(root, file):
        tables.setdefault(caption.split, []).append(caption)
    if "" in tables or not {"train", "test"} <= set(tables):
        raise UserError(
            f"captions={file} does not say which rows are train and test",
            "give the folder that holds both tables, or add a split column (train, val, test)",
        )
    return tables


def _find_table(split: str, folders: list[Path], tree: Tree | None) -> Path | None:
    found = _first(_named(folder, TABLE_NAMES[split]) for folder in folders)
    if found is not None or tree is None or split not in tree.splits:
        return found
    own = tree.splits[split].images.parent  # inside it the name need not tell the split
    names = (*TABLE_NAMES[split], "text_alpha")
    found = _first(_named(own / name, names) for name in _TEXT_FOLDERS)
    return found or _only_table(own / "Text")


def _only_table(folder: Path) -> Path | None:
    tables = [
        f for f in _files(folder) if f.suffix in (".xlsx", ".csv") and "_id" not in f.stem.lower()
    ]
    return tables[0] if len(tables) == 1 else None


def _named(folder: Path, stems: Names) -> Path | None:
    by_stem = {file.stem.casefold(): file for file in reversed(_files(folder))}
    return _first(by_stem.get(stem) for stem in stems)


def _files(folder: Path) -> list[Path]:
    """The tables in a folder; a text copy of a workbook comes before it."""
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in TABLE_SUFFIXES)


def _first(candidates: Iterable[Path | None] | Iterator[Path | None]) -> Path | None:
    return next((candidate for candidate in candidates if candidate is not None), None)


def _unique(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))
