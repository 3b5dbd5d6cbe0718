"""Findings about pictures and masks: there, readable, of one size, worth training on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from datamodules.audit.file_facts import ImageFacts, MaskFacts, inspect_image, inspect_mask
from datamodules.audit.findings import Finding, Severity, finding
from datamodules.files.checks import preview
from datamodules.files.links import link_fault
from datamodules.files.pixel_checks import judge_images, judge_masks, unequal_spacing
from datamodules.records import Record, Splits, unlikely_spacing
from textseg.errors import UserError
from textseg.preprocess import Resize, Size
from textseg.tables import images_in, match_key

_USUAL, _ODD = 0.5, 0.1  # shares of the pictures above and below which their form is so

_OF_SETS = ("narrow range", "inverted mask")  # kinds that only a set can show


class FileChecks:
    """Inspects each file once, and collects what is wrong with it.

    Args:
        root: the dataset's folder; files are named by their path below it.
        network: height and width of the network's input.
        resize: how masks come to that size.
        missing: how serious a missing file is.
        count_components: whether masks' connected components are counted.
        mask_values: the values of masks' files that are foreground.
    """

    def __init__(
        self,
        root: Path,
        *,
        network: Size,
        resize: Resize,
        missing: Severity,
        count_components: bool,
        mask_values: Sequence[int] | None = None,
    ) -> None:
        self.root = root
        self.network = network
        self.resize: Resize = resize
        self.missing = missing
        self.count_components = count_components
        self.mask_values = mask_values
        self.findings: list[Finding] = []
        self.images: dict[Path, ImageFacts | None] = {}  # None: not there, or unreadable
        self.masks: dict[Path, MaskFacts | None] = {}
        self.listed_masks: set[Path] = set()
        self.split_of: dict[Path, str] = {}  # an image's first

    def shown(self, path: Path) -> str:
        """Name a file in findings: by its path below root."""
        inside = path.is_relative_to(self.root)
        return path.relative_to(self.root).as_posix() if inside else str(path)

    def inspect(self, record: Record, split: str, *, scored: bool) -> MaskFacts | None:
        """Inspect a row's image and, if it is to be scored, its mask; give the mask if readable."""
        if record.mask is not None:
            self.listed_masks.add(record.mask)
        image = self._image(record, split)
        mask = self._mask(record.mask, record, split) if scored and record.mask else None
        if image is not None and mask is not None and image.size != mask.size:
            (height, width), (mask_height, mask_width) = image.size, mask.size
            detail = f"image {height}x{width}, mask {mask_height}x{mask_width} (height x width)"
            if _is_turned(image, mask):
                detail += "; the image's EXIF orientation turns it"
            self.findings.append(finding("size mismatch", split, record.case, detail))
        if scored and record.mask == record.image:
            self._add("picture as mask", split, record.image, "is named as its own mask")
        if unequal_spacing(record):
            detail = f"{record.spacing} mm (rows, columns) differ by more than a factor of 3"
            self.findings.append(finding("unequal spacing", split, record.case, detail))
        if record.spacing and unlikely_spacing(record.spacing):
            detail = f"{record.spacing} mm: under 0.01 or over 50"
            self.findings.append(finding("unlikely spacing", split, record.case, detail))
        return mask

    def _image(self, record: Record, split: str) -> ImageFacts | None:
        path = record.image
        if path in self.images:
            return self.images[path]
        self.split_of[path] = split
        self.images[path] = None
        if fault := link_fault(path, self.root):
            self._add("outside root", split, path, fault)
            return None
        if not path.is_file():
            self._add("caption without image", split, path, "not there", severity=self.missing)
            if record.mask is not None and record.mask.is_file():
                detail = f"its image {self.shown(path)} is not there"
                self._add("mask without image", split, record.mask, detail, severity=self.missing)
            return None
        try:
            facts = inspect_image(path)
        except UserError as error:
            self._add_unreadable("unreadable image", split, path, error)
            return None
        self.images[path] = facts
        if facts.constant:
            self._add("constant image", split, path, "every pixel has the same value")
        return facts

    def _mask(self, path: Path, record: Record, split: str) -> MaskFacts | None:
        if path in self.masks:
            return self.masks[path]
        self.masks[path] = None
        if fault := link_fault(path, self.root):
            self._add("outside root", split, path, fault)
            return None
        if not path.is_file():
            if record.image.is_file():
                detail = f"{self.shown(path)} is not there"
                self._add("image without mask", split, record.image, detail, severity=self.missing)
            return None
        try:
            facts = inspect_mask(
                path,
                self.network,
                self.resize,
                count_components=self.count_components,
                mask_values=self.mask_values,
            )
        except UserError as error:
            self._add_unreadable("unreadable mask", split, path, error)
            return None
        self.masks[path] = facts
        self._check_mask(facts, path, split)
        return facts

    def _check_mask(self, facts: MaskFacts, path: Path, split: str) -> None:
        if facts.unusual_mode:
            self._add("unusual mask mode", split, path, facts.unusual_mode)
        odd = facts.oddities
        if "erased" in odd:
            largest = max(facts.other_values)
            detail = f"the largest value is {largest}, and only values above 127 count"
            self._add("mask erased by the threshold", split, path, detail)
        elif "picture" in odd or "shaded" in odd:
            kind = "picture as mask" if "picture" in odd else "shaded mask"
            self._add(kind, split, path, odd.get("picture") or odd["shaded"])
        elif "classes" in odd or "faint" in odd:
            kind = "class map" if "classes" in odd else "faint areas"
            self._add(kind, split, path, f"filled are {odd.get('classes', odd.get('faint'))}")
        elif facts.other_values:
            detail = f"values {preview(facts.other_values)}; {facts.soft_share:.1%} of the area "
            detail += "above 0 is not above 127"
            self._add("soft mask" if facts.doubtful else "faint mask values", split, path, detail)
        if facts.area == facts.size[0] * facts.size[1]:
            self._add("mask of everything", split, path, "every pixel is foreground")
        if facts.vanishes:
            detail = f"{facts.area} pixels of {facts.size[0]}x{facts.size[1]} leave none at "
            detail += f"{self.network[0]}x{self.network[1]}"
            self._add("lesion lost at network size", split, path, detail)

    def _add_unreadable(self, kind: str, split: str, path: Path, error: UserError) -> None:
        cause, _, remedy = str(error).partition("\n")
        detail = cause.removeprefix(f"{path} ")
        found = finding(kind, split, self.shown(path), detail, suggestion=remedy or None)
        self.findings.append(found)

    def _add(
        self, kind: str, split: str, path: Path, detail: str, *, severity: Severity | None = None
    ) -> None:
        self.findings.append(finding(kind, split, self.shown(path), detail, severity=severity))

    # --- of all files together -----------------------------------------------------------------

    def compare(self, *, published: Collection[str]) -> None:
        """Find copies of one picture and odd pictures, after all rows were inspected.

        Args:
            published: splits that hold copies of each other's pictures as they are published.
        """
        first: dict[str, Path] = {}
        sizes: Counter[tuple[Size, str]] = Counter()
        for path, facts in self.images.items():
            if facts is None:
                continue
            sizes[facts.size, facts.mode] += 1
            if facts.constant:  # every black picture is every other's copy
                continue
            original = first.setdefault(facts.digest, path)
            if original != path:
                self._add_copy(path, original, published=published)
        self._find_odd_pictures(sizes)

    def _find_odd_pictures(self, sizes: Counter[tuple[Size, str]]) -> None:
        """Exceptions, where most pictures have one size and mode."""
        if not sizes:
            return
        [((usual, usual_mode), most)] = sizes.most_common(1)
        if most <= _USUAL * sizes.total():
            return
        for path, facts in self.images.items():
            if facts is not None and sizes[facts.size, facts.mode] < _ODD * sizes.total():
                (height, width), mode = facts.size, facts.mode
                detail = f"{height}x{width}, mode {mode}; most are {usual[0]}x{usual[1]}, "
                self._add("odd picture", self.split_of[path], path, f"{detail}{usual_mode}")

    def judge(self, rows: Splits, *, scored: Collection[str]) -> None:
        """Find what the files of each split have in common that one file cannot tell.

        Args:
            rows: by split, which were inspected.
            scored: the splits whose masks are read.
        """
        for split, records in rows.items():
            looked = {record.image: self.images.get(record.image) for record in records}
            images = {path: facts.oddities for path, facts in looked.items() if facts}
            verdicts = judge_images(images)
            if split in scored:
                read = {r.mask: self.masks.get(r.mask) for r in records if r.mask is not None}
                masks = {path: facts.oddities for path, facts in read.items() if facts}
                verdicts += judge_masks(masks, self.mask_values)
                self._find_turned(split, records)
            for verdict in verdicts:
                if verdict.kind == "no foreground":
                    detail = f"all {len(verdict.files)} masks {verdict.text}"
                    severity: Severity | None = "error" if verdict.refuses else None
                    found = finding(verdict.kind, split, split, detail, severity=severity)
                    self.findings.append(found)
                elif verdict.kind in _OF_SETS:
                    for path in verdict.files:
                        detail = f"as {len(verdict.files)} files of {split}, which {verdict.text}"
                        self._add(verdict.kind, split, path, detail)

    def _find_turned(self, split: str, records: Iterable[Record]) -> None:
        """Images that EXIF turns and whose masks it does not."""
        for path, mask_path in dict.fromkeys((r.image, r.mask) for r in records if r.mask):
            image, mask = self.images.get(path), self.masks.get(mask_path)
            if image is not None and mask is not None and _is_turned(image, mask):
                detail = f"{image.oddities['turned']}; its mask {self.shown(mask_path)} has none"
                self._add("turned picture", split, path, detail)

    def _add_copy(self, path: Path, original: Path, *, published: Collection[str]) -> None:
        split, other = self.split_of[path], self.split_of[original]
        detail = f"the same pixels as {self.shown(original)} ({other})"
        if split == other:
            self._add("duplicate image", split, path, detail)
        else:
            severity: Severity = "warning" if {split, other} <= set(published) else "error"
            both = f"{other}, {split}"
            self._add("duplicate image across splits", both, path, detail, severity=severity)

    def unlisted_files(self, unlisted: Iterable[Path]) -> None:
        """Find files that no row names.

        Args:
            unlisted: all images that the dataset says it has; of a manifest, none.
        """
        listed = {match_key(path.name) for path in self.images}
        extra = {path: match_key(path.name) for path in unlisted}
        extra = {path: key for path, key in extra.items() if key not in listed}
        for path in extra:
            self._add("image without caption", "", path, "no row names it", severity=self.missing)
        # In the folders of listed files, a copy under another spelling is not a file without a row.
        images = [*self.images, *extra]
        known = {(path.parent, match_key(path.name)) for path in (*images, *self.listed_masks)}
        mask_folders = {path.parent for path in self.listed_masks}
        mask_folders -= {path.parent for path in images}
        for folder in sorted({folder for folder, _ in known}):
            of_masks = folder in mask_folders
            for path in images_in(folder) if folder.is_dir() else ():
                key = match_key(path.name)
                if (folder, key) not in known and not (of_masks and key in extra.values()):
                    kind = "mask without image" if of_masks else "image without caption"
                    self._add(kind, "", path, "no row names it", severity="warning")


def _is_turned(image: ImageFacts, mask: MaskFacts) -> bool:
    return "turned" in image.oddities and "turned" not in mask.oddities
