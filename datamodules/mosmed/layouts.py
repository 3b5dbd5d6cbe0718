"""Where MosMedData+'s images and caption tables lie in the layouts that circulate.

The DataModule shows the layouts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from datamodules.files import layouts
from datamodules.files.layouts import Layout, LayoutSpec, Names, Parts, TableNames
from textseg.errors import Report, UserError
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
        train=("",),
        val=(),
        test=(),
        folders=(("frames", "masks"),),
    ),
    "lvit": LayoutSpec(
        bases=("", *_below("", "datasets/")),
        train=("Train_Folder",),
        val=("Val_Folder",),
        test=("Test_Folder",),
        folders=(("img", "labelcol"),),
    ),
    "mmiunet": LayoutSpec(
        bases=("", *_below("", "data/")),
        train=("Train",),
        val=("Val",),
        test=("Test",),
        folders=(("Images", "GTs"), ("Images", "Ground-truths")),
    ),
    "prepared": LayoutSpec(
        bases=("", "MosMedData+_prepared"),
        train=("train",),
        val=("val", "valid"),
        test=("test",),
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


class OtherDatasetError(UserError):
    """The folder holds MosMedData's volumes, which are often taken for MosMedData+."""


def find_layout(root: Path, layout: LayoutName) -> Layout:
    """Find the first layout that fits, or the one asked for.

    Raises:
        OtherDatasetError: this is MosMedData, a dataset of volumes.
        UserError: nothing fits; the message lists what was looked for.
    """
    try:
        return layouts.find_layout(root, layout, specs=LAYOUTS, dataset="MosMedData+")
    except UserError:
        _refuse_volumes(root)
        raise


def _refuse_volumes(root: Path) -> None:
    for base in _OLD_BASES:
        for name in _OLD_FOLDERS:
            if (root / base / name).is_dir():
                raise OtherDatasetError(
                    f"{root / base / name} belongs to MosMedData, 1110 CT volumes in CT-0 to CT-4: "
                    "a different dataset from MosMedData+, which is 2729 slices as PNG",
                    f"download {_KAGGLE} from Kaggle (frames/ and masks/) and set root to it",
                )
        volume = next((root / base / "masks").glob("study_*_mask.nii*"), None)
        if volume is not None:
            raise OtherDatasetError(
                f"{volume} belongs to MosMedData, a dataset of CT volumes: a different dataset "
                "from MosMedData+, which is 2729 slices as PNG",
                f"download {_KAGGLE} from Kaggle (frames/ and masks/) and set root to it",
            )


def read_tables(root: Path, layout: Layout, captions: Path | None, report: Report) -> Parts:
    """Read the train, val and test tables, as `layouts.read_tables` does."""
    return layouts.read_tables(root, layout, captions, TABLES, report)


def split_lists(root: Path, layout: Layout, captions: Path | None) -> dict[str, set[str]]:
    """Read the keys that mosmed_{train,val,test}_split.csv list.

    Raises:
        UserError: one of them is missing.
    """
    places = [root, layout.base]
    if captions is not None:
        places.insert(0, captions.parent if captions.is_file() else captions)
    folders = layouts.table_folders(places)
    lists = {}
    for split in SPLITS:
        file = layouts.named_table(folders, (f"mosmed_{split}_split", f"{split}_split"))
        if file is None:
            raise UserError(
                f"split=lists: there is no mosmed_{split}_split.csv in {places[0]}, nor in "
                f"{', '.join(layouts.TEXT_FOLDERS[1:])} there",
                "put the three lists beside the captions, or use split=official or split=study",
            )
        lists[split] = layouts.read_keys(file)
    return lists
