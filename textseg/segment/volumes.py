"""Volumes: slice by slice through a network, and the masks back on the volume's own grid.

What reads and writes volumes is handed in, because datasets' formats are no business of textseg:
`datamodules.volumes.opened.Volumes`, which the command line brings along.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from tqdm import tqdm

from textseg import __version__, tables
from textseg.errors import PartialError, UserError, reason_of
from textseg.metrics.text import to_json
from textseg.output import output_folder, whole_text, write_text, writing
from textseg.preprocess import Bytes
from textseg.runs import Run
from textseg.runs.folder import nested
from textseg.runs.outputs import write_averaging
from textseg.segment.network import Segmenter
from textseg.segment.pipeline import Writers
from textseg.segment.rows import Row, check_texts
from textseg.segment.slice_numbers import chosen_slices
from textseg.segment.volume_text import REPORT
from textseg.segment.written import write_overlay
from textseg.tables import spreadsheet_cell

FOUND = "found.csv"
COLUMNS = ("file", "slice", "slice_file", "area_pixels", "area_mm2", "volume_ml", "unknown_words")
WHOLE = "all"  # in the column slice: the sum of a volume's slices


class Opened(Protocol):
    """One volume as 8-bit pictures; slices count from 0 at the patient's feet.

    Attributes:
        slices: the number of pictures.
        spacing: mm between the rows and between the columns of a picture; None where unknown.
        step: mm between pictures; None where unknown.
        coarse: whether the volume was acquired in slices of another direction.
        window: what was black and white, in words; "" of color pictures.
        center_width: the same as numbers; None of color pictures.
        slice_files: the DICOM file of each picture; None where it has none of its own.
    """

    slices: int
    spacing: tuple[float, float] | None
    step: float | None
    coarse: bool
    window: str
    center_width: tuple[float, float] | None
    slice_files: Sequence[Path | None]

    def picture(self, z: int) -> Bytes:
        """Picture z: [H, W], or [H, W, 3] in color."""

    def under(self, window: str) -> Opened:
        """The same volume under another window, which is read as the setting `window` is."""


class Closed(Protocol):
    """A volume that is there: its path, and a name for its results unlike every other's."""

    @property
    def path(self) -> Path:
        """The file or folder."""

    @property
    def name(self) -> str:
        """Of the results."""


class Volumes(Protocol):
    """The volumes of a path, and the files beside them that are none, each with the reason.

    Attributes:
        files: the volumes.
        left_out: the other files.
        copied: the names of the patient's elements that results hold.
    """

    files: Sequence[Any]
    left_out: list[tuple[Path, str]]
    copied: Sequence[str]

    def open(self, file: Any) -> Opened:
        """Read a volume."""

    def write(
        self, opened: Any, folder: Path, name: str, masks: Mapping[int, Any], **texts: str
    ) -> Path:
        """Write masks by the number of their picture, on the volume's grid."""


OpenVolumes = Callable[..., Volumes]
"""Called with a path and the settings of volumes: window, trained_on, channel and form."""


@dataclass(frozen=True)
class VolumeSettings:
    """The settings of `segment` that are of volumes, which explains them."""

    slices: str = WHOLE
    window: str | None = None
    channel: int | None = None
    form: str = "nifti"


def holds_volumes(path: Path) -> bool:
    """Tell whether a path is a volume, or a folder of volumes or DICOM files and no pictures.

    DICOM files may lie in folders within the folder, as archives give the series of a study.
    """
    if not path.is_dir():
        return _is_volume(path)
    if tables.images_in(path):
        return False
    return any(map(_is_volume, sorted(path.iterdir()))) or any(
        _is_volume(file) and not tables.is_nifti(file) for file in tables.files_below(path)
    )


