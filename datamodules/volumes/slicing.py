"""`textseg data slice`: volumes with labels -> axial pictures, masks and captions, once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image
from tqdm import tqdm

from datamodules.cache.build_once import build_once, sources_identity
from datamodules.files.checks import preview
from datamodules.files.manifest import write_manifest
from datamodules.files.nifti import read_nifti
from datamodules.files.volumes import Array, Volume, axial_picture, check_same_grid
from datamodules.volumes.built_set import FEWEST_CASES, check_output, divide_cases
from datamodules.volumes.captions import REGION, Captions
from datamodules.volumes.scans import read_scan
from datamodules.volumes.sources import LOOKED_FOR, Case, Source, find_source
from datamodules.volumes.summary import write_summary
from datamodules.volumes.windows import HEADER, parse_window, window_for
from textseg.errors import UserError, check_at_least, check_distinct, reason_of
from textseg.tables import files_below, nifti_stem

VERSION = 1  # raise it when a change here gives another set
ROUNDED = 1e-3  # of a slice; headers are rounded

_BUILD = "slice-build"

Row = dict[str, Any]
Regions = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Settings:
    """The settings of `slice_volumes`, which explains them."""

    window: str
    labels: dict[int, str] | None
    regions: list[str] | None
    caption: str
    captions: str | None
    min_pixels: int
    distance: float


def slice_volumes(
    source: Path,
    output: Path,
    *,
    window: str = HEADER,
    channel: int | str | None = None,
    labels: dict[int, str] | None = None,
    regions: list[str] | None = None,
    caption: str = REGION,
    captions: str | None = None,
    min_pixels: int = 20,
    distance: float = 0.0,
) -> Path:
    """Cut volumes with labels into axial pictures, one mask and caption for each region.

    Writes images/ (8-bit gray PNG) and masks/ (0 and 255), manifest.jsonl, which ManifestDataModule
    reads as it stands, and slices.json, which names all that was left out. Row 0 of a picture is
    anterior and column 0 the patient's left, so that a word's side is the picture's. A picture is
    <case>_z<slice>.png, and slices count from 0 at the patient's feet. Pixels are the volume's own,
    and their size in millimeters is in the manifest.

    About 15 % of the cases each are val and test, by a digest of their names; fewer than three
    cases are all test. A volume that cannot be read, or whose labels lie on another grid, is left
    out and named; the others go on.

    Args:
        source: a folder with images/ and labels/ (<case>.nii.gz, or a folder <case>/, which in
            images/ holds a DICOM series, in it or in folders within it, and in labels/ one NIfTI
            file for each region); or one
            of MSD or nnU-Net (Task*, Dataset*), LiTS, or TotalSegmentator
            (<case>/segmentations/).
        output: a new or empty folder, or an earlier build, which is replaced where the source or a
            setting has changed.
        window: what becomes black and white: abdomen, bone, brain, lung or mediastinum; center and
            width, as in 40,400; percentiles of each volume, for MR; or header, the DICOM files'
            own.
        channel: number or name of the channel that is taken, where the volumes have several.
        labels: what each number in the label files is called, as in {1: liver, 2: tumor}, where
            neither a dataset.json nor the files' names tell.
        regions: names of those that are taken; by default all.
        caption: the text of each region; {region} stands for its name.
        captions: a table (.csv, .xlsx, .jsonl) of texts instead: the column text, and any of
            case_id, slice and region. A row is for all that agree with its filled cells; a region
            for which there is none is left out.
        min_pixels: smaller regions of a slice get no row.
        distance: mm between two slices that are taken, at least; 0 takes all.

    Returns:
        `output` as an absolute path.

    Raises:
        UserError: a setting is wrong, output holds other files, or no case can be used.
    """
    settings = Settings(window, labels, regions, caption, captions, min_pixels, distance)
    check_distinct("regions", regions or ())
    check_at_least("min_pixels", min_pixels, 1)
    check_at_least("distance", distance, 0)
    parse_window(window)
    source, output = Path(source).expanduser(), Path(output).expanduser()
    table = None if captions is None else Path(captions).expanduser()
    texts = Captions(caption, table)
    check_output(source, output, _BUILD)
    found = find_source(source, tuple(LOOKED_FOR), channel=channel)
    named = _named_regions(found, settings)
    inputs = [*_files(found), *([] if table is None else [table])]
    digest = sources_identity(
        [path.absolute() for path in inputs],
        VERSION,
        settings,
        sorted(named.items()),
        channel,
        *[(file.absolute(), why) for file, why in found.left_out],  # slices.json names them
    )
    return build_once(
        output,
        lambda folder: _Slicer(folder, found, settings, named, texts).write(),
        identity=f"{_BUILD} {digest}",
        what="the set of slices",
        elsewhere="choose another output folder",
    )


def _files(found: Source) -> Iterator[Path]:
    for case in found.cases:
        for path in (case.image, case.labels):
            yield from files_below(path) if path.is_dir() else [path]


def _named_regions(found: Source, settings: Settings) -> Regions:
    """The labels of each region that is taken, by name; empty where files name the regions."""
    maps = [case for case in found.cases if not case.labels.is_dir()]
    known: dict[str, tuple[int, ...]] = {}
    if settings.labels is not None:
        for label, name in settings.labels.items():
            if not name.strip():
                raise UserError(f"labels: {label} has no name", "name it, or leave it out")
            known[name] = (*known.get(name, ()), label)
    elif found.description is not None:
        known = found.description.regions
    if maps and not known:
        raise UserError(
            f"{maps[0].labels} holds numbers that nothing names",
            "set labels, as in {1: liver, 2: tumor}",
        )
    if settings.regions is None:
        return known
    of_files = {nifti_stem(path) for case in found.cases for path in _region_files(case)}
    unknown = [name for name in settings.regions if name not in {*known, *of_files}]
    if unknown:
        raise UserError(
            f"regions={settings.regions}: there is no {preview(unknown)}",
            f"known are {', '.join(sorted({*known, *of_files}))}",
        )
    return {name: known[name] for name in settings.regions if name in known}


def _region_files(case: Case) -> list[Path]:
    """The label files of a case that has one for each region."""
    if not case.labels.is_dir():
        return []
    return [path for path in sorted(case.labels.iterdir()) if not path.name.startswith(".")]


class _Slicer:
    """Writes pictures, masks and the manifest, and remembers what it left out."""

    def __init__(
        self, folder: Path, source: Source, settings: Settings, regions: Regions, texts: Captions
    ) -> None:
        self.folder = folder
        self.source = source
        self.settings = settings
        self.regions = regions
        self.texts = texts
        self.left_out = [(str(path), reason) for path, reason in source.left_out]
        self.windows: dict[str, str] = {}
        self.notes: list[str] = []

    def write(self) -> None:
        """Write the whole set."""
        for name in ("images", "masks"):
            (self.folder / name).mkdir()
        rows: list[Row] = []
        for case in tqdm(self.source.cases, "slicing volumes", delay=2, unit="case"):
            try:
                rows += self._case(case)
            except UserError as error:
                self.left_out.append((case.name, reason_of(error)))
        if not rows:
            reasons = "; ".join(f"{what}: {reason}" for what, reason in self.left_out[:5])
            raise UserError(
                f"none of {len(self.source.cases)} cases gives a row ({reasons})",
                "mend these, or lower min_pixels",
            )
        unused = self.texts.unused()
        if unused:
            self.left_out += [(location, "a caption for nothing") for location in unused]
        self._divide(rows)
        write_manifest(self.folder, rows)
        write_summary(
            *(self.folder, rows),
            window=self.settings.window,
            windows=self.windows,
            left_out=self.left_out,
            notes=self.notes,
        )

    def _divide(self, rows: Sequence[Row]) -> None:
        cases = {row["case_id"] for row in rows}
        if len(cases) < FEWEST_CASES:
            self.notes.append(f"too few cases to divide ({len(cases)}): all rows are test")
            splits = dict.fromkeys(cases, "test")
        else:
            splits = divide_cases(cases)
        for row in rows:
            row["split"] = splits[row["case_id"]]

    def _case(self, case: Case) -> list[Row]:
        """Write one case; on return its volumes leave memory before the next is read."""
        scan = read_scan(case.image, channel=case.channel)
        if scan.volume is None or scan.spacing is None:
            raise UserError(f"{case.image} is one picture, not a volume", "give a volume")
        self.left_out += [(str(file), reason) for file, reason in scan.left_out]
        chosen = parse_window(self.settings.window)
        window = window_for(chosen, scan.values, scan.window, case.image)
        apart = max(1, math.ceil(self.settings.distance / scan.volume.spacing[2] - ROUNDED))
        rows: dict[int, list[Row]] = {z: [] for z in range(0, scan.slices, apart)}
        for region, mask in self._masks(case, scan.volume):
            for z, of_slice in rows.items():
                of_slice += self._rows(case.name, z, region, axial_picture(mask, z), scan.spacing)
        for z, of_slice in rows.items():
            if of_slice:
                picture = window.gray(scan.picture(z))
                Image.fromarray(picture).save(self.folder / of_slice[0]["image"])
        if not any(rows.values()):
            raise UserError(f"no region of {self.settings.min_pixels} pixels that has a caption")
        self.windows[case.name] = str(window)
        if scan.coarse:
            self.notes.append(f"{case.image} was not acquired in axial slices: they are coarse")
        return [row for of_slice in rows.values() for row in of_slice]

    def _rows(
        self, case: str, z: int, region: str, mask: Array, spacing: tuple[float, float]
    ) -> list[Row]:
        """Write the mask of a region in a slice; returns its rows, still without their split."""
        if np.count_nonzero(mask) < self.settings.min_pixels:
            return []
        stem = f"{case}_z{z:03d}"
        texts = self.texts.of(case, z, region)
        if not texts:
            self.left_out.append((f"{stem}, {region}", "no caption in the table"))
            return []
        file = f"masks/{stem}_{quote(region, safe=' +')}.png"
        Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(self.folder / file)
        return [
            {
                "image": f"images/{stem}.png",
                "mask": file,
                "text": text,
                "case_id": case,
                "split": "",  # set when all cases are known
                "lesion_id": region,
                "spacing": [round(length, 5) for length in spacing],
                "attributes": {"slice": z},
            }
            for text in texts
        ]

    def _masks(self, case: Case, image: Volume) -> Iterator[tuple[str, Array]]:
        """The mask of each region, [X, Y, Z] bool, on the image's grid; one is held at a time."""
        if not case.labels.is_dir():
            values = self._on_grid(case, image, case.labels)
            self._note_unnamed(case, values)
            for region, numbers in self.regions.items():
                yield region, np.isin(values, numbers)
            return
        wanted = self.settings.regions
        for path in _region_files(case):
            name = nifti_stem(path)
            if wanted is not None and name not in wanted:
                continue
            try:
                yield name, self._on_grid(case, image, path) > 0
            except UserError as error:
                self.left_out.append((str(path), reason_of(error)))

    def _on_grid(self, case: Case, image: Volume, path: Path) -> Array:
        volume = read_nifti(path)
        check_same_grid(image, volume, case.image, path)
        return volume.values

    def _note_unnamed(self, case: Case, values: Array) -> None:
        """Say which labels of a file are no region's."""
        known = {0, *(number for numbers in self.regions.values() for number in numbers)}
        slices = np.moveaxis(values, -1, 0)  # one by one: sorting a whole volume takes long
        present = {value for drawn in slices for value in np.unique(drawn).tolist()}
        unnamed = sorted(present - known)
        if unnamed and self.settings.regions is None:
            labels = ", ".join(f"{value:g}" for value in unnamed)
            self.left_out.append((f"label {labels} of {case.labels}", "no name"))
