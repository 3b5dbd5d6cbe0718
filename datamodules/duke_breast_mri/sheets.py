"""Duke-Breast-Cancer-MRI's sheets: clinical findings, boxes, and which series is which phase."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from datamodules.files.checks import preview
from textseg.errors import UserError
from textseg.tables import Row, read_rows, workbook_rows

Side = Literal["left", "right", ""]  # of the patient; "" where unknown

# NA is not available, NC not collected, NP not pertinent.
_MISSING = ("", "na", "nc", "np", "n/a")
_SIDES: dict[str, Side] = {"l": "left", "r": "right"}
_YES_NO = {"0": False, "1": True}
_SUBTYPES = {
    "0": "luminal-like",
    "1": "hormone-receptor-positive, HER2-positive",
    "2": "HER2-positive",
    "3": "triple-negative",
}
_GRADES = {"1": 1, "2": 2, "3": 3}

_Codes = dict[str, Any] | None  # what a cell's codes mean; None for free text
# For each field of `Findings`, the name or else the start of the legend of its column.
_CLINICAL: dict[str, tuple[str, _Codes]] = {
    "position": ("position", None),
    "location": ("tumor location", _SIDES),
    "bilateral": ("bilateral information", _YES_NO),
    "annotated": ("side annotated", _SIDES),
    "multifocal": ("multicentric/multifocal", _YES_NO),
    "subtype": ("mol subtype", _SUBTYPES),
    "grade": ("nottingham grade", _GRADES),
    "other_side": ("side of cancer (for the other side)", _SIDES),
    "other_subtype": ("mol subtype (for the other side)", _SUBTYPES),
    "other_grade": ("nottingham grade (for the other side)", _GRADES),
}
_MAMAMIA: dict[str, tuple[str, _Codes]] = {
    "bilateral": ("bilateral_breast_cancer", _YES_NO),
    "multifocal": ("multifocal_cancer", _YES_NO),
    "subtype": (
        "tumor_subtype",
        {
            "luminal": "luminal-like",
            "luminal_a": "luminal A",
            "luminal_b": "luminal B",
            "her2_enriched": _SUBTYPES["1"],
            "her2_pure": _SUBTYPES["2"],
            "triple_negative": _SUBTYPES["3"],
        },
    ),
    "grade": ("nottingham_grade", {"low": 1, "intermediate": 2, "high": 3}),
}
PHASES = ("pre", "post_1", "post_2", "post_3", "post_4", "T1")


@dataclass(frozen=True)
class Findings:
    """The clinical findings of one patient; "" and None where the sheets give none.

    `location` is the tumor's side, `position` free text such as "L 9 medial, L 12". In bilateral
    cancer `annotated` is the side of TCIA's box, and `other_side`, `other_subtype` and
    `other_grade` (Nottingham, 1 to 3) belong to the second tumor.
    """

    position: str = ""
    location: Side = ""
    bilateral: bool | None = None
    annotated: Side = ""
    multifocal: bool | None = None
    subtype: str = ""
    grade: int | None = None
    other_side: Side = ""
    other_subtype: str = ""
    other_grade: int | None = None


class Box(NamedTuple):
    """A tumor's box in a series as it is stored: start inclusive, end exclusive.

    Our reading: rows and columns count from 0; slices from 1, in the order of file numbers.
    """

    start_row: int
    end_row: int
    start_column: int
    end_column: int
    start_slice: int
    end_slice: int


def patient_number(name: str) -> int | None:
    """Parse 42 from ``Breast_MRI_042``, ``BreastMRI042`` or ``DUKE_042``; None of other names."""
    match = re.fullmatch(r"(?:breast_?mri|duke)_?(\d{1,3})", name.strip().casefold())
    return int(match[1]) if match else None


def patient_name(number: int) -> str:
    """Name a patient ``Breast_MRI_042``, whichever release the files come from."""
    return f"Breast_MRI_{number:03d}"


# --- clinical sheets ---------------------------------------------------------------------------


def read_clinical(file: Path) -> dict[int, Findings]:
    """Read TCIA's Clinical_and_Other_Features.xlsx, sheet Data: findings by patient number.

    Its header has three rows: groups, names (some with odd spaces, some none) and code legends. A
    column without a name is known by its legend.

    Raises:
        UserError: the sheet, a column or a code is not as in TCIA's release.
    """
    rows = [_stripped(row) for row in workbook_rows(file, "Data", header_rows=3)]
    top = next((i for i, row in enumerate(rows[:4]) if _plain(row[0]) == "patient id"), None)
    if top is None or top + 1 >= len(rows):
        raise UserError(
            f"{file}, sheet Data: none of the first rows begins with 'Patient ID'",
            "use TCIA's workbook as downloaded",
        )
    names, legends = ([_plain(cell) for cell in row] for row in rows[top : top + 2])
    columns = {column: _column(file, column, names, legends) for column, _ in _CLINICAL.values()}
    findings: dict[int, Findings] = {}
    for line, row in enumerate(rows[top + 2 :], start=top + 3):
        if any(row):
            where = f"{file}, row {line}"
            cells = {column: row[index] for column, index in columns.items()}
            findings[_new_patient(where, row[0], findings)] = _findings(where, cells, _CLINICAL)
    return findings


def _column(file: Path, column: str, names: list[str], legends: list[str]) -> int:
    if column in names:
        return names.index(column)
    for index, legend in enumerate(legends):
        if legend.startswith(column):
            return index
    raise UserError(
        f"{file}, sheet Data has no column {column!r}",
        "use TCIA's workbook as downloaded, with its three header rows",
    )


def read_mamamia(file: Path) -> dict[int, Findings]:
    """Read the Duke patients of MAMA-MIA's clinical_and_imaging_info.xlsx, sheet dataset_info.

    Raises:
        UserError: the sheet, a column or a word is not as in MAMA-MIA's release.
    """
    rows = map(_stripped, workbook_rows(file, "dataset_info"))
    header = [_plain(name) for name in next(rows, [])]
    wanted = ("patient_id", *(column for column, _ in _MAMAMIA.values()))
    _need_columns(f"{file}, sheet dataset_info", header, wanted)
    findings: dict[int, Findings] = {}
    for line, values in enumerate(rows, start=2):
        cells = dict(zip(header, values, strict=False))
        if cells["patient_id"].casefold().startswith("duke"):
            where = f"{file}, row {line}"
            number = _new_patient(where, cells["patient_id"], findings)
            findings[number] = _findings(where, cells, _MAMAMIA)
    return findings


def _findings(
    where: str, cells: dict[str, str], columns: dict[str, tuple[str, _Codes]]
) -> Findings:
    """One patient's findings from the cells by column; missing values keep their defaults."""
    found: dict[str, Any] = {}
    for field, (column, codes) in columns.items():
        code = _plain(cells[column])
        if codes is None:
            found[field] = cells[column]
        elif code in codes:
            found[field] = codes[code]
        elif code not in _MISSING:
            raise UserError(
                f"{where}: {column!r} is {cells[column]!r}, which is none of {', '.join(codes)}",
                "use the sheet as downloaded, or write NA where the value is unknown",
            )
    return Findings(**found)


