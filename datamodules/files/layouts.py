"""Finding images, masks and caption tables in the layouts that a dataset circulates in.

A dataset says what its folders (`LayoutSpec`) and tables (`TableNames`) are called; nothing here
knows one of them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from datamodules.files.checks import preview
from datamodules.files.named_tables import (
    TEXT_FOLDERS,
    Names,
    named_table,
    plain_stem,
    table_folders,
    tables_in,
)
from datamodules.records import Record
from textseg.errors import Report, UserError, check_choice, raise_error
from textseg.tables import (
    IMAGE_COLUMNS,
    SPLITS,
    Caption,
    case_name,
    find_column,
    images_in,
    match_key,
    read_captions,
    read_rows,
    split_name,
)

Parts = dict[str, list[Caption]]  # rows by split


# --- images and masks --------------------------------------------------------------------------


@dataclass(frozen=True)
class LayoutSpec:
    """A family of layouts: any base, any name of each split's folder, any pair of subfolders.

    A layout that does not divide its images has splits=(("",), (), ()).
    """

    bases: Names
    splits: tuple[Names, Names, Names]  # train, val, test
    folders: tuple[tuple[str, str], ...]  # images, masks

    def description(self) -> str:
        """Describe the family in one line, for the message that nothing fits."""
        pairs = " or ".join(f"{images}+{masks}" for images, masks in self.folders)
        base = next((f"[{base}/]" for base in self.bases if base), "")
        train = f"{{{'|'.join(self.splits[0])}}}/" if any(self.splits[0]) else ""
        return f"{base}{train}{{{pairs}}}"


@dataclass(frozen=True)
class Folders:
    """One split's image and mask folders."""

    images: Path
    masks: Path


@dataclass(frozen=True)
class Layout:
    """A layout found on disk; a split without folders of its own is absent from `splits`."""

    name: str
    base: Path
    splits: dict[str, Folders]


def find_layout(root: Path, name: str, *, specs: Mapping[str, LayoutSpec], dataset: str) -> Layout:
    """Find the first family that fits, or the one that `name` chooses.

    Args:
        root: the dataset's folder.
        name: a key of `specs`, or "auto".
        specs: the families, in the order in which they are tried.
        dataset: names it in the message.

    Raises:
        UserError: nothing fits; the message lists what was looked for.
    """
    check_choice("layout", name, ("auto", *specs))
    wanted = specs if name == "auto" else {name: specs[name]}
    layout = search_layout(root, wanted)
    if layout is not None:
        return layout
    looked = "; ".join(f"{key}: {spec.description()}" for key, spec in wanted.items())
    raise UserError(
        f"no {dataset} images below root={root} (layout={name}); looked for {looked}",
        f"set root to the folder that holds one of these ({dataset} itself, not a relative of it)",
    )


def search_layout(root: Path, specs: Mapping[str, LayoutSpec]) -> Layout | None:
    """Find the first family that fits; None where none does."""
    layouts = (_fit(name, spec, root / base) for name, spec in specs.items() for base in spec.bases)
    return next(filter(None, layouts), None)


def _fit(name: str, spec: LayoutSpec, base: Path) -> Layout | None:
    splits: dict[str, Folders] = {}
    for split, names in zip(SPLITS, spec.splits, strict=True):
        for part, (images, masks) in product(names, spec.folders):
            folders = Folders(base / part / images, base / part / masks)
            if folders.images.is_dir() and folders.masks.is_dir():
                splits.setdefault(split, folders)
    return Layout(name, base, splits) if "train" in splits else None


def index_images(folder: Path) -> dict[str, Path]:
    """Index image files by what they have in common with their mask and caption.

    Of two files with one key, such as byte-identical copies under a second spelling, the first by
    name is taken.
    """
    index: dict[str, Path] = {}
    for path in images_in(folder):
        index.setdefault(match_key(path.name), path)
    return index


def images_of(layout: Layout) -> list[Path]:
    """List every image of the layout, split by split."""
    return [path for f in layout.splits.values() for path in index_images(f.images).values()]


