"""What `textseg segment` does with volumes: opens them for a network and writes what it found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files.checks import preview
from datamodules.files.dicom import find_pictures
from datamodules.files.dicom_seg import COPIED, SegmentText, check_source, write_dicom_seg
from datamodules.files.nifti import write_nifti, write_nifti_like
from datamodules.volumes.labels import is_label_volume
from datamodules.volumes.scans import Mask, Scan, read_scan
from datamodules.volumes.sources import LeftOut
from datamodules.volumes.summary import SUMMARY_FILE
from datamodules.volumes.windows import HEADER, Window, parse_window, window_for
from textseg.errors import UserError, check_choice, refusing
from textseg.output import whole_file, write_picture
from textseg.preprocess import Bytes
from textseg.tables import files_below, is_dicom, is_nifti, nifti_stem

FileFormat = Literal["nifti", "dicom-seg"]


class OpenedVolume:
    """A scan as 8-bit pictures, and the writer of what was found in them.

    Args:
        scan: what was read.
        window: which values become black and white; None of a color picture.
    """

    def __init__(self, scan: Scan, window: Window | None) -> None:
        self._scan = scan
        self._window = window
        self.slices = scan.slices
        self.spacing = scan.spacing
        self.step = scan.step
        self.coarse = scan.coarse
        self.window = "" if window is None else str(window)
        self.center_width = None if window is None else (window.center, window.width)
        self.slice_files = scan.slice_files()

    def picture(self, z: int) -> Bytes:
        """One picture: [H, W], or [H, W, 3] in color."""
        values = self._scan.picture(z)
        if self._window is None:
            return np.asarray(values, dtype=np.uint8)
        gray = self._window.gray(values)
        return 255 - gray if self._scan.inverted else gray

    def under(self, window: str) -> OpenedVolume:
        """The same volume under another window, as `parse_window` reads it; colors have none.

        Raises:
            UserError: it is no window, or there is nothing to see under it.
        """
        if self._window is None:
            return self
        scan, chosen = self._scan, parse_window(window)
        return OpenedVolume(scan, window_for(chosen, scan.values, scan.window, scan.files[0].name))

    def write(
        self,
        folder: Path,
        name: str,
        masks: Mapping[int, Mask],
        form: FileFormat,
        text: SegmentText,
    ) -> Path:
        """Write masks by the number of their picture, on the grid of the scan.

        Args:
            folder: where the file goes.
            name: of the file, without its suffix.
            masks: of the pictures that were segmented.
            form: NIfTI (0 and 1; a PNG of 0 and 255 for a picture without a position in the
                patient), or DICOM SEG.
            text: what SEG says of the masks.

        Returns:
            the file.
        """
        scan, stored = self._scan, self._scan.stored_mask(masks)
        if form == "dicom-seg":
            frames = stored.transpose(2, 1, 0) if stored.ndim == 3 else stored[None]
            return write_dicom_seg(folder / f"{name}.dcm", scan.files, frames, text)
        if scan.affine is None:
            path = folder / f"{name}.png"
            write_picture(path, stored * np.uint8(255))
            return path
        path = folder / f"{name}.nii.gz"
        with whole_file(path, flush=False) as part:
            if is_nifti(scan.files[0]):
                write_nifti_like(part, stored, scan.files[0])
            else:
                write_nifti(part, stored, scan.affine)
        return path


class VolumeFile(NamedTuple):
    """A volume that is there, still closed.

    Args:
        path: the NIfTI or DICOM file, or the series' folder.
        name: of the results, unlike every other's.
        files: the DICOM files of the series; empty of NIfTI.
    """

    path: Path
    name: str
    files: tuple[Path, ...]


class Volumes:
    """The volumes of a path.

    Args:
        path: a NIfTI volume, a DICOM file, the folder of one or more DICOM series, or of volumes.
            Series may lie in folders within it, NIfTI volumes may not. Of a folder, volumes of
            labels are left out, which is warned of; as the path itself one is taken.
        window: which values become black and white; see `parse_window`. None takes that of
            `trained_on`, where `textseg data slice` wrote it, and else the header's.
        trained_on: folder of the data that the network was trained on.
        channel: which one of NIfTI files of several, counted from 0.
        form: what results are written as.

    Attributes:
        files: the volumes, in the order of their names.
        left_out: the files of the folder that are none, each with the reason.
        copied: the names of the patient's elements that results of this form hold.

    Raises:
        UserError: there is none, the window is none, or `form` cannot be written: the package for
            it is missing, or a volume is NIfTI, to which DICOM SEG cannot refer.
    """

    def __init__(
        self,
        path: Path,
        *,
        window: str | None = None,
        trained_on: Path | None = None,
        channel: int | None = None,
        form: FileFormat = "nifti",
    ) -> None:
        check_choice("volume_format", form, FileFormat)
        self._window = parse_window(window or _window_of_set(trained_on) or HEADER)
        self._channel = channel
        self._form: FileFormat = form
        self.copied = COPIED if form == "dicom-seg" else ()
        self.left_out: list[LeftOut] = []  # files beside the volumes
        self.files = list(self._found(path))
        if not self.files:
            reasons = "; ".join(f"{file.name}: {reason}" for file, reason in self.left_out[:5])
            raise UserError(
                f"{path} holds no volume ({reasons or 'it is empty'})",
                "give a NIfTI volume, a DICOM file, or the folder of a series",
            )
        if form == "dicom-seg":
            for file in self.files:
                if not file.files:
                    raise UserError(
                        f"{file.path} is NIfTI, and DICOM SEG refers to DICOM files",
                        "leave volume_format out, or give the DICOM series",
                    )
                check_source(file.files[0])

    def open(self, file: VolumeFile) -> OpenedVolume:
        """Read one volume.

        Raises:
            UserError: it cannot be read, or there is nothing to see under the window.
        """
        scan = read_scan(file.path, channel=self._channel, files=file.files)
        if scan.in_color:
            return OpenedVolume(scan, None)
        return OpenedVolume(scan, window_for(self._window, scan.values, scan.window, file.path))

    def write(
        self,
        opened: OpenedVolume,
        folder: Path,
        name: str,
        masks: Mapping[int, Mask],
        *,
        label: str,
        network: str,
        version: str,
    ) -> Path:
        """Write masks of a volume as `OpenedVolume.write` does, in the form that was chosen.

        Args:
            opened: the volume.
            folder: where the file goes.
            name: of the file, without its suffix.
            masks: by the number of their picture.
            label: what was looked for.
            network: that found it.
            version: of the software.
        """
        return opened.write(folder, name, masks, self._form, SegmentText(label, network, version))

    def _found(self, path: Path) -> Iterator[VolumeFile]:
        if not path.exists():
            raise UserError(f"{path} does not exist", "give a volume, or a folder of volumes")
        if not path.is_dir():
            if not is_nifti(path) and not is_dicom(path):
                self.left_out.append((path, "neither NIfTI nor DICOM"))
                return
            stem = nifti_stem(path) if is_nifti(path) else path.stem
            yield VolumeFile(path, stem, () if is_nifti(path) else (path,))
            return
        dicom: list[Path] = []
        names: set[str] = set()
        yield from self._volumes_in(path, names)
        for file in sorted(path.iterdir()):
            if is_nifti(file):
                continue
            if is_dicom(file):
                dicom.append(file)
            elif file.is_dir() and not file.name.startswith("."):
                dicom += self._dicom_below(file, path)
            elif not file.name.startswith("."):
                self.left_out.append((file, "neither NIfTI nor DICOM"))
        series, unusable = find_pictures(dicom)
        self.left_out += unusable
        for files, name in zip(series, _series_names(path, series), strict=True):
            at = files[0].parent if len(files) > 1 else files[0]
            yield VolumeFile(at, _unlike(name, names), tuple(files))

    def _volumes_in(self, folder: Path, names: set[str]) -> Iterator[VolumeFile]:
        """The NIfTI volumes of a folder but those of labels, which are noted and warned of."""
        files = [f for f in sorted(folder.iterdir()) if is_nifti(f) and f.name[:1] != "."]
        labels = [file for file in files if is_label_volume(file)]
        if labels:
            self.left_out += [(file, "labels, and no image") for file in labels]
            rank_zero_warn(
                f"{len(labels)} of {len(files)} volumes of {folder} are left out, as labels and no "
                f"images: {preview([file.name for file in labels])}; one that is given itself, and "
                "not its folder, is segmented all the same"
            )
        for file in files:
            if file not in labels:
                yield VolumeFile(file, _unlike(nifti_stem(file), names), ())

    def _dicom_below(self, folder: Path, given: Path) -> list[Path]:
        """The DICOM files of a folder within the one that was given; what else it holds is noted.

        NIfTI files there may be labels, as TotalSegmentator's are.
        """
        files = list(files_below(folder, frozenset({given.resolve()})))
        dicom = [file for file in files if is_dicom(file)]
        if not dicom:
            self.left_out.append((folder, "a folder without DICOM files"))
            return []
        others = sorted(set(files) - set(dicom))
        self.left_out += [
            (file, "NIfTI in a folder within" if is_nifti(file) else "neither NIfTI nor DICOM")
            for file in others
        ]
        return dicom


def _series_names(path: Path, series: Sequence[Sequence[Path]]) -> list[str]:
    """What the results of each series are called: by its folder, or by its first file."""
    in_folder = Counter(files[0].parent for files in series)
    return [
        "_".join(files[0].parent.relative_to(path).parts) or path.name
        if in_folder[files[0].parent] == 1
        else files[0].stem
        for files in series
    ]


def _unlike(name: str, names: set[str]) -> str:
    """The name, or the first of name_2, name_3, ... that is new; noted in `names`."""
    number, candidate = 1, name
    while candidate.casefold() in names:
        number += 1
        candidate = f"{name}_{number}"
    names.add(candidate.casefold())
    return candidate


def _window_of_set(root: Path | None) -> str | None:
    """The window of a dataset that `textseg data slice` wrote; None of any other.

    Raises:
        UserError: it was written, and cannot be read.
    """
    if root is None:
        return None
    if not root.is_dir():
        rank_zero_warn(
            f"{root}, which the network was trained on, is not there: volumes get the window of "
            "their own headers; give --window if the training had another"
        )
        return None
    file = root / SUMMARY_FILE
    if not file.is_file():
        return None
    broken = (OSError, ValueError, KeyError, TypeError)
    with refusing(broken, f"{file} does not tell the window", "give --window, or restore the file"):
        window = json.loads(file.read_text(encoding="utf-8"))["window"]
        if not isinstance(window, str):
            raise TypeError(f"window is {window!r}")
        return window
