"""Where MosMedData+'s images and caption tables lie in the layouts that circulate.

The DataModule shows the layouts.
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

from datamodules.files import layouts
from datamodules.files.layouts import Layout, LayoutSpec, Names, TableNames
from textseg.errors import UserError
from textseg.tables import SPLITS

LayoutName = Literal["auto", "kaggle", "lvit", "mmiunet", "prepared"]

_KAGGLE = "covid19-ct-scan-lesion-segmentation-dataset"  # by maedemaftouni
_FOLDERS = ("MosMedDataPlus", "MosMedData+", "MosMedData", "MosMedplus", "MosMed")


def _below(*parents: str) -> Names:
    """Each of the names the dataset's folder goes by, in each of some parents."""
    return tuple(f"{parent}{name}" for parent in parents for name in _FOLDERS)


LAYOUTS: dict[str, LayoutSpec] = {
    "kaggle": LayoutSpec(
        bases=("", *_below("", "data/"), "MosMedData+/2", "2", _KAGGLE),
        splits=(("",), (), ()),
        folders=(("frames", "masks"),),
    ),
    "lvit": LayoutSpec(
        bases=("", *_below("", "datasets/")),
        splits=(("Train_Folder",), ("Val_Folder",), ("Test_Folder",)),
        folders=(("img", "labelcol"),),
    ),
    "mmiunet": LayoutSpec(
        bases=("", *_below("", "data/")),
        splits=(("Train",), ("Val",), ("Test",)),
        folders=(("Images", "GTs"), ("Images", "Ground-truths")),
    ),
    "prepared": LayoutSpec(
        bases=("", "MosMedData+_prepared"),
        splits=(("train",), ("val", "valid"), ("test",)),
        folders=(("images", "masks"),),
    ),
}


def _table_names(split: str, *short: str) -> Names:
    """LViT's download has the dataset's name (`plain_stem` drops the plus); copies do not."""
    long = ("mosmeddata", "mosmeddataplus", "mosmedplus", "mosmed")
    return (*(f"{split}_text_{name}" for name in long), f"{split}_text", split, *short)


TABLES = TableNames(
    splits={
        "train": _table_names("train"),
        "val": _table_names("val", "valid"),
        "test": _table_names("test"),
    },
    joint=("annotation", "annotations"),
    needed=SPLITS,
    remedy="download LViT's text annotations for MosMedData+ and set captions to their folder",
)

# The older dataset: volumes, in folders by severity.
_OLD_BASES = ("", *_FOLDERS, "COVID19_1110")
_OLD_FOLDERS = tuple(f"{inner}CT-{grade}" for inner in ("", "studies/") for grade in range(5))


# What files.layouts does, by this dataset's names.
read_tables = partial(layouts.read_tables, names=TABLES)


def find_layout(root: Path, layout: LayoutName) -> Layout:
    """Find the first layout that fits, or the named one.

    Raises:
        UserError: nothing fits, with what was searched, or `refuse_volumes` finds some.
    """
    try:
        return layouts.find_layout(root, layout, specs=LAYOUTS, dataset="MosMedData+")
    except UserError:
        refuse_volumes(root)
        raise


def refuse_volumes(root: Path) -> None:
    """Check that a folder does not hold MosMedData, which is often taken for MosMedData+.

    Raises:
        UserError: it does.
    """
    for base in _OLD_BASES:
        folders = filter(Path.is_dir, (root / base / name for name in _OLD_FOLDERS))
        volumes = (root / base / "masks").glob("study_*_mask.nii*")
        for path in chain(folders, volumes):
            raise UserError(
                f"{path} belongs to MosMedData, 1110 CT volumes in CT-0 to CT-4: a different "
                "dataset from MosMedData+, which is 2729 slices as PNG",
                f"download {_KAGGLE} from Kaggle (frames/ and masks/) and set root to it",
            )


def split_lists(root: Path, layout: Layout, captions: Path | None) -> dict[str, set[str]]:
    """Read the keys that mosmed_{train,val,test}_split.csv list.

    Raises:
        UserError: one of them is missing.
    """
    names = {split: (f"mosmed_{split}_split", f"{split}_split") for split in SPLITS}
    lists = layouts.read_lists(root, layout, captions, names)
    for split in SPLITS:
        if split not in lists:
            raise UserError(
                f"split=lists: there is no mosmed_{split}_split.csv in {captions or root}, nor in "
                f"{', '.join(layouts.TEXT_FOLDERS[1:])} there",
                "put the three lists beside the captions, or use split=official or split=study",
            )
    return lists
