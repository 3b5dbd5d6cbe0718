"""CT and MR volumes and their labels, in the layouts in which they are handed on.

msd      <source>/[Task*/|Dataset*/]imagesTr/<case>[_0000].nii[.gz], labelsTr/<case>.nii[.gz],
         dataset.json: the Decathlon's, and nnU-Net's, which has a file for each channel
lits     <source>/**/volume-<n>.nii[.gz] and <source>/**/segmentation-<n>.nii[.gz]
folders  <source>/images/<case>.nii[.gz], or images/<case>/, which holds a DICOM series, and
         labels/<case>.nii[.gz], or labels/<case>/<region>.nii[.gz]: a file for each region
cases    <source>/<case>/{ct,mri,mr,image}.nii[.gz] and <case>/segmentations/<region>.nii[.gz]:
         TotalSegmentator's
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from datamodules.files.checks import preview
from datamodules.volumes.dataset_json import Description, read_description
from textseg.errors import UserError, refusing
from textseg.tables import files_below, first_volume, is_nifti, nifti_stem

LOOKED_FOR = {
    "msd": "imagesTr and labelsTr",
    "lits": "volume-<n>.nii",
    "folders": "images and labels",
    "cases": "<case>/segmentations",
}
_LITS = re.compile(r"(volume|segmentation)-(\d+)", re.IGNORECASE)
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_SCANS = ("ct", "mri", "mr", "image")

Key = TypeVar("Key", str, int)

LeftOut = tuple[Path, str]
"""A file that is not used, and why."""


class Case(NamedTuple):
    """A volume, its labels, and what both are called.

    Args:
        name: of the case.
        image: a NIfTI file, or the folder of a DICOM series.
        labels: a NIfTI file of numbers, or a folder of one NIfTI file for each region.
        channel: which one of a file with several; None where it has one.
    """

    name: str
    image: Path
    labels: Path
    channel: int | None = None


class Source(NamedTuple):
    """The volumes of a folder.

    Args:
        cases: by name.
        description: what dataset.json says; None in layouts that have none.
        left_out: volumes without labels, labels without a volume, files of other kinds, and NIfTI
            files below the folder that lie elsewhere or are called otherwise than the layout says.
    """

    cases: list[Case]
    description: Description | None
    left_out: list[LeftOut]

    @property
    def names(self) -> dict[int, str]:
        """What dataset.json calls each label; empty where there is none."""
        return {} if self.description is None else self.description.names


def find_source(
    source: Path, layouts: Sequence[str], *, channel: int | str | None = None
) -> Source:
    """Find the volumes below a folder, each with its labels.

    Args:
        source: the folder.
        layouts: those that may be there, of `LOOKED_FOR`; the first that fits is taken.
        channel: number or name of the channel that is taken; None where there is but one.

    Raises:
        UserError: no layout fits, there is more than one dataset, two files are one case, or
            `channel` is none of the channels.
    """
    if not source.is_dir():
        raise UserError(f"source={source} is not a folder", "name the folder of the volumes")
    finders: dict[str, Callable[[], Source | None]] = {
        "msd": lambda: _msd(source, channel),
        "lits": lambda: _lits(source),
        "folders": lambda: _folders(source),
        "cases": lambda: _cases(source),
    }
    for layout in layouts:
        with refusing(
            OSError, f"source={source} cannot be read", "name a folder that you may read"
        ):
            found = finders[layout]()
        if found is not None:
            if channel is not None and layout != "msd":
                raise UserError(
                    f"channel={channel!r}, but {source} has one channel", "leave channel out"
                )
            return found
    raise UserError(
        f"no volumes below source={source}; looked for "
        f"{', '.join(LOOKED_FOR[layout] for layout in layouts)}",
        "name the folder that holds one of these",
    )


def check_complete(source: Source) -> None:
    """Check that no volume lacks its labels and no labels their volume.

    Raises:
        UserError: some do.
    """
    for reason in dict.fromkeys(reason for _, reason in source.left_out):
        paths = [path for path, why in source.left_out if why == reason]
        if reason in (_NO_LABELS, _NO_VOLUME):
            raise UserError(
                f"{len(paths)} {reason}: {preview(paths)}",
                "complete the download, or move these files away",
            )


# --- MSD and nnU-Net


def _msd(source: Path, channel: int | str | None) -> Source | None:
    folders = [source, *sorted([*source.glob("Task*"), *source.glob("Dataset*")])]
    bases = [f for f in folders if (f / "imagesTr").is_dir() and (f / "labelsTr").is_dir()]
    if not bases:
        return None
    if len(bases) > 1:
        raise UserError(
            f"source={source} holds {len(bases)} datasets: {preview([b.name for b in bases])}",
            "name the folder of one of them",
        )
    base = bases[0]
    description = read_description(base)
    left_out: list[LeftOut] = []
    labels = _nifti_files(base / "labelsTr", left_out)
    channels: dict[str, dict[int, Path]] = {}
    for stem, path in _nifti_files(base / "imagesTr", left_out).items():
        numbered = None if stem in labels else _CHANNEL.fullmatch(stem)
        name, number = (numbered[1], int(numbered[2])) if numbered else (stem, 0)
        _add(channels.setdefault(name, {}), number, path)
    if not channels:
        raise UserError(f"{base / 'imagesTr'} holds no NIfTI file", "complete the download")
    for part in ("imagesTs", "labelsTs"):
        files = sorted((base / part).iterdir()) if (base / part).is_dir() else []
        left_out += [(file, f"{part} is not read") for file in files if not _hidden(file)]
    read = [base / part for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs")]
    left_out += _others(source, read, "neither in imagesTr nor in labelsTr")
    in_files = {number for numbers in channels.values() for number in numbers}
    known = in_files if len(in_files) > 1 else in_files | set(description.channels)
    chosen = _chosen_channel(
        base, channel, {n: description.channels.get(n, "") for n in sorted(known)}
    )
    images: dict[str, Path] = {}
    for name, numbers in channels.items():
        wanted = chosen if len(in_files) > 1 else next(iter(numbers))
        if wanted in numbers:
            images[name] = numbers[wanted]
        else:
            left_out.append((next(iter(numbers.values())), f"no channel {wanted}"))
    cases = _paired(images, labels, left_out)
    left_out += _absent(base, description, labels)
    inside = chosen if len(in_files) == 1 and len(known) > 1 else None
    return Source([case._replace(channel=inside) for case in cases], description, left_out)


def _absent(base: Path, description: Description, labels: Mapping[str, Path]) -> list[LeftOut]:
    """Cases that dataset.json tells of and that are not there."""
    names = [Path(listed).name for listed in description.listed]
    missing = [name for name in names if nifti_stem(Path(name)) not in labels]
    if not missing and len(labels) < description.cases:
        said = f"says numTraining: {description.cases}, and {len(labels)} labels are there"
        return [(description.file, said)]
    file = description.file.name
    return [(base / "labelsTr" / name, f"listed in {file} and not there") for name in missing]


def _chosen_channel(base: Path, channel: int | str | None, known: Mapping[int, str]) -> int:
    """The number of the channel that is meant."""
    if channel is None and len(known) == 1:
        return next(iter(known))
    for number, name in known.items():
        if str(channel).casefold() in (str(number), f"{number:04d}", name.casefold() or None):
            return number
    listed = ", ".join(
        f"{number} ({name})" if name else str(number) for number, name in known.items()
    )
    said = "several channels" if channel is None else f"no channel={channel!r}"
    raise UserError(f"{base} has {said}: {listed}", "set channel to one of them")


# --- other layouts


def _lits(source: Path) -> Source | None:
    kinds: dict[str, dict[str, Path]] = {"volume": {}, "segmentation": {}}
    left_out: list[LeftOut] = []
    for path in filter(is_nifti, files_below(source)):
        match = _LITS.fullmatch(nifti_stem(path))
        if match is None:
            left_out.append((path, "not called volume-<n> or segmentation-<n>"))
        else:
            _add(kinds[match[1].casefold()], f"volume-{int(match[2])}", path)
    if not any(kinds.values()):
        return None
    return Source(_paired(kinds["volume"], kinds["segmentation"], left_out), None, left_out)


def _folders(source: Path) -> Source | None:
    read = [source / part for part in ("images", "labels")]
    if not all(folder.is_dir() for folder in read):
        return None
    left_out: list[LeftOut] = []
    images, labels = (_nifti_files(folder, left_out, with_folders=True) for folder in read)
    left_out += _others(source, read, "neither in images nor in labels")
    return Source(_paired(images, labels, left_out), read_description(source), left_out)


def _cases(source: Path) -> Source | None:
    folders = [source, *sorted(f for f in source.iterdir() if f.is_dir())]
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    without: list[Path] = []
    for folder in folders:
        if not (folder / "segmentations").is_dir():
            empty = not any(folder.iterdir()) and not _hidden(folder)
            told = empty or first_volume(folder) is not None
            if told and folder not in (source, *labels.values()):
                without.append(folder)
            continue
        labels[folder.name] = folder / "segmentations"
        scans = {stem: path for stem, path in _nifti_files(folder, []).items() if stem in _SCANS}
        if len(scans) > 1:
            raise UserError(
                f"{folder} has more than one volume: {preview(list(scans))}",
                "keep one of them there",
            )
        for path in scans.values():
            images[folder.name] = path
    if not labels:
        return None
    left_out: list[LeftOut] = [(folder, "volumes without segmentations") for folder in without]
    others = _others(source, [*labels.values(), *without], f"not called {' or '.join(_SCANS)}")
    left_out += [(path, reason) for path, reason in others if path not in images.values()]
    return Source(_paired(images, labels, left_out), None, left_out)


# --- files

_NO_LABELS = "volumes without labels"
_NO_VOLUME = "labels without a volume"


def _hidden(path: Path) -> bool:
    """Whether a file is none of the dataset's, such as the "._name" that a Mac leaves."""
    return path.name.startswith(".")


