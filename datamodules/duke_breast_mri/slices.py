"""Duke's volumes -> 2-D slices with a manifest, once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from datamodules.duke_breast_mri.layouts import Case, Phases, Slices, patient_split
from datamodules.duke_breast_mri.sheets import Box
from datamodules.files.dicom import read_dicom_series
from datamodules.files.manifest import write_manifest
from datamodules.files.nifti import read_nifti
from datamodules.files.volumes import Array, Volume, axial_picture, canonical, check_same_grid
from textseg.errors import UserError

DARKEST, BRIGHTEST = 0.5, 99.5  # percentiles of a volume that become 0 and 255


def write_slices(folder: Path, cases: Sequence[Case], *, phases: Phases, slices: Slices) -> None:
    """Write images/, masks/ and manifest.jsonl, whose rows are axial slices.

    Row 0 is anterior and column 0 the patient's left, so that a word's side is the picture's. A
    picture is gray (post1), or has pre, post1 and post1 - pre as its channels. Each is scaled by
    percentiles of its whole volume. Names of slices whose mask is a box end in "_box".

    Raises:
        UserError: a patient's files cannot be read or do not belong together.
    """
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    rows: list[dict[str, object]] = []
    for case in tqdm(cases, "slicing Duke volumes", delay=2, unit="patient"):
        try:
            rows += _write_case(folder, case, phases, slices)
        except UserError as error:
            cause, _, remedy = str(error).partition("\n")
            raise UserError(
                f"{case.name}: {cause}",
                f"{remedy}; or move the patient's files away and set on_missing=skip",
            ) from error
    write_manifest(folder, rows)


def _write_case(
    folder: Path, case: Case, phases: Phases, slices: Slices
) -> Iterator[dict[str, object]]:
    volumes, mask = _read(case)
    spacing = volumes["post1"].spacing
    channels = _channels(volumes, phases, str(case.images["post1"]))
    weak = "_box" if isinstance(case.mask, Box) else ""
    tumor = mask.any(axis=(0, 1))  # [Z]
    if not tumor.any():
        raise UserError(f"{case.mask} marks no tumor", "is it this patient's mask?")
    for z in np.flatnonzero(tumor | (slices == "all")).tolist():
        name = f"{case.name}_{phases}_z{z:03d}{weak}.png"
        picture = np.stack([axial_picture(c, z) for c in channels], axis=-1)  # [H, W, C]
        if len(channels) == 1:
            picture = picture[..., 0]
        Image.fromarray(picture).save(folder / "images" / name)
        outline = axial_picture(mask, z).astype(np.uint8) * np.uint8(255)
        Image.fromarray(outline).save(folder / "masks" / name)
        yield {
            "image": f"images/{name}",
            "mask": f"masks/{name}",
            "text": case.text,
            "case_id": case.name,
            "split": patient_split(case.name),
            "spacing": [spacing[1], spacing[0]],  # rows run along y
        }


def _read(case: Case) -> tuple[dict[str, Volume], Array]:
    """The phases, and the mask [X, Y, Z], all on one grid."""
    volumes: dict[str, Volume] = {}
    if isinstance(case.mask, Box):
        for phase, source in case.images.items():
            series = read_dicom_series(source)
            volumes[phase] = canonical(series.values, series.affine, where=str(source))
            if phase == "post1":
                _check_numbers(series.files)
                drawn = _draw(case.mask, series.values.shape, source)
                mask = canonical(drawn, series.affine, where=str(source))
        mask_path = case.images["post1"]
    else:
        volumes = {phase: read_nifti(path) for phase, path in case.images.items()}
        mask, mask_path = read_nifti(case.mask), case.mask
    for phase, volume in volumes.items():
        check_same_grid(volume, mask, case.images[phase], mask_path)
    return volumes, mask.values > 0


def _check_numbers(files: Sequence[Path]) -> None:
    """A box counts slices by file, so every file from 1 on must be there."""
    for number, file in enumerate(files, start=1):
        digits = re.findall(r"\d+", file.stem)
        if not digits or int(digits[-1]) != number:
            raise UserError(
                f"{file} is slice {number} of its series, so the slices that the patient's box "
                "means are unknown: it counts files from 1 on",
                "download the series again, with TCIA's file names (1-001.dcm, 1-002.dcm, ...)",
            )


def _draw(box: Box, shape: tuple[int, ...], source: Path) -> Array:
    """The box in an array as it is stored: [rows, columns, slices]."""
    spans = (
        (box.start_row, box.end_row),
        (box.start_column, box.end_column),
        (box.start_slice - 1, box.end_slice - 1),
    )
    if any(start < 0 or end > side for (start, end), side in zip(spans, shape, strict=True)):
        raise UserError(
            f"{source} has {' x '.join(map(str, shape))} rows, columns and slices, and its box "
            f"reaches beyond: {tuple(box)}",
            "is the series complete, and Annotation_Boxes TCIA's?",
        )
    drawn = np.zeros(shape, dtype=np.uint8)
    drawn[tuple(slice(start, end) for start, end in spans)] = 1
    return drawn


def _channels(volumes: dict[str, Volume], phases: Phases, where: str) -> list[Array]:
    """Volumes [X, Y, Z] uint8, each scaled by percentiles of its own."""
    post = volumes["post1"].values.astype(np.float32)
    channels = {"post1": post}
    if phases == "pre_post1_subtraction":
        pre = volumes["pre"].values.astype(np.float32)
        channels = {"pre": pre, "post1": post, "post1 - pre": post - pre}
    scaled = []
    for name, values in channels.items():
        low, high = np.percentile(values, (DARKEST, BRIGHTEST)).tolist()
        if high <= low:
            raise UserError(
                f"{name} of {where} is {low:g} nearly everywhere", "export the volume again"
            )
        shares = ((values - low) / (high - low)).clip(0, 1)
        scaled.append((shares * 255).round().astype(np.uint8))
    return scaled
