"""MosMedData+: 2729 CT slices with COVID-19 lesion masks and LViT's captions.

Kaggle's maedemaftouni/covid19-ct-scan-lesion-segmentation-dataset: 512x512 RGB PNGs whose image and
mask have the SAME name, in two folders. Any of these layouts will do, and root may also be a folder
further in or out where shown (MosMedDataPlus, MosMedData+, MosMedData, MosMedplus or MosMed):

    kaggle     [MosMedData+/][2/]{frames,masks}/
    lvit       [datasets/][MosMedDataPlus/]{Train,Val,Test}_Folder/{img,labelcol}/
               and in each <split>_text.xlsx or text_alpha.xlsx
    mmiunet    [data/][MosMedDataPlus/]{Train,Val,Test}/{Images,GTs}/
               and prompt/{train,val,test}.csv
    prepared   [MosMedData+_prepared/]{train,val,test}/{images,masks}/

The tables are LViT's `Train_text_MosMedData+ 1.xlsx`, `Val_text_MosMedData+ 1.xlsx` and
`Test_text_MosMedData+.xlsx`, under these names, as the text copies `... 1(in).csv` (with ;), or as
<split>_text or <split>; in root or in Text, prompt or text_annotations there. Their columns are
Image and text, in copies Image and Description.

What the files are like:

* Masks have a faint rim of one pixel (12, 17 and 21 of 255) on every one of the 27 real files at
  hand; `> 127` leaves it out, `> 0` would add a sixth to the area (median).
* "left" is the picture's left. "Unilateral ..., left lung and middle right lung." means the right
  lung alone: the template's left position is empty.
* "No pulmonary infection, zero infected areas." (47 rows) goes with an empty mask.
* Some loaders turn the Jun_radiopaedia slices upside down. We could not see one of these files, so
  pictures are taken as they are stored, as LViT takes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import TextSegDataModule
from datamodules.files.checks import preview
from datamodules.files.layouts import Parts, images_of, make_records, search_layout, split_by_lists
from datamodules.files.manifest import has_manifest
from datamodules.mosmed.layouts import (
    LAYOUTS,
    LayoutName,
    find_layout,
    read_tables,
    refuse_volumes,
    split_lists,
)
from datamodules.records import Record, Splits
from textseg.batch import stable_id
from textseg.errors import Report, UserError, raise_error
from textseg.tables import SPLITS, Caption, match_key

Split = Literal["official", "study", "lists"]

_NAME = re.compile(r"bjorke_\d+|jun_.+|morozov_.+")


class MosMedDataModule(TextSegDataModule):
    """MosMedData+ with LViT's captions.

    `case_id` is the study: Morozov_study_<n>, Jun_coronacases_case<k> or
    Jun_radiopaedia_<a>_<b>_<c>_case<k>, whose slices are neighbors and look alike. bjorke_<n> are
    single slices whose names do not tell the patient, so each is a case of its own.

    Args:
        root: folder of the unpacked dataset; several layouts are recognized.
        captions: caption table with a split column, or the folder that holds the train, val and
            test tables; by default root is searched.
        split: official takes LViT's three tables, which share studies (a warning says how many);
            study puts about 80, 10 and 10 % of all rows into train, val and test, no study into
            two; lists follows mosmed_{train,val,test}_split.csv.
        layout: where the images lie below root; auto finds out.
    """

    name = "mosmed"
    splits = get_args(Split)
    recognized_by = "MosMedData+ (bjorke_..., Jun_... or Morozov_..., in its folders)"
    caption_template = "mosmed"
    published_splits: ClassVar = {"official": SPLITS, "lists": SPLITS}
    phantom_images = 320

    def __init__(
        self,
        root: str | None = None,
        captions: str | None = None,
        *,
        split: Split = "official",
        layout: LayoutName = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, captions, split=split, **kwargs)
        self.layout: LayoutName = layout

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Tell by the layout and the names of its pictures; a manifest overrules both.

        Raises:
            UserError: this is MosMedData, a dataset of volumes.
        """
        if has_manifest(root):
            return False
        layout = search_layout(root, LAYOUTS)
        if layout is None:
            refuse_volumes(root)
            return False
        return any(_NAME.fullmatch(match_key(path.name)) for path in images_of(layout))

    def read_records(self, root: Path, report: Report = raise_error) -> Splits:
        """Read the tables, and divide the rows as `split` says."""
        captions = self.captions_file()
        layout = find_layout(root, self.layout)
        parts = read_tables(root, layout, captions, report=report)
        _check_shared_images(parts, report)
        try:
            if self.split == "study":
                parts = _by_study(parts)
            elif self.split == "lists":
                lists = split_lists(root, layout, captions)
                remedy = "use the lists that belong to these captions"
                parts = split_by_lists(_pool(parts), lists, split="lists", remedy=remedy)
        except UserError as error:
            report(error)
        records: Splits = {}
        for split in SPLITS:
            nearest = (split, *(other for other in SPLITS if other != split))
            records[split] = make_records(
                parts[split], layout, nearest, mask_prefix="", case_id=study
            )
        shared = _shared_studies(records)
        if shared and self.fold is None:
            rank_zero_warn(f"split={self.split}: {shared}; split=study keeps studies apart")
        return records

    def all_images(self, root: Path) -> Iterable[Path]:
        """List the images in the layout's folders."""
        return images_of(find_layout(root, self.layout))

    def patient_of(self, record: Record) -> str:
        """Name what a division keeps together; two studies of one patient are one."""
        name = record.image.name
        return _patient(name) if study(name) else ""

    def write_phantoms(self, folder: Path, rows: int) -> None:
        """Write `rows` slices for train, and an eighth as many for val and for test."""
        from datamodules.mosmed.phantoms import write_mosmed

        others = max(1, round(rows / 8))
        write_mosmed(folder, train=rows, val=others, test=others)


