"""Duke-Breast-Cancer-MRI: breast MRI with contrast, 922 patients, and captions from their sheets.

No prompts for this dataset are published. Captions are composed from the clinical sheets (side,
clock position, quadrant, focality, subtype, grade), never from the mask. Axial slices are turned by
their headers so that the patient's left is the picture's left, whatever the scanner wrote. Trees:

    slices     manifest.jsonl, .csv or .xlsx, and the prepared pictures it names (manifest.py)
    mamamia    images/DUKE_001/duke_001_{0000,0001,...}.nii.gz      0000 before contrast
               segmentations/expert/duke_001.nii.gz                 291 of the patients
               clinical_and_imaging_info.xlsx, train_test_splits.csv
               and TCIA's Clinical_and_Other_Features.xlsx, for side and position
    tcia       [manifest-*/][Duke-Breast-Cancer-MRI/]Breast_MRI_001/<study>/<series>/1-001.dcm
               Annotation_Boxes.xlsx (or .csv), Clinical_and_Other_Features.xlsx,
               Breast-Cancer-MRI-filepath_filename-mapping.xlsx (or .csv)

Volumes are sliced once, into a folder `duke_...` of the cache, which is itself of the form
`slices`. TCIA has boxes, not outlines: their masks are filled rectangles, `mask_source` says so,
and every case's name has "box" in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from datamodules.base import TextSegDataModule
from datamodules.cache.build_once import build_once
from datamodules.duke_breast_mri.captions import oracle_caption
from datamodules.duke_breast_mri.layouts import (
    ELSEWHERE,
    LayoutName,
    Phases,
    Slices,
    Source,
    choose_layout,
    holds_volumes,
    mamamia_cases,
    official_splits,
    patient_split,
    short_digest,
    tcia_cases,
    volumes_identity,
)
from datamodules.duke_breast_mri.sheets import patient_name, patient_number
from datamodules.files.checks import preview
from datamodules.files.manifest import has_manifest, read_manifest
from datamodules.records import Record, Splits
from textseg.errors import Report, UserError, check_choice, raise_error
from textseg.preprocess import read_mask
from textseg.tables import SPLITS

Split = Literal["patient", "official", "manifest"]
CaptionsFrom = Literal["clinical", "oracle"]
_CHOICES = {"phases": Phases, "captions_from": CaptionsFrom, "slices": Slices}

_SLICES_PER_PHANTOM = 6  # of 24 that its tumor reaches, on average


class DukeBreastMRIDataModule(TextSegDataModule):
    """Duke-Breast-Cancer-MRI from MAMA-MIA's release, from TCIA's, or as prepared slices.

    Args:
        root: folder of the unpacked dataset; three layouts are recognized.
        captions: folder that holds the clinical sheets, where that is not root; of prepared slices,
            their manifest.
        split: patient divides patients 70/15/15 by their numbers, and refuses prepared slices
            whose split column says otherwise; official follows MAMA-MIA's train_test_splits.csv,
            with some of its training patients for validation; manifest follows the split column of
            prepared slices.
        layout: mamamia has experts' outlines; tcia has boxes only, and its masks are filled boxes;
            slices are prepared pictures with a manifest; auto finds out.
        phases: post1 is the first phase after contrast, in gray; pre_post1_subtraction puts the
            phase before contrast, the first after it and their difference into the three channels.
        captions_from: clinical composes captions from the sheets; oracle reads them from the masks,
            as an upper bound for experiments, and marks captions and case names as such.
        slices: tumor takes the slices that the mask reaches; all takes every slice, and captions
            then name a tumor that most slices do not show.
    """

    name = "duke"
    splits = get_args(Split)
    recognized_by = "Duke (images/ and segmentations/ of DUKE_001 ..., or Breast_MRI_001/ ...)"
    phantom_images = 320

    def __init__(
        self,
        root: str | None = None,
        captions: str | None = None,
        *,
        split: Split = "patient",
        layout: LayoutName = "auto",
        phases: Phases = "post1",
        captions_from: CaptionsFrom = "clinical",
        slices: Slices = "tumor",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, captions, split=split, **kwargs)
        self.layout: LayoutName = layout
        self.phases: Phases = phases
        self.captions_from: CaptionsFrom = captions_from
        self.slices: Slices = slices

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Tell by the patients' folders; prepared slices have a manifest, which overrules them."""
        return not has_manifest(root) and holds_volumes(root)

    def read_records(self, root: Path, report: Report = raise_error) -> Splits:
        """Read the slices' manifest, after cutting volumes into slices, and divide the patients."""
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        captions = self.captions_file()
        layout = choose_layout(root, self.layout, captions)
        needed = {"manifest": "slices", "official": "mamamia"}.get(self.split, layout)
        if layout != needed:
            raise UserError(
                f"split={self.split}, but the layout is {layout}",
                f"only {needed} comes with that division; set split=patient",
            )
        if layout == "slices":
            folder, source, manifest = root, None, captions
        else:
            source = self._source(root, captions, report)
            folder, manifest = self._sliced(source, layout), None
        rows = read_manifest(folder, manifest, needs_split=self.split == "manifest", report=report)
        parts = self._divided(rows, source, report)
        by_box = any(r.image.stem.endswith("_box") for part in parts.values() for r in part)
        self.mask_source = "boxes" if by_box else ""
        if self.captions_from == "oracle":
            values = self.mask_values
            return {split: _with_oracle(rows, split, values) for split, rows in parts.items()}
        return parts

    def write_phantoms(self, folder: Path, rows: int) -> None:
        """Write as many patients in MAMA-MIA's layout as give about `rows` training slices."""
        from datamodules.duke_breast_mri.phantoms import write_duke_mamamia

        write_duke_mamamia(folder, cases=phantom_cases(rows), image_size=128, slices=24)

    # --- inside --------------------------------------------------------------------------------

    def _source(self, root: Path, captions: Path | None, report: Report) -> Source:
        if captions is not None and captions.is_file():
            raise UserError(
                f"captions={captions} is a file", "give the folder that holds the clinical sheets"
            )
        return Source(
            root=root,
            tables=(root,) if captions is None else (captions, root),
            phases=self.phases,
            on_missing=self.on_missing,
            report=report,
            cache=Path(self.cache or "data/cache").expanduser(),
        )

    def _sliced(self, source: Source, layout: LayoutName) -> Path:
        """The folder of slices, written unless it is there."""
        cases = mamamia_cases(source) if layout == "mamamia" else tcia_cases(source)
        digested = [(case.name, case.text, str(case.mask)) for case in cases]
        digests = f"{short_digest(source.root)}_{short_digest(digested)}"
        name = f"duke_{layout}_{self.phases}_{self.slices}_{digests}"

        def write(aside: Path) -> None:
            from datamodules.duke_breast_mri.slices import write_slices  # with nibabel and pydicom

            write_slices(aside, cases, phases=self.phases, slices=self.slices)

        return build_once(
            source.cache / name,
            write,
            identity=volumes_identity(cases, self.phases, self.slices, digested),
            what="slices of Duke's volumes",
            elsewhere=ELSEWHERE,
        )

    def _divided(self, rows: Splits, source: Source | None, report: Report) -> Splits:
        if self.split == "manifest":
            return rows
        pool = sorted((r for part in rows.values() for r in part), key=lambda record: record.row)
        if self.split == "patient":
            if not _splits_agree(rows, report):
                return rows
            return _parts(pool, {record.case_id: patient_split(record.case_id) for record in pool})
        assert source is not None
        return _parts(pool, _official(pool, official_splits(source)))


