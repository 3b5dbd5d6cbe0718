"""Sixteen datasets with captions in MedCLIPSeg's layout: ultrasound, endoscopy, MRI, X-ray, skin.

    <root>/Train_Folder/{img,label}/   Val_Folder/{img,label}/   Test_Folder/{img,label}/
    <root>/Prompts_Folder/Train_text.xlsx  Val_text.xlsx  Test_text_original.xlsx
                          Test_text_<change>.xlsx             altered captions, of 14 datasets
                          {Train,Val}_text_{10,25,50}.xlsx    lists of some of the rows, of 6

root is one dataset, or a folder in which one of them lies by its name: BKAI, BRISC, BTMRI, BUID,
BUSBRA, BUSI, BUSUC, CVC300, ClinicDB, ColonDB, Covid19 (QaTa-COV19, worded anew), EUS, ISIC,
Kvasir, UDIAT or UWaterlooSkinCancer. The columns are Image, Description and Ground Truth, which is
the mask's name and may differ from the image's. Tables may also be .csv.

Read on real files: BUSI with its images (624/78/78), and the tables of BTMRI, ClinicDB and Covid19;
of the others only names and numbers of rows are known.

* Descriptions end in a newline, which is dropped.
* "No tumor ..." goes with an empty mask (133 of BUSI's 780). Their share decides a mean Dice: score
  cases with and without a lesion apart.
* 78 % of BUSI's test captions occur in train; 433_benign and 145_malignant are one picture.
  ClinicDB's test sequences also occur in train.
* The altered captions change more than their names say: BUSI's "missing_location" also changes size
  and shape, "contradictory" also moves the lesion. A fall in Dice is therefore no measure of one
  attribute; `textseg probe`'s own changes are.
* ColonDB, CVC300 and UWaterlooSkinCancer have no validation rows: they are for tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import TextSegDataModule
from datamodules.files.manifest import has_manifest
from datamodules.medclipseg.layouts import (
    DATASETS,
    FOLDERS,
    PROMPTS,
    Entry,
    altered_tables,
    check_table,
    dataset_folder,
    dataset_folders,
    images_of,
    prompt_folders,
    published_shares,
    read_entries,
    split_table,
)
from datamodules.qata_cov19.datamodule import subject
from datamodules.records import Record, Splits, Stage
from textseg.errors import Report, UserError, check_choice, raise_error
from textseg.tables import SPLITS, case_name, match_key, read_rows

Split = Literal["published"]
Percent = Literal[10, 25, 50, 100]


class MedCLIPSegDataModule(TextSegDataModule):
    """One of MedCLIPSeg's sixteen datasets, with its captions and its split.

    `case_id` is the subject of Covid19's names (QaTa-COV19); the other datasets name no patients.

    Args:
        root: folder of the unpacked dataset, such as data/BUSI.
        captions: folder of the caption tables, where it is not Prompts_Folder in root.
        split: published takes the tables as they are.
        percent: how many percent of the training and validation rows are used: all, or those of the
            published lists of 10, 25 or 50; test is always whole.
    """

    name = "medclipseg"
    splits = get_args(Split)
    recognized_by = f"MedCLIPSeg's layout (Train_Folder/{{img,label}} beside {PROMPTS})"
    published_splits: ClassVar = {"published": SPLITS}
    phantom_images = 320

    def __init__(
        self,
        root: str | None = None,
        captions: str | None = None,
        *,
        split: Split = "published",
        percent: Percent = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, captions, split=split, **kwargs)
        check_choice("percent", percent, Percent)
        self.percent: Percent = percent

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Tell by the folders of images and of tables; a manifest overrules both."""
        return not has_manifest(root) and any(
            (folder / PROMPTS).is_dir() for folder in dataset_folders(root)
        )

    def read_records(self, root: Path, report: Report = raise_error) -> Splits:
        """Read the table of each split; one that a dataset does not have leaves the split empty."""
        folder = dataset_folder(root)
        prompts = prompt_folders(folder, self.captions_file())
        shares = {"train": self.percent, "val": self.percent, "test": 100}
        tables = {split: split_table(prompts, split, shares[split]) for split in SPLITS}
        if self.percent != 100 or tables["test"] is None:
            check_table(tables["train"], self.percent, folder, prompts)
        records: Splits = {}
        for split, table in tables.items():
            if table is None:
                _warn_of_pictures(folder, split)
                records[split] = []
                continue
            rows = read_entries(folder, split, table, report)
            altered = _altered(folder, prompts, rows, report) if split == "test" else {}
            records[split] = [_record(row, altered) for row in rows]
        return records

    def all_images(self, root: Path) -> Iterable[Path]:
        """List the images of splits with a table; those that a list leaves out are no mistake."""
        folder = dataset_folder(root)
        prompts = prompt_folders(folder, self.captions_file())
        tables = {split: split_table(prompts, split) for split in SPLITS}
        images = [path for split in SPLITS if tables[split] for path in images_of(folder, split)]
        if self.percent == 100:
            return images
        whole = (
            match_key(entry.image.name)
            for split, table in tables.items()
            if table is not None
            for entry in read_entries(folder, split, table)
        )
        listed = set(whole)
        return [path for path in images if match_key(path.name) not in listed]

    def nothing_for(self, stage: Stage, root: Path) -> UserError:
        """Explain a split without rows, as some of the datasets have."""
        folder = dataset_folder(root)
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in self._read.items())
        cause = f"{folder} has no rows for {stage} (it has: {counts})"
        if stage in ("train", "val"):
            return UserError(cause, "test on it, and train on another of the datasets")
        return super().nothing_for(stage, root)

    def audit_facts(self, root: Path) -> dict[str, object]:
        """Say which lists and altered captions the dataset has, and which it does not have."""
        folder = dataset_folder(root)
        prompts = prompt_folders(folder, self.captions_file())
        shares = ", ".join(f"{percent} %" for percent in published_shares(prompts))
        tables = altered_tables(prompts)
        rows = {name: len(read_rows(file)) for name, file in tables.items()}
        absent = "none published" if folder.name in DATASETS else "none"
        return {
            "lists of some of the rows": shares or absent,
            "altered test captions": rows or absent,
        }

    def write_phantoms(self, folder: Path, rows: int) -> None:
        """Write `rows` training images, and an eighth as many for val and for test."""
        from datamodules.medclipseg.phantoms import write_medclipseg

        others = max(1, round(rows / 8))
        write_medclipseg(folder, train=rows, val=others, test=others)


