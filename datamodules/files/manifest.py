"""Manifests: a table of images, masks and expressions as .jsonl, .csv (, or ;) or .xlsx.

| column | meaning |
|---|---|
| image, mask | paths relative to root |
| text | the expression |
| case_id | patient or study; never in two splits |
| split | train, val or test |
| lesion_id | optional: which lesion of the image |
| spacing | optional: millimeters per pixel, "0.8 0.8" (rows, columns) or one number |
| attributes | optional, free; read by nothing here, unless `strata` names it |
| text_<name> | optional: the row's caption in a set of altered ones; empty where it has none |

An image with several lesions or several expressions has several rows. "left" is the picture's left.
Column names are compared without regard to case, spaces and hyphens. In text that ; or tabs
separate, a spacing of "0,8" is 0.8.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files.checks import preview
from datamodules.records import Record, Splits
from textseg.errors import Report, TableError, UserError, raise_error
from textseg.output import write_text
from textseg.tables import (
    FILL_IN,
    SPLITS,
    TEXT_COLUMNS,
    Row,
    case_name,
    columns_of,
    first_volume,
    plain_column,
    read_rows,
    refuse_misspelled,
    resolve_inside,
    split_name,
)

SLICE = "cut them into a set: textseg data slice VOLUMES OUTPUT, and give OUTPUT as the root"
MANIFEST_NAMES = ("manifest.jsonl", "manifest.csv", "manifest.xlsx")
PREDICT = "predict"  # rows without truth
UNSPLIT = "unsplit"  # rows of a manifest that names no splits
NOT_GIVEN = "not given"  # the class of an empty cell
REQUIRED = ("image", "mask", "text", "case_id", "split")
OPTIONAL = ("lesion_id", "spacing", "attributes")
ALTERED = "text_"  # before the name of a set of altered captions

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
_MASK_REMEDY = "name the mask, or write split=predict for a row without truth"


def has_manifest(root: Path) -> bool:
    """Tell whether a manifest lies in a folder."""
    return any((root / name).is_file() for name in MANIFEST_NAMES)


def find_manifest(root: Path, file: Path | None) -> Path:
    """Return `file`, or the manifest that lies in root.

    Raises:
        UserError: there is none, or more than one.
    """
    if file is not None:
        return file
    found = [name for name in MANIFEST_NAMES if (root / name).is_file()]
    if len(found) > 1:
        raise UserError(
            f"root={root} holds {' and '.join(found)}: which of them is meant?",
            "remove the others, or set captions to it",
        )
    if found:
        return root / found[0]
    cause = f"root={root} has neither {', '.join(MANIFEST_NAMES[:-1])} nor {MANIFEST_NAMES[-1]}"
    if volume := first_volume(root):
        raise UserError(f"{cause}, but volumes, such as {volume.name}", SLICE)
    raise UserError(
        cause, f"write one with the columns {', '.join(REQUIRED)}, or set captions to it"
    )


def read_manifest(
    root: Path,
    file: Path | None,
    *,
    rows: Sequence[Row] | None = None,
    needs_split: bool = True,
    lenient: bool = False,
    strata: Sequence[str] = (),
    report: Report = raise_error,
) -> Splits:
    """Read the rows of a manifest by "train", "val" and "test".

    Args:
        root: folder that the manifest's paths start from.
        file: the manifest; None looks for one of `MANIFEST_NAMES` in root.
        rows: the rows, where they were read from another form and `file` only names them.
        needs_split: every row must name its split; otherwise rows of a manifest without that
            column are under "unsplit".
        lenient: also take caption, description or sentence for text, ignore other columns with a
            warning, and take rows without a mask, which are under "predict". Such rows have the
            split "predict" or none; of a table without any mask, all rows are for prediction.
            Without a column of patients or studies `case_id` is "".
        strata: further columns, whose cells are the records' `strata`.
        report: is told of columns, cells and splits that cannot be used. Where it returns, rows of
            no known split are under "unsplit", and rows without an image are left out.

    Raises:
        UserError: as `report` does, naming the file, row and column; always where the table cannot
            be read, has no rows or no column of images.
    """
    file = find_manifest(root, file)
    optional = ["split"] * (not needs_split) + ["mask", "case_id"] * lenient
    needed = [column for column in REQUIRED if column not in optional]
    written = read_rows(file) if rows is None else rows
    rows = _renamed(file, written, needed, strata, report, lenient=lenient)
    columns = {column for row in rows for column in row}
    filled = {column for column in columns if any(row.filled(column) for row in rows)}
    has_case = "case_id" in (filled if lenient else columns)
    has_split = "split" in (columns if needs_split else filled)
    accepted = [*SPLITS, PREDICT] if lenient else [*SPLITS]
    splits: Splits = {name: [] for name in [*accepted, *[UNSPLIT] * (not needs_split)]}
    for row in rows:
        split = _split(row, accepted, report) if has_split else UNSPLIT
        if lenient and "mask" not in filled:
            split = PREDICT
        if "mask" in columns and (split not in (PREDICT, UNSPLIT) or not lenient):
            row.required("mask", report, remedy=_MASK_REMEDY if lenient else FILL_IN)
        record = _record(root, row, strata, report, has_case=has_case)
        if record is not None:
            splits.setdefault(split, []).append(record)
    _check_splits(root, file, {split: splits[split] for split in SPLITS}, report)
    return splits


def write_manifest(folder: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """Write manifest.jsonl, whose paths start from `folder`.

    Args:
        folder: an existing folder, into which images and masks were or will be written.
        rows: each with image, mask, text, case_id and split, and optionally lesion_id, spacing
            (two numbers, or one), attributes (plain values) and text_<name>.

    Returns:
        the file, overwritten if it was there.
    """
    lines = []
    for row in rows:
        assert set(REQUIRED) <= set(row), f"columns {', '.join(row)}"
        assert all(map(_is_ours, row)), f"columns {', '.join(row)}"
        assert row["split"] in SPLITS, f"split={row['split']!r}"
        lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    file = folder / MANIFEST_NAMES[0]
    write_text(file, "".join(lines), newline="\n")
    return file


# --- columns -----------------------------------------------------------------------------------


def _renamed(
    file: Path,
    rows: Sequence[Row],
    needed: Sequence[str],
    strata: Sequence[str],
    report: Report,
    *,
    lenient: bool,
) -> list[Row]:
    """The rows under our names of the columns, without columns that are nobody's."""
    if not rows:
        raise UserError(f"{file} has no rows", "list one image, mask and text a row")
    written = columns_of(rows)
    names = _own_names(file, written, report, lenient=lenient)
    of_strata = _strata_columns(file, written, strata, report)
    unknown = [c for c in written if c not in names and c not in of_strata.values()]
    missing = [column for column in needed if column not in names.values()]
    if lenient:
        absent = set(REQUIRED + OPTIONAL) - set(names.values())
        refuse_misspelled(file, unknown, absent, report, meant_by=_MEANT_BY)
    if missing or (unknown and not lenient):
        faults = [f"unknown: {', '.join(unknown)}"] * bool(unknown)
        faults += [f"missing: {', '.join(missing)}"] * bool(missing)
        optional = [c for c in REQUIRED + OPTIONAL if c not in needed]
        refusal = UserError(
            f"{file} has the columns {', '.join(written)} ({'; '.join(faults)})",
            f"accepted are {', '.join(needed)}, and optionally {', '.join(optional)} and "
            f"{ALTERED}<name>",
        )
        report(refusal)
        for column in missing:
            cause, remedy = f"{file} has no column {column}", "add the column, or rename another"
            report(TableError(cause, remedy, kind="missing column", where=file.name, detail=column))
        if "image" in missing:
            raise refusal
    elif unknown:
        rank_zero_warn(f"{file}: columns that are not read: {', '.join(unknown)}")
    renamed = []
    for row in rows:
        cells = {names[column]: value for column, value in row.items() if column in names}
        cells |= {_of_stratum(name): row.get(column) for name, column in of_strata.items()}
        renamed.append(
            Row(cells, row.file, row.number, row.line, row.entry, decimal_comma=row.decimal_comma)
        )
    return renamed


