"""Folds of a cross-validation, in a table that says what each row is for in each of them.

    case,patient,stratum,fold1,fold2,...
    scan_3__17,p3,small,test,train,...       tested in fold 1, trained on in fold 2

All rows of a patient stay together. Each patient is tested in one fold; of the others a sixth
validates. Folds differ by one patient at most, and are alike in their numbers of rows without a
lesion, with a small, a medium and a large one.

One patient after the other, those first who hold the largest share of some kind of row, comes to
the part that holds least of what the patient brings, among those that are not full. There the sum
of squared shares, over parts and kinds, grows least: the variance over folds that scikit-learn's
StratifiedGroupKFold keeps small as well, which does not even out patients.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from tqdm import tqdm

from datamodules.files.checks import preview, split_missing
from datamodules.records import Record, Splits
from textseg.errors import UserError, check_at_least, check_seed, refusing
from textseg.output import write_bytes
from textseg.preprocess import read_mask
from textseg.tables import SPLITS, cell_text, spreadsheet_cell

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

STRATA = ("none", "small", "medium", "large")  # of a row, by the share its lesion takes
VALIDATE = 6  # one of so many parts of those who are not tested validates
_FACTS = ("case", "patient", "stratum")
_DIGITS = 12  # rounding errors, which differ between machines, must not decide between equal parts
_ATTEMPTS, _PATIENTS = 40, 10_000  # divisions at most, and patients in all of them together


# --- the division ------------------------------------------------------------------------------


def write_folds(
    folder: Path,
    rows: Sequence[Record],
    patients: Sequence[str],
    *,
    root: Path,
    folds: int,
    seed: int,
) -> Path:
    """Divide patients into folds, and write the table into an existing folder.

    Args:
        folder: where; the file's name ends in a digest of the table.
        rows: what is divided; every mask is read.
        patients: of each row; of a row without one the image stays together.
        root: the dataset's folder.
        folds: their number.
        seed: of the division: equal rows and seeds give equal tables.

    Raises:
        UserError: patients are too few, a row cannot be used, or an image is of two patients.
    """
    check_at_least("folds", folds, 2)
    check_seed(seed)
    _check_rows(rows, patients)
    units = _units(rows, patients, root)
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    patient = np.array([numbers[unit] for unit in units])
    strata = _strata(rows)
    counts = _counts(patient, strata)
    _check_enough(counts, folds)
    parts = _parts(counts, folds, seed)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FACTS, *map(_column, range(1, folds + 1))])
    for row, (_, name), number, stratum in zip(rows, units, patient, strata, strict=True):
        names = map(spreadsheet_cell, (row.case, name))
        writer.writerow([*names, STRATA[stratum], *parts[number]])
    content = text.getvalue().encode()
    digest = hashlib.blake2b(content, digest_size=4).hexdigest()
    file = folder / f"folds-{folds}-{digest}.csv"
    write_bytes(file, content)
    return file


def rows_to_divide(splits: Splits) -> list[Record]:
    """All rows of train, val and test; names that two of these share get the split before them."""
    parts = {split: splits.get(split, []) for split in SPLITS}
    names = Counter(name for rows in parts.values() for name in {row.case for row in rows})
    return [
        row if names[row.case] == 1 else replace(row, case=f"{split}_{row.case}")
        for split, rows in parts.items()
        for row in rows
    ]


def _check_rows(rows: Sequence[Record], patients: Sequence[str]) -> None:
    """Check that every row has a mask and a name of its own, and every image one patient."""
    unscored = [row.case for row in rows if row.mask is None]
    if unscored or not rows:
        cause = f"{len(unscored)} of {len(rows)} rows have no mask: {preview(unscored)}"
        raise UserError(cause, "folds need rows of train, val or test, each with its mask")
    repeated = [name for name, count in Counter(row.case for row in rows).items() if count > 1]
    if repeated:
        cause = f"{len(repeated)} names are of several rows of one split: {preview(repeated)}"
        raise UserError(cause, "read_records must give each row a case of its own")
    of_image: dict[Path, set[str]] = {}
    for row, patient in zip(rows, patients, strict=True):
        of_image.setdefault(row.image, set()).add(patient)
    doubtful = [f"{p.name} ({preview(sorted(c))})" for p, c in of_image.items() if len(c) > 1]
    if doubtful:
        cause = f"{len(doubtful)} images have more than one patient: {preview(doubtful)}"
        raise UserError(cause, "give all rows of an image the same case_id")


def _units(rows: Sequence[Record], patients: Sequence[str], root: Path) -> list[tuple[bool, str]]:
    """What stays together, for each row: its patient or, where unknown, its image below root."""
    unknown = patients.count("")
    if unknown:
        rank_zero_warn(
            f"no patient is known of {unknown} of {len(rows)} rows, so their images are divided; "
            "that is right only if no two of these are of one patient"
        )
    return [
        (True, patient) if patient else (False, os.path.relpath(row.image, root))
        for row, patient in zip(rows, patients, strict=True)
    ]


def _strata(rows: Sequence[Record]) -> Ints:
    """Position in `STRATA` of each row: [N]; each size is a third of the rows with a lesion."""
    share = np.zeros(len(rows))
    for number, row in enumerate(tqdm(rows, "reading masks", delay=2, unit="row")):
        assert row.mask is not None
        share[number] = (read_mask(row.mask) != 0).mean()
    lesions = share[share > 0]
    if not len(lesions):
        return np.zeros(len(rows), dtype=np.int64)
    cuts = np.quantile(lesions, [1 / 3, 2 / 3], method="inverted_cdf")
    return np.where(share > 0, 1 + np.searchsorted(cuts, share, side="left"), 0)


def _counts(patient: Ints, strata: Ints) -> Ints:
    """Each patient's rows by stratum and, last, a one for the patient: [G, 5]."""
    counts = np.zeros((patient.max() + 1, len(STRATA) + 1), dtype=np.int64)
    np.add.at(counts, (patient, strata), 1)
    counts[:, -1] = 1
    return counts