def _is_volume(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    other = path.suffix.lower() in (*tables.IMAGE_SUFFIXES, *tables.TABLE_SUFFIXES)
    return tables.is_nifti(path) or (not other and tables.is_dicom(path))


def check_no_volume_settings(image: str, settings: VolumeSettings) -> None:
    """Check that pictures are not given settings of volumes.

    Raises:
        UserError: they are.
    """
    names = {"slices": "slices", "window": "window", "channel": "channel", "form": "volume_format"}
    for field, name in names.items():
        value = getattr(settings, field)
        if value != getattr(VolumeSettings, field):
            raise UserError(
                f"{name}={value!r} is for volumes, and {image} is none",
                f"leave {name} out, or give a NIfTI volume, a DICOM file or a series' folder",
            )


def check_no_picture_settings(path: Path, **settings: object) -> None:
    """Check that volumes are not given settings of pictures.

    Raises:
        UserError: they are.
    """
    for name, value in settings.items():
        if value:
            raise UserError(f"{name}={value!r}, but {path} is a volume", f"leave {name} out")


def open_all(
    path: Path, settings: VolumeSettings, open_volumes: OpenVolumes | None, ckpt: str | Path
) -> Volumes:
    """The volumes of a path; where no window is given, that of the data the network was trained on.

    Raises:
        UserError: there is none, a setting is wrong, or nothing is given that opens volumes.
    """
    chosen_slices(settings.slices, None)
    if open_volumes is None:
        raise UserError(
            f"{path} is a volume, and open_volumes is not given",
            "from Python: segment(..., open_volumes=datamodules.volumes.opened.Volumes)",
        )
    root = nested(Run.of_checkpoint(ckpt).settings(), "data", "init_args", "root")
    return open_volumes(
        path,
        window=settings.window,
        trained_on=Path(root).expanduser() if isinstance(root, str) else None,
        channel=settings.channel,
        form=settings.form,
    )


class _Pictures(Sequence[Bytes]):
    """Some pictures of a volume, each made when it is asked for."""

    def __init__(self, opened: Opened, numbers: Sequence[int]) -> None:
        self._opened = opened
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[Bytes]: ...
    def __getitem__(self, index: int | slice) -> Bytes | list[Bytes]:
        if isinstance(index, slice):
            return [self._opened.picture(z) for z in self._numbers[index]]
        return self._opened.picture(self._numbers[index])


def segment_volumes(
    volumes: Volumes,
    text: str | None,
    load_network: Callable[[], Segmenter],
    output: str,
    *,
    slices: str,
    overlays: bool,
    batch_size: int,
) -> Path:
    """Segment volumes one by one, and write what was found and what was left out.

    A volume that cannot be read is left out and named; the others go on.

    Args:
        volumes: what `open_all` gave.
        text: what to segment.
        load_network: loads the network, when the volumes were found sound.
        output: folder for volumes/, overlays/, found.csv, volumes.json and averaging.json; where it
            exists, <output>_2 and so on is taken.
        slices: as `chosen_slices` reads them.
        overlays: whether overlays/ are written.
        batch_size: pictures in one forward pass.

    Returns:
        the folder.

    Raises:
        UserError: no volume could be segmented, or the network reads words and there are none.
        PartialError: some could not; the results of the others are there.
    """
    only = None
    if len(volumes.files) == 1:  # else what cannot be read is left out
        (closed,) = volumes.files
        only = volumes.open(closed)
        chosen_slices(slices, only.slices, closed.path)
    net = load_network()
    if net.takes_text:
        check_texts([Row(volumes.files[0].path, text, "", str(volumes.files[0].path))])
    with output_folder(Path(output).expanduser().resolve(), "segment volumes") as claimed:
        folder = claimed.path
        pages = folder / "overlays" if overlays else None
        failed = _write_all(volumes, only, text, net, folder, slices, batch_size, pages)
    if failed:
        file, reason = failed[0]
        raise PartialError(
            f"{len(failed)} of {len(volumes.files)} volumes were left out, first {file}: {reason}",
            f"the others are in {folder}; {REPORT} there names each with its reason",
            folder,
        )
    return folder


def _write_all(
    volumes: Volumes,
    only: Opened | None,
    text: str | None,
    net: Segmenter,
    folder: Path,
    slices: str,
    batch_size: int,
    pages: Path | None,
) -> list[tuple[Path, str]]:
    """Write everything; gives the volumes that could not be segmented, each with the reason."""
    for home in filter(None, (folder / "volumes", pages)):
        with writing(home):
            home.mkdir()
    failed: list[tuple[Path, str]] = []
    unknown = _rounded(net.unknown_share(text), 4)
    done: list[dict[str, Any]] = []
    pictures = 0
    with whole_text(folder / FOUND, newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for closed in tqdm(volumes.files, "segment", delay=2, unit="volume"):
            try:
                opened = only or volumes.open(closed)
                numbers = chosen_slices(slices, opened.slices, closed.path)
                masks = _segmented(net, opened, numbers, text, batch_size, pages, closed.name)
                result = volumes.write(
                    *(opened, folder / "volumes", closed.name, masks),
                    label=text or "finding",
                    network=net.model.network_name,
                    version=__version__,
                )
            except UserError as error:
                if only is not None:
                    raise
                failed.append((closed.path, reason_of(error)))
                continue
            rows = [row | {"unknown_words": unknown} for row in _rows(closed.path, opened, masks)]
            table.writerows({k: spreadsheet_cell(v) for k, v in row.items()} for row in rows)
            done.append(_summary(closed.path, result, opened, masks, rows[-1]))
            pictures += len(masks)
    write_averaging(folder, net.model, [text or ""] * pictures)
    left_out = [*volumes.left_out, *failed]
    report = {
        "text": text,
        "volumes": done,
        "left_out": [{"file": str(file), "reason": reason} for file, reason in left_out],
        "copied": list(volumes.copied),
    }
    write_text(folder / REPORT, to_json(report))
    if not done:
        last, reason = failed[-1]
        raise UserError(
            f"none of {len(volumes.files)} volumes could be segmented; {last}: {reason}",
            f"{folder / REPORT} names the reason for each",
        )
    return failed


def _segmented(
    net: Segmenter,
    opened: Opened,
    numbers: Sequence[int],
    text: str | None,
    batch_size: int,
    pages: Path | None,
    name: str,
) -> dict[int, Any]:
    """The mask of each slice by its number; overlays are written to `pages`, if there are any."""
    shown = _Pictures(opened, numbers)
    masks = {}
    results = net.segment_all(shown, [text] * len(numbers), batch_size=batch_size)
    with closing(results), Writers() as writers:
        bar = tqdm(results, name, len(numbers), delay=2, unit="slice")
        for z, result in zip(numbers, bar, strict=True):
            masks[z] = result.mask
            if pages is not None:
                file, title = pages / f"{name}_z{z:03d}.png", f"{name}, slice {z}"
                writers.write(result.nbytes, write_overlay, file, result, text, title)
    return masks


def _rows(file: Path, opened: Opened, masks: Mapping[int, Any]) -> list[dict[str, Any]]:
    """The rows of found.csv: one for each slice, and one for all of them."""
    pixel = None if opened.spacing is None else opened.spacing[0] * opened.spacing[1]
    areas = {z: int(np.count_nonzero(mask)) for z, mask in masks.items()}
    named: list[tuple[int | str, int]] = [*areas.items(), (WHOLE, sum(areas.values()))]
    rows = []
    for z, pixels in named:
        mm2 = None if pixel is None else pixels * pixel
        ml = None if mm2 is None or opened.step is None else mm2 * opened.step / 1000
        slice_file = opened.slice_files[z] if isinstance(z, int) else None
        row = {"file": file, "slice": z, "area_pixels": pixels, "slice_file": slice_file}
        rows.append(row | {"area_mm2": _rounded(mm2, 2), "volume_ml": _rounded(ml, 4)})
    return rows


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _summary(
    file: Path, result: Path, opened: Opened, masks: Mapping[int, Any], whole: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "file": str(file),
        "result": f"volumes/{result.name}",
        "window": opened.window,
        "segmented": sorted(masks),
        "slices": opened.slices,
        "found_in": sum(bool(mask.any()) for mask in masks.values()),
        "area_pixels": whole["area_pixels"],
        "volume_ml": whole["volume_ml"],
        "coarse": opened.coarse,
    }