def _strata_columns(
    file: Path, written: list[str], strata: Sequence[str], report: Report
) -> dict[str, str]:
    """The table's column for each of the strata that are asked for."""
    found: dict[str, str] = {}
    for name in strata:
        same = [column for column in written if plain_column(column) == plain_column(name)]
        if len(same) != 1:
            cause = f"strata names {name!r}, and {file} has {len(same)} columns of that name"
            report(UserError(cause, f"choose of its columns: {', '.join(written)}"))
        elif same[0] in found.values():
            cause = f"strata={list(strata)} names {same[0]!r} of {file} twice"
            report(UserError(cause, f"leave {name!r} out, or give what was meant"))
        else:
            found[name] = same[0]
    return found


def _of_stratum(name: str) -> str:
    """The cell of a stratum in a row; none of ours has such a name."""
    return f"strata.{name}"


def _own_names(file: Path, written: list[str], report: Report, *, lenient: bool) -> dict[str, str]:
    """Ours for each column that is one of ours."""
    names = {column: plain_column(column) for column in written}
    names = {column: own for column, own in names.items() if _is_ours(own)}
    if lenient and "text" not in names.values():
        names |= {column: "text" for column in written if plain_column(column) in TEXT_COLUMNS}
    for own in dict.fromkeys(names.values()):
        same = [column for column in written if names.get(column) == own]
        if len(same) > 1:
            cause = f"{file} has {len(same)} columns for {own}: {', '.join(same)}"
            report(UserError(cause, f"keep one of them, or name the right one {own}"))
    return names