def make_records(
    captions: Iterable[Caption],
    layout: Layout,
    splits: Sequence[str],
    *,
    mask_prefix: str,
    case_id: Callable[[str], str],
) -> list[Record]:
    """Make a record of each row; missing files get the path where they would be.

    Args:
        captions: the rows.
        layout: where their images and masks lie.
        splits: whose folders are searched, the likeliest first.
        mask_prefix: what a mask's name has before its image's.
        case_id: the patient or study in a file name, "" where it names none.
    """
    searched = [layout.splits[split] for split in splits if split in layout.splits]
    absent = layout.base / splits[0]
    likeliest = searched[0] if searched else Folders(absent, absent)
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for folders in reversed(searched):
        images |= index_images(folders.images)
        masks |= index_images(folders.masks)
    records = []
    for row in captions:
        key, file = match_key(row.name), f"{_stem(row.name)}.png"
        image = images.get(key, likeliest.images / file)
        mask = masks.get(key, likeliest.masks / f"{mask_prefix}{file}")
        case = case_name(image, row.row)
        records.append(Record(image, mask, row.text, case, case_id(row.name), row.row))
    return records


def _stem(name: str) -> str:
    """`match_key` in the table's own spelling."""
    base = name.strip().replace("\\", "/").rsplit("/", 1)[-1]
    start = len("mask_") if base.casefold().startswith("mask_") else 0
    return base[start : start + len(match_key(name))]


# --- caption tables ----------------------------------------------------------------------------


@dataclass(frozen=True)
class TableNames:
    """What a dataset's caption tables are called.

    Names are without extension and compared as `plain_stem` gives them; the first that is there
    counts.

    Args:
        splits: the names of each split's table.
        joint: names of one table for all splits.
        needed: the splits that must have a table.
        remedy: what to do where one is missing.
    """

    splits: Mapping[str, Names]
    joint: Names
    needed: Names
    remedy: str


# What a mask's name may have that its image's, as a table gives it, has not.
ADDED_TO_NAMES = len("mask_.png")
# A table inside a split's own folder need not name the split.
_OWN_NAMES = ("text_alpha",)


def read_tables(
    root: Path,
    layout: Layout,
    captions: Path | None,
    names: TableNames,
    report: Report = raise_error,
) -> Parts:
    """Read the rows of the tables, by split; a split that need not have one may be absent.

    Args:
        root: the dataset's folder.
        layout: its images.
        captions: a file with a split column or SGSeg's json, or the folder that holds the tables;
            None looks in the usual folders.
        names: what the tables are called.
        report: is told of missing tables and of what is wrong with the others. Where it returns,
            missing tables have no rows.

    Raises:
        UserError: as `report` does.
    """
    if captions is not None and captions.is_file():
        return _joint_table(root, captions, names, report)
    bases = list(dict.fromkeys([root, layout.base] if captions is None else [captions]))
    folders = table_folders(bases)
    tables: Parts = {}
    for split, stems in names.splits.items():
        table = named_table(folders, stems)
        if table is None and captions is None:
            table = _table_beside_images(layout, split, stems)
        if table is not None:
            tables[split] = read_captions(
                table, report, root=root, spare=ADDED_TO_NAMES, split=split
            )
    missing = [split for split in names.needed if split not in tables]
    if not missing:
        return tables
    joint = named_table(folders, names.joint)
    if joint is not None:
        return _joint_table(root, joint, names, report)
    looked_for = ", ".join((*names.splits[missing[0]], *names.joint))
    cause = f"no {missing[0]} captions in {preview(bases)}: searched were these and "
    cause += f"{', '.join(TEXT_FOLDERS[1:])} for {looked_for} (.csv, .xlsx, .json)"
    report(UserError(cause, names.remedy))
    return tables | {split: [] for split in missing}


def read_keys(file: Path) -> set[str]:
    """Read the keys of the files that a list names.

    Raises:
        UserError: the list has no rows or no column of images.
    """
    rows = read_rows(file)
    if not rows:
        raise UserError(f"{file} has no rows", "is it the downloaded list, complete?")
    column = find_column(file, rows, IMAGE_COLUMNS)
    assert column is not None, "its absence is raised"
    return {match_key(str(row[column])) for row in rows}


