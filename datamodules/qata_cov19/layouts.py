"""Where QaTa-COV19-v2's images and caption tables lie in the layouts that circulate.

The DataModule shows the layouts. Version 1, which the archive holds beside version 2, has no train
and test folders and so fits none of these.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from datamodules.files import layouts
from datamodules.files.layouts import LayoutSpec, TableNames

LayoutName = Literal["auto", "kaggle", "lvit", "languide", "sgseg", "prepared"]

LAYOUTS: dict[str, LayoutSpec] = {
    "kaggle": LayoutSpec(
        bases=("", "QaTa-COV19-v2", "QaTa-COV19/QaTa-COV19-v2"),
        splits=(("Train Set",), (), ("Test Set",)),
        folders=(("Images", "Ground-truths"),),
    ),
    "lvit": LayoutSpec(
        bases=(
            "",
            *("QaTa-Covid19", "Covid19", "QaTa-COV19"),
            *("datasets/QaTa-Covid19", "datasets/Covid19"),
        ),
        splits=(("Train_Folder",), ("Val_Folder",), ("Test_Folder",)),
        folders=(("img", "labelcol"),),
    ),
    "sgseg": LayoutSpec(
        bases=("", "QaTa", "data/QaTa"),
        splits=(("images/train",), ("images/valid", "images/val"), ("images/test",)),
        folders=(("images", "masks"),),
    ),
    "languide": LayoutSpec(
        bases=("", "QaTa-COV19-v2", "data/QaTa-COV19-v2", "QaTa-COV19", "QaTa"),
        splits=(("Train", "train"), ("Val", "val", "valid"), ("Test", "test")),
        folders=(("Images", "GTs"), ("Images", "Ground-truths"), ("images", "masks")),
    ),
    "prepared": LayoutSpec(
        bases=("", "QaTa_prepared"),
        splits=(("train", "train_and_val/train_subset"), ("val", "train_and_val/val"), ("test",)),
        folders=(("image", "mask"), ("Images", "Ground-truths"), ("images", "masks")),
    ),
}

TABLES = TableNames(
    splits={
        "train": ("train", "train_val_text", "train_text_for_covid19", "train_text"),
        "val": ("val", "valid", "val_text_for_covid19", "val_text"),
        "test": ("test", "test_text_for_covid19", "test_text", "test_text_original"),
    },
    joint=("annotation", "annotations", "sgseg_annotation"),
    needed=("train", "test"),
    remedy="download LViT's text annotations and set captions to their folder",
)

ID_LISTS = {"train": ("train_id",), "val": ("val_id",)}  # LViT's random split
SPLIT_LIST = ("official_split",)  # the same in one table of image and split

# What files.layouts does, by this dataset's names.
find_layout = partial(layouts.find_layout, specs=LAYOUTS, dataset="QaTa-COV19-v2")
read_tables = partial(layouts.read_tables, names=TABLES)
read_id_lists = partial(layouts.read_lists, names=ID_LISTS)
read_split_list = partial(layouts.read_split_list, stems=SPLIT_LIST)
