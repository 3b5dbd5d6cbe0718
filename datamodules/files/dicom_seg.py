"""DICOM SEG: masks that refer to the DICOM files that they were drawn on.

Written by highdicom (https://github.com/ImagingDataCommons/highdicom), an optional package. It is
shown no more of the source than `COPIED`, by which an archive files the object beside its source,
and what says where the pixels lie; so nothing else of the patient can come into the new file.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom import Dataset

from datamodules.files.dicom import read_header
from datamodules.files.volumes import Array
from textseg.errors import UserError, refusing
from textseg.output import whole_file

COPIED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
)
"""The elements of the patient and the study that a SEG file has from its source."""

# What highdicom needs of each file: which it is, and where its pixels lie.
_REFERRED = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "SpecificCharacterSet"),
    *("FrameOfReferenceUID", "PositionReferenceIndicator"),
    *("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness"),
    *("SpacingBetweenSlices", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ImageType"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
# The standard wants these elements there, if empty.
_MAY_BE_EMPTY = (*COPIED[:4], *COPIED[5:], "ReferringPhysicianName", "SliceThickness")
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
_LONGEST_LABEL = 64  # characters
_SERIES_NUMBER = 1000  # above those of scanners
_SOFTWARE = "textseg"


class SegmentText(NamedTuple):
    """What a SEG file says of its masks.

    Args:
        label: what was looked for.
        network: that found it.
        version: of the software.
    """

    label: str
    network: str
    version: str


def require_highdicom() -> None:
    """Check that SEG files can be written.

    Raises:
        UserError: highdicom is not installed.
    """
    if find_spec("highdicom") is None:
        raise UserError(
            "DICOM SEG is written by the package highdicom, which is not installed",
            "pip install 'textseg[dicom-seg]'",
        )


def check_source(file: Path) -> None:
    """Check that a SEG file can refer to a DICOM file, before the long work.

    Raises:
        UserError: highdicom is not installed, or the file lacks the numbers that identify it.
    """
    require_highdicom()
    header = read_header(file)
    missing = [keyword for keyword in _IDENTITY if not header.get(keyword)]
    if missing:
        raise UserError(
            f"{file} has no {', '.join(missing)}, to which DICOM SEG must refer",
            "take the original files, or leave volume_format out",
        )


def write_dicom_seg(path: Path, sources: Sequence[Path], frames: Array, text: SegmentText) -> Path:
    """Write one binary segment; frames without foreground are left out, as SEG allows.

    Args:
        path: of the new .dcm file.
        sources: the DICOM file of each frame.
        frames: [N, rows, columns], nonzero is foreground.
        text: label, network and version.

    Raises:
        UserError: highdicom is not installed, or the source lacks what SEG must refer to.
    """
    require_highdicom()
    cause = f"{sources[0]} lacks what DICOM SEG must refer to"
    with refusing((AttributeError, ValueError, TypeError), cause, "take the original files"):
        headers = [_reduced(read_header(source)) for source in sources]
        dataset = _segmentation(headers, (np.asarray(frames) > 0).astype(np.uint8), text)
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, for a label in any language
    with whole_file(path, flush=False) as part:
        dataset.save_as(part)
    return path


def _reduced(header: Dataset) -> Dataset:
    """What SEG needs of a header, and nothing else."""
    reduced = Dataset()
    reduced.file_meta = header.file_meta
    for keyword in _MAY_BE_EMPTY:
        setattr(reduced, keyword, None)
    for keyword in (*COPIED, *_REFERRED):
        if keyword in header:
            reduced[keyword] = header[keyword]
    return reduced


def _segmentation(headers: Sequence[Dataset], frames: Array, text: SegmentText) -> Any:
    from pydicom.sr.codedict import codes

    highdicom: Any = import_module("highdicom")
    label = text.label[:_LONGEST_LABEL] or "finding"
    software = highdicom.AlgorithmIdentificationSequence(
        name=text.network, version=text.version, family=codes.DCM.ArtificialIntelligence
    )
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=label,
        # A text can name anything; of codes, only the widest is certainly true.
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=software,
    )
    return highdicom.seg.Segmentation(
        source_images=headers,
        pixel_array=frames,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        series_description=label,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=_SOFTWARE,
        manufacturer_model_name=text.network,
        software_versions=text.version,
        device_serial_number="none",
    )
