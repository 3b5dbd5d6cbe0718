"""Breast MRI phantoms in MAMA-MIA's layout of Duke-Breast-Cancer-MRI, with its sheets.

GE and Siemens take turns: they store the array in different directions, as the header says, and
every second pair of patients has its slices from head to foot.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from datamodules.duke_breast_mri.breast import (
    Anatomy,
    Patient,
    draw_anatomy,
    draw_patient,
    spacing,
)
from datamodules.duke_breast_mri.sheet_headers import (
    CLINICAL_CODES,
    CLINICAL_COLUMNS,
    CLINICAL_GROUPS,
    MAMAMIA_COLUMNS,
)
from datamodules.phantoms.common import check_counts, new_folder, random_stream, write_table
from textseg.errors import UserError

Array = NDArray[Any]
FEWEST_SLICES = 8  # of 120 mm; a tumor is at least 25 mm high
SUBTYPES = ("luminal", "her2_enriched", "her2_pure", "triple_negative")
GRADES = {1: "low", 2: "intermediate", 3: "high"}


class _Stored(NamedTuple):
    """How a patient's slices lie on disk.

    Args:
        orientation: DICOM's ImageOrientationPatient, six numbers.
        corner: LPS mm of the first voxel of the first slice.
        step: mm from a slice to the next along z, negative where they run from head to foot.
    """

    orientation: tuple[int, ...]
    corner: tuple[float, float, float]
    step: float


def write_duke_mamamia(
    folder: Path, *, cases: int, image_size: int = 64, slices: int = 12, seed: int = 0
) -> None:
    """Write breast MRI phantoms in MAMA-MIA's layout, with TCIA's clinical sheet beside it.

    Volumes are `images/DUKE_001/duke_001_0000.nii.gz` (before contrast; 0001 and on after it, two
    to four times) and `segmentations/{expert,automatic}/duke_001.nii.gz` (0 and 1), boxes of the
    breast `patient_info_files/duke_001.json`. `clinical_and_imaging_info.xlsx` also lists a patient
    of another study, and `train_test_splits.csv` gives every fourth patient to test.
    `Clinical_and_Other_Features.xlsx` has the position that MAMA-MIA leaves out.

    Args:
        folder: a new or empty folder.
        cases: patients.
        image_size: rows and columns of a slice.
        slices: of a volume; they always span 120 mm.
        seed: the same seed writes the same volumes and tables.

    Raises:
        UserError: the folder is not empty, or a number is out of range.
    """
    check_volumes(image_size, seed, cases=cases, slices=slices)
    folder = new_folder(folder)
    patients = _patients(seed, cases)
    for name in ("images", "segmentations/expert", "segmentations/automatic", "patient_info_files"):
        (folder / name).mkdir(parents=True)
    for patient in tqdm(patients, "MAMA-MIA", delay=2, unit="patient"):
        shape = (image_size, image_size, slices)
        drawn = draw_anatomy(_pixels(seed, patient), patient, shape, 3 + patient.number % 3)
        _write_nifti(folder, patient, drawn)
    _write_clinical(folder, patients)
    _write_imaging_info(folder, patients, (image_size, image_size, slices))
    names = [f"DUKE_{patient.number:03d}" for patient in patients]
    train = [name for index, name in enumerate(names) if index % 4 != 3]
    test = [name for index, name in enumerate(names) if index % 4 == 3]
    rows = zip_longest(train, test, fillvalue="")
    write_table(folder / "train_test_splits.csv", ("train_split", "test_split"), rows)


def check_volumes(image_size: int, seed: int, *, cases: int, slices: int) -> None:
    """Check the numbers that volumes are to be written from.

    Raises:
        UserError: a number is out of range.
    """
    if cases < 1:
        raise UserError(f"cases={cases}", "ask for at least one case")
    if slices < FEWEST_SLICES:
        raise UserError(
            f"slices={slices} is too few to show every lesion", f"choose at least {FEWEST_SLICES}"
        )
    check_counts(image_size, seed, train=cases)


def _patients(seed: int, cases: int) -> list[Patient]:
    return [draw_patient(random_stream(seed, 0, index, 7), index + 1) for index in range(cases)]


def _pixels(seed: int, patient: Patient) -> np.random.Generator:
    return random_stream(seed, 0, patient.number - 1, 8)


def _name(patient: Patient) -> str:
    return f"Breast_MRI_{patient.number:03d}"


# --- how slices are stored


def _stored(patient: Patient, shape: Sequence[int]) -> _Stored:
    """GE's rows start at the patient's left back, Siemens' at the right front."""
    steps = spacing(shape)
    reach = [(n - 1) / 2 * step for n, step in zip(shape, steps, strict=True)]
    sign = 1 if patient.maker == "ge" else -1
    down = patient.downward
    bottom, top = patient.table - reach[2], patient.table + reach[2]
    return _Stored(
        orientation=(-sign, 0, 0, 0, -sign, 0),
        corner=(sign * reach[0], sign * reach[1], top if down else bottom),
        step=-steps[2] if down else steps[2],
    )


def _raw(patient: Patient, values: Array) -> Array:
    """[X, Y, Z] on the canonical grid as [rows, columns, slices] as stored."""
    if patient.maker == "siemens":
        values = values[::-1, ::-1]
    return values.transpose(1, 0, 2)[..., :: -1 if patient.downward else 1]


def _bounds(mask: Array) -> tuple[Array, Array]:
    """First index of the mask along each axis, and the one after the last."""
    indices = np.argwhere(mask)
    return indices.min(axis=0), indices.max(axis=0) + 1


# --- MAMA-MIA


