"""Where Duke's patients, phases, masks and sheets lie on disk; the DataModule shows the layouts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities import rank_zero_warn
from tqdm import tqdm

from datamodules.cache.build_once import build_once, sources_identity
from datamodules.duke_breast_mri.captions import compose
from datamodules.duke_breast_mri.sheets import (
    Box,
    Findings,
    joined,
    patient_name,
    patient_number,
    read_boxes,
    read_clinical,
    read_mamamia,
    read_phases,
    series_key,
)
from datamodules.files.checks import report_missing
from datamodules.files.manifest import MANIFEST_NAMES, has_manifest
from textseg.batch import stable_id
from textseg.errors import Report, UserError, check_choice
from textseg.tables import read_rows

LayoutName = Literal["auto", "mamamia", "tcia", "slices"]
Phases = Literal["post1", "pre_post1_subtraction"]
Slices = Literal["tumor", "all"]

CONVERSION = 2  # goes up when the same files would be sliced, or the mapping be read, differently
ELSEWHERE = "set cache=FOLDER to one that can be written and has space"

CLINICAL = "Clinical_and_Other_Features.xlsx"
MAMAMIA_INFO = "clinical_and_imaging_info.xlsx"
MAMAMIA_SPLITS = "train_test_splits.csv"
BOXES = ("Annotation_Boxes.xlsx", "Annotation_Boxes.csv")
MAPPING = (
    "Breast-Cancer-MRI-filepath_filename-mapping.xlsx",
    "Breast-Cancer-MRI-filepath_filename-mapping.csv",
)
_COLLECTION = "Duke-Breast-Cancer-MRI"
_NEEDED_PHASES = {"post1": ("post1",), "pre_post1_subtraction": ("pre", "post1")}
_MAMAMIA_PHASES = {"pre": "0000", "post1": "0001"}
_TCIA_PHASES = {"pre": "pre", "post1": "post_1"}


@dataclass(frozen=True)
class Case:
    """One patient's files.

    Args:
        name: DUKE_001 or Breast_MRI_001, as the release has it.
        text: the caption.
        images: by phase (pre, post1), NIfTI files or the folders of DICOM series.
        mask: a NIfTI file, or a box in the arrays as the series stores them.
    """

    name: str
    text: str
    images: dict[str, Path]
    mask: Path | Box


@dataclass(frozen=True)
class Source:
    """What a layout's cases are read from.

    Args:
        root: the dataset's folder.
        tables: where sheets are looked for, in this order.
        phases: which contrast phases are needed.
        on_missing: what to do about patients whose files are not all there.
        report: is told of these, where that is an error.
        cache: folder for what is built once.
    """

    root: Path
    tables: tuple[Path, ...]
    phases: Phases
    on_missing: str
    report: Report
    cache: Path


def patient_split(case_id: str) -> str:
    """Give a patient's split: about 70, 15 and 15 % of patients, whoever else is there.

    ``DUKE_001`` and ``Breast_MRI_001`` are the same patient and get the same split.
    """
    number = patient_number(case_id)
    patient = case_id if number is None else patient_name(number)
    bucket = stable_id(f"split/{patient}") % 20
    return "train" if bucket < 14 else "val" if bucket < 17 else "test"


def choose_layout(root: Path, layout: LayoutName, captions: Path | None) -> LayoutName:
    """Choose the layout asked for, or the first that is there.

    Raises:
        UserError: it is not there, or none is; the message lists what was looked for.
    """
    check_choice("layout", layout, LayoutName)
    listed = captions is not None and captions.is_file()
    there: dict[LayoutName, bool] = {
        "slices": (listed and layout == "slices") or has_manifest(root),
        "mamamia": (root / "images").is_dir() and (root / "segmentations").is_dir(),
        "tcia": any(_tcia_folders(root)),
    }
    for name in there if layout == "auto" else [layout]:
        if there[name]:
            return name
    if listed and layout == "auto":
        return "slices"
    raise UserError(
        f"no Duke-Breast-Cancer-MRI in root={root} (layout={layout}); looked for "
        f"{', '.join(MANIFEST_NAMES)} (slices), images/ and segmentations/ (mamamia), "
        f"[manifest-*/][{_COLLECTION}/]Breast_MRI_001/ (tcia)",
        "set root to the folder that holds one of these",
    )


def holds_volumes(root: Path) -> bool:
    """Tell by names whether a folder holds MAMA-MIA's or TCIA's patients of this dataset."""
    # Other people's folders are called images and segmentations too.
    of_mamamia = (root / "segmentations").is_dir() and any(_patients(root / "images", "duke"))
    return of_mamamia or any(_tcia_folders(root))


def short_digest(source: object) -> str:
    """Digest what a folder is made from to eight letters for its name."""
    return f"{stable_id(str(source)):016x}"[:8]


def volumes_identity(cases: Sequence[Case], *settings: object) -> str:
    """Digest all files of the cases, by `sources_identity`.

    Of a series each DICOM file counts: overwriting one does not change the time of its folder.
    """
    digests = []
    for case in tqdm(cases, "checking Duke's files", delay=2, unit="patient"):
        files = [case.mask] if isinstance(case.mask, Path) else []
        for source in case.images.values():
            names = os.listdir(source) if source.is_dir() else []  # noqa: PTH208 - names are quick
            dicom = [n for n in names if n.casefold().endswith(".dcm") and not n.startswith(".")]
            files += [source / name for name in dicom] or [source]
        digests.append(sources_identity(files))
    return sources_identity([], CONVERSION, digests, *settings)


def find_table(source: Source, *names: str) -> Path | None:
    """Find a sheet by its names, compared without case; the first folder and name count."""
    for folder in source.tables:
        here = {file.name.casefold(): file for file in sorted(folder.iterdir(), reverse=True)}
        for name in names:
            if name.casefold() in here:
                return here[name.casefold()]
    return None


def need_table(source: Source, *names: str) -> Path:
    """Find a sheet, as `find_table` does, that must be there.

    Raises:
        UserError: it is nowhere.
    """
    file = find_table(source, *names)
    if file is None:
        raise UserError(
            f"{' or '.join(names)} is not in {' nor '.join(map(str, source.tables))}",
            "download it with the data, and set captions to its folder if that is elsewhere",
        )
    return file


def _patients(folder: Path, prefix: str) -> Iterator[tuple[int, Path]]:
    """The patients' folders whose names begin in one way, by number."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        number = patient_number(path.name)
        if number is not None and path.is_dir() and path.name.casefold().startswith(prefix):
            yield number, path