def joined(clinical: Findings, mamamia: Findings) -> Findings:
    """Complete TCIA's findings by MAMA-MIA's where TCIA's sheet gives none."""
    lacking = [field for field in _MAMAMIA if getattr(clinical, field) in (None, "")]
    return replace(clinical, **{field: getattr(mamamia, field) for field in lacking})


# --- boxes and series --------------------------------------------------------------------------

_BOX_COLUMNS = ("Start Row", "End Row", "Start Column", "End Column", "Start Slice", "End Slice")


def read_boxes(file: Path) -> dict[int, Box]:
    """Read Annotation_Boxes (.xlsx or .csv): one box per patient number.

    Raises:
        UserError: a column is missing, or a box is not made of six increasing whole numbers.
    """
    boxes: dict[int, Box] = {}
    for row in _table(file, ("Patient ID", *_BOX_COLUMNS)):
        where = f"{file}, {row.location}"
        number = _new_patient(where, row["Patient ID"], boxes)
        values = [row[column].strip() for column in _BOX_COLUMNS]
        if not all(re.fullmatch(r"\d+", value) for value in values):
            raise UserError(f"{where}: the box is {preview(values)}", "write whole numbers")
        box = Box(*map(int, values))
        for start, end in zip(box[::2], box[1::2], strict=True):
            if end <= start:
                raise UserError(
                    f"{where}: the box begins at {start} and ends at {end}",
                    "use TCIA's workbook as downloaded",
                )
        boxes[number] = box
    return boxes