def _nifti_files(
    folder: Path, left_out: list[LeftOut], *, with_folders: bool = False
) -> dict[str, Path]:
    """NIfTI files by their stems, and folders by name where these count."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if _hidden(path):
            continue
        if path.is_dir() and with_folders:
            _add(files, path.name, path)
        elif is_nifti(path):
            _add(files, nifti_stem(path), path)
        else:
            left_out.append((path, "not a .nii or .nii.gz file"))
    return files


def _others(source: Path, read: Iterable[Path], reason: str) -> list[LeftOut]:
    """NIfTI files below a folder that lie in none of the folders which are read."""
    inside = frozenset(folder.resolve() for folder in read)
    return [(path, reason) for path in files_below(source, inside) if is_nifti(path)]


def _add(files: dict[Key, Path], name: Key, path: Path) -> None:
    if name in files:
        raise UserError(f"{files[name]} and {path} are one case", "move one of them away")
    files[name] = path


def _paired(
    images: Mapping[str, Path], labels: Mapping[str, Path], left_out: list[LeftOut]
) -> list[Case]:
    """Cases by name; what has no partner is left out."""
    alone: Iterable[tuple[Mapping[str, Path], Mapping[str, Path], str]] = (
        (images, labels, _NO_LABELS),
        (labels, images, _NO_VOLUME),
    )
    for files, others, reason in alone:
        left_out += [(files[name], reason) for name in sorted(files.keys() - others.keys())]
    return [
        Case(name, images[name], labels[name]) for name in sorted(images.keys() & labels.keys())
    ]