def read_lists(
    root: Path, layout: Layout, captions: Path | None, names: Mapping[str, Names]
) -> dict[str, set[str]]:
    """Read the lists of a split's files that lie where tables do, by split, as `read_keys` does.

    Args:
        root: the dataset's folder.
        layout: its images.
        captions: a caption table or the folder of the tables, looked at first.
        names: what each split's list may be called; one that is nowhere is absent from the result.
    """
    folders = _list_folders(root, layout, captions)
    lists = {split: named_table(folders, stems) for split, stems in names.items()}
    return {split: read_keys(file) for split, file in lists.items() if file is not None}


def _list_folders(root: Path, layout: Layout, captions: Path | None) -> list[Path]:
    """The folders in which lists of a split's files may lie."""
    bases = [root, layout.base, layout.splits["train"].images.parent]
    if captions is not None:
        bases.insert(0, captions.parent if captions.is_file() else captions)
    return table_folders(bases)


def read_split_list(
    root: Path, layout: Layout, captions: Path | None, stems: Names
) -> dict[str, set[str]]:
    """Read a list of two columns, image and split, that lies where tables do; {} without one.

    Args:
        root: the dataset's folder.
        layout: its images.
        captions: a caption table or the folder of the tables, looked at first.
        stems: what the list may be called.

    Raises:
        UserError: a column is missing, or a split is none of train, val and test.
    """
    file = named_table(_list_folders(root, layout, captions), stems)
    if file is None:
        return {}
    rows = read_rows(file)
    image, split = find_column(file, rows, IMAGE_COLUMNS), find_column(file, rows, ("split",))
    assert image is not None, "its absence is raised"
    assert split is not None, "its absence is raised"
    lists: dict[str, set[str]] = {}
    for row in rows:
        name = split_name(row.required(split))
        if name not in SPLITS:
            detail = f"split={row[split]!r}"
            raise row.error(detail, f"write one of {', '.join(SPLITS)}", kind="invalid split name")
        lists.setdefault(name, set()).add(match_key(row.required(image)))
    return lists


def split_by_lists(
    pool: Iterable[Caption], lists: Mapping[str, set[str]], *, split: str, remedy: str
) -> Parts:
    """Divide rows by the one list that names each.

    Args:
        pool: the rows.
        lists: keys by part.
        split: the setting that asks for this, for the message.
        remedy: for the message.

    Raises:
        UserError: rows are in no list, or in two.
    """
    parts: Parts = {part: [] for part in lists}
    leftover = []
    for row in pool:
        matching = [part for part in lists if match_key(row.name) in lists[part]]
        if len(matching) == 1:
            parts[matching[0]].append(row)
        else:
            leftover.append(row.name)
    if leftover:
        cause = f"{len(leftover)} captions are in no list or in two: {preview(leftover)}"
        raise UserError(f"split={split}: {cause}", remedy)
    return parts


def _joint_table(root: Path, file: Path, names: TableNames, report: Report) -> Parts:
    tables: Parts = {}
    for caption in read_captions(file, report, root=root, spare=ADDED_TO_NAMES):
        tables.setdefault(caption.split, []).append(caption)
    if "" in tables or not set(names.needed) <= set(tables):
        *others, last = names.needed
        cause = f"captions={file} does not say which rows are {', '.join(others)} and {last}"
        remedy = "give the folder that holds the tables, or add a split column (train, val, test)"
        report(UserError(cause, remedy))
        unknown = tables.pop("", [])
        tables = {split: [] for split in names.needed} | tables
        tables["train"] = tables["train"] + unknown
    return tables


def _table_beside_images(layout: Layout, split: str, stems: Names) -> Path | None:
    """The table in a split's own folder, where the layout has one."""
    if split not in layout.splits:
        return None
    own = layout.splits[split].images.parent
    if own == layout.base:  # a folder that all splits share
        return None
    return named_table(table_folders([own]), (*stems, *_OWN_NAMES)) or _only_table(own / "Text")


def _only_table(folder: Path) -> Path | None:
    tables = [f for f in tables_in(folder) if f.suffix.lower() in (".xlsx", ".csv")]
    tables = [f for f in tables if not plain_stem(f.stem).endswith("_id")]
    return tables[0] if len(tables) == 1 else None
