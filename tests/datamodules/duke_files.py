"""Tiny Duke releases: volumes stored in any direction, and the sheets with their odd headers.

Written with nibabel, pydicom and openpyxl directly, so that what the suite reads is compared with
another's idea of directions. Tumors are placed in the patient: x in mm grows to the right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import openpyxl
import pydicom
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from datamodules.duke_breast_mri.datamodule import DukeBreastMRIDataModule
from datamodules.records import Record

SHAPE = (24, 20, 6)  # voxels to the right, to anterior and upwards
SPACING = (1.5, 2.0, 3.0)  # mm
TUMOR_SLICES = (2, 3, 4)
GE, SIEMENS = (-1, 0, 0, 0, -1, 0), (1, 0, 0, 0, 1, 0)  # ImageOrientationPatient


@dataclass(frozen=True)
class Patient:
    """A patient with one tumor; `stored` are nibabel's letters of the array's axes."""

    number: int
    side: str = "left"
    position: str = "L 9 medial"
    stored: str = "RAS"
    orientation: tuple[int, ...] = SIEMENS
    upwards: bool = True  # DICOM files are numbered from the feet

    @property
    def duke(self) -> str:
        return f"DUKE_{self.number:03d}"

    @property
    def tcia(self) -> str:
        return f"Breast_MRI_{self.number:03d}"


# By `patient_split`: 1, 3, 5 and 6 train, 4 and 13 validate, 2 and 7 test.
PATIENTS = [
    Patient(1, "left", "L 9 medial", "RAS"),
    Patient(2, "right", "R 10", "LPS"),
    Patient(3, "right", "R upper outer quadrant", "LAS"),
    Patient(4, "left", "L", "RPI"),
    Patient(5, "left", "L 2-3", "LPI"),
    Patient(6, "right", "R subareolar", "SAR"),
    Patient(7, "left", "L 6", "PIL"),
    Patient(13, "right", "R 2:30", "LPS"),
]
SCANNERS = [
    Patient(1, "left", "L 9 medial", orientation=GE),
    Patient(2, "right", "R 10", orientation=GE),
    Patient(3, "left", "L 4", orientation=SIEMENS, upwards=False),
    Patient(4, "right", "R", orientation=GE, upwards=False),
    Patient(5, "right", "R 7", orientation=SIEMENS),
]


def volume(patient: Patient, phase: str) -> NDArray[np.int16]:
    """[right, anterior, up]: noise, and a block that is bright after contrast."""
    noise = np.random.default_rng(patient.number).integers(50, 60, SHAPE)
    noise[tumor(patient)] = {"pre": 70, "post1": 200}.get(phase, 150)
    return noise.astype(np.int16)


def tumor(patient: Patient) -> NDArray[np.bool_]:
    """[right, anterior, up]: a block 3 voxels wide, off the middle in every direction."""
    mask = np.zeros(SHAPE, dtype=bool)
    x = slice(17, 20) if patient.side == "right" else slice(4, 7)
    mask[x, 12:16, TUMOR_SLICES[0] : TUMOR_SLICES[-1] + 1] = True
    return mask


# --- MAMA-MIA


def save_nifti(values: NDArray[Any], file: Path, stored: str) -> None:
    """An array [right, anterior, up], stored along other directions with an affine that says so."""
    image = nibabel.Nifti1Image(values, np.diag([*SPACING, 1.0]))
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(stored)))
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image.as_reoriented(turn), file)


def write_mamamia(root: Path, patients: Sequence[Patient], *, clinical: bool = True) -> Path:
    for patient in patients:
        name = patient.duke.lower()
        for number, phase in enumerate(("pre", "post1", "post2")):
            file = root / "images" / patient.duke / f"{name}_{number:04d}.nii.gz"
            save_nifti(volume(patient, phase), file, patient.stored)
        mask = tumor(patient).astype(np.uint8)
        save_nifti(mask, root / "segmentations" / "expert" / f"{name}.nii.gz", patient.stored)
        wrong = np.roll(mask, 3, axis=1)
        save_nifti(wrong, root / "segmentations" / "automatic" / f"{name}.nii.gz", patient.stored)
    write_info(root / "clinical_and_imaging_info.xlsx", patients)
    if clinical:
        write_clinical(root / "Clinical_and_Other_Features.xlsx", patients)
    return root


def write_info(file: Path, patients: Sequence[Patient], sheet: str = "dataset_info") -> None:
    header = [
        *("patient_id", "dataset", "bilateral_breast_cancer", "multifocal_cancer"),
        *("nottingham_grade", "tumor_subtype"),
    ]
    rows = [[p.duke, "DUKE", 0, 1, "high", "triple_negative"] for p in patients]
    write_book(file, {sheet: [header, *rows, ["ISPY1_1001", "ISPY1", None, None, None, "luminal"]]})


# --- TCIA


def raw(values: NDArray[Any], patient: Patient) -> NDArray[Any]:
    """[right, anterior, up] as the scanner stores it: [rows, columns, slices]."""
    rows_first = values.transpose(1, 0, 2)  # [anterior, right, up]
    if patient.orientation == SIEMENS:  # rows run to posterior, columns to the left
        rows_first = rows_first[::-1, ::-1]
    return rows_first if patient.upwards else rows_first[:, :, ::-1]


def box(patient: Patient) -> list[int]:
    """Start and end of rows, columns (from 0) and slices (from 1); ends exclusive."""
    spans = [np.flatnonzero(raw(tumor(patient), patient).any(axis=a)) for a in ((1, 2), (0, 2))]
    slices = np.flatnonzero(raw(tumor(patient), patient).any(axis=(0, 1))) + 1
    return [int(end) for span in [*spans, slices] for end in (span[0], span[-1] + 1)]


def write_series(folder: Path, patient: Patient, phase: str, *, skip: int | None = None) -> None:
    """Files 1-001.dcm, ...; `skip` leaves out one number."""
    folder.mkdir(parents=True)
    values = raw(volume(patient, phase), patient)
    uid = generate_uid(entropy_srcs=[patient.tcia, phase])
    x = -1.5 * (SHAPE[0] - 1) if patient.orientation == SIEMENS else 0.0
    y = -2.0 * (SHAPE[1] - 1) if patient.orientation == SIEMENS else 0.0
    for index in range(values.shape[2]):
        if index + 1 == skip:
            continue
        z = 3.0 * (index if patient.upwards else values.shape[2] - 1 - index)
        data = pydicom.Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        data.SOPInstanceUID = generate_uid(entropy_srcs=[uid, str(index)])
        data.Modality, data.SeriesInstanceUID, data.InstanceNumber = "MR", uid, index + 1
        data.Rows, data.Columns = values.shape[:2]
        data.PixelSpacing = [SPACING[1], SPACING[0]]
        data.ImageOrientationPatient = list(patient.orientation)
        data.ImagePositionPatient = [x, y, z]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 0
        data.PixelData = np.ascontiguousarray(values[:, :, index]).astype("<u2").tobytes()
        data.save_as(folder / f"1-{index + 1:03d}.dcm", enforce_file_format=True)


def write_tcia(root: Path, patients: Sequence[Patient], *, skip: int | None = None) -> Path:
    """The classic tree; `skip` leaves a slice out of every series of post_1."""
    mapping: list[list[object]] = [
        ["original_path_and_filename", "classic_path", "descriptive_path"]
    ]
    for patient in patients:
        for series, phase in enumerate(("pre", "post_1", "post_2")):
            study = f"1.3.6.{patient.number}"
            folder = f"Duke-Breast-Cancer-MRI/{patient.tcia}/{study}/{study}.{series}"
            gap = skip if phase == "post_1" else None
            write_series(root / "manifest-1654" / folder, patient, phase.replace("_", ""), skip=gap)
            original = f"DICOM_Images/{patient.tcia}/{phase}/{patient.tcia}_{phase}_001.dcm"
            told = f"Duke-Breast-Cancer-MRI/BreastMRI{patient.number:03d}/01-01-1990-NA-MRI-9"
            described = f"{told}/{series}.000000-Ph{series}/ax dyn-0//1-0001.dcm"
            mapping.append([original, f"{folder}//1-0001.dcm", described])
    write_book(root / "Breast-Cancer-MRI-filepath_filename-mapping.xlsx", {"Sheet1": mapping})
    write_boxes(root / "Annotation_Boxes.xlsx", patients)
    write_clinical(root / "Clinical_and_Other_Features.xlsx", patients)
    return root


def write_boxes(file: Path, patients: Sequence[Patient], **extra: list[list[object]]) -> None:
    header = ["Patient ID", *(f"{e} {a}" for a in ("Row", "Column", "Slice") for e in _ENDS)]
    rows: list[list[object]] = [[p.tcia, *box(p)] for p in patients]
    write_book(file, {"Sheet1": [header, *rows], **extra})


_ENDS = ("Start", "End")


# --- sheets

# Names and legends as in TCIA's workbook, of which this is every tenth column or so.
CLINICAL = (
    ("Patient ID", None),
    ("Slice Thickness ", "0.9=0,0.95=1"),
    ("Mol Subtype", "{0 = luminal-like,\n1 = ER/PR pos, HER2 pos,\n2 = her2,\n3 = trip neg}"),
    (None, "Tumor Grade(M)\n(Mitotic)"),
    ("Nottingham grade", "1=low 2=intermediate 3=high\n"),
    ("Tumor Location", "Side of cancer L=left R=right"),
    ("Position", "Position (every bx positive for invasive cancer)"),
    ("Bilateral Information", "Bilateral breast cancer?\n{ 0=no 1=yes}"),
    (None, "Side Annotated\n{L=left R=right}"),
    ("For Other Side If Bilateral", "Side of cancer (for the other side)\n{L=left, R=right}"),
    (None, "Nottingham grade (for the other side){#}"),
    (None, "Mol Subtype (for the other side)\n{0 = luminal-like,\n1 = ER/PR pos, HER2 pos}"),
    ("Multicentric/Multifocal", "{0 = no, 1 = yes}"),
)


def clinical_row(patient: str, **values: object) -> list[object]:
    """One patient's cells; a column is named by the beginning of its name or legend."""
    defaults: dict[str, object] = {
        "Patient ID": patient,
        "Bilateral": "NC",
        "Side Annotated": "NC",
        "Nottingham grade": 2,
        "Mol Subtype": 0,
        "Multicentric": 0,
    }
    given = {**defaults, **{key.replace("_", " "): value for key, value in values.items()}}
    return [
        next((v for key, v in given.items() if str(name or legend).startswith(key)), "NP")
        if name or not str(legend).startswith(("Nott", "Mol"))
        else values.get("other_grade" if str(legend).startswith("Nott") else "other_subtype", "NP")
        for name, legend in CLINICAL
    ]


