"""What is wrong with the pictures and masks of a split, taken together.

One file may be dark, empty or odd for good reasons; a whole set is so for another one: its values
do not mean what is read. Training and an audit judge by the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.records import Record, unlikely_spacing
from textseg.errors import UserError
from textseg.preprocess import (
    Kind,
    Oddities,
    Size,
    examine_image,
    examine_mask,
    narrow_ranges,
    probe,
)

SAMPLE = 50  # rows of a split whose pixels are looked at where no cache knows them all
MOST_RATIO = 3.0  # of the two spacings of a pixel


class Look(NamedTuple):
    """What is known of a file.

    Args:
        size: height and width, as viewers show it.
        digest: equal for copies, of the file or of its pixels; "" of a mask.
        turned: whether its EXIF says that the stored pixels are turned.
        oddities: None where its pixels were not looked at.
    """

    size: Size
    digest: str
    turned: bool
    oddities: Oddities | None


Looker = Callable[[Path, Kind], Look]
"""Looks at a file; UserError where it cannot be used."""


def look_at_files(sample: Collection[Path], mask_values: Sequence[int] | None) -> Looker:
    """Make a `Looker` that reads files, each once.

    Args:
        sample: the files whose pixels are looked at, too.
        mask_values: of `read_mask`.
    """
    known: dict[tuple[Path, Kind], Look] = {}

    def look(path: Path, kind: Kind) -> Look:
        if (path, kind) not in known:
            header, oddities = probe(path, kind), None
            if path in sample:
                examined = (
                    examine_image(path) if kind == "image" else examine_mask(path, mask_values)
                )
                oddities = examined.oddities
            known[path, kind] = Look(header.size, header.digest, header.turned, oddities)
        return known[path, kind]

    return look


def sampled(records: Sequence[Record]) -> set[Path]:
    """The files of some rows, evenly spaced."""
    step = max(1, -(-len(records) // SAMPLE))
    return {path for row in records[::step] for path in (row.image, row.mask) if path}


# --- verdicts ----------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What is wrong with files of a set.

    Args:
        kind: what an audit calls it.
        files: those concerned.
        text: what they do, after "3 of 8 masks of train".
        remedy: what to do.
        refuses: whether training on them makes no sense; otherwise it is warned of.
    """

    kind: str
    files: list[Path]
    text: str
    remedy: str
    refuses: bool = False


def judge_images(oddities: Mapping[Path, Oddities]) -> list[Verdict]:
    """Judge the images of a set."""
    paths = list(oddities)
    found = narrow_ranges([path.name for path in paths], list(oddities.values()))
    return [
        Verdict("narrow range", [paths[n] for n in images], text, remedy)
        for images, text, remedy in found
    ]


def judge_masks(
    oddities: Mapping[Path, Oddities], mask_values: Sequence[int] | None
) -> list[Verdict]:
    """Judge the masks of a set, read with `mask_values` or by the threshold."""

    def having(name: str) -> list[Path]:
        return [path for path, odd in oddities.items() if name in odd]

    empty, erased = having("empty"), having("erased")
    drawn = len(oddities) - len(empty) + len(erased)  # masks that hold something
    if mask_values is not None:
        if len(empty) < len(oddities) or not empty:
            return []
        held = _first(empty, oddities, "empty")
        text = f"hold none of mask_values={list(mask_values)} ({held})"
        return [Verdict("no foreground", empty, text, "give values that they hold", True)]
    verdicts = []
    remedy = "name masks in the column or folder of masks, and save them as 0 and 255"
    if pictures := having("picture"):
        text = f"are shaded like pictures, not like masks ({_first(pictures, oddities, 'picture')})"
        verdicts.append(
            Verdict("picture as mask", pictures, text, remedy, 2 * len(pictures) > drawn)
        )
    shaded = having("shaded")
    if 2 * len(shaded) > drawn:
        text = f"hold more gray than white ({_first(shaded, oddities, 'shaded')}), and only values "
        text += "above 127 are foreground"
        verdicts.append(Verdict("shaded mask", shaded, text, remedy))
    if erased:
        text = f"hold values but none above 127 ({_first(erased, oddities, 'erased')})"
        remedy = "write 0 and 255, or give the values that are foreground, such as "
        remedy += f"mask_values=[{oddities[erased[0]]['erased'].removesuffix(', ...')}]"
        most = 2 * len(erased) > drawn
        verdicts.append(Verdict("mask erased by the threshold", erased, text, remedy, most))
    if classes := having("classes"):
        text = f"hold several classes ({_first(classes, oddities, 'classes')}), and all above 127 "
        text += "are one foreground"
        remedy = "give the values, or the palette's entries, that are foreground: mask_values=[...]"
        verdicts.append(Verdict("class map", classes, text, remedy, 2 * len(classes) > drawn))
    inverted = having("inverted")
    if 2 * len(inverted) > drawn:
        text = f"are foreground in most places ({_first(inverted, oddities, 'inverted')})"
        remedy = "are they inverted? mask_values=[0] takes black for foreground, and "
        remedy += "mask_values=[255] white without asking"
        verdicts.append(Verdict("inverted mask", inverted, text, remedy, True))
    faint = having("faint")
    if 2 * len(faint) > drawn:
        text = f"hold areas of faint values ({_first(faint, oddities, 'faint')}), which are "
        text += "background beside values above 127"
        remedy = "if they are classes, give those that are foreground: mask_values=[...]"
        verdicts.append(Verdict("faint areas", faint, text, remedy))
    if empty and not drawn:
        text = "are empty: there is nothing to be found, and a network that outlines nothing "
        verdicts.append(Verdict("no foreground", empty, f"{text}scores 1", "check the masks"))
    return verdicts


