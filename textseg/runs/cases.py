"""cases.csv: the one writer and the one reader of a test's table of cases."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textseg.errors import UserError, first_line
from textseg.metrics.scores import UNITS, CaseTableRows, Protocol, dice_from_counts
from textseg.metrics.strata import SIDES, SIZES
from textseg.output import whole_text
from textseg.tables import cell_text, spreadsheet_cell

OUTLINES = "outlines"  # what `truth` is unless the DataModule says otherwise
TEST_AGAIN = "test the run again: textseg test --ckpt_path RUN/checkpoints/best.ckpt"
_EDITED = f"the file was cut short or edited: {TEST_AGAIN}"
_ROUNDING = 1e-6  # of a Dice in the file


@dataclass(frozen=True)
class CaseRow:
    """One row of cases.csv; its fields are the columns, in the file's order.

    Args:
        case: the row's own name, unlike every other.
        case_id: patient or study; "" where unknown.
        patient: the unit that a bootstrap draws: `case_id`, or the case itself where unknown.
        caption: the text that was given to the network.
        dice, iou: of this case, by the test's protocol.
        intersection, predicted, true: areas in pixels.
        pixels: of the whole image.
        hd95, nsd: surface distances; None where undefined.
        diagonal: of the image, in the unit of `hd95`; None where distances were not asked for.
        surface_unit: of `hd95`: px, mm, or "" where distances were not asked for.
        lesions_predicted: connected parts of the prediction; None where they were not asked for.
        lesions_matched, lesions_matched_half: pairs of true and predicted ones with IoU > 0, > 0.5.
        lesion_size: one of `textseg.metrics.strata.SIZES`.
        lesion_number: connected parts of the truth.
        lesion_side: one of `textseg.metrics.strata.SIDES`.
        truth: what the true mask is made of, such as outlines or boxes.
        strata: its classes by columns of the user's own, each a column `strata.<name>` of the file.
    """

    case: str
    case_id: str
    patient: str
    caption: str
    dice: float
    iou: float
    intersection: int
    predicted: int
    true: int
    pixels: int
    hd95: float | None
    nsd: float | None
    diagonal: float | None
    surface_unit: str
    lesion_size: str
    lesion_number: int
    lesions_predicted: int | None
    lesions_matched: int | None
    lesions_matched_half: int | None
    lesion_side: str
    truth: str
    strata: Mapping[str, str] = field(default_factory=dict)


STRATUM = "strata."  # before the names of the user's own columns
COLUMNS = tuple(one.name for one in fields(CaseRow) if one.name != "strata")
_KINDS = {
    "str": str,
    "int": int,
    "float": float,
    "int | None": int,
    "float | None": float,
}  # of a field


def write_cases(path: Path, rows: Iterable[CaseRow]) -> None:
    """Write cases.csv, one line for each row in the order given; all have the same strata."""
    table = [_cells(row) for row in rows]
    with whole_text(path, newline="") as file:
        writer = csv.DictWriter(file, table[0] if table else COLUMNS)
        writer.writeheader()
        writer.writerows(table)  # None is an empty cell


def _cells(row: CaseRow) -> dict[str, Any]:
    cells = asdict(row)
    own = cells.pop("strata")
    cells |= {f"{STRATUM}{name}": value for name, value in own.items()}
    return {name: spreadsheet_cell(value) for name, value in cells.items()}


def read_cases(path: Path, protocol: Protocol = "standard") -> list[CaseRow]:
    """Read cases.csv, and check that its values agree with each other and the test's protocol.

    Raises:
        UserError: the file is missing, lacks a column or a case, or was edited.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{path} lacks the columns {', '.join(missing)}: it is cut short, or of "
                    "another version",
                    TEST_AGAIN,
                )
            rows = [_row(f"{path}, line {reader.line_num}", cells, protocol) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)})", TEST_AGAIN) from error
    if not rows:
        raise UserError(f"{path} lists no case", f"{TEST_AGAIN}, on data with a test split")
    repeated = len(rows) - len({row.case for row in rows})
    if repeated:
        raise UserError(f"{path} lists {repeated} cases twice", _EDITED)
    return rows


