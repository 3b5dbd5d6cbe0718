"""Checks of files and captions before training starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from tqdm import tqdm

from datamodules.files.pixel_checks import Looker, is_turned
from datamodules.records import Record, Splits
from textseg.errors import Report, UserError, raise_error
from textseg.tables import FILL_IN, SPLITS, match_key

_SHOWN = 5
_REPLACE = "replace these files, or delete their rows from the captions table"
_LONGEST_CAPTION = 100_000  # characters; what csv files are read with takes no field much longer


def preview(items: Sequence[object]) -> str:
    """List the first five items, for a message of one line."""
    return ", ".join(str(item) for item in items[:_SHOWN]) + (
        ", ..." if len(items) > _SHOWN else ""
    )


def check_captions(records: Iterable[Record]) -> None:
    """Check that captions can be written to a table and read again.

    Raises:
        UserError: a caption is too long, or holds half of a surrogate pair.
    """
    for record in records:
        text = record.text
        if len(text) > _LONGEST_CAPTION:
            problem = f"has {len(text)} characters, over {_LONGEST_CAPTION}"
        elif any("\ud800" <= c <= "\udfff" for c in text):
            problem = "holds half of a surrogate pair, which is no character"
        else:
            continue
        raise UserError(
            f"the caption of {record.image} {problem}: {text[:40]!r}",
            "correct that row of the captions table",
        )


def split_missing(records: Sequence[Record], *, scored: bool) -> tuple[list[Record], list[Path]]:
    """Separate the rows whose files exist, and list the first missing file of each other row.

    Args:
        records: what the captions table lists.
        scored: whether a row needs its mask too.
    """
    kept: list[Record] = []
    missing: list[Path] = []
    for record in records:
        files = (record.image, record.mask) if scored else (record.image,)
        absent = [file for file in files if file is not None and not file.is_file()]
        missing += absent[:1]
        if not absent:
            kept.append(record)
    return kept, missing


def report_missing(
    missing: Sequence[Path],
    unlisted: Sequence[Path],
    *,
    root: Path,
    on_missing: str,
    report: Report = raise_error,
) -> None:
    """Report captions without files and images without captions, in one message.

    Args:
        missing: files that captions name.
        unlisted: images that no caption names.
        root: the dataset's folder.
        on_missing: "error" or "skip"; the latter warns.
        report: is told if anything is missing and on_missing is "error".

    Raises:
        UserError: as `report` does.
    """
    if not missing and not unlisted:
        return
    cause = (
        f"root={root}: {len(missing)} captions without their image or mask{_named(missing, root)}; "
        f"{len(unlisted)} images without a caption{_named(unlisted, root)}"
    )
    if on_missing == "error":
        remedy = "complete the download, or set on_missing=skip to leave these out"
        report(UserError(cause, remedy))
        return
    rank_zero_warn(f"left out because on_missing=skip: {cause}")


def _named(paths: Sequence[Path], root: Path) -> str:
    shown = paths[: _SHOWN + 1]  # one more than are named, for the dots
    names = [p.relative_to(root) if p.is_relative_to(root) else p for p in shown]
    return f" ({preview(names)})" if names else ""


def without_caption(images: Iterable[Path], records: Iterable[Record]) -> list[Path]:
    """List the images that no record names."""
    listed = {match_key(record.image.name) for record in records}
    return [image for image in images if match_key(image.name) not in listed]


def warn_of_shared_cases(rows: Splits, published: Collection[str]) -> None:
    """Warn of patients that two of train, val and test hold.

    Args:
        rows: by split.
        published: splits that share some, as others divided them.
    """
    homes: dict[str, set[str]] = {}
    for split in SPLITS:
        for record in rows.get(split, ()):
            if record.case_id:
                homes.setdefault(record.case_id, set()).add(split)
    shared = [
        f"{case} ({', '.join(sorted(splits))})"
        for case, splits in homes.items()
        if len(splits) > 1 and not splits <= set(published)
    ]
    if shared:
        rank_zero_warn(
            f"{len(shared)} patients or studies are in more than one split: {preview(shared)}; a "
            "network is tested on whom it has seen"
        )


def check_files(
    records: Sequence[Record],
    *,
    scored: bool,
    what: str,
    look: Looker,
) -> None:
    """Check that every image and mask can be read, and that a mask has its image's size.

    Args:
        records: rows whose files exist.
        scored: whether a row needs its mask too.
        what: names the rows in messages.
        look: knows the files; a cache, or who reads them.

    Raises:
        UserError: with the number of bad rows and the first five.
    """
    rows = tqdm(records, f"checking {what}", delay=2, unit="row")
    faults = (_fault(row, row.mask if scored else None, look) for row in rows)
    problems = [fault for fault in faults if fault]
    if problems:
        remedies = list(dict.fromkeys(remedy for _, remedy in problems))
        raise UserError(
            f"{len(problems)} of {len(records)} rows of {what} cannot be used: "
            + "; ".join(cause for cause, _ in problems[:_SHOWN]),
            remedies[0] if len(remedies) == 1 and remedies[0] else _REPLACE,
        )


def _fault(record: Record, mask: Path | None, look: Looker) -> tuple[str, str] | None:
    """What is wrong with a row's files, and what to do; None where nothing is."""
    try:
        size = look(record.image, "image").size
        mask_size = size if mask is None else look(mask, "mask").size
    except UserError as error:
        cause, _, remedy = str(error).partition("\n")
        return cause, remedy
    if not record.text.strip():
        return f"{record.case} has an empty caption", FILL_IN
    if mask is None or size == mask_size:
        return None
    (h, w), (mask_h, mask_w) = size, mask_size
    cause = f"{record.image} is {h}x{w} but {mask} is {mask_h}x{mask_w} (height x width)"
    if is_turned(record.image, mask, look):
        remedy = "save the image as viewers show it, without the tag, or turn the mask as well"
        return f"{cause}; its EXIF orientation turns the image", remedy
    return cause, _REPLACE
