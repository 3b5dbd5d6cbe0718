"""Your own images, masks and expressions, written down in a manifest; see docs/your_own_data.md.

    <root>/manifest.jsonl, manifest.csv or manifest.xlsx
    <root>/...  images and masks, named by the manifest relative to root

The columns are those of `datamodules.files.manifest`. case_id and split may be left out; caption,
description or sentence may stand for text; mask may be left out or empty in rows that are only
predicted (split predict, or none). Columns with other names are read if `strata` names them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import TextSegDataModule
from datamodules.files.checks import preview
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
from textseg.errors import Report, UserError, raise_error
from textseg.tables import SPLITS

MOST_CLASSES = 30  # of a column of strata
# Columns that are read already, and strata that every test has.
_TAKEN = {*REQUIRED, "spacing", "size", "number", "side"}


class ManifestDataModule(TextSegDataModule):
    """Any images with masks and expressions, listed in a manifest.

    Args:
        root: folder that the manifest's paths start from.
        captions: the manifest, where it is not manifest.jsonl, manifest.csv or manifest.xlsx in
            root.
        split: manifest follows the column split; random, for a manifest without that column, puts
            about 70 % of the patients (case_id; images where that column is lacking) into train and
            15 % each into val and test; all_test tests on every row that has a mask, whatever the
            manifest says.
        strata: further columns of the manifest, such as diagnosis or scanner; tests are also scored
            by their classes.
    """

    name = "manifest"
    splits = ("manifest", "random", "all_test")
    recognized_by = f"a manifest ({', '.join(MANIFEST_NAMES)})"
    phantom_images = 640

    def __init__(
        self,
        root: str | None = None,
        captions: str | None = None,
        *,
        strata: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, captions, **kwargs)
        self.strata = list(dict.fromkeys(strata or ()))
        taken = [name for name in self.strata if name.casefold() in _TAKEN]
        if taken:
            raise UserError(
                f"strata={self.strata}: {taken[0]!r} is read already, or a name of the suite's own",
                "name further columns, such as diagnosis; rename the column if it is another thing",
            )

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Tell by a manifest, which decides whatever lies beside it."""
        return has_manifest(root)

    def read_records(self, root: Path, report: Report = raise_error) -> Splits:
        """Read the manifest, and divide its rows as `split` says."""
        file = find_manifest(root, self.captions_file())
        rows = read_manifest(
            root, file, needs_split=False, lenient=True, strata=self.strata, report=report
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
        file = find_manifest(root, self.captions_file())
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in self._read.items() if rows)
        training = "training needs rows of train and of val, with masks"
        remedies: dict[Stage, str] = {
            "train": training,
            "val": training,
            "test": "write split=test with a mask, or set split=all_test to test on all such",
            "predict": "write split=predict for rows without truth, or split=test",
        }
        return UserError(f"{file} has no rows for {stage} (it has: {counts})", remedies[stage])


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
    """Divide rows 70/15/15 by a digest of the patient, whichever other rows there are."""
    if any(rows[split] for split in SPLITS):
        cause = f"split=random, but {file} has a column split"
        report(UserError(cause, "set split=manifest to follow it, or delete the column"))
        return rows
    _check_patients(file, rows[UNSPLIT], report)
    parts: Splits = {"train": [], "val": [], "test": [], PREDICT: list(rows[PREDICT])}
    without = 0
    for row in rows[UNSPLIT]:
        if row.mask is None:
            parts[PREDICT].append(row)
            continue
        without += not row.case_id
        share = stable_id(row.case_id or os.path.relpath(row.image, root)) % 100
        parts["train" if share < 70 else "val" if share < 85 else "test"].append(row)
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