def read_phases(file: Path) -> dict[str, str]:
    """Read the phase of each series from TCIA's filepath_filename-mapping (.xlsx or .csv).

    The sheet has a row per DICOM file. Only the folders count, so its zeros too many in file
    numbers do no harm; `series_key` ignores its other faults.

    Returns:
        phase (pre, post_1 to post_4 or T1) by `series_key`, for classic and descriptive folders; a
        series that holds several phases is "mixed".

    Raises:
        UserError: a column is missing, or no row names a series.
    """
    phases: dict[str, str] = {}
    columns = ("original_path_and_filename", "classic_path", "descriptive_path")
    for row in _table(file, columns):
        phase = next(reversed(_parts(row[columns[0]])[:-1]), "")
        if phase not in PHASES:
            continue  # segmentations are listed too
        for column in columns[1:]:
            series = _series(row[column])
            if series and phases.setdefault(series, phase) != phase:
                phases[series] = "mixed"
    if not phases:
        raise UserError(
            f"{file} names no series of {', '.join(PHASES)}", "use TCIA's table as downloaded"
        )
    return phases


def series_key(number: int, folders: str) -> str:
    """Reduce a series' folders to what the mapping sheet and the disk have in common.

    The sheet doubles slashes and, in descriptive names, keeps the slashes of "Ph1/ax dyn", which
    the download leaves out.

    Args:
        number: the patient's.
        folders: ``<study>/<series>``.
    """
    return f"{patient_name(number)}/{re.sub('[^a-z0-9]', '', folders.casefold())}"


def _series(path: str) -> str:
    """The key of the series that a file lies in; "" where no patient is named."""
    parts = _parts(path)
    for index, part in enumerate(parts):
        number = patient_number(part)
        if number is not None:
            return series_key(number, "/".join(parts[index + 1 : -1]))
    return ""


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part]


# --- cells -------------------------------------------------------------------------------------


def _plain(name: str) -> str:
    """A column's name without case, line breaks and doubled spaces."""
    return " ".join(name.split()).casefold()


def _stripped(cells: Iterable[str]) -> list[str]:
    return [cell.strip() for cell in cells]


def _table(file: Path, wanted: Sequence[str]) -> Iterator[Row]:
    """Rows of a .csv or a workbook, of which the mapping has 770 thousand: too many to hold."""
    if file.suffix.lower() == ".csv":
        rows = read_rows(file)
        _need_columns(str(file), list(rows[0]) if rows else [], wanted)
        yield from rows
        return
    cells = map(_stripped, workbook_rows(file))
    header = next(cells, [])
    _need_columns(str(file), header, wanted)
    for number, values in enumerate(tqdm(cells, f"reading {file.name}", delay=2, unit="row")):
        if any(values):
            yield Row(dict(zip(header, values, strict=False)), file, number, number + 2)


def _need_columns(table: str, columns: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise UserError(
            f"{table} has no column {', '.join(missing)}; its columns are "
            f"{', '.join(name for name in columns if name) or '(none)'}",
            "use the table as downloaded",
        )


def _new_patient(where: str, name: str, known: dict[int, Any]) -> int:
    number = patient_number(name)
    if number is None:
        raise UserError(f"{where}: {name!r} is no patient", "write Breast_MRI_001 or DUKE_001")
    if number in known:
        raise UserError(f"{where}: {name} is listed twice", "keep one row per patient")
    return number