def _is_ours(column: str) -> bool:
    altered = column.startswith(ALTERED) and column != ALTERED
    return altered or column in REQUIRED + OPTIONAL


# --- rows --------------------------------------------------------------------------------------


def _split(row: Row, accepted: Sequence[str], report: Report) -> str:
    kind = "invalid split name"
    written = row.required("split", report, kind=kind)
    split = split_name(written)
    if split in accepted:
        return split
    if written:
        remedy = f"write one of {', '.join(accepted)}"
        report(row.error(f"split={written!r}", remedy, kind=kind))
    return UNSPLIT


def _record(
    root: Path, row: Row, strata: Sequence[str], report: Report, *, has_case: bool
) -> Record | None:
    """The row as a record; None after a mistake in a path."""
    altered = [column for column in row if column.startswith(ALTERED)]
    row.check_strings(("image", "mask", "text", *altered), report)
    name, mask = row.required("image", report), None
    image = resolve_inside(root, name, row, report) if name else None
    if image is not None and row.filled("mask"):
        mask = resolve_inside(root, str(row["mask"]), row, report)
        image = image if mask else None
    if image is None:
        return None
    return Record(
        image=image,
        mask=mask,
        text=row.required("text", report, kind=""),
        case=case_name(image, row.number),
        case_id=row.required("case_id", report).strip() if has_case else "",
        row=row.number,
        spacing=_spacing(row, report),
        strata=tuple(_class(row.get(_of_stratum(name))) for name in strata),
        altered={c.removeprefix(ALTERED): str(row[c]) for c in altered if row.filled(c)},
    )


def _class(value: object) -> str:
    """A cell as the name of a class."""
    return " ".join(str("" if value is None else value).split()) or NOT_GIVEN


def _spacing(row: Row, report: Report) -> tuple[float, float] | None:
    """Millimeters per pixel along rows and columns; None where they are not given."""
    value = row.get("spacing")
    if value is None or value == "":
        return None
    parts = value if isinstance(value, list) else _numbers_in(str(value), row)
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) in (1, 2) and all(math.isfinite(n) and n > 0 for n in numbers):
        return numbers[0], numbers[-1]
    remedy = 'write millimeters per pixel as "0.8 0.8" (rows, columns) or as one number, 0.8'
    report(row.error(f"spacing={value!r}", remedy))
    return None


def _numbers_in(cell: str, row: Row) -> list[str]:
    """The numbers of a cell as text, with decimal points.

    A comma between digits without a space may stand for a point, as in "1,5". It does where commas
    do not separate the table's cells; elsewhere "1,5" may also be two numbers, and is none.
    """
    is_list = cell.strip()[:1] in ("[", "(")
    cell = cell.strip("[]() ")
    if re.search(r"\d,\d", cell) and "." not in cell and not is_list:
        if not row.decimal_comma:
            return []
        cell = re.sub(r"(?<=\d),(?=\d)", ".", cell)
    return cell.replace(",", " ").replace(";", " ").split()


def _check_splits(root: Path, file: Path, splits: Splits, report: Report) -> None:
    """A patient or a picture seen in training must not be tested on."""
    cases: dict[str, set[str]] = {}
    images: dict[str, set[str]] = {}
    for split, records in splits.items():
        for record in records:
            images.setdefault(os.path.relpath(record.image, root), set()).add(split)
            if record.case_id:
                cases.setdefault(record.case_id, set()).add(split)
    for what, split_of, rest in (("case_ids", cases, "a case"), ("images", images, "an image")):
        shared = [f"{name} ({', '.join(sorted(s))})" for name, s in split_of.items() if len(s) > 1]
        if shared:
            cause = f"{file}: {len(shared)} {what} are in more than one split: {preview(shared)}"
            report(UserError(cause, f"give all rows of {rest} the same split"))
