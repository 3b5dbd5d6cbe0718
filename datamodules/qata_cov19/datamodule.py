"""QaTa-COV19-v2: 9258 chest X-rays with lesion masks and LViT's captions.

Names: image ``X.png``, mask ``mask_X.png``; ``covid_<n>`` or ``sub-S<5>_ses-E<5>..._{cr,dx}``.
A caption table has the columns Image (the mask's name) and Description. "left" is the picture's
left. Any of these layouts will do, and root may also be a folder further in or out where shown:

    kaggle     [QaTa-COV19/][QaTa-COV19-v2/]{Train Set,Test Set}/{Images,Ground-truths}/
               LViT's workbooks {Train,Test}_text_for_Covid19.xlsx (and Train_ID, Val_ID.xlsx, or
               official_split.csv) in root, or in "Train Set", "Test Set" or a folder Text in these
    lvit       [datasets/][QaTa-Covid19/ or Covid19/]{Train,Val,Test}_Folder/{img,labelcol}/
               and in each <split>_text.xlsx, Train_Val_text.xlsx (train and val in one),
               <split>_text_for_Covid19.xlsx or text_alpha.xlsx
    languide   [data/][QaTa-COV19-v2/]{Train,Test}/{Images,GTs}/ and prompt/{train,test}.csv
               or {Images,Ground-truths}, or {train,test}/{images,masks}; the tables also beside
    sgseg      [data/][QaTa/]images/{train,valid,test}/{images,masks}/ and prompts/annotation.json
    prepared   [QaTa_prepared/]{train,val,test}/{image,mask}/
               or train_and_val/{train_subset,val}/{Images,Ground-truths}/
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from datamodules.base import TextSegDataModule
from datamodules.files.layouts import (
    Layout,
    Parts,
    images_of,
    index_images,
    make_records,
    search_layout,
    split_by_lists,
)
from datamodules.files.manifest import has_manifest
from datamodules.qata_cov19.layouts import (
    ID_LISTS,
    LAYOUTS,
    LayoutName,
    find_layout,
    read_id_lists,
    read_split_list,
    read_tables,
)
from datamodules.records import Splits
from textseg.batch import stable_id
from textseg.errors import Report, UserError, raise_error
from textseg.tables import Caption, match_key

Split = Literal["first80", "official", "subject"]

_NAME = re.compile(r"covid_\d+|sub-s\w+_.+")


class QaTaCov19DataModule(TextSegDataModule):
    """QaTa-COV19-v2 with LViT's captions.

    Args:
        root: folder of the unpacked dataset; several layouts are recognized.
        captions: caption table, or the folder that holds the train and test tables (and the ID
            workbooks); by default root is searched.
        split: first80 takes the first 80 % of the rows of LViT's train table, sorted by name, for
            training and the rest for validation; official follows LViT's folders, its Train_ID and
            Val_ID workbooks or official_split.csv (columns image and split); subject puts about
            80 % of the patients into training.
        layout: where the images lie below root; auto finds out.
    """

    name = "qata"
    splits = get_args(Split)
    recognized_by = "QaTa-COV19-v2 (covid_1.png or sub-S..., in its folders)"
    caption_template = "qata"
    published_splits: ClassVar = {"first80": ("train", "val"), "official": ("train", "val")}
    phantom_images = 320  # four fifths of a pool of 400

    def __init__(
        self,
        root: str | None = None,
        captions: str | None = None,
        *,
        split: Split = "first80",
        layout: LayoutName = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, captions, split=split, **kwargs)
        self.layout: LayoutName = layout

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Tell by the layout and the names of its pictures; a manifest overrules both."""
        layout = None if has_manifest(root) else search_layout(root, LAYOUTS)
        images = [] if layout is None else images_of(layout)
        return any(_NAME.fullmatch(match_key(path.name)) for path in images)

    def read_records(self, root: Path, report: Report = raise_error) -> Splits:
        """Read the tables, and divide the rows as `split` says."""
        captions = self.captions_file()
        layout = find_layout(root, self.layout)
        tables = read_tables(root, layout, captions, report=report)
        pool = _pool(tables)
        if self.split == "first80":
            parts = _first80(pool)
        elif self.split == "subject":
            parts = _by_subject(pool)
        else:
            try:
                lists = read_id_lists(root, layout, captions)
                if len(lists) < len(ID_LISTS):
                    lists = read_split_list(root, layout, captions)
                parts = _official(pool, tables, layout, lists)
            except UserError as error:
                report(error)
                parts = {"train": tables["train"], "val": tables.get("val", [])}
        parts["test"] = tables["test"]
        records: Splits = {}
        for split, rows in parts.items():
            folders = ("test",) if split == "test" else ("train", "val")
            records[split] = make_records(
                rows, layout, folders, mask_prefix="mask_", case_id=subject
            )
        return records

    def all_images(self, root: Path) -> Iterable[Path]:
        """List the images in the layout's folders."""
        return images_of(find_layout(root, self.layout))

    def write_phantoms(self, folder: Path, rows: int) -> None:
        """Write a pool of which first80 trains on `rows`, and a fourth as many for test."""
        from datamodules.qata_cov19.phantoms import write_qata

        pool = math.ceil(rows * 5 / 4)
        write_qata(folder, train=pool, test=max(1, round(pool / 4)))