def _first(files: Sequence[Path], oddities: Mapping[Path, Oddities], name: str) -> str:
    return f"{files[0].name}: {oddities[files[0]][name]}"


def unequal_spacing(record: Record) -> bool:
    """Whether a pixel's two spacings differ by more than a factor of three."""
    spacing = record.spacing or (1.0, 1.0)
    return max(spacing) > MOST_RATIO * min(spacing)


# --- before training ---------------------------------------------------------------------------


class Oddity(NamedTuple):
    """What to warn of: "3 of 8 masks of train" and what they do."""

    kind: str
    which: str
    text: str


def check_pixels(
    records: Sequence[Record],
    *,
    scored: bool,
    what: str,
    look: Looker,
    mask_values: Sequence[int] | None,
) -> list[Oddity]:
    """List what is odd about the files of a split, after `check_files`.

    Args:
        records: rows whose files can be read.
        scored: whether masks are read too.
        what: names the rows in messages.
        look: knows the files.
        mask_values: of `read_mask`.

    Returns:
        what to warn of.

    Raises:
        UserError: most masks would be read as something else than they mean.
    """
    images = _looked({row.image for row in records}, "image", look)
    verdicts = [(verdict, "images", len(images)) for verdict in judge_images(images)]
    if scored:
        masks = _looked({row.mask for row in records if row.mask}, "mask", look)
        found = judge_masks(masks, mask_values)
        verdicts += [(verdict, "masks", len(masks)) for verdict in found]
        own = sorted({row.image for row in records if row.mask == row.image})
        if own:
            text = f"are named as their own masks ({own[0].name})"
            verdict = Verdict("picture as mask", own, text, "name the files of the masks", True)
            verdicts.append((verdict, "images", len({row.image for row in records})))
        turned = {row.image for row in records if row.mask and is_turned(row.image, row.mask, look)}
        if turned:
            text = "are turned as their EXIF orientation says and viewers show them; their masks "
            text += "have none and are taken as they are"
            remedy = "check that masks lie where they belong (data audit names the files)"
            verdict = Verdict("turned picture", sorted(turned), text, remedy)
            verdicts.append((verdict, "images", len({row.image for row in records})))
    oddities = []
    for verdict, kind, total in sorted(verdicts, key=lambda entry: not entry[0].refuses):
        count = f"{len(verdict.files)} of {total} {kind} of {what}"
        if verdict.refuses:
            raise UserError(f"{count} {verdict.text}", verdict.remedy)
        oddities.append(Oddity(verdict.kind, count, f"{verdict.text}; {verdict.remedy}"))
    unequal = [row for row in records if unequal_spacing(row)]
    if unequal:
        text = f"have spacings that differ by more than a factor of 3 ({unequal[0].case}: "
        text += f"{unequal[0].spacing}); write 1.5 or 1.5 1.5 where pixels are square"
        count = f"{len(unequal)} of {len(records)} rows of {what}"
        oddities.append(Oddity("unequal spacing", count, text))
    unlikely = [row for row in records if row.spacing and unlikely_spacing(row.spacing)]
    if unlikely:
        text = (
            f"have spacings under 0.01 or over 50 mm ({unlikely[0].case}: {unlikely[0].spacing}); "
        )
        text += "they are millimeters a pixel"
        count = f"{len(unlikely)} of {len(records)} rows of {what}"
        oddities.append(Oddity("unlikely spacing", count, text))
    return oddities


def warn_of(oddities: Sequence[Oddity]) -> None:
    """Warn once of each kind, with the counts of all splits and the text of the first."""
    for kind in dict.fromkeys(oddity.kind for oddity in oddities):
        same = [oddity for oddity in oddities if oddity.kind == kind]
        rank_zero_warn(f"{', '.join(oddity.which for oddity in same)} {same[0].text}")


def _looked(paths: Collection[Path], kind: Kind, look: Looker) -> dict[Path, Oddities]:
    looks = ((path, look(path, kind).oddities) for path in sorted(paths))
    return {path: oddities for path, oddities in looks if oddities is not None}


def is_turned(image: Path, mask: Path, look: Looker) -> bool:
    """Whether an image is turned by its EXIF, and its mask is not."""
    return look(image, "image").turned and not look(mask, "mask").turned