def _check_enough(counts: Ints, folds: int) -> None:
    """Check that every fold gets a patient; warn of strata that cannot be in every one."""
    patients = len(counts)
    if folds > patients or patients < 3:
        raise UserError(
            f"folds={folds}, but the {counts[:, :-1].sum()} rows are of {patients} patients",
            f"give {patients} folds or fewer" if patients > 2 else "three patients are the least",
        )
    holders = (counts[:, :-1] > 0).sum(axis=0).tolist()
    rare = [f"{name} ({n})" for name, n in zip(STRATA, holders, strict=True) if 0 < n < folds]
    if rare:
        rank_zero_warn(
            f"fewer patients than {folds} folds have rows of the strata {', '.join(rare)}: some "
            "folds test none of these"
        )


def _parts(counts: Ints, folds: int, seed: int) -> NDArray[np.str_]:
    """What each patient is for in each fold: [G, 5] -> [G, folds] of train, val and test."""
    tested_in = divide(counts, folds, seed=[seed])
    parts = np.full((len(counts), folds), "train", dtype="<U5")
    for fold in range(folds):
        parts[tested_in == fold, fold] = "test"
        others = np.flatnonzero(tested_in != fold)
        if len(others) < 2:
            raise UserError(
                f"folds={folds} would leave {len(others)} patient to train and to validate",
                "give more folds, so that each tests fewer patients",
            )
        number = min(VALIDATE, len(others))
        # The last part: the first one begins with the patient who has most rows.
        own = divide(counts[others], number, seed=[seed, fold + 1]) == number - 1
        parts[others[own], fold] = "val"
    return parts


