"""Your own images, masks and expressions, written down in a manifest; see docs/your_own_data.md.

    <root>/manifest.jsonl, manifest.csv or manifest.xlsx
    <root>/...  images and masks, named by the manifest relative to root

The columns are those of `datamodules.files.manifest`. case_id and split may be left out; caption,
description or sentence may stand for text; mask may be left out or empty in rows that are only
predicted (split predict, or none). Columns with other names are not read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import TextSegDataModule
from datamodules.captions.modes import CaptionMode
from datamodules.files.checks import preview
from datamodules.files.manifest import PREDICT, SPLITS, UNSPLIT, find_manifest, read_manifest
from datamodules.records import Record, Stage
from textseg.batch import stable_id
from textseg.errors import UserError

Split = Literal["manifest", "random", "all_test"]
Splits = dict[str, list[Record]]


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
        image_size: side of the network's square input, or [height, width]; multiples of 32.
        batch_size: rows per batch and process.
        num_workers: processes that load data; 0 loads in the main process.
        on_missing: what to do about rows whose image or mask does not exist.
        synthesize: write and use phantoms in the dataset's layout under data/phantoms instead of
            root; a number asks for that many training images.
        caption_mode: true captions, empty ones, or true ones shuffled among the rows of a split.
        normalize_captions: repair spelling and spacing of captions.
        augment: vary training images; words keep telling the truth.
        cache: folder for the decoded, resized pictures, built once and memory-mapped; null reads
            the files every time.
        seed: of shuffling, augmentation and caption_mode=shuffled.
    """

    phantom_images = 640

    def __init__(
        self,
        root: str | None = None,
        captions: str | None = None,
        *,
        split: Split = "manifest",
        image_size: int | list[int] = 224,
        batch_size: int = 16,
        num_workers: int = 4,
        on_missing: Literal["error", "skip"] = "error",
        synthesize: bool | int = False,
        caption_mode: CaptionMode = "true",
        normalize_captions: bool = False,
        augment: bool = True,
        cache: str | None = "data/cache",
        seed: int = 0,
    ) -> None:
        super().__init__(
            root,
            captions,
            split=split,
            image_size=image_size,
            batch_size=batch_size,
            num_workers=num_workers,
            on_missing=on_missing,
            synthesize=synthesize,
            caption_mode=caption_mode,
            normalize_captions=normalize_captions,
            augment=augment,
            cache=cache,
            seed=seed,
        )

    def read_records(self, root: Path) -> Splits:
        file = find_manifest(root, self._manifest())
        rows = read_manifest(root, file, needs_split=False, needs_case=False, lenient=True)
        if self.split == "manifest":
            parts = as_written(file, rows)
        elif self.split == "random":
            parts = at_random(root, file, rows)
        elif self.split == "all_test":
            parts = all_test(rows)
        else:
            raise UserError(
                f"split={self.split!r} is unknown", f"choose one of {', '.join(get_args(Split))}"
            )
        return parts

    def write_phantoms(self, folder: Path, rows: int) -> None:
        from datamodules.refhl_seg.phantoms import write_refhl

        write_refhl(
            folder, train=rows, val=max(1, round(rows * 5 / 32)), test=max(1, round(rows / 4))
        )

    def _manifest(self) -> Path | None:
        if self.synthesize or self.captions_path is None:
            return None
        return Path(self.captions_path).expanduser()

    def nothing_for(self, stage: Stage, root: Path) -> UserError:
        file = find_manifest(root, self._manifest())
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in self._read.items() if rows)
        remedies: dict[Stage, str] = {
            "train": "training needs rows of train and of val, with masks",
            "val": "training needs rows of train and of val, with masks",
            "test": "write split=test with a mask, or set split=all_test to test on all such",
            "predict": "write split=predict for rows without truth, or split=test",
        }
        return UserError(f"{file} has no rows for {stage} (it has: {counts})", remedies[stage])


def as_written(file: Path, rows: Splits) -> Splits:
    """The manifest's own splits.

    Raises:
        UserError: it names none.
    """
    if rows[UNSPLIT]:
        raise UserError(
            f"{file} has no column split, so nothing says what to train and what to test on",
            "add the column (train, val, test, predict), or set split=random to divide the "
            "patients 70/15/15, or split=all_test to test on every row",
        )
    return {split: rows[split] for split in (*SPLITS, PREDICT)}


def at_random(root: Path, file: Path, rows: Splits) -> Splits:
    """70/15/15 by a digest of the patient: a row's split does not depend on the other rows.

    Raises:
        UserError: the manifest names splits of its own, or an image is of two patients.
    """
    if any(rows[split] for split in SPLITS):
        raise UserError(
            f"split=random, but {file} has a column split",
            "set split=manifest to follow it, or delete the column",
        )
    _check_patients(file, rows[UNSPLIT])
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


def _check_patients(file: Path, rows: Sequence[Record]) -> None:
    """An image of two patients could come into two splits."""
    patients: dict[Path, set[str]] = {}
    for row in rows:
        patients.setdefault(row.image, set()).add(row.case_id)
    doubtful = [f"{p.name} ({preview(sorted(c))})" for p, c in patients.items() if len(c) > 1]
    if doubtful:
        raise UserError(
            f"{file}: {len(doubtful)} images have more than one case_id: {preview(doubtful)}",
            "give all rows of an image the same case_id",
        )


def all_test(rows: Splits) -> Splits:
    """Every row that has a mask for testing, the others for prediction; in the manifest's order."""
    listed = sorted((row for part in rows.values() for row in part), key=lambda row: row.row)
    return {
        "train": [],
        "val": [],
        "test": [row for row in listed if row.mask is not None],
        PREDICT: [row for row in listed if row.mask is None],
    }