def phantom_cases(rows: int) -> int:
    """How many phantom patients give about `rows` training slices, and some to val and test."""
    counts = dict.fromkeys(SPLITS, 0)
    number = 0
    while not all(counts.values()) or counts["train"] * _SLICES_PER_PHANTOM < rows:
        number += 1
        counts[patient_split(patient_name(number))] += 1
    return number


def _splits_agree(rows: Splits, report: Report) -> bool:
    """Whether a split column says nothing else, which must not be overruled in silence."""
    named = {record.case_id: split for split in SPLITS for record in rows[split]}
    moved = [f"{case} ({split})" for case, split in named.items() if split != patient_split(case)]
    if moved:
        cause = f"split=patient, but the manifest has {len(moved)} of {len(named)} patients in "
        cause += f"other splits: {preview(moved)}"
        remedy = "set split=manifest to follow its split column, or delete the column"
        report(UserError(cause, remedy))
    return not moved


def _parts(pool: Iterable[Record], split_of: dict[str, str]) -> Splits:
    parts: Splits = {split: [] for split in SPLITS}
    for record in pool:
        parts[split_of[record.case_id]].append(record)
    return parts


def _official(pool: Iterable[Record], lists: dict[str, set[int]]) -> dict[str, str]:
    """The split of each patient; those of train whom `patient` has in val are val's here too."""
    split_of: dict[str, str] = {}
    unclear = []
    for case_id in dict.fromkeys(record.case_id for record in pool):
        listed = [split for split, numbers in lists.items() if patient_number(case_id) in numbers]
        if len(listed) != 1:
            unclear.append(case_id)
        elif listed == ["train"] and patient_split(case_id) == "val":
            split_of[case_id] = "val"
        else:
            split_of[case_id] = listed[0]
    if unclear:
        raise UserError(
            f"split=official: {len(unclear)} patients are in no list or in both: "
            f"{preview(unclear)}",
            "use the train_test_splits.csv that came with the data, or split=patient",
        )
    return split_of


def _with_oracle(records: list[Record], split: str, mask_values: list[int] | None) -> list[Record]:
    marked = []
    for record in tqdm(records, f"oracle captions of {split}", delay=2, unit="slice"):
        if record.mask is None:  # a mistake that was reported
            continue
        text = oracle_caption(read_mask(record.mask, mask_values))
        marked.append(replace(record, text=text, case=f"{record.case}_oracle"))
    return marked
