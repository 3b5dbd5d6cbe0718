"""What a visitor looks at: a picture, a volume or a phantom; no file is kept once it is read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from textseg.errors import UserError, reason_of
from textseg.preprocess import Bytes, Oddities, examine_image, image_oddities
from textseg.segment.volumes import (
    Opened,
    OpenVolumes,
    Volumes,
    VolumeSettings,
    holds_volumes,
    open_all,
)

WINDOWS = ("abdomen", "bone", "brain", "lung", "mediastinum", "percentiles")  # beside two numbers
_PERCENTILES = "percentiles"
_WHAT = "send one picture, one NIfTI or DICOM file, or all files of one DICOM series"
_AXIAL = (
    "Axial slices, counted from 0 at the feet. The patient's left is on the picture's left: a "
    "viewer for radiologists shows the mirror image."
)
_COARSE = "It was not acquired in axial slices, so that these pictures are coarse."


class Phantom(Protocol):
    """A picture that the suite drew: [H, W], mm between rows and columns, what is true of it."""

    @property
    def picture(self) -> Bytes:
        """The gray values."""

    @property
    def spacing(self) -> tuple[float, float]:
        """mm between rows and between columns."""

    @property
    def expressions(self) -> Sequence[str]:
        """One for each lesion."""


@dataclass(frozen=True)
class Source:
    """What is open.

    Args:
        name: of the file, the series or the phantom.
        pixels: of a picture, [H, W, 3]; None of a volume.
        volume: of a volume.
        spacing: mm between rows and between columns; None where the file tells none.
        notes: what a reader should know of it.
        expressions: of a phantom, one for each lesion.
        oddities: of a picture's file.
    """

    name: str
    pixels: Bytes | None = None
    volume: Opened | None = None
    spacing: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    expressions: tuple[str, ...] = ()
    oddities: Oddities | None = None

    @property
    def slices(self) -> int:
        """How many pictures there are."""
        return 1 if self.volume is None else self.volume.slices

    @property
    def center_width(self) -> tuple[float, float] | None:
        """The window in force; None where there is none."""
        return None if self.volume is None else self.volume.center_width

    def picture(self, z: int) -> Bytes:
        """Picture z as [H, W, 3].

        Raises:
            UserError: there is no such slice.
        """
        if not 0 <= z < self.slices:
            raise UserError(f"slice={z} is not there", f"choose one from 0 to {self.slices - 1}")
        if self.volume is None:
            assert self.pixels is not None
            return self.pixels
        shown = self.volume.picture(z)
        return np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown

    def oddities_of(self, z: int) -> Oddities:
        """What is odd about picture z; see `textseg.preprocess.Oddities`."""
        return image_oddities(self.picture(z)) if self.oddities is None else self.oddities

    def under(self, window: str) -> Source:
        """The same under another window.

        Raises:
            UserError: it is no window, or shows next to nothing.
        """
        return self if self.volume is None else replace(self, volume=self.volume.under(window))


@dataclass(frozen=True)
class Opener:
    """Opens what visitors ask for.

    Args:
        open_volumes: opens volumes; None takes pictures alone.
        draw_phantom: draws phantom n, from 0; None has none.
        ckpt_path: whose training's window volumes get.
        folder: where files are while they are read.
    """

    open_volumes: OpenVolumes | None
    draw_phantom: Callable[[int], Phantom] | None
    ckpt_path: str
    folder: Path

    def phantom(self, number: int) -> Source:
        """Draw a phantom.

        Raises:
            UserError: nothing is given that draws one.
        """
        if self.draw_phantom is None:
            raise UserError("draw_phantom is not given", "send a picture")
        drawn = self.draw_phantom(number)
        pixels = np.repeat(drawn.picture[..., None], 3, axis=2)
        texts = tuple(drawn.expressions)
        return Source(f"phantom {number}", pixels, None, drawn.spacing, expressions=texts)

    def files(self, files: Sequence[Path], channel: int | None = None) -> Source:
        """Open files that were sent, and delete them.

        Args:
            files: one picture or volume, or the files of a series.
            channel: of a NIfTI file of several volumes, the one that is taken, counted from 0.

        Raises:
            UserError: they cannot be read, or are not one picture or volume; the message names no
                path of this machine.
        """
        if not files:
            raise UserError("no file was sent", _WHAT)
        with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            moved = _gathered(files, folder)
            try:
                return self._source(folder, moved, channel)
            except UserError as error:
                cause, _, remedy = str(error).partition("\n")
                said = (
                    text.replace(f"{folder}/", "").replace(name, _many(moved))
                    for text in (cause, remedy)
                )
                raise UserError(*said) from None

    def _source(self, folder: Path, files: Sequence[Path], channel: int | None) -> Source:
        path = files[0] if len(files) == 1 else folder
        if holds_volumes(path):
            return self._volume(path, files, channel)
        if len(files) > 1:
            raise UserError(f"{_many(files)} are not one DICOM series", _WHAT)
        examined = examine_image(path)
        return Source(path.name, examined.pixels, oddities=examined.oddities)

    def _volume(self, path: Path, files: Sequence[Path], channel: int | None) -> Source:
        volumes = self._volumes(path, None, channel)
        if len(volumes.files) > 1:
            names = ", ".join(closed.name for closed in volumes.files[:5])
            raise UserError(f"{_many(files)} are {len(volumes.files)} volumes: {names}", _WHAT)
        notes = [_AXIAL] if volumes.files else []
        try:
            opened = volumes.open(volumes.files[0])
        except UserError as error:
            opened = self._by_percentiles(path, channel, error)
            notes.append(
                f"No window: {reason_of(error).replace(f'{path.parent}/', '')}. It was opened from "
                "the 0.5th to the 99.5th percentile; choose the window that the training had."
            )
        notes += [_COARSE] if opened.coarse else []
        notes += [f"Left out: {file.name}: {reason}." for file, reason in volumes.left_out]
        name = files[0].name if len(files) == 1 else _many(files)
        return Source(name, None, opened, opened.spacing, tuple(notes))

    def _by_percentiles(self, path: Path, channel: int | None, error: UserError) -> Opened:
        """A volume under the window of its own values, where that is all that was wrong."""
        volumes = self._volumes(path, _PERCENTILES, channel)
        try:
            return volumes.open(volumes.files[0])
        except UserError:
            raise error from None

    def _volumes(self, path: Path, window: str | None, channel: int | None) -> Volumes:
        settings = VolumeSettings(window=window, channel=channel)
        return open_all(path, settings, self.open_volumes, self.ckpt_path)


def _gathered(files: Sequence[Path], folder: Path) -> list[Path]:
    """Move files, which may have one name, into a folder."""
    moved: list[Path] = []
    for number, file in enumerate(files):
        target = folder / file.name
        if target.exists():
            target = folder / f"{number:05d}_{file.name}"
        shutil.move(file, target)
        moved.append(target)
    return moved


def _many(files: Sequence[Path]) -> str:
    return files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more files"