def subject(name: str) -> str:
    """``sub-S12345`` of a BIMCV file, "" for ``covid_<n>``, whose patient is unknown."""
    found = re.match(r"sub-s(\w+?)_", match_key(name))
    return f"sub-S{found[1]}" if found else ""


def _pool(tables: Parts) -> list[Caption]:
    """All rows of train and val, numbered through if of two tables; LViT's share rows."""
    val = _keys(tables.get("val", ()))
    rows = [row for row in tables["train"] if match_key(row.name) not in val]
    rows += tables.get("val", [])
    if len({row.row for row in rows}) == len(rows):
        return rows
    return [replace(row, row=number) for number, row in enumerate(rows)]


def _first80(pool: list[Caption]) -> Parts:
    """Divide at 80 % in the plain order of mask names, which is how train.csv is sorted."""
    rows = sorted(pool, key=lambda row: f"mask_{match_key(row.name)}.png")
    cut = int(0.8 * len(rows))
    return {"train": rows[:cut], "val": rows[cut:]}


def _by_subject(pool: list[Caption]) -> Parts:
    """Divide patients about 80 to 20 by their names alone; each covid_<n> is one."""
    parts: Parts = {"train": [], "val": []}
    for row in pool:
        group = subject(row.name) or match_key(row.name)
        parts["train" if stable_id(group) % 5 else "val"].append(row)
    return parts


def _official(
    pool: list[Caption], tables: Parts, layout: Layout, lists: dict[str, set[str]]
) -> Parts:
    """Divide by LViT's random lists: written ones, or the tables or images in its folders."""
    if not set(ID_LISTS) <= set(lists):
        if layout.name != "lvit" or "val" not in layout.splits:
            raise UserError(
                f"split=official: {layout.base} has neither Train_Folder and Val_Folder nor "
                "Train_ID.xlsx and Val_ID.xlsx nor official_split.csv (image, split)",
                "LViT's text download has the workbooks: put them beside it, or use first80",
            )
        train, val = _keys(tables["train"]), _keys(tables.get("val", ()))
        if not val or val == train:
            val = set(index_images(layout.splits["val"].images))
        lists = {"train": train - val, "val": val}
    remedy = "use the lists that belong to this caption table"
    parts = {split: lists[split] for split in ID_LISTS}
    return split_by_lists(pool, parts, split="official", remedy=remedy)


def _keys(rows: Iterable[Caption]) -> set[str]:
    return {match_key(row.name) for row in rows}