def _complete(
    source: Source, cases: list[Case], missing: Sequence[Path], unlisted: Sequence[Path]
) -> list[Case]:
    """The cases, of which there must be some, after a report of what is incomplete."""
    report_missing(
        *(missing, unlisted), root=source.root, on_missing=source.on_missing, report=source.report
    )
    if not cases:
        raise UserError(
            f"root={source.root} holds no patient of Duke-Breast-Cancer-MRI with all needed files",
            "complete the download, or set root to the folder that holds it",
        )
    return cases


# --- MAMA-MIA ----------------------------------------------------------------------------------


def mamamia_cases(source: Source) -> list[Case]:
    """List the Duke patients of MAMA-MIA with an expert's mask.

    Raises:
        UserError: a sheet or the experts' folder is missing, or patients are incomplete.
    """
    info = read_mamamia(need_table(source, MAMAMIA_INFO))
    experts = source.root / "segmentations" / "expert"
    if not experts.is_dir():
        raise UserError(
            f"{experts} does not exist",
            "download the experts' masks; segmentations/automatic is a network's work and is not "
            "taken for them",
        )
    clinical = _clinical_if_there(source)
    folders = dict(_patients(source.root / "images", "duke"))
    cases, missing = [], []
    for number, findings in sorted(info.items()):
        name = f"DUKE_{number:03d}"
        folder = folders.get(number, source.root / "images" / name)
        images = {
            phase: _any_case(folder, f"{name.lower()}_{_MAMAMIA_PHASES[phase]}.nii.gz")
            for phase in _NEEDED_PHASES[source.phases]
        }
        mask = _any_case(experts, f"{name.lower()}.nii.gz")
        absent = [path for path in (*images.values(), mask) if not path.is_file()]
        missing += absent[:1]
        if not absent:
            known = joined(clinical.get(number, Findings()), findings)
            cases.append(Case(name, compose(known, by_box=False), images, mask))
    unlisted = [folder for number, folder in folders.items() if number not in info]
    return _complete(source, cases, missing, unlisted)