Altered = dict[str, dict[tuple[Path, Path], str]]  # by change, then by image and mask


def _altered(
    folder: Path, prompts: Sequence[Path], rows: Sequence[Entry], report: Report
) -> Altered:
    """Read the altered captions of test rows, and say of how many a table has none."""
    altered: Altered = {}
    for name, table in altered_tables(prompts).items():
        entries = read_entries(folder, "test", table, report, needs_text=False)
        altered[name] = {(e.image, e.mask): e.text for e in entries if e.text}
        missing = sum((row.image, row.mask) not in altered[name] for row in rows)
        if missing:
            rank_zero_warn(f"{table}: no altered caption for {missing} of {len(rows)} test rows")
    return altered


def _record(entry: Entry, altered: Altered) -> Record:
    pair = entry.image, entry.mask
    return Record(
        image=entry.image,
        mask=entry.mask,
        text=entry.text,
        case=case_name(entry.image, entry.row),
        case_id=subject(entry.image.name),
        row=entry.row,
        altered={name: texts[pair] for name, texts in altered.items() if pair in texts},
    )


def _warn_of_pictures(folder: Path, split: str) -> None:
    """Pictures of a split without a table are not used, which is said."""
    images = images_of(folder, split)
    if images:
        rank_zero_warn(
            f"{folder / FOLDERS[split]}: {len(images)} images are not used, because there is no "
            f"{split.title()}_text table"
        )