def table_rows(cases: Sequence[CaseRow]) -> CaseTableRows:
    """The rows of a case table that cases.csv was written from, numbered in the order given."""

    def counts(name: str) -> NDArray[np.int64]:
        return np.array([getattr(case, name) or 0 for case in cases], dtype=np.int64)

    def distances(name: str) -> NDArray[np.float64]:  # None is NaN
        return np.array([getattr(case, name) for case in cases], dtype=np.float64)

    return CaseTableRows(
        index=np.arange(len(cases)),
        intersection=counts("intersection"),
        predicted=counts("predicted"),
        true=counts("true"),
        pixels=counts("pixels"),
        unit=np.array([UNITS.index(case.surface_unit) for case in cases], dtype=np.int64),
        lesions=counts("lesion_number"),
        predicted_lesions=counts("lesions_predicted"),
        matched=counts("lesions_matched"),
        matched_half=counts("lesions_matched_half"),
        hd95=distances("hd95"),
        nsd=distances("nsd"),
        diagonal=distances("diagonal"),
    )


def _row(where: str, cells: Mapping[str, str | None], protocol: Protocol) -> CaseRow:
    values: dict[str, Any] = {}
    for one in fields(CaseRow):
        name, kind = one.name, str(one.type)
        if name == "strata":
            continue
        text = cell_text(cells[name] or "") if kind == "str" else cells[name] or ""
        try:
            values[name] = None if not text and "None" in kind else _KINDS[kind](text)
            if kind != "str" and not math.isfinite(values[name] or 0):
                raise ValueError
        except ValueError as error:
            raise UserError(f"{where}: {name}={cells[name]!r} is no number", _EDITED) from error
    own = {n: cell_text(text or "") for n, text in cells.items() if n and n.startswith(STRATUM)}
    row = CaseRow(**values, strata={k.removeprefix(STRATUM): text for k, text in own.items()})
    contradiction = _contradiction(row, protocol)
    if contradiction:
        raise UserError(f"{where}: {contradiction}", _EDITED)
    return row


def _contradiction(row: CaseRow, protocol: Protocol) -> str:
    """What in a row cannot be true; "" if all can."""
    both, predicted, true, pixels = row.intersection, row.predicted, row.true, row.pixels
    if not 0 <= both <= min(predicted, true) or predicted + true - both > pixels:
        return f"{both} pixels in both masks, {predicted} predicted, {true} true, of {pixels}"
    # LViT's protocol counts areas after resizing, which may lose a lesion of few pixels.
    lesions = row.lesion_number
    if lesions < 0 or (protocol == "standard" and (lesions == 0) != (true == 0)):
        return f"lesion_number={lesions} with {true} true pixels"
    if not row.case or row.patient != (row.case_id or row.case):
        return f"case={row.case!r} with case_id={row.case_id!r} has patient={row.patient!r}"
    for name, value, known in (
        ("lesion_size", row.lesion_size, SIZES),
        ("lesion_side", row.lesion_side, SIDES),
    ):
        if value not in known:
            return f"{name}={value!r} is none of {', '.join(known)}"
    if not row.truth:
        return "truth is empty"
    matched = row.lesions_matched or 0
    if (
        not 0
        <= (row.lesions_matched_half or 0)
        <= matched
        <= min(lesions, row.lesions_predicted or 0)
    ):
        return f"{matched} of {lesions} lesions matched with {row.lesions_predicted} predicted ones"
    if row.surface_unit not in UNITS:
        return f"surface_unit={row.surface_unit!r} is none of {', '.join(UNITS)}"
    score = float(dice_from_counts(both, predicted, true, protocol=protocol))
    if not abs(score - row.dice) < _ROUNDING:
        return f"dice={row.dice} where its areas give {score:.6f}"
    return ""
