"""CT volumes and their labels in the layouts of LiTS and the Medical Segmentation Decathlon (MSD).

lits    <source>/**/volume-<n>.nii[.gz] and <source>/**/segmentation-<n>.nii[.gz]
msd     <source>/[Task*/]imagesTr/<case>.nii.gz, .../labelsTr/<case>.nii.gz, dataset.json
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal, NamedTuple

from datamodules.files.checks import preview
from textseg.errors import UserError, check_choice, refusing

Layout = Literal["auto", "lits", "msd"]

_LITS = re.compile(r"(volume|segmentation)-(\d+)\.nii(\.gz)?", re.IGNORECASE)
_MSD = re.compile(r"([^.].*?)\.nii(?:\.gz)?", re.IGNORECASE)
_NO_LIVER = (
    "set liver_label to the liver's label, or to null where it is not outlined: expressions then "
    "name size and rank, not place or density"
)


class Case(NamedTuple):
    """A volume, its labels, and what both are called."""

    name: str
    image: Path
    labels: Path


class Source(NamedTuple):
    """The volumes of a folder.

    Args:
        cases: by name.
        names: what dataset.json calls each label; empty where there is none.
        description: where dataset.json would be; None in the layout of LiTS.
    """

    cases: list[Case]
    names: dict[int, str]
    description: Path | None


def find_source(source: Path, layout: Layout) -> Source:
    """Find the volumes below a folder, each with its labels.

    Raises:
        UserError: neither layout fits, or a volume or its labels are missing.
    """
    check_choice("layout", layout, Layout)
    if not source.is_dir():
        raise UserError(f"source={source} is not a folder", "name the unpacked LiTS or MSD folder")
    base = _msd_base(source) if layout != "lits" else None
    if base is not None:
        file = base / "dataset.json"
        names = _label_names(file) if file.is_file() else {}
        cases = _paired(_volumes(base / "imagesTr"), _volumes(base / "labelsTr"))
        if not cases:
            raise UserError(f"{base / 'imagesTr'} holds no NIfTI file", "complete the download")
        return Source(cases, names, file)
    cases = _lits_cases(source) if layout != "msd" else []
    if not cases:
        looked = {"lits": "volume-<n>.nii", "msd": "imagesTr and labelsTr"}
        wanted = looked.values() if layout == "auto" else [looked[layout]]
        raise UserError(
            f"no volumes below source={source} (layout={layout}); looked for {', '.join(wanted)}",
            "name the folder that holds one of these",
        )
    return Source(cases, {}, None)


def check_names(source: Source, *, lesion_label: int, liver_label: int | None) -> None:
    """Check the settings of labels against the names that the source gives them.

    Raises:
        UserError: dataset.json has another name for the liver's label or none for the lesions', or
            the files are those of MSD Task08, which outlines no liver.
    """
    names = source.names
    if names and lesion_label not in names:
        raise UserError(
            f"{source.description} has the labels {_named(names)}, and no lesion_label="
            f"{lesion_label}",
            "set lesion_label to the tumors' label",
        )
    if liver_label is None:
        return
    if names and "liver" not in names.get(liver_label, "").casefold():
        raise UserError(
            f"{source.description} has the labels {_named(names)}, so that liver_label="
            f"{liver_label} is not the liver",
            _NO_LIVER,
        )
    vessels = [case for case in source.cases if case.name.casefold().startswith("hepaticvessel")]
    if vessels and not names:
        raise UserError(
            f"{vessels[0].labels} is of MSD Task08, whose label 1 is vessels, not the liver "
            f"(liver_label={liver_label})",
            _NO_LIVER,
        )


def _named(names: dict[int, str]) -> str:
    return ", ".join(f"{label} ({name})" for label, name in sorted(names.items()))


def _lits_cases(source: Path) -> list[Case]:
    kinds: dict[str, dict[str, Path]] = {"volume": {}, "segmentation": {}}
    for path in sorted(source.rglob("*.nii*")):
        match = _LITS.fullmatch(path.name)
        if match is not None:
            _add(kinds[match[1].casefold()], f"volume-{int(match[2])}", path)
    return _paired(kinds["volume"], kinds["segmentation"])


def _msd_base(source: Path) -> Path | None:
    for base in (source, *sorted(source.glob("Task*"))):
        if (base / "imagesTr").is_dir() and (base / "labelsTr").is_dir():
            return base
    return None


def _volumes(folder: Path) -> dict[str, Path]:
    """NIfTI files by case; "._name" is what a Mac leaves beside a file."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _MSD.fullmatch(path.name)
        if match is not None:
            _add(files, match[1], path)
    return files


def _add(files: dict[str, Path], name: str, path: Path) -> None:
    if name in files:
        raise UserError(f"{files[name]} and {path} are one case", "move one of them away")
    files[name] = path


def _label_names(file: Path) -> dict[int, str]:
    cause = f"{file} does not name the labels"
    remedy = 'download it again; it holds "labels": {"0": "background", ...}'
    with refusing((OSError, KeyError, TypeError, ValueError, AttributeError), cause, remedy):
        labels = json.loads(file.read_text(encoding="utf-8"))["labels"]
        return {int(label): str(name) for label, name in labels.items()}


def _paired(volumes: dict[str, Path], labels: dict[str, Path]) -> list[Case]:
    alone = {
        "volumes without their labels": volumes.keys() - labels.keys(),
        "labels without their volume": labels.keys() - volumes.keys(),
    }
    for what, names in alone.items():
        if names:
            paths = [(volumes | labels)[name] for name in sorted(names)]
            raise UserError(
                f"{len(paths)} {what}: {preview(paths)}",
                "complete the download, or move these files away",
            )
    return [Case(name, volumes[name], labels[name]) for name in sorted(volumes)]
