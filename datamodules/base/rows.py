"""The rows of a dataset: read once, checked with their files, and cached."""

from __future__ import annotations

import hashlib
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from lightning import LightningDataModule

from datamodules.base.folds import check_fold, in_fold
from datamodules.cache.build_once import build_once
from datamodules.cache.pictures import PictureCache, open_cache
from datamodules.captions.modes import normalize
from datamodules.files.checks import (
    check_captions,
    check_files,
    report_missing,
    split_missing,
    warn_of_shared_cases,
    without_caption,
)
from datamodules.files.copies import Copies
from datamodules.files.links import check_links
from datamodules.files.pixel_checks import (
    Oddity,
    check_pixels,
    look_at_files,
    sampled,
    warn_of,
)
from datamodules.records import Record, Splits, Stage
from textseg.errors import Report, UserError, check_choice, raise_error
from textseg.preprocess import Resize, check_mask_values, checked_size
from textseg.tables import SPLITS

_PACKAGE = Path(__file__).parents[1]


class CheckedRows(LightningDataModule, ABC):
    """What a DataModule reads from disk, and its checks; `TextSegDataModule` explains the settings.

    A subclass says how its dataset lies on disk.
    """

    recognized_by: ClassVar[str] = ""
    """What `fits` looks for, in words; "" where a dataset cannot be told by its files."""
    published_splits: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """By `split`: the parts that others divided, so that what they share is no mistake here."""
    splits: ClassVar[tuple[str, ...]] = ()
    """The values of `split`; () leaves the check to `read_records`."""
    phantom_images: ClassVar[int] = 100
    """Training images when `synthesize` is true."""

    def __init__(
        self,
        *,
        root: str | None,
        captions: str | None,
        split: str,
        image_size: int | list[int],
        resize: Resize,
        on_missing: Literal["error", "skip"],
        synthesize: bool | int,
        normalize_captions: bool,
        cache: str | None,
        mask_values: list[int] | None,
        folds: str | None,
        fold: int | None,
    ) -> None:
        super().__init__()
        if self.splits:
            check_choice("split", split, self.splits)
        check_choice("resize", resize, Resize)
        check_fold(folds, fold)
        check_mask_values(mask_values)
        self.root = root
        self.captions_path = captions
        self.split = split
        self.image_size = image_size
        self.resize: Resize = resize
        self.on_missing = on_missing
        self.synthesize = synthesize
        self.normalize_captions = normalize_captions
        self.cache = cache
        self.mask_values = mask_values
        self.folds = folds
        self.fold = fold
        self._read: dict[str, list[Record]] = {}
        self._unlisted: list[Path] = []
        self._pictures: PictureCache | None = None
        self._checked: dict[Stage, list[Record]] = {}
        self._copies = Copies()

    # --- what a subclass says ------------------------------------------------------------------

    @abstractmethod
    def read_records(self, root: Path, report: Report = raise_error) -> Splits:
        """Read every row that the captions list; one without files names the expected paths.

        Args:
            root: the dataset's folder.
            report: is called with each mistake. It raises in training; an audit's collects them, so
                a reader that can go on after a mistake does.

        Returns:
            the rows by "train", "val" and "test", and "predict" if there is one.

        Raises:
            UserError: as `report` does, or where nothing can be read.
        """

    @abstractmethod
    def write_phantoms(self, folder: Path, rows: int) -> None:
        """Write `rows` training images, and val and test to match, in the dataset's own layout."""

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Tell by names alone whether a folder holds this dataset; nothing is opened or converted.

        Raises:
            UserError: it holds another dataset that is often taken for this one.
        """
        return False

    def all_images(self, root: Path) -> Iterable[Path]:
        """List the images in the dataset's own folders, to find those without a caption."""
        return ()

    def patient_of(self, record: Record) -> str:
        """Name who must not be in two folds; "" where unknown, and then images are divided."""
        return record.case_id

    def audit_facts(self, root: Path) -> Mapping[str, object]:
        """Give an audit what only this dataset has to say; plain values by name."""
        return {}

    def nothing_for(self, stage: Stage, root: Path) -> UserError:
        """Explain a stage without rows."""
        return UserError(
            f"split={self.split} leaves no row for {stage} in root={root}",
            "check that root and captions belong together and that no folder is empty",
        )

    # --- where it lies ------------------------------------------------------------------------

    def captions_file(self) -> Path | None:
        """Give the path in `captions`; None where root is searched, as with phantoms.

        Raises:
            UserError: there is nothing of this path.
        """
        if self.synthesize or self.captions_path is None:
            return None
        path = Path(self.captions_path).expanduser()
        if not path.exists():
            remedy = "give the captions' table, or the folder that holds the tables"
            raise UserError(f"captions={path} does not exist", remedy)
        return path

    def folder(self) -> Path:
        """Give the dataset's folder: the phantoms' where `synthesize` is set, otherwise root.

        Raises:
            UserError: root is unset or is no folder.
        """
        if self.synthesize:
            return self._build_phantoms()
        if self.root is None:
            raise UserError(
                f"{type(self).__name__}: root is unset",
                "set root to the dataset's folder, or synthesize=true to try without data",
            )
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise UserError(
                f"root={self.root} is not a folder", "give the unpacked dataset's folder"
            )
        return Path(os.path.abspath(root))  # noqa: PTH100 - as tables.resolve_inside, follows no links

    def _build_phantoms(self) -> Path:
        """The phantoms' folder, written unless it is there."""
        # True and 1 are equal, so only the type tells a default from a count.
        rows = self.phantom_images if isinstance(self.synthesize, bool) else self.synthesize
        if rows < 1:
            raise UserError(f"synthesize={rows} is below 1", "give true or a number of images")
        name = f"{type(self).__name__}-{rows}-{_generator_digest(type(self))}"
        return build_once(
            Path("data/phantoms") / name,
            lambda aside: self.write_phantoms(aside, rows),
            identity=name,
            what="phantoms",
        )

    # --- reading and checking -----------------------------------------------------------------

    def _check(self, stages: Sequence[Stage]) -> None:
        """Find the usable rows of stages that were not checked before; the disk is read once."""
        root = self.folder()
        self._read_once(root)
        usable: dict[Stage, list[Record]] = {}
        missing: list[Path] = []
        for stage in stages:
            rows = self._read.get(stage, [])
            if stage == "predict" and not rows:
                rows = self._read.get("test", [])
            scored = stage != "predict"
            files = [f for row in rows for f in (row.image, row.mask if scored else None) if f]
            check_links(files, root)
            usable[stage], absent = split_missing(rows, scored=scored)
            missing += absent
        report_missing(missing, self._unlisted, root=root, on_missing=self.on_missing)
        self._unlisted = []  # warned of once
        for stage, kept in usable.items():
            if not kept:
                raise self.nothing_for(stage, root)
        oddities: list[Oddity] = []
        for stage, kept in usable.items():
            oddities += self._check_files(stage, kept)
            if self.normalize_captions:
                kept = [_normalized(record) for record in kept]
            if stage == "predict":
                kept = [replace(record, mask=None) for record in kept]
            self._checked[stage] = kept
        warn_of(oddities)
        self._copies.warn(self.published_splits.get(self.split, ()))

    def _check_files(self, stage: Stage, rows: list[Record]) -> list[Oddity]:
        """Check the files of a stage; without a cache, the pixels of some. Give what is odd."""
        pictures = self._open_cache()
        look = pictures.look if pictures else look_at_files(sampled(rows), self.mask_values)
        scored = stage != "predict"
        check_files(rows, scored=scored, what=stage, look=look)
        if stage in SPLITS and pictures is None:
            digests = {row.image: look(row.image, "image").digest for row in rows}
            self._copies.add(stage, digests)
        values = self.mask_values
        return check_pixels(rows, scored=scored, what=stage, look=look, mask_values=values)

    def _read_once(self, root: Path) -> None:
        if not self._read:
            splits = self.read_records(root)
            if self.folds is not None and self.fold is not None:
                splits = in_fold(splits, Path(self.folds).expanduser(), self.fold)
            self._read = splits
            check_captions(self._listed())
            warn_of_shared_cases(self._read, self.published_splits.get(self.split, ()))
            self._unlisted = without_caption(self.all_images(root), self._listed())

    def _listed(self) -> list[Record]:
        return [record for rows in self._read.values() for record in rows]

    def _open_cache(self) -> PictureCache | None:
        """The cache of all splits' files, built where it is first needed; None without one."""
        if self.cache is not None and self._pictures is None:
            self._pictures = open_cache(
                Path(self.cache),
                [record.image for record in self._listed()],
                [record.mask for record in self._listed() if record.mask is not None],
                size=checked_size(self.image_size),
                resize=self.resize,
                name=type(self).__name__,
                mask_values=self.mask_values,
            )
            for split in SPLITS:
                images = [record.image for record in self._read.get(split, ())]
                self._copies.add(split, self._pictures.digests(images))
        return self._pictures


def _normalized(record: Record) -> Record:
    altered = {name: normalize(text) for name, text in record.altered.items()}
    return replace(record, text=normalize(record.text), altered=altered)


def _generator_digest(datamodule: type, package: Path = _PACKAGE) -> str:
    """Digest every module that may draw phantoms: the package's, and the class's own."""
    sources = {source.relative_to(package).as_posix(): source for source in package.rglob("*.py")}
    own = inspect.getsourcefile(datamodule)
    if own is not None and package not in Path(own).parents:
        sources[own] = Path(own)
    text = "".join(f"{name}\n{sources[name].read_text('utf-8')}" for name in sorted(sources))
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