def write_clinical(file: Path, patients: Sequence[Patient]) -> None:
    write_clinical_rows(
        file,
        [
            clinical_row(p.tcia, Tumor_Location=p.side[0].upper(), Position=p.position)
            for p in patients
        ],
    )


def write_clinical_rows(file: Path, rows: Sequence[list[object]], sheet: str = "Data") -> None:
    groups: list[object] = ["Patient Information", "MRI", "Tumor Characteristics"]
    names, legends = ([column[i] for column in CLINICAL] for i in (0, 1))
    write_book(file, {sheet: [groups, names, legends, *rows], "Legend": [["Abbr", "Meaning"]]})


def write_book(file: Path, sheets: dict[str, list[list[object]]]) -> None:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(file)


# --- reading


def make(root: Path, **settings: Any) -> DukeBreastMRIDataModule:
    defaults = {"image_size": 32, "batch_size": 3, "num_workers": 0}
    defaults["cache"] = str(root.parent / f"{root.name}-cache")
    return DukeBreastMRIDataModule(str(root), **{**defaults, **settings})


def records(datamodule: DukeBreastMRIDataModule) -> list[Record]:
    datamodule.setup()
    return [r for split in ("train", "val", "test") for r in datamodule.records(split)]


def picture(path: Path | None) -> NDArray[np.uint8]:
    assert path is not None
    return np.asarray(Image.open(path))


def picture_side(mask: NDArray[np.uint8]) -> str:
    """The half of the picture that holds the mask's middle."""
    return "left" if np.nonzero(mask)[1].mean() < (mask.shape[1] - 1) / 2 else "right"


def text_side(text: str) -> str:
    found = re.match(r"(left|right) breast\b", text.lower())
    assert found, text
    return found[1]
