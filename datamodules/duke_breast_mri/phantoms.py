"""Breast MRI phantoms in MAMA-MIA's layout of Duke-Breast-Cancer-MRI, with its sheets.

GE and Siemens take turns: they store the array in different directions, as the header says, and
every second pair of patients has its slices from head to foot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.duke_breast_mri.breast import (
    Array,
    Patient,
    draw_anatomy,
    draw_patient,
    spacing,
)
from datamodules.phantoms.common import check_counts, new_folder, random_stream, write_table
from textseg.errors import check_at_least

FEWEST_SLICES = 8  # of 120 mm; a tumor is at least 25 mm high
SUBTYPES = ("luminal", "her2_enriched", "her2_pure", "triple_negative")
GRADES = {1: "low", 2: "intermediate", 3: "high"}

# Columns of TCIA's clinical sheet as published: the three rows of their header, odd names and
# spaces included. The real sheet has 98; these are what captions need, and the manufacturer.
CLINICAL_COLUMNS = (
    ("Patient Information", "Patient ID", None),
    (
        "MRI Technical Information",
        "Manufacturer",
        "GE MEDICAL SYSTEMS=0, MPTronic software=1, SIEMENS=2",
    ),
    (
        "Tumor Characteristics",
        "Mol Subtype",
        "{0 = luminal-like,\n1 = ER/PR pos, HER2 pos,\n2 = her2,\n3 = trip neg}",
    ),
    (None, "Nottingham grade", "1=low 2=intermediate 3=high\n"),
    (None, "Tumor Location", "Side of cancer L=left R=right"),
    (None, "Position", "Position (every bx positive for invasive cancer)(used during annotation)"),
    (None, "Bilateral Information", "Bilateral breast cancer?\n{ 0=no 1=yes}"),
    (None, None, "Side Annotated\n{L=left R=right}"),
    (None, "For Other Side If Bilateral", "Side of cancer (for the other side)\n{L=left, R=right}"),
    (None, None, "Nottingham grade (for the other side){#}"),
    (
        None,
        None,
        "Mol Subtype (for the other side)\n{0 = luminal-like, 1 = ER/PR pos, HER2 pos, 2 = her2,\n"
        "3 = trip neg}",
    ),
    ("MRI Findings", "Multicentric/Multifocal", "{0 = no, 1 = yes}"),
)


def write_duke_mamamia(
    folder: Path, *, cases: int, image_size: int = 64, slices: int = 12, seed: int = 0
) -> None:
    """Write breast MRI phantoms in MAMA-MIA's layout, with TCIA's clinical sheet beside it.

    Volumes are `images/DUKE_001/duke_001_0000.nii.gz` (before contrast; 0001 and on after it, two
    to four times) and `segmentations/expert/duke_001.nii.gz` (0 and 1).
    `clinical_and_imaging_info.xlsx` also lists a patient of another study, and
    `train_test_splits.csv` gives every fourth patient to test. `Clinical_and_Other_Features.xlsx`
    has the position that MAMA-MIA leaves out. `cases` is the number of patients, `image_size` the
    side of a slice in pixels, `slices` the number in a volume, which always spans 120 mm. The same
    seed writes the same volumes and tables.

    Raises:
        UserError: the folder is not empty, or a number is out of range.
    """
    check_at_least("slices", slices, FEWEST_SLICES)
    check_counts(image_size, seed, train=cases)
    folder = new_folder(folder, "images", "segmentations/expert")
    patients = [draw_patient(random_stream(seed, 0, n, 7), n + 1) for n in range(cases)]
    shape = (image_size, image_size, slices)
    for index, patient in enumerate(tqdm(patients, "MAMA-MIA", delay=2, unit="patient")):
        phases, tumor = draw_anatomy(random_stream(seed, 0, index, 8), patient, shape)
        _write_volumes(folder, patient, phases, tumor)
    _write_clinical(folder, patients)
    _write_imaging_info(folder, patients)
    names = [_name(patient) for patient in patients]
    train = [name for index, name in enumerate(names) if index % 4 != 3]
    rows = zip_longest(train, names[3::4], fillvalue="")
    write_table(folder / "train_test_splits.csv", ("train_split", "test_split"), rows)


def _name(patient: Patient) -> str:
    return f"DUKE_{patient.number:03d}"


def _write_volumes(folder: Path, patient: Patient, phases: list[Array], tumor: Array) -> None:
    """The phases and the mask as stored: GE's rows start at the left back, Siemens' right front."""
    steps = spacing(tumor.shape)
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * step for n, step in zip(tumor.shape, steps, strict=True)]
    affine[2, 3] += patient.table
    turn, down = (-1 if flag else 1 for flag in (patient.siemens, patient.downward))
    stored = np.array([(0, turn), (1, turn), (2, down)])

    def save(values: Array, file: str) -> None:
        image = nibabel.Nifti1Image(values, affine).as_reoriented(stored)
        image.set_sform(image.affine, 1)
        image.set_qform(image.affine, 1)
        nibabel.save(image, folder / file)

    upper = _name(patient)
    lower = upper.lower()
    (folder / "images" / upper).mkdir()
    for number, values in enumerate(phases):
        save(values, f"images/{upper}/{lower}_{number:04d}.nii.gz")
    save(tumor.astype(np.uint8), f"segmentations/expert/{lower}.nii.gz")


def _write_imaging_info(folder: Path, patients: Sequence[Patient]) -> None:
    """`clinical_and_imaging_info.xlsx`, abridged; what is not known is left blank, as there."""
    rows: list[dict[str, object]] = [
        {
            "patient_id": _name(patient),
            "dataset": "DUKE",
            "bilateral_breast_cancer": int(patient.bilateral),
            "multifocal_cancer": int(patient.multifocal),
            "nottingham_grade": GRADES[patient.grade] if patient.location else None,
            "tumor_subtype": SUBTYPES[patient.subtype],
            "num_phases": patient.phases,
            "manufacturer": "SIEMENS" if patient.siemens else "GE",
        }
        for patient in patients
    ]
    rows.append({"patient_id": "ISPY1_1001", "dataset": "ISPY1", "tumor_subtype": "luminal"})
    table = [list(rows[0]), *([row.get(column) for column in rows[0]] for row in rows)]
    legend = [("Field", "Description", "Options"), ("dataset", "Source", "DUKE\xa0")]
    file = folder / "clinical_and_imaging_info.xlsx"
    _save_sheets(file, {"dataset_info": table, "legend": legend})


def _write_clinical(folder: Path, patients: Sequence[Patient]) -> None:
    """`Clinical_and_Other_Features.xlsx`, abridged, with its three header rows."""
    headers = list(zip(*CLINICAL_COLUMNS, strict=True))
    sheets: dict[str, list[Any]] = {
        "Data": [*headers, *map(_clinical_row, patients)],
        "Legend": [("Abbr", "Meaning")],
        "Column Explanations": headers[:2],
    }
    _save_sheets(folder / "Clinical_and_Other_Features.xlsx", sheets)


def _clinical_row(patient: Patient) -> list[object]:
    """Cells of `CLINICAL_COLUMNS`; of every fourth patient the side is not collected ("NC")."""
    known = patient.location != ""
    second: list[object] = ["NP" if known else "NC"] * 4
    if patient.bilateral:
        other = {"L": "R", "R": "L"}[patient.location]
        second = [patient.side, other, patient.grade, patient.subtype]
    return [
        f"Breast_MRI_{patient.number:03d}",
        2 if patient.siemens else 0,
        patient.subtype,
        patient.grade if known else None,
        patient.location or None,
        patient.position,
        int(patient.bilateral) if known else "NC",
        *second,
        int(patient.multifocal),
    ]


def _save_sheets(path: Path, sheets: Mapping[str, Sequence[Any]]) -> None:
    """A workbook of sheets by title; None is a blank cell."""
    with pd.ExcelWriter(path, engine="openpyxl") as book:
        for title, rows in sheets.items():
            cells = pd.DataFrame(rows, dtype=object)
            cells.to_excel(book, sheet_name=title, header=False, index=False)
