"""A small scan with a bright block in it, written as NIfTI and DICOM in many ways.

The block lies at the patient's left, in front, and low, so that each axis' direction shows.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from nibabel.orientations import axcodes2ornt, ornt_transform
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SHAPE = (40, 32, 6)  # voxels to the patient's right, anterior and superior
SPACING = (0.8, 1.2, 5.0)  # mm
ORIGIN = (-12.0, 7.0, 100.0)
ORIENTATIONS = ("RAS", "LPS", "LAS", "PIR")
BLOCK = (slice(5, 15), slice(18, 28), slice(1, 4))
SLOPE, INTERCEPT = 2.0, -1024.0

# What a hospital's file says of the patient beyond what is needed to file it.
PRIVATE = {
    "PatientAge": "061Y",
    "PatientWeight": "71.25",
    "PatientAddress": "Elm Street 1",
    "OtherPatientIDs": "ID-OTHER",
    "PatientComments": "a comment",
    "ReferringPhysicianName": "Referrer^Rita",
    "PerformingPhysicianName": "Performer^Paul",
    "OperatorsName": "Operator^Olga",
    "InstitutionName": "Hospital of Somewhere",
    "StationName": "CT-3",
    "DeviceSerialNumber": "SN-12345",
    "StudyDescription": "Abdomen of a person",
    "EthnicGroup": "a group",
    "AdditionalPatientHistory": "a history",
}
PATIENT = {
    "PatientID": "P-001",
    "PatientName": "Müller^Jörg",
    "PatientBirthDate": "19600102",
    "PatientSex": "M",
    "StudyInstanceUID": "1.2.3.4",
    "StudyID": "S1",
    "StudyDate": "20200304",
    "StudyTime": "101112",
    "AccessionNumber": "A-77",
}


def scan_values(seed: int = 0) -> np.ndarray:
    """Hounsfield units [X, Y, Z] int16, even as the slope of the DICOM files needs it."""
    values = np.random.default_rng(seed).integers(-60, 60, SHAPE, dtype=np.int16) * 2
    values[BLOCK] = 200
    return values


def block() -> np.ndarray:
    """The block as labels, [X, Y, Z] uint8."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[BLOCK] = 1
    return labels


def ras_affine() -> np.ndarray:
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = ORIGIN
    return affine


def write_nifti(path: Path, values: np.ndarray, codes: str = "RAS") -> Path:
    """A canonical volume, stored with its axes in the direction of `codes`."""
    image = nibabel.Nifti1Image(values, ras_affine())
    image = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes)))
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    image.header["descrip"] = b"of patient P-001"
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def write_series(folder: Path, values: np.ndarray, *, rising: bool = False, **more: Any) -> Path:
    """An axial DICOM series as scanners store it, from head to feet unless it is `rising`."""
    folder.mkdir(parents=True, exist_ok=True)
    x, y, z = values.shape
    series = f"1.2.3.{zlib.crc32(folder.name.encode())}"
    order = range(z) if rising else range(z - 1, -1, -1)
    for number, k in enumerate(order, start=1):
        # Rows run to posterior, columns to the patient's left; LPS is the negative of RAS.
        picture = values[::-1, ::-1, k].T
        right, anterior = (
            o + (n - 1) * s for o, n, s in zip(ORIGIN, (x, y), SPACING, strict=False)
        )
        dataset = header(number, series, picture, **more)
        dataset.ImagePositionPatient = [-right, -anterior, ORIGIN[2] + SPACING[2] * k]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.save_as(folder / f"IM{number:04d}", enforce_file_format=True)
    return folder


def header(number: int, series: str, picture: np.ndarray, **more: Any) -> pydicom.Dataset:
    """One DICOM file of stored values: Hounsfield units = SLOPE * stored + INTERCEPT."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{series}.{number}"
    dataset.SeriesInstanceUID = series
    dataset.FrameOfReferenceUID = "1.2.3.4.5"
    dataset.Modality = "CT"
    dataset.InstanceNumber = number
    dataset.Rows, dataset.Columns = picture.shape
    dataset.PixelSpacing = [SPACING[1], SPACING[0]]
    dataset.SliceThickness = SPACING[2]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = SLOPE, INTERCEPT
    stored = (picture.astype(np.float64) - INTERCEPT) / SLOPE
    dataset.PixelData = stored.astype(np.int16).tobytes()
    for keyword, value in {**PATIENT, **PRIVATE, **more}.items():
        setattr(dataset, keyword, value)
    return dataset