def _write_nifti(folder: Path, patient: Patient, drawn: Anatomy) -> None:
    """Volumes [columns, rows, slices] as stored, with the affine that says so, and the box."""
    shape = drawn.tumor.shape
    stored, steps = _stored(patient, shape), spacing(shape)
    affine = np.diag([-steps[0], -steps[1], stored.step, 1.0])  # DICOM's x and y are -RAS
    affine[0, 0] *= stored.orientation[0]
    affine[1, 1] *= stored.orientation[4]
    affine[:3, 3] = np.multiply(stored.corner, (-1, -1, 1))

    def save(values: Array, file: str) -> None:
        image = nibabel.Nifti1Image(_raw(patient, values).transpose(1, 0, 2), affine)
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        nibabel.save(image, folder / file)

    upper, lower = f"DUKE_{patient.number:03d}", f"duke_{patient.number:03d}"
    (folder / "images" / upper).mkdir()
    for number, values in enumerate(drawn.phases):
        save(values, f"images/{upper}/{lower}_{number:04d}.nii.gz")
    save(drawn.tumor.astype(np.uint8), f"segmentations/expert/{lower}.nii.gz")
    save(drawn.wide.astype(np.uint8), f"segmentations/automatic/{lower}.nii.gz")
    first, last = _bounds(_raw(patient, drawn.breast))
    limits = dict(zip("yzx", zip(first.tolist(), last.tolist(), strict=True), strict=True))
    box = {
        f"{axis}_{end}": limits[axis][n] for axis in "xyz" for n, end in enumerate(("min", "max"))
    }
    info = {"patient_id": upper, "primary_lesion": {"breast_coordinates": box}}
    path = folder / "patient_info_files" / f"{lower}.json"
    path.write_text(json.dumps(info, indent=4) + "\n", encoding="utf-8")


def _write_imaging_info(folder: Path, patients: list[Patient], shape: Sequence[int]) -> None:
    """`clinical_and_imaging_info.xlsx`; what is not known is left blank, as there."""
    steps = spacing(shape)
    rows: list[dict[str, object]] = []
    for patient in patients:
        known = patient.location != ""
        rows.append(
            {
                "patient_id": f"DUKE_{patient.number:03d}",
                "dataset": "DUKE",
                "bilateral_breast_cancer": int(patient.bilateral),
                "multifocal_cancer": int(patient.multifocal),
                "nottingham_grade": GRADES[patient.grade] if known else None,
                "tumor_subtype": SUBTYPES[patient.subtype],
                "view": "axial",
                "bilateral_mri": 1,
                "num_phases": 3 + patient.number % 3,
                "fat_suppressed": 1,
                "field_strength": 3 if patient.maker == "ge" else 1.5,
                "image_rows": shape[1],
                "image_columns": shape[0],
                "num_slices": shape[2],
                "pixel_spacing": str([steps[1], steps[0]]),
                "slice_thickness": steps[2],
                "manufacturer": patient.maker.upper(),
            }
        )
    rows.append({"patient_id": "ISPY1_1001", "dataset": "ISPY1", "tumor_subtype": "luminal"})
    table = [MAMAMIA_COLUMNS, *([row.get(c) for c in MAMAMIA_COLUMNS] for row in rows)]
    legend = [("Field", "Description", "Options"), ("dataset", "Source", "DUKE\xa0")]
    _save_sheets(
        folder / "clinical_and_imaging_info.xlsx", {"dataset_info": table, "legend": legend}
    )


# --- sheets


def _write_clinical(folder: Path, patients: list[Patient]) -> None:
    """`Clinical_and_Other_Features.xlsx` with its three header rows.

    "NC" stands where nothing was collected: for every fourth patient, the side too.
    """
    width = range(len(CLINICAL_COLUMNS))
    rows: list[Iterable[object]] = [
        [CLINICAL_GROUPS.get(column) for column in width],
        CLINICAL_COLUMNS,
        [CLINICAL_CODES.get(column) for column in width],
    ]
    for patient in patients:
        cells = _clinical_cells(patient)
        rows.append([cells.get(column, "NC") for column in width])
    legend: list[Iterable[object]] = [
        ("ABBREVIATION LEGEND", None, None, "COLUMN MEANING"),
        ("Abbr", "Meaning"),
    ]
    sheets = {"Data": rows, "Legend": legend, "Column Explanations": rows[:2]}
    _save_sheets(folder / "Clinical_and_Other_Features.xlsx", sheets)


def _clinical_cells(patient: Patient) -> dict[int, object]:
    """Cells by column number."""
    known = patient.location != ""
    other = {"L": "R", "R": "L"}[patient.location] if known else None
    siemens = patient.maker == "siemens"
    cells: dict[int, object] = {
        0: _name(patient),
        2: 2 if siemens else 0,
        5: 1 if siemens else 3,
        14: 1 if siemens else 2,
        15: 1 if siemens else 2,
        23: int(patient.subtype < 2),
        24: int(patient.subtype < 2),
        25: int(patient.subtype in (1, 2)),
        26: patient.subtype,
        34: patient.grade if known else None,
        35: 1 if known else None,
        36: patient.location or None,
        37: patient.position,
        38: int(patient.bilateral) if known else "NC",
        48: int(patient.multifocal),
        49: int(patient.bilateral),
    }
    if known:
        cells |= dict.fromkeys(range(39, 48), "NP")
    if patient.bilateral:
        cells |= {39: 0, 40: patient.side, 41: other, 43: patient.grade, 47: patient.subtype}
    return cells


def _save_sheets(path: Path, sheets: Mapping[str, Sequence[Iterable[object]]]) -> None:
    """A workbook of sheets by title; None is a blank cell."""
    with pd.ExcelWriter(path, engine="openpyxl") as book:
        for title, rows in sheets.items():
            cells = pd.DataFrame([list(row) for row in rows], dtype=object)
            cells.to_excel(book, sheet_name=title, header=False, index=False)
