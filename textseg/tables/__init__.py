"""Tables of images and texts: their columns, names of files and captions; `rows` reads them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from textseg.errors import Report, UserError, raise_error
from textseg.tables.columns import (
    check_split,
    columns_of,
    find_column,
    matching_columns,
    optional_column,
    plain_column,
    refuse_misspelled,
)
from textseg.tables.rows import (
    FILL_IN,
    SPLITS,
    Row,
    parse_json,
    read_rows,
    split_name,
    workbook_rows,
)
from textseg.tables.spreadsheets import cell_text, spreadsheet_cell

__all__ = [
    "FILL_IN",
    "SPLITS",
    "Caption",
    "Row",
    "case_name",
    "cell_text",
    "check_split",
    "columns_of",
    "files_below",
    "find_column",
    "first_volume",
    "identity",
    "images_in",
    "is_dicom",
    "is_nifti",
    "masks_among",
    "match_key",
    "matching_columns",
    "nifti_stem",
    "not_images_in",
    "optional_column",
    "parse_json",
    "plain_column",
    "read_captions",
    "read_rows",
    "refuse_misspelled",
    "resolve_inside",
    "split_name",
    "spreadsheet_cell",
    "workbook_rows",
]

# Column names, compared without case: Image is one of them.
IMAGE_COLUMNS = ("image", "filename", "image_path", "original_image_filename")
TEXT_COLUMNS = ("text", "caption", "description", "sentence")
# Of the formats that `textseg.preprocess.pixel_files` opens.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".jp2"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
)
VOLUME_SUFFIXES = (".nii", ".nii.gz")
TABLE_SUFFIXES = (".csv", ".xlsx", ".jsonl", ".json")

_MASK = "(?:masks?|labels?|seg(?:mentation)?)"
_MASK_NAME = re.compile(rf"^{_MASK}[ _-]+|[ _-]+{_MASK}(?:[ _-]*\d+)?$", re.IGNORECASE)
_LONGEST_NAME = 255  # bytes, of the file systems in use
_LONGEST_PATH = 4095
_DICOM_MARK = (128, b"DICM")  # offset and bytes that a DICOM file begins with


@dataclass(frozen=True)
class Caption:
    """One row of a caption table.

    `row` counts from 0 within the table, without its empty rows; `split` is "" unless the table
    names one.
    """

    name: str
    text: str
    row: int
    split: str = ""


def match_key(name: str) -> str:
    """Reduce a file name to what an image, its mask and its caption have in common.

    Folders, case, one leading ``mask_`` and a known image extension are dropped; accents are
    composed, as they are in tables but not in the names that a Mac writes.
    """
    name = name if name.isascii() else unicodedata.normalize("NFC", name)
    base = name.strip().replace("\\", "/").rsplit("/", 1)[-1].casefold().removeprefix("mask_")
    for suffix in IMAGE_SUFFIXES:
        if base.endswith(suffix):
            return base.removesuffix(suffix)
    return base


def identity(name: str) -> str:
    """A name in the one way of writing it that Unicode has, without what is not seen of it.

    Composed and decomposed accents, full-width letters and zero-width characters so make no second
    patient of one (NFKC, without characters of the category "format").
    """
    seen = "".join(c for c in name if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFKC", seen).strip()


def images_in(folder: Path) -> list[Path]:
    """List the image files of a folder by name; "._a.png" is what a Mac leaves beside a.png."""
    listed = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in listed if path.suffix.lower() in IMAGE_SUFFIXES)


def masks_among(images: Sequence[Path]) -> list[Path]:
    """The images of a folder that are called as the mask of another: a_mask.png beside a.png."""
    stems = {image.stem.casefold() for image in images}
    return [
        image
        for image in images
        if (bare := _MASK_NAME.sub("", image.stem)) != image.stem and bare.casefold() in stems
    ]


def not_images_in(folder: Path) -> list[str]:
    """List what else a folder shows: other files, and folders, which end in /."""
    images = set(images_in(folder))
    listed = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(f"{p.name}/" if p.is_dir() else p.name for p in listed if p not in images)


def files_below(folder: Path, seen: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """The files of a folder and of the folders in it, by name; hidden ones apart.

    Args:
        folder: the folder.
        seen: the folders that it lies in, so that a link to one of them is not followed.
    """
    inside = seen | {folder.resolve()}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif path.resolve() not in inside:
            yield from files_below(path, inside)


def is_nifti(path: Path) -> bool:
    """Tell by its name whether a file is a NIfTI volume."""
    return path.name.casefold().endswith(VOLUME_SUFFIXES)


def nifti_stem(path: Path) -> str:
    """The name of a NIfTI file without .nii or .nii.gz."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM: by the mark that it begins with, or else by its name."""
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix.casefold() == ".dcm":
        return True
    offset, mark = _DICOM_MARK
    try:
        with path.open("rb") as file:
            return file.read(offset + len(mark))[offset:] == mark
    except OSError:
        return False


