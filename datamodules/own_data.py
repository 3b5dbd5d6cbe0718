"""Your own images, masks and expressions, written down in a manifest; see docs/your_own_data.md.

    <root>/manifest.jsonl, manifest.csv or manifest.xlsx
    <root>/...  images and masks, named by the manifest relative to root

The columns are those of `datamodules.files.manifest`. case_id and split may be left out; caption,
description or sentence may stand for text; mask may be left out or empty in rows that are only
predicted (split predict, or none). Columns with other names are read if `strata` names them.

The forms of `datamodules.files.forms` (medvlsm, Ref-LITS and Ref-LIDC, BiomedParse) are read alike.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import TextSegDataModule
from datamodules.files.checks import preview
from datamodules.files.forms import RECOGNIZED_BY, Form, find_form
from datamodules.files.manifest import (
    MANIFEST_NAMES,
    PREDICT,
    REQUIRED,
    UNSPLIT,
    find_manifest,
    has_manifest,
    read_manifest,
)
from datamodules.records import Record, Splits, Stage
from textseg.batch import stable_id
from textseg.errors import Report, UserError, check_distinct, raise_error
from textseg.tables import SPLITS

MOST_CLASSES = 30  # of a column of strata
# Columns that are read already, and strata that every test has.
_TAKEN = {*REQUIRED, "spacing", "size", "number", "side"}
Split = Literal["manifest", "random", "all_test"]


class ManifestDataModule(TextSegDataModule):
    """Any images with masks and expressions, listed in a manifest.

    Args:
        root: folder that the manifest's paths start from.
        captions: the manifest, where it is not manifest.jsonl, manifest.csv or manifest.xlsx in
            root; or medvlsm's lists or the like (docs/your_own_data.md), or their folder.
        split: manifest follows the column split; random, for a manifest without that column, puts
            about 70 % of the patients (case_id; images where that column is lacking) into train and
            15 % each into val and test, and for one of train and test alone, about 15 % of train's
            patients into val; all_test tests on every row that has a mask, whatever the manifest
            says.
        prompt_level: of medvlsm's prompts, p1 to p9, the one that is trained and tested on; by
            default the fullest that all images have. `textseg probe` runs the others too.
        strata: further columns of the manifest, such as diagnosis or scanner; tests are also scored
            by their classes.
    """

    name = "manifest"
    splits = ("manifest", "random", "all_test")
    recognized_by = f"a manifest ({', '.join(MANIFEST_NAMES)}), {RECOGNIZED_BY}"
    phantom_images = 640

    def __init__(
        self,
        root: str | None = None,
        captions: str | None = None,
        *,
        split: Split = "manifest",
        strata: list[str] | None = None,
        prompt_level: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, captions, split=split, **kwargs)
        self.prompt_level = prompt_level
        self.strata = list(strata or ())
        check_distinct("strata", self.strata)
        taken = [name for name in self.strata if name.casefold() in _TAKEN]
        if taken:
            raise UserError(
                f"strata={self.strata}: {taken[0]!r} is read already, or a name of the suite's own",
                "name further columns, such as diagnosis; rename the column if it is another thing",
            )

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Tell by a manifest, which decides whatever lies beside it, or by one of the forms."""
        return has_manifest(root) or find_form(root) is not None

    def read_records(self, root: Path, report: Report = raise_error) -> Splits:
        """Read the manifest, and divide its rows as `split` says."""
        file, form = self._source(root)
        given = None if form is None else form.rows(report, level=self.prompt_level)
        if form is None and self.prompt_level is not None:
            cause = f"prompt_level={self.prompt_level!r}, but {file} has no levels of detail"
            raise UserError(cause, "leave prompt_level out; it is for medvlsm's prompts")
        rows = read_manifest(
            root,
            file,
            rows=given,
            needs_split=False,
            lenient=True,
            strata=self.strata,
            report=report,
        )
        _check_classes(file, self.strata, rows, report)
        if self.split == "manifest":
            return _as_written(file, rows, report)
        return _at_random(root, file, rows, report) if self.split == "random" else _all_test(rows)

    def strata_of(self, split: str) -> dict[str, list[str]]:
        """Give the class of each row of a split by each column of `strata`, in row order."""
        rows = self.records(split)
        return {name: [row.strata[n] for row in rows] for n, name in enumerate(self.strata)}

    def write_phantoms(self, folder: Path, rows: int) -> None:
        """Write RefHL-Seg's phantoms, which are a manifest."""
        from datamodules.refhl_seg.phantoms import write_refhl_for

        write_refhl_for(folder, rows)

    def nothing_for(self, stage: Stage, root: Path) -> UserError:
        """Explain a stage without rows by what the manifest has."""
        file, _ = self._source(root)
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in self._read.items() if rows)
        training = "training needs rows of train and of val, with masks"
        if self._read.get("train") and self._read.get("test"):
            training += "; split=random takes those of val from train"
        remedies: dict[Stage, str] = {
            "train": training,
            "val": training,
            "test": "write split=test with a mask, or set split=all_test to test on all such",
            "predict": "write split=predict for rows without truth, or split=test",
        }
        return UserError(f"{file} has no rows for {stage} (it has: {counts})", remedies[stage])

    def _source(self, root: Path) -> tuple[Path, Form | None]:
        """What lists the rows, and the form that it has if it is no manifest."""
        captions = self.captions_file()
        if captions is None and has_manifest(root):
            return find_manifest(root, None), None
        form = None
        if captions is None or captions.is_dir() or captions.suffix.lower() == ".json":
            form = find_form(root, captions)
        return (find_manifest(root, captions), None) if form is None else (form.where, form)


