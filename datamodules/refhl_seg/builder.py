"""CT volumes with liver lesions -> a referring set in RefHL-Seg's declared manifest, once.

A stand-in for RefHL-Seg, which is not released. Expressions are composed from the labels, so they
are true of them but plainer than a radiologist's.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from datamodules.cache.build_once import build_once, sources_identity
from datamodules.files.manifest import write_manifest
from datamodules.files.nifti import read_nifti
from datamodules.files.volumes import Volume, check_same_grid
from datamodules.refhl_seg.labels import check_names
from datamodules.refhl_seg.slices import Row, Settings, SliceWriter
from datamodules.refhl_seg.summary import write_summary
from datamodules.volumes.built_set import FEWEST_CASES, check_output, divide_cases
from datamodules.volumes.sources import Case, Source, check_complete, find_source
from datamodules.volumes.windows import Window, window_for
from textseg.errors import UserError, check_at_least, check_choice
from textseg.limits import PIXELS

VERSION = 2  # raise it when a change here or in the wording gives another set
DARKEST = -50.0  # HU; every abdomen has fat, which is darker

Layout = Literal["auto", "lits", "msd"]

_BUILD = "refhl-build"


def build_refhl(
    source: Path,
    output: Path,
    *,
    layout: Layout = "auto",
    channel: int | str | None = None,
    lesion_label: int = 2,
    liver_label: int | None = 1,
    window_center: float = 40,
    window_width: float = 400,
    min_lesion_pixels: int = 20,
    slices_per_case: int = 3,
    image_size: int | None = None,
    seed: int = 0,
) -> Path:
    """Turn CT volumes with labels of liver lesions into slices with one expression a lesion.

    Writes images/ and masks/ (PNG), manifest.jsonl, which RefHLSegDataModule reads as it stands,
    and summary.json. Row 0 of a picture is anterior and column 0 the patient's left, so that "left"
    is the picture's left. Slices that show several lesions are preferred, then those with the
    largest lesion area; two of a case lie at least 10 mm apart.

    A lesion is a 2-D connected component (8 neighbors) of its label. Expressions name its size in
    mm, its density against the liver's median, its place (quadrant of the liver in the slice; upper
    is anterior), or its rank, but no trait near a boundary. Each is true of its lesion and clearly
    false of every other component of the slice; a lesion that cannot be singled out gets none.

    Cases are put in order by a digest of their names; the first 15 % are val, the next 15 % test.
    So the split does not depend on the order of files or the seed, but it does on which cases show
    lesions.

    Args:
        source: folder of LiTS (volume-<n>.nii and segmentation-<n>.nii, below it anywhere) or of
            MSD Task03_Liver or Task08_HepaticVessel (imagesTr, labelsTr, dataset.json), also in
            nnU-Net's form (Dataset*, a file for each channel, labels by name).
        output: a new or empty folder, or an earlier build, which is replaced where the source or a
            setting has changed.
        layout: lits or msd; auto takes the one that is there.
        channel: number or name of the CT's channel, where the volumes have several.
        lesion_label: the lesions' label.
        liver_label: the liver's label without its lesions; null where it is not outlined, as in
            Task08, so that expressions name size and rank alone.
        window_center: HU that become middle gray.
        window_width: HU from black to white.
        min_lesion_pixels: smaller lesions, in the volume or in the written mask, get no expression.
        slices_per_case: slices of a case, at most.
        image_size: side of the written pictures in pixels; null keeps the volume's own.
        seed: of the wording.

    Returns:
        `output` as an absolute path.

    Raises:
        UserError: a setting is out of range, output holds other files, or a volume or its labels
            are missing, cannot be read, do not lie on one grid, or hold other labels.
    """
    settings = Settings(
        lesion_label=lesion_label,
        liver_label=liver_label,
        window_center=window_center,
        window_width=window_width,
        min_lesion_pixels=min_lesion_pixels,
        slices_per_case=slices_per_case,
        image_size=image_size,
        seed=seed,
    )
    _check_settings(settings)
    source, output = Path(source).expanduser(), Path(output).expanduser()
    check_output(source, output, _BUILD)
    check_choice("layout", layout, Layout)
    layouts = ("msd", "lits") if layout == "auto" else (layout,)
    volumes = find_source(source, layouts, channel=channel)
    check_complete(volumes)
    check_names(volumes, lesion_label=lesion_label, liver_label=liver_label)
    files = [path for case in volumes.cases for path in (case.image, case.labels)]
    inside = volumes.cases[0].channel  # the files do not tell it
    digest = sources_identity(
        [path.absolute() for path in files],
        VERSION,
        sorted(asdict(settings).items()),
        *([] if inside is None else [inside]),
        *[(file.absolute(), why) for file, why in volumes.left_out],  # summary.json names them
    )
    return build_once(
        output,
        lambda folder: _write(folder, volumes, settings),
        identity=f"{_BUILD} {digest}",
        what="the referring set",
        elsewhere="choose another output folder",
    )


# --- refusals


def _check_settings(settings: Settings) -> None:
    least = {"min_lesion_pixels": 1, "slices_per_case": 1, "lesion_label": 1, "seed": 0}
    least |= {"liver_label": 1, "image_size": 32}
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None:
            check_at_least(name, value, smallest)
    if not (math.isfinite(settings.window_width) and settings.window_width > 0):
        raise UserError(f"window_width={settings.window_width}", "choose a positive number of HU")
    if not math.isfinite(settings.window_center):
        raise UserError(f"window_center={settings.window_center}", "choose a number of HU")
    if settings.image_size is not None:
        PIXELS.check(settings.image_size**2, f"image_size={settings.image_size}")
    if settings.lesion_label == settings.liver_label:
        raise UserError(
            f"lesion_label and liver_label are both {settings.liver_label}",
            "give each its own label",
        )


# --- building


def _write(folder: Path, source: Source, settings: Settings) -> None:
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    writer = SliceWriter(folder, settings)
    rows: list[Row] = []
    mirrored: list[str] = []
    for case in tqdm(source.cases, "building the referring set", delay=2, unit="case"):
        rows += _add_case(writer, case, source, mirrored)
    _check_rows(source, settings, rows, writer.counts)
    splits = divide_cases(row["case_id"] for row in rows)
    for row in rows:
        row["split"] = splits[row["case_id"]]
    write_manifest(folder, rows)
    write_summary(folder, rows, writer.counts, mirrored, source.left_out)


def _add_case(writer: SliceWriter, case: Case, source: Source, mirrored: list[str]) -> list[Row]:
    """Write one case; on return its volumes leave memory before the next is read."""
    settings = writer.settings
    image, labels = _read(case, source, settings)
    if not (labels.values == settings.lesion_label).any():
        writer.counts["cases_without_lesion"] += 1
        return []
    if _liver_on_the_left(image, labels, settings):
        mirrored.append(case.name)
    rows = writer.write_case(case.name, image, labels)
    writer.counts["cases_without_expression"] += not rows
    return rows


def _read(case: Case, source: Source, settings: Settings) -> tuple[Volume, Volume]:
    """The volume in HU and its labels."""
    image, labels = read_nifti(case.image, case.channel), read_nifti(case.labels)
    check_same_grid(image, labels, case.image, case.labels)
    if image.values.min() > DARKEST:
        raise UserError(
            f"{case.image} is not in Hounsfield units: its smallest value is "
            f"{image.values.min():g}",
            "take the original volume, not one that was scaled or windowed",
        )
    window = Window(settings.window_center, settings.window_width)
    window_for(window, image.values, None, case.image)  # refuses one that shows nothing
    slices = np.moveaxis(labels.values, -1, 0)  # one by one: sorting a whole volume takes long
    present = sorted({value for drawn in slices for value in np.unique(drawn).tolist()})
    lesion, liver = settings.lesion_label, settings.liver_label
    known = {0, lesion, *source.names} | (set() if liver is None else {liver})
    unknown = [value for value in present if value not in known]
    if unknown:
        raise UserError(
            f"{case.labels} holds {', '.join(f'{value:g}' for value in unknown)}; known are "
            f"{', '.join(map(str, sorted(known)))}",
            "set lesion_label and liver_label, or set other labels in the file to 0",
        )
    if lesion in present and liver is not None and liver not in present:
        raise UserError(
            f"{case.labels} has lesions (label {lesion}) but no liver (label {liver})",
            "set liver_label to the liver's label, or to null where it is not outlined",
        )
    return image, labels


def _liver_on_the_left(image: Volume, labels: Volume, settings: Settings) -> bool:
    """Whether the liver's middle is left of the body's by the header; a sign of a wrong header."""
    if settings.liver_label is None:
        return False
    liver = np.flatnonzero((labels.values == settings.liver_label).any(axis=(1, 2)))
    z = int((labels.values == settings.liver_label).sum(axis=(0, 1)).argmax())
    body = np.flatnonzero((image.values[:, :, z] > -200).any(axis=1))
    return bool(liver.min() + liver.max() < body.min() + body.max())  # x grows to the right


def _check_rows(source: Source, settings: Settings, rows: list[Row], counts: Counter[str]) -> None:
    if counts["cases_without_lesion"] == len(source.cases):
        raise UserError(
            f"none of the {len(source.cases)} volumes has a lesion (label "
            f"{settings.lesion_label}); the first is {source.cases[0].labels}",
            "set lesion_label to the lesions' label",
        )
    cases = {row["case_id"] for row in rows}
    if len(cases) < FEWEST_CASES:
        raise UserError(
            f"{len(cases)} of {len(source.cases)} cases show a lesion of "
            f"{settings.min_lesion_pixels} pixels or more that can be told from the others",
            f"give at least {FEWEST_CASES}, one for each of train, val and test, or lower "
            "min_lesion_pixels",
        )