def divide(counts: Ints, parts: int, *, seed: Sequence[int]) -> Ints:
    """Divide G patients into parts that are alike in each of C counts: [G, C] -> [G] of parts.

    Parts differ by one patient at most. With few patients, of several divisions the most even one.
    """
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    generator = np.random.default_rng(seed)
    found = [
        _divided(shares, parts, generator.permutation(len(shares)))
        for _ in range(min(_ATTEMPTS, 1 + _PATIENTS // len(shares)))
    ]
    return min(found, key=lambda one: one[1])[0]


def _divided(shares: Floats, parts: int, order: Ints) -> tuple[Ints, float]:
    """A division of patients in a random order, and how uneven it is: the sum of squared shares."""
    order = order[np.argsort(-shares[order].max(axis=1).round(_DIGITS), kind="stable")]
    least, larger = divmod(len(shares), parts)
    held = np.zeros((parts, shares.shape[1]))
    patients = np.zeros(parts, dtype=np.int64)
    part_of = np.zeros(len(shares), dtype=np.int64)
    for patient in order:
        full = patients >= least + ((patients > least).sum() < larger)
        overlap = np.where(full, np.inf, (held @ shares[patient]).round(_DIGITS))
        part = int(np.argmin(overlap))
        part_of[patient] = part
        held[part] += shares[patient]
        patients[part] += 1
    return part_of, round(float((held**2).sum()), _DIGITS)


# --- a fold ------------------------------------------------------------------------------------


def check_fold(folds: str | None, fold: int | None) -> None:
    """Check that a fold and its table are given together.

    Raises:
        UserError: one of them is missing, or folds are not counted from 1.
    """
    if (folds is None) != (fold is None):
        raise UserError(f"folds={folds} with fold={fold}", "give both, or neither (null)")
    if fold is not None:
        check_at_least("fold", fold, 1, "folds are counted from 1")


def in_fold(splits: Splits, file: Path, fold: int) -> Splits:
    """Divide the rows of train, val and test anew, as a table of folds says.

    Rows of other splits stay as they are. Those without their files stay too, in train, for the
    DataModule's own checks to report.

    Raises:
        UserError: the table cannot be read, has no such fold, or is of other rows.
    """
    table, patients = _read_table(file, fold)
    parts: Splits = {split: [] for split in SPLITS}
    unknown = []
    for row in rows_to_divide(splits):
        part = table.pop(row.case, None)
        if part is not None:
            parts[part].append(row)
        elif split_missing([row], scored=True)[0]:
            unknown.append(row.case)
        else:
            parts["train"].append(row)
    if unknown or table:
        raise UserError(
            f"{file} is of other rows: the dataset has {len(unknown)} that it does not list "
            f"({preview(unknown)}) and lacks {len(table)} that it lists ({preview(list(table))})",
            "restore the dataset that was divided; or set folds and fold to null for its own split",
        )
    counts = ", ".join(
        f"{len(rows)} rows of {len(patients[split])} patients to {verb}"
        for (split, rows), verb in zip(parts.items(), ("train", "validate", "test"), strict=True)
    )
    rank_zero_info(f"fold {fold} of {file.name}: {counts}")
    return {**splits, **parts}


def _read_table(file: Path, fold: int) -> tuple[dict[str, str], dict[str, set[str]]]:
    """What each case is for in a fold, and the patients of train, val and test."""
    cause = f"folds={file} cannot be read"
    remedy = "give the table that textseg crossval wrote, or null for the dataset's own split"
    with (
        refusing((OSError, UnicodeDecodeError, csv.Error), cause, remedy),
        file.open(newline="", encoding="utf-8") as stream,
    ):
        reader = csv.DictReader(stream)
        columns, rows = list(reader.fieldnames or ()), list(reader)
    missing = [name for name in (*_FACTS, _column(fold)) if name not in columns]
    if missing:
        raise UserError(f"folds={file} has no column {', '.join(missing)}", remedy)
    table: dict[str, str] = {}
    patients: dict[str, set[str]] = {split: set() for split in SPLITS}
    for number, row in enumerate(rows, start=2):
        case, part = cell_text(row["case"] or ""), row[_column(fold)]
        if part not in SPLITS or case in table:
            fault = f"{case} twice" if case in table else f"{_column(fold)}={part!r}"
            raise UserError(f"{file}, line {number}: {fault}", remedy)
        table[case] = part
        patients[part].add(cell_text(row["patient"] or ""))
    _check_apart(file, fold, patients)
    return table, patients


def _check_apart(file: Path, fold: int, patients: dict[str, set[str]]) -> None:
    for one, other in (("train", "test"), ("val", "test"), ("train", "val")):
        both = sorted(patients[one] & patients[other])
        if both:
            cause = f"{file}: fold {fold} has {len(both)} patients in {one} and in {other}: "
            raise UserError(cause + preview(both), "give all rows of a patient the same split")


def _column(fold: int) -> str:
    return f"fold{fold}"