def first_volume(folder: Path) -> Path | None:
    """The first NIfTI or DICOM file in a folder or in folders within it, of the first thousand."""
    files = islice(files_below(folder) if folder.is_dir() else (), 1000)
    return next((file for file in files if is_nifti(file) or is_dicom(file)), None)


def case_name(image: Path, row: int) -> str:
    """Name a row ``<image stem>__<row>``, unique even where several rows share an image."""
    stem = re.sub(r"[^\w.+ -]", "_", image.stem)
    return f"{stem}__{row}"


def read_captions(
    file: Path,
    report: Report = raise_error,
    *,
    root: Path | None = None,
    spare: int = 0,
    split: str | None = None,
) -> list[Caption]:
    """Read the captions of one table, in its order.

    Args:
        file: the table.
        report: is called for every mistake: a file that cannot be read, no image or no text column
            or several that differ, an empty cell, another split than the file's. Where it returns,
            rows without an image's name are left out, and texts that are not there are "".
        root: also leave out, and report, names that `resolve_inside` refuses for this folder.
        spare: of `resolve_inside`.
        split: whose table it is; None for one that may hold all.

    Raises:
        UserError: as `report` does.
    """
    rows = read_rows(file, report)
    if not rows:
        report(UserError(f"{file} has no rows", "is it the downloaded table, complete?"))
        return []
    image = find_column(file, rows, IMAGE_COLUMNS, report)
    text = find_column(file, rows, TEXT_COLUMNS, report)
    splits = optional_column(file, rows, ("split",), report)
    captions = []
    for row in rows:
        name = "" if image is None else row.required(image, report)
        words = "" if text is None else row.required(text, report, kind="")
        if not name or (root and not resolve_inside(root, name, row, report, spare=spare)):
            continue
        if split is not None:
            check_split(row, splits, split, report)
        named = "" if splits is None else split_name(str(row.get(splits, "")))
        captions.append(Caption(name, words, row.number, named if named in SPLITS else ""))
    return captions


# --- cells -------------------------------------------------------------------------------------


def resolve_inside(
    root: Path, entry: str, row: Row, report: Report = raise_error, *, spare: int = 0
) -> Path | None:
    """Find the file that a cell names, which must lie in the dataset's own folder.

    Compared by name, so that a folder inside `root` may itself be a link to another disk.

    Args:
        root: the dataset's folder.
        entry: the cell.
        row: its row.
        report: is called for an entry outside `root`, or that no file can be called.
        spare: bytes that the name must leave for what is added to it.

    Returns:
        the path, which need not exist; None after a mistake.

    Raises:
        UserError: as `report` does.
    """
    entry = entry.strip()
    plain = entry.replace("\\", "/")
    # As strings: of thousands of rows, Path takes seconds. resolve() would also follow links.
    base = os.path.abspath(root)  # noqa: PTH100
    longest = max(map(_bytes, plain.split("/")))
    whole = _bytes(base) + 1 + _bytes(entry)
    if "\0" in entry:
        detail = f"{entry[:60]!r} holds a NUL, which no file name can"
        report(row.error(detail, "is the table damaged?"))
        return None
    if longest > _LONGEST_NAME - spare or whole > _LONGEST_PATH - spare:
        detail = f"{entry[:60]!r}... has {_bytes(entry)} bytes, too many for a file's name"
        report(row.error(detail, "have the columns of images and of texts changed places?"))
        return None
    path = os.path.abspath(os.path.join(base, plain))  # noqa: PTH100, PTH118
    below = path.startswith(os.path.join(base, ""))  # noqa: PTH118
    if re.match(r"[A-Za-z]:", entry) or not below:
        detail = f"{entry!r} lies outside root={base}"
        if path == base:
            detail = f"{entry!r} is root={base} itself, and no file"
        report(row.error(detail, "name files by their path below root", kind="outside root"))
        return None
    return Path(path)


def _bytes(name: str) -> int:
    return len(name.encode("utf-8", "surrogatepass"))