def _clinical_if_there(source: Source) -> dict[int, Findings]:
    """TCIA's findings, or none with a warning of what captions then lack."""
    sheet = find_table(source, CLINICAL)
    if sheet is not None:
        return read_clinical(sheet)
    rank_zero_warn(
        f"{CLINICAL} is not in {' nor '.join(map(str, source.tables))}: captions name no side and "
        "no position. It is in TCIA's release; set captions to its folder"
    )
    return {}


def official_splits(source: Source) -> dict[str, set[int]]:
    """Read the numbers of the Duke patients that MAMA-MIA's train_test_splits.csv lists.

    Raises:
        UserError: the file is missing or names none.
    """
    file = need_table(source, MAMAMIA_SPLITS)
    rows = read_rows(file)
    lists: dict[str, set[int]] = {}
    for split in ("train", "test"):
        cells = [str(row.get(f"{split}_split", "")) for row in rows]
        numbers = {patient_number(cell) for cell in cells if cell.casefold().startswith("duke")}
        lists[split] = {number for number in numbers if number is not None}
    if not lists["train"] or not lists["test"]:
        raise UserError(
            f"{file} names {len(lists['train'])} Duke patients under train_split and "
            f"{len(lists['test'])} under test_split",
            "use MAMA-MIA's file as downloaded, or split=patient",
        )
    return lists


def _any_case(folder: Path, name: str) -> Path:
    """The file of this name, or its upper-case form, as the official helpers write it."""
    upper = folder / name.replace("duke", "DUKE")
    return upper if upper.is_file() else folder / name


# --- TCIA --------------------------------------------------------------------------------------


def tcia_cases(source: Source) -> list[Case]:
    """List TCIA's patients with a box.

    Raises:
        UserError: a sheet is missing, or patients are incomplete.
    """
    boxes = read_boxes(need_table(source, *BOXES))
    clinical = read_clinical(need_table(source, CLINICAL))
    phase_of = _phases(source)
    folders: dict[int, list[Path]] = {}
    for number, folder in _tcia_folders(source.root):
        folders.setdefault(number, []).append(folder)
    cases, missing = [], []
    for number, box in sorted(boxes.items()):
        own = folders.get(number, [source.root / patient_name(number)])
        series = _series_by_phase(number, own, phase_of)
        wanted = {phase: _TCIA_PHASES[phase] for phase in _NEEDED_PHASES[source.phases]}
        absent = [own[0] / name for name in wanted.values() if name not in series]
        missing += absent[:1]
        if number not in clinical:
            missing.append(own[0] / CLINICAL)
        elif not absent:
            text = compose(clinical[number], by_box=True)
            images = {phase: series[name] for phase, name in wanted.items()}
            cases.append(Case(patient_name(number), text, images, box))
    unlisted = [own[0] for number, own in folders.items() if number not in boxes]
    return _complete(source, cases, missing, unlisted)


def _tcia_folders(root: Path) -> Iterator[tuple[int, Path]]:
    """Patients in root, in its Duke-Breast-Cancer-MRI, and in those of its manifest-* folders."""
    bases = [root, *sorted(root.glob("manifest-*"))]
    for base in [*bases, *(base / _COLLECTION for base in bases)]:
        yield from _patients(base, "b")


def _series_by_phase(
    number: int, folders: Sequence[Path], phase_of: dict[str, str]
) -> dict[str, Path]:
    """A patient's series folders by phase; of two copies the first by name."""
    series: dict[str, Path] = {}
    for one in (path for folder in folders for path in sorted(folder.glob("*/*"))):
        phase = phase_of.get(series_key(number, f"{one.parent.name}/{one.name}"))
        if phase is not None and one.is_dir():
            series.setdefault(phase, one)
    return series


def _phases(source: Source) -> dict[str, str]:
    """`read_phases`, kept in a small file because the sheet takes minutes."""
    sheet = need_table(source, *MAPPING)

    def write(aside: Path) -> None:
        text = json.dumps(read_phases(sheet), indent=0)
        (aside / "phases.json").write_text(text, encoding="utf-8")

    folder = build_once(
        source.cache / f"duke_tcia_phases_{short_digest(sheet)}",
        write,
        identity=sources_identity([sheet], CONVERSION),
        what="the list of Duke's phases",
        elsewhere=ELSEWHERE,
    )
    phases: dict[str, str] = json.loads((folder / "phases.json").read_text(encoding="utf-8"))
    return phases