_STUDY = re.compile(
    r"(morozov_study_\d+|jun_coronacases_case\d+|jun_radiopaedia_(\d+)_\d+_\d+_case\d+)_\d+"
    r"|(bjorke_\d+)"
)


def study(name: str) -> str:
    """``Morozov_study_0255`` of ``Morozov_study_0255_11.png``; "" for a name of no known family."""
    found = _STUDY.fullmatch(match_key(name))
    if found is None:
        return ""
    return found[3] or found[1][0].upper() + found[1][1:]


def _patient(name: str) -> str:
    """What a split by study keeps together: a study, or all that one Radiopaedia entry holds.

    Cases 11 and 12 are two series of Radiopaedia's study 85902, cases 15 and 16 two studies of its
    entry 29: the same patients.
    """
    found = _STUDY.fullmatch(match_key(name))
    assert found is not None, "other names are refused"
    return f"jun_radiopaedia_{found[2]}" if found[2] else found[1] or found[3]


def _pool(tables: Parts) -> list[Caption]:
    return [row for split in SPLITS for row in tables[split]]


def _by_study(tables: Parts) -> Parts:
    """Divide all rows anew, about 80, 10 and 10 %; where a study goes depends on its name alone."""
    pool = _pool(tables)
    unknown = [row.name for row in pool if not study(row.name)]
    if unknown:
        raise UserError(
            f"split=study: {len(unknown)} of {len(pool)} names tell no study: {preview(unknown)}",
            "name files as Kaggle's release does, or use split=official",
        )
    parts: Parts = {split: [] for split in SPLITS}
    for row in pool:
        # 217 divides the whole dataset into 2215, 275 and 239 rows with all four sources in each.
        tenth = stable_id(f"217/{_patient(row.name)}") % 10
        parts[{0: "test", 1: "val"}.get(tenth, "train")].append(row)
    return parts


def _shared_studies(records: Splits) -> str:
    """Say how many studies two splits share, with their rows and unknown names; "" if none."""
    cases = {split: {r.case_id for r in rows} - {""} for split, rows in records.items()}
    clauses = []
    for one, other in combinations(SPLITS, 2):
        both = cases[one] & cases[other]
        if both:
            rows = sum(record.case_id in both for record in records[other])
            clauses.append(
                f"{one} and {other} share {len(both)} ({preview(sorted(both))}), "
                f"with {rows} of the {len(records[other])} {other} rows"
            )
    unknown = sum(not record.case_id for rows in records.values() for record in rows)
    if unknown:
        clauses.append(f"{unknown} names tell no study")
    counts = ", ".join(f"{len(cases[split])} in {split}" for split in SPLITS)
    return f"of the studies ({counts}) {'; '.join(clauses)}" if clauses else ""


def _check_shared_images(tables: Parts, report: Report) -> None:
    """An image that two tables list would be trained on and scored."""
    for one, other in combinations(SPLITS, 2):
        both = {match_key(r.name) for r in tables[one]} & {match_key(r.name) for r in tables[other]}
        if both:
            cause = f"{len(both)} images are in the {one} and in the {other} captions: "
            remedy = "give the tables of one split; are two of them copies of one another?"
            report(UserError(f"{cause}{preview(sorted(both))}", remedy))
