"""The rows of a dataset for an audit, also of tables that the DataModule refuses."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from datamodules.audit.findings import Finding, finding
from datamodules.base import TextSegDataModule
from datamodules.duke_breast_mri.datamodule import DukeBreastMRIDataModule
from datamodules.duke_breast_mri.layouts import choose_layout
from datamodules.files.checks import FileNameError, resolve_inside
from datamodules.files.layouts import (
    ADDED_TO_NAMES,
    SPLITS,
    FileIndex,
    Layout,
    Parts,
    named_table,
    table_folders,
)
from datamodules.files.manifest import PREDICT, REQUIRED, UNSPLIT, find_manifest, spacing_of
from datamodules.mosmed import layouts as mosmed_layouts
from datamodules.mosmed.datamodule import MosMedDataModule, study
from datamodules.own_data import ManifestDataModule
from datamodules.qata_cov19 import layouts as qata_layouts
from datamodules.qata_cov19.datamodule import (
    QaTaCov19DataModule,
    by_subject,
    first80,
    pooled,
    subject,
)
from datamodules.records import Record, case_name
from datamodules.refhl_seg.datamodule import RefHLSegDataModule
from textseg.errors import UserError
from textseg.tables import (
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    Caption,
    Row,
    read_rows,
    row_location,
    split_name,
)

Rows = dict[str, list[Record]]

_MANIFEST_TEXT = ("text", "caption", "description", "sentence")


def rows_of(datamodule: TextSegDataModule, root: Path) -> tuple[Rows, list[Finding]]:
    """The rows by split, and what is wrong with the tables they are from.

    Where the DataModule refuses its tables, that is an error, and rows are read one by one without
    it: those whose files can be found are audited all the same.
    """
    try:
        return datamodule.read_records(root), []
    except UserError as error:
        cause, _, remedy = str(error).partition("\n")
        findings = [finding("refused by the reader", "", str(root), cause, suggestion=remedy)]
    try:
        return _salvaged(datamodule, root, findings), findings
    except UserError as error:
        told = str(error).partition("\n")[0]
        if told != findings[0].detail:
            findings.append(finding("unreadable table", "", str(root), told))
        return {}, findings


def _salvaged(datamodule: TextSegDataModule, root: Path, findings: list[Finding]) -> Rows:
    captions = None
    if not datamodule.synthesize and datamodule.captions_path is not None:
        captions = Path(datamodule.captions_path).expanduser()
    if isinstance(datamodule, (QaTaCov19DataModule, MosMedDataModule)):
        return _from_tables(datamodule, root, captions, findings)
    if isinstance(datamodule, (ManifestDataModule, RefHLSegDataModule)):
        lenient = isinstance(datamodule, ManifestDataModule)
        return _from_manifest(root, find_manifest(root, captions), findings, lenient=lenient)
    if isinstance(datamodule, DukeBreastMRIDataModule):
        if choose_layout(root, datamodule.layout, captions) == "slices":
            return _from_manifest(root, find_manifest(root, captions), findings, lenient=False)
        if datamodule.on_missing == "error":
            complete = copy.copy(datamodule)
            complete.on_missing = "skip"
            return complete.read_records(root)
    return {}


# --- manifests ---------------------------------------------------------------------------------


def _from_manifest(root: Path, file: Path, findings: list[Finding], *, lenient: bool) -> Rows:
    table = _rows(file, findings)
    if not table:
        return {}
    names = {"_".join(c.casefold().replace("-", " ").split()): c for row in table for c in row}
    if lenient:
        names["text"] = next((names[n] for n in _MANIFEST_TEXT if n in names), "text")
    needed = ("image", "text") if lenient else REQUIRED
    absent = [name for name in needed if names.get(name) not in {c for row in table for c in row}]
    findings += [finding("missing column", "", file.name, name) for name in absent]
    if "image" in absent:
        return {}
    has_case = not lenient or any(_cell(row, names.get("case_id", "")).strip() for row in table)
    rows: Rows = {split: [] for split in SPLITS}
    for number, row in enumerate(table):
        cells = {name: _cell(row, names.get(name, name)) for name in REQUIRED}
        where = f"{file.name}, {row_location(file, number, row.line)}"
        findings += _odd_cells({name: row.get(column) for name, column in names.items()}, where)
        split = _split(cells["split"], where, findings, lenient=lenient, absent="split" in absent)
        record = _record(
            root, where, number, cells, findings, split, absent=absent, has_case=has_case
        )
        if record is not None:
            rows.setdefault(split, []).append(record)
    return rows


def _odd_cells(row: Mapping[str, object], where: str) -> list[Finding]:
    """Cells of the wrong type, and a spacing that is none."""
    told = [
        f"{name}={row[name]!r} is not one string"
        for name in ("image", "mask", "text")
        if isinstance(row.get(name), (list, dict, float, int))
    ]
    spacing = row.get("spacing")
    if spacing not in (None, "") and spacing_of(spacing) is None:
        told.append(f"spacing={spacing!r} is not one or two positive numbers")
    return [finding("invalid row", "", where, detail) for detail in told]


def _split(
    written: str, where: str, findings: list[Finding], *, lenient: bool, absent: bool
) -> str:
    plain = split_name(written)
    if not plain and (lenient or absent):
        return UNSPLIT
    if plain not in SPLITS and not (lenient and plain == PREDICT):
        findings.append(finding("invalid split name", "", where, f"split={written!r}"))
        return UNSPLIT
    return plain


def _record(
    root: Path,
    where: str,
    number: int,
    cells: dict[str, str],
    findings: list[Finding],
    split: str,
    *,
    absent: Sequence[str],
    has_case: bool,
) -> Record | None:
    """A row of which at least the image is named, below root; its text may be empty."""
    needed = ["image"] if split in (PREDICT, UNSPLIT) else ["image", "mask"]
    if has_case:
        needed.append("case_id")
    for name in needed:
        if name not in absent and not cells[name].strip():
            findings.append(finding("invalid row", split, where, f"{name!r} is empty"))
    if not cells["image"].strip():
        return None
    try:
        image = resolve_inside(root, cells["image"], where)
        mask = resolve_inside(root, cells["mask"], where) if cells["mask"].strip() else None
    except UserError as error:
        findings.append(_no_path(error, split, where))
        return None
    case = case_name(image, number)
    return Record(image, mask, cells["text"], case, cells["case_id"].strip(), number)


def _no_path(error: UserError, split: str, where: str) -> Finding:
    """What `resolve_inside` says of an entry."""
    cause, _, remedy = str(error).partition("\n")
    kind = "invalid row" if isinstance(error, FileNameError) else "outside root"
    return finding(kind, split, where, cause.removeprefix(f"{where}: "), suggestion=remedy)


# --- caption tables ----------------------------------------------------------------------------


def _from_tables(
    datamodule: QaTaCov19DataModule | MosMedDataModule,
    root: Path,
    captions: Path | None,
    findings: list[Finding],
) -> Rows:
    qata = isinstance(datamodule, QaTaCov19DataModule)
    layouts = qata_layouts if qata else mosmed_layouts
    layout: Layout = layouts.find_layout(root, datamodule.layout)
    tables: Parts = {split: [] for split in SPLITS}
    for split, file in _table_files(layouts, root, layout, captions):
        for caption in _captions(root, file, findings):
            tables.setdefault(split or caption.split or "train", []).append(caption)
    parts = tables
    if qata and datamodule.split in ("first80", "subject"):
        divide = first80 if datamodule.split == "first80" else by_subject
        parts = {**divide(pooled(tables)), "test": tables["test"]}
    rows: Rows = {}
    for split in SPLITS:
        near = (split, *(other for other in SPLITS if other != split))
        if qata:  # whose folders of one and the other set are not searched for each other's files
            near = ("test",) if split == "test" else ("train", "val")
        prefix, case_id = ("mask_", subject) if qata else ("", study)
        index = FileIndex(layout, near, mask_prefix=prefix, case_id=case_id)
        rows[split] = [index.record(caption) for caption in parts[split]]
    return rows


def _table_files(
    layouts: ModuleType, root: Path, layout: Layout, captions: Path | None
) -> list[tuple[str, Path]]:
    """The tables, each with its split, "" where the table names it."""
    if captions is not None and captions.is_file():
        return [("", captions)]
    found = []
    for split, stems in layouts.TABLES.splits.items():
        places = [root, layout.base] if captions is None else [captions]
        file = named_table(table_folders(places), stems)
        if file is None and captions is None and split in layout.splits:
            own = layout.splits[split].images.parent
            file = named_table(table_folders([own]), (*stems, "text_alpha"))
        if file is not None:
            found.append((split, file))
    return found


def _captions(root: Path, file: Path, findings: list[Finding]) -> list[Caption]:
    table = _rows(file, findings)
    if not table:
        return []
    image = next((c for c in table[0] if c.casefold() in IMAGE_COLUMNS), None)
    text = next((c for c in table[0] if c.casefold() in TEXT_COLUMNS), None)
    for column, what in ((image, "an image column"), (text, "a text column")):
        if column is None:
            findings.append(finding("missing column", "", file.name, what))
    captions = []
    for number, row in enumerate(table):
        where = f"{file.name}, {row_location(file, number, row.line)}"
        name = "" if image is None else _cell(row, image)
        if image is not None and not name.strip():
            findings.append(finding("invalid row", "", where, f"{image!r} is empty"))
        if not name.strip():
            continue
        try:
            resolve_inside(root, name, where, spare=ADDED_TO_NAMES)
        except UserError as error:
            findings.append(_no_path(error, "", where))
            continue
        words = "" if text is None else _cell(row, text)
        captions.append(Caption(name, words, number, split_name(_cell(row, "split"))))
    return captions


def _rows(file: Path, findings: list[Finding]) -> list[Row]:
    try:
        return read_rows(file)
    except UserError as error:
        cause, _, remedy = str(error).partition("\n")
        findings.append(finding("unreadable table", "", file.name, cause, suggestion=remedy))
        return []


def _cell(row: Row, column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value)