def _check_classes(file: Path, strata: Sequence[str], rows: Splits, report: Report) -> None:
    """A column of numbers has a class for every row, and scores of single rows say nothing."""
    for number, name in enumerate(strata):
        classes = {row.strata[number] for part in rows.values() for row in part}
        if len(classes) > MOST_CLASSES:
            cause = f"strata names {name!r}, which has {len(classes)} classes in {file}: "
            cause += preview(sorted(classes))
            report(UserError(cause, f"write at most {MOST_CLASSES} classes, such as 40-59"))


def _as_written(file: Path, rows: Splits, report: Report) -> Splits:
    """Divide rows by the manifest's own splits; rows without one stay apart."""
    parts = {split: rows[split] for split in (*SPLITS, PREDICT)}
    if rows[UNSPLIT]:
        cause = f"{file} has no column split, so nothing says what to train and what to test on"
        remedy = "add the column (train, val, test, predict), or set split=random to divide the "
        remedy += "patients 70/15/15, or split=all_test to test on every row"
        report(UserError(cause, remedy))
        parts[UNSPLIT] = rows[UNSPLIT]
    return parts


def _at_random(root: Path, file: Path, rows: Splits, report: Report) -> Splits:
    """Divide rows 70/15/15 by a digest of the patient, whichever other rows there are.

    Where test is named and val is not, the rows of train are divided 85/15.
    """
    lacks_val = bool(rows["train"] and rows["test"] and not rows["val"])
    if any(rows[split] for split in SPLITS) and not lacks_val:
        cause = f"split=random, but {file} has a column split"
        report(UserError(cause, "set split=manifest to follow it, or delete the column"))
        return rows
    pool = rows["train"] if lacks_val else rows[UNSPLIT]
    _check_patients(file, pool, report)
    parts: Splits = {"train": [], "val": [], "test": list(rows["test"])}
    parts[PREDICT] = list(rows[PREDICT])
    without = 0
    for row in pool:
        if row.mask is None:
            parts[PREDICT].append(row)
            continue
        without += not row.case_id
        share = stable_id(row.case_id or os.path.relpath(row.image, root)) % 100
        place = "train" if share < 70 else "val" if share < 85 else "test"
        parts["train" if lacks_val and place == "test" else place].append(row)
    if without:
        rank_zero_warn(
            f"{file} has no column case_id, so split=random divides images; that is right only if "
            "no two images are of one patient"
        )
    return parts


def _check_patients(file: Path, rows: Sequence[Record], report: Report) -> None:
    """An image of two patients could come into two splits."""
    patients: dict[Path, set[str]] = {}
    for row in rows:
        patients.setdefault(row.image, set()).add(row.case_id)
    doubtful = [f"{p.name} ({preview(sorted(c))})" for p, c in patients.items() if len(c) > 1]
    if doubtful:
        cause = f"{file}: {len(doubtful)} images have more than one case_id: {preview(doubtful)}"
        report(UserError(cause, "give all rows of an image the same case_id"))


def _all_test(rows: Splits) -> Splits:
    """Take every row with a mask for test and the others for predict, in the manifest's order."""
    listed = sorted(chain(*rows.values()), key=lambda row: row.row)
    scored = [row for row in listed if row.mask is not None]
    return {"test": scored, PREDICT: [row for row in listed if row.mask is None]}
