"""Manifests: a table of images, masks and expressions as .jsonl, .csv (, or ;) or .xlsx.

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
Column names are compared without regard to case, spaces and hyphens.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files.checks import preview, resolve_inside
from datamodules.records import Record, case_name
from textseg.errors import UserError
from textseg.tables import (
    TEXT_COLUMNS,
    Row,
    is_filled,
    read_rows,
    required,
    row_location,
    split_name,
)

MANIFEST_NAMES = ("manifest.jsonl", "manifest.csv", "manifest.xlsx")
SPLITS = ("train", "val", "test")
PREDICT = "predict"  # rows without truth
UNSPLIT = "unsplit"  # rows of a manifest that names no splits
REQUIRED = ("image", "mask", "text", "case_id", "split")
OPTIONAL = ("lesion_id", "spacing", "attributes")

# Names that tables use for our columns. Ignoring one of these where ours is absent would be
# serious: an unread patient number lets a patient into two splits.
_MEANT = {
    "image": "img file filename image_path image_file",
    "mask": "mask_path mask_file segmentation seg gt ground_truth",
    "case_id": "case patient patient_id patientid patient_number subject subject_id study study_id",
    "split": "set subset partition",
    "spacing": "pixel_spacing voxel_spacing spacing_mm",
}
_MEANT_BY = {name: column for column, names in _MEANT.items() for name in names.split()}
_CLOSE = 0.8  # "spilt" and "split" share 0.8 of their letters in order


def find_manifest(root: Path, file: Path | None) -> Path:
    """`file`, or the manifest that lies in root.

    Raises:
        UserError: there is none.
    """
    if file is not None:
        return file
    for name in MANIFEST_NAMES:
        if (root / name).is_file():
            return root / name
    raise UserError(
        f"root={root} has neither {', '.join(MANIFEST_NAMES[:-1])} nor {MANIFEST_NAMES[-1]}",
        f"write one with the columns {', '.join(REQUIRED)}, or set captions to it",
    )


def read_manifest(
    root: Path,
    file: Path | None,
    *,
    needs_split: bool = True,
    needs_case: bool = True,
    lenient: bool = False,
) -> dict[str, list[Record]]:
    """The rows of a manifest by "train", "val" and "test".

    Args:
        root: folder that the manifest's paths start from.
        file: the manifest; None looks for one of `MANIFEST_NAMES` in root.
        needs_split: every row must name its split; otherwise rows of a manifest without that
            column are under "unsplit".
        needs_case: every row must name its patient or study; otherwise `case_id` is "" where there
            is no such column.
        lenient: also take caption, description or sentence for text, ignore other columns with a
            warning, and take rows without a mask, which are under "predict". Such rows have the
            split "predict" or none; of a table without any mask, all rows are for prediction.

    Raises:
        UserError: naming the file, and the row and column that cannot be used.
    """
    file = find_manifest(root, file)
    needed = [c for c in REQUIRED if needs_split or c != "split"]
    needed = [c for c in needed if needs_case or c != "case_id"]
    needed = [c for c in needed if not lenient or c != "mask"]
    rows = _renamed(file, read_rows(file), needed, lenient=lenient)
    masked = any(is_filled(row, "mask") for row in rows)
    with_case = needs_case or any(is_filled(row, "case_id") for row in rows)
    with_split = needs_split or any(is_filled(row, "split") for row in rows)
    splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
    if lenient:
        splits[PREDICT] = []
    if not needs_split:
        splits[UNSPLIT] = []
    for number, row in enumerate(rows):
        split = _split(file, number, row, splits) if with_split else UNSPLIT
        if lenient and not masked:
            split = PREDICT
        if split not in (PREDICT, UNSPLIT) or not lenient:
            _require_mask(file, number, row, lenient=lenient)
        splits[split].append(_record(root, file, number, row, has_case=with_case))
    _check_splits(root, file, {split: splits[split] for split in SPLITS})
    return splits


def write_manifest(folder: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """Write manifest.jsonl, whose paths start from `folder`.

    Args:
        folder: an existing folder, into which images and masks were or will be written.
        rows: each with image, mask, text, case_id and split, and optionally lesion_id, spacing
            (two numbers, or one) and attributes (plain values).

    Returns:
        the file, overwritten if it was there.
    """
    lines = []
    for row in rows:
        assert set(REQUIRED) <= set(row) <= {*REQUIRED, *OPTIONAL}, f"columns {', '.join(row)}"
        assert row["split"] in SPLITS, f"split={row['split']!r}"
        lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    file = folder / MANIFEST_NAMES[0]
    file.write_text("".join(lines), encoding="utf-8", newline="\n")
    return file


# --- columns -----------------------------------------------------------------------------------


def _renamed(file: Path, rows: list[Row], needed: Sequence[str], *, lenient: bool) -> list[Row]:
    """The rows under our names of the columns, without columns that are not ours."""
    if not rows:
        raise UserError(f"{file} has no rows", "list one image, mask and text a row")
    found = list(dict.fromkeys(column for row in rows for column in row))
    names = _own_names(file, found, lenient=lenient)
    unknown = [column for column in found if column not in names]
    missing = [column for column in needed if column not in names.values()]
    if lenient:
        _refuse_misspelt(file, unknown, absent=set(REQUIRED + OPTIONAL) - set(names.values()))
    if missing or (unknown and not lenient):
        faults = [f"unknown: {', '.join(unknown)}"] * bool(unknown)
        faults += [f"missing: {', '.join(missing)}"] * bool(missing)
        optional = [c for c in REQUIRED + OPTIONAL if c not in needed]
        raise UserError(
            f"{file} has the columns {', '.join(found)} ({'; '.join(faults)})",
            f"accepted are {', '.join(needed)}, and optionally {', '.join(optional)}",
        )
    if unknown:
        rank_zero_warn(f"{file}: columns that are not read: {', '.join(unknown)}")
    return [
        Row({names[c]: value for c, value in row.items() if c in names}, row.line) for row in rows
    ]


def _own_names(file: Path, found: list[str], *, lenient: bool) -> dict[str, str]:
    """Ours for each column that is one of ours."""
    names = {column: _plain(column) for column in found}
    names = {column: own for column, own in names.items() if own in REQUIRED + OPTIONAL}
    if lenient and "text" not in names.values():
        names |= {column: "text" for column in found if _plain(column) in TEXT_COLUMNS}
    for own in dict.fromkeys(names.values()):
        same = [column for column in found if names.get(column) == own]
        if len(same) > 1:
            raise UserError(
                f"{file} has {len(same)} columns for {own}: {', '.join(same)}",
                f"keep one of them, or name the right one {own}",
            )
    return names


def _plain(column: str) -> str:
    return "_".join(column.casefold().replace("-", " ").replace("_", " ").split())


def _refuse_misspelt(file: Path, unknown: list[str], absent: set[str]) -> None:
    """A column that seems to be meant for one of ours must not be ignored."""
    for column in unknown:
        near = difflib.get_close_matches(_plain(column), sorted(absent), n=1, cutoff=_CLOSE)
        meant = near[0] if near else _MEANT_BY.get(_plain(column))
        if meant in absent:
            raise UserError(
                f"{file} has a column {column!r}, which is not read, and none named {meant}",
                f"did you mean {meant}? Rename it, or delete it if it is something else",
            )


# --- rows --------------------------------------------------------------------------------------


def _split(file: Path, number: int, row: Row, known: Mapping[str, object]) -> str:
    written = required(file, number, row, "split")
    split = split_name(written)
    accepted = [name for name in known if name != UNSPLIT]
    if split not in accepted:
        raise UserError(
            f"{file}, {row_location(file, number, row.line)}: split={written!r}",
            f"write one of {', '.join(accepted)}",
        )
    return split


def _require_mask(file: Path, number: int, row: Row, *, lenient: bool) -> None:
    if lenient and not is_filled(row, "mask"):
        raise UserError(
            f"{file}, {row_location(file, number, row.line)}: 'mask' is empty",
            "name the mask, or write split=predict for a row without truth",
        )
    required(file, number, row, "mask")


def _record(root: Path, file: Path, number: int, row: Row, *, has_case: bool) -> Record:
    where = f"{file}, {row_location(file, number, row.line)}"
    for column in ("image", "mask", "text"):
        if isinstance(row.get(column), (list, dict, float, int)):
            raise UserError(
                f"{where}: {column}={row[column]!r} is not one string",
                "give an image with several expressions or masks one row for each",
            )
    image = resolve_inside(root, required(file, number, row, "image"), where)
    return Record(
        image=image,
        mask=resolve_inside(root, row["mask"], where) if is_filled(row, "mask") else None,
        text=required(file, number, row, "text"),
        case=case_name(image, number),
        case_id=required(file, number, row, "case_id").strip() if has_case else "",
        row=number,
        spacing=_spacing(row.get("spacing"), where),
    )


def _spacing(value: Any, where: str) -> tuple[float, float] | None:
    if value is None or value == "":
        return None
    spacing = spacing_of(value)
    if spacing is None:
        raise UserError(
            f"{where}: spacing={value!r}",
            'write millimetres per pixel as "0.8 0.8" (rows, columns) or as one number',
        )
    return spacing


def spacing_of(value: Any) -> tuple[float, float] | None:
    """Millimetres per pixel along rows and columns; None where the cell does not hold them."""
    parts = value if isinstance(value, list) else str(value).strip("[]").replace(",", " ").split()
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        return None
    if len(numbers) not in (1, 2) or not all(math.isfinite(n) and n > 0 for n in numbers):
        return None
    return numbers[0], numbers[-1]


def _check_splits(root: Path, file: Path, splits: dict[str, list[Record]]) -> None:
    """A patient or a picture seen in training must not be tested on."""
    cases: dict[str, set[str]] = {}
    images: dict[str, set[str]] = {}
    for split, records in splits.items():
        for record in records:
            images.setdefault(os.path.relpath(record.image, root), set()).add(split)
            if record.case_id:
                cases.setdefault(record.case_id, set()).add(split)
    for what, homes, rest in (("case_ids", cases, "of a case"), ("images", images, "of an image")):
        shared = [f"{name} ({', '.join(sorted(s))})" for name, s in homes.items() if len(s) > 1]
        if shared:
            raise UserError(
                f"{file}: {len(shared)} {what} are in more than one split: {preview(shared)}",
                f"give all rows {rest} the same split",
            )
