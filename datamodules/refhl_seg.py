"""RefHL-Seg: referring expressions for hepatic lesions in abdominal CT slices.

The dataset is announced (arXiv 2408.17347) but not released, so this reads a declared manifest:

    <root>/manifest.jsonl or manifest.csv
    <root>/...  images and masks, named by the manifest relative to root

| column | meaning |
|---|---|
| image, mask | paths relative to root |
| text | the expression |
| case_id | patient or study; never in two splits |
| split | train, val or test |
| lesion_id | optional: which lesion of the image |
| spacing | optional: millimetres per pixel, "0.8 0.8" (rows, columns) or one number |
| attributes | optional, free; read by nothing here |

An image with several lesions or several expressions has several rows. "left" is the picture's left.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from datamodules.base import TextSegDataModule
from datamodules.captions import CaptionMode
from datamodules.checks import first_few, inside
from datamodules.dataset import Record, case_name
from datamodules.tables import Row, place, read_rows, required
from textseg.errors import UserError

SPLITS = ("train", "val", "test")
REQUIRED = ("image", "mask", "text", "case_id", "split")
OPTIONAL = ("lesion_id", "spacing", "attributes")


class RefHLSegDataModule(TextSegDataModule):
    """RefHL-Seg, or any referring dataset written down in the same manifest.

    Args:
        root: folder that the manifest's paths start from.
        captions: the manifest, where it is not manifest.jsonl or manifest.csv in root.
        split: the manifest names every row's split.
        image_size: side of the network's square input, or [height, width]; multiples of 32.
        batch_size: rows per batch and process.
        num_workers: processes that load data; 0 loads in the main process.
        on_missing: what to do about rows whose image or mask does not exist.
        synthesize: write and use phantoms in the dataset's layout under data/phantoms instead of
            root; a number asks for that many training images.
        caption_mode: true captions, empty ones, or true ones shuffled among the rows of a split.
        normalise_captions: repair spelling and spacing of captions.
        augment: vary training images; words keep telling the truth.
        seed: of shuffling, augmentation and caption_mode=shuffled.
    """

    phantom_images = 640

    def __init__(
        self,
        root: str | None = None,
        captions: str | None = None,
        *,
        split: Literal["manifest"] = "manifest",
        image_size: int | list[int] = 224,
        batch_size: int = 16,
        num_workers: int = 4,
        on_missing: Literal["error", "skip"] = "error",
        synthesize: bool | int = False,
        caption_mode: CaptionMode = "true",
        normalise_captions: bool = False,
        augment: bool = True,
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
            normalise_captions=normalise_captions,
            augment=augment,
            seed=seed,
        )

    def read_records(self, root: Path) -> dict[str, list[Record]]:
        file = self._manifest(root)
        rows = read_rows(file)
        _check_columns(file, rows)
        splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
        for number, row in enumerate(rows):
            split = required(file, number, row, "split")
            if split not in splits:
                raise UserError(
                    f"{file}, {place(file, number)}: split={split!r}",
                    f"write one of {', '.join(SPLITS)}",
                )
            splits[split].append(_record(root, file, number, row))
        _check_cases(file, splits)
        return splits

    def write_phantoms(self, folder: Path, rows: int) -> None:
        from datamodules.synthetic import write_refhl

        write_refhl(
            folder, train=rows, val=max(1, round(rows * 5 / 32)), test=max(1, round(rows / 4))
        )

    def _manifest(self, root: Path) -> Path:
        if self.captions_path is not None and not self.synthesize:
            return Path(self.captions_path).expanduser()
        for name in ("manifest.jsonl", "manifest.csv"):
            if (root / name).is_file():
                return root / name
        raise UserError(
            f"root={root} has neither manifest.jsonl nor manifest.csv",
            f"write one with the columns {', '.join(REQUIRED)}, or set captions to it",
        )


def _check_columns(file: Path, rows: list[Row]) -> None:
    if not rows:
        raise UserError(f"{file} has no rows", "list one image, mask and text a row")
    found = list(dict.fromkeys(column for row in rows for column in row))
    unknown = [column for column in found if column not in REQUIRED + OPTIONAL]
    missing = [column for column in REQUIRED if column not in found]
    if unknown or missing:
        faults = [f"unknown: {', '.join(unknown)}"] * bool(unknown)
        faults += [f"missing: {', '.join(missing)}"] * bool(missing)
        raise UserError(
            f"{file} has the columns {', '.join(found)} ({'; '.join(faults)})",
            f"accepted are {', '.join(REQUIRED)}, and optionally {', '.join(OPTIONAL)}",
        )


def _record(root: Path, file: Path, number: int, row: Row) -> Record:
    where = f"{file}, {place(file, number)}"
    image = inside(root, required(file, number, row, "image"), where)
    return Record(
        image=image,
        mask=inside(root, required(file, number, row, "mask"), where),
        text=required(file, number, row, "text"),
        case=case_name(image, number),
        case_id=required(file, number, row, "case_id"),
        row=number,
        spacing=_spacing(row.get("spacing"), where),
    )


def _spacing(value: Any, where: str) -> tuple[float, float] | None:
    if value is None or value == "":
        return None
    parts = value if isinstance(value, list) else str(value).strip("[]").replace(",", " ").split()
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (1, 2) or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise UserError(
            f"{where}: spacing={value!r}",
            'write millimetres per pixel as "0.8 0.8" (rows, columns) or as one number',
        )
    return numbers[0], numbers[-1]


def _check_cases(file: Path, splits: dict[str, list[Record]]) -> None:
    """A patient seen in training must not be tested on."""
    homes: dict[str, set[str]] = {}
    for split, records in splits.items():
        for record in records:
            homes.setdefault(record.case_id, set()).add(split)
    shared = [f"{case} ({', '.join(sorted(s))})" for case, s in homes.items() if len(s) > 1]
    if shared:
        raise UserError(
            f"{file}: {len(shared)} case_ids are in more than one split: {first_few(shared)}",
            "give all rows of a case the same split",
        )
