"""Captions of Duke's breast tumors, composed from the clinical sheets and never from the mask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from datamodules.captions.lvit_template import COUNTS
from datamodules.duke_breast_mri.sheets import Findings, Side

Clock = tuple[int, ...]  # minutes after twelve: one, or the two ends of a range; () for none


@dataclass(frozen=True)
class Site:
    """One biopsied site of the sheet's Position: "L 9 medial" is left, 9 o'clock, medial."""

    side: Side
    clock: Clock
    words: tuple[str, ...]


# --- reading Position --------------------------------------------------------------------------

# What follows "with" or "without" are calcifications, which do not locate the site.
_CALCIFICATIONS = re.compile(r"\bwith(?:out)?\b(?:\s+and\s+with(?:out)?\b)?\s+calcs?\b")
_SEPARATOR = re.compile(r"[,;]|\band\b|\.(?=\s|$)")
_DISTANCE = re.compile(r"\b(\d+(?:\.\d+)?)\s*cm(?:\s+from(?:\s+the)?\s+nipple)?\b")
_TIME = r"(\d{1,2}:\d{2}|\d{1,4})"
_CLOCK = re.compile(rf"(?<![\d.:]){_TIME}(?:\s*-\s*{_TIME})?(?![\d.:])")
_WORDS = {  # patterns and their wording in the caption
    r"(upper|lower) (inner|outer) quad\w+": r"\1 \2 quadrant",
    r"(upper|lower|inner|outer) quad\w+": r"\1 quadrant",
    r"(?:close to|near) (?:the )?nipple": "close to the nipple",
    r"(?:mid|med|middle) depth": "middle depth",
    r"ax\w* tail": "axillary tail",
    r"axilla": "axilla",
    r"(subareolar|retroareolar|central|midline|medial|lateral|superior|inferior)": r"\1",
    r"(anterior|posterior|deep|superficial)": r"\1",
}


def read_position(text: str) -> list[Site]:
    """Parse the sites that a Position names, in its order; what cannot be read is left out.

    "L 9:30, L 12", "R 1030", "R 10-11", "L 2 5cm from nipple", "R upper outer quadrant", "R 9 and
    L". A part without a side belongs to the side before it. "L" alone is a site without a location.
    """
    sites: list[Site] = []
    side: Side = ""
    for part in _SEPARATOR.split(_CALCIFICATIONS.sub(" ", text.casefold())):
        plain = " ".join(part.replace("/", " ").split())
        letter = re.match(r"([lr])\b", plain)
        if letter:
            side = "left" if letter[1] == "l" else "right"
        site = _site(side, plain)
        if (letter or site.clock or site.words) and site not in sites:
            sites.append(site)
    return sites


def _site(side: Side, part: str) -> Site:
    words = [
        (match.start(), match.expand(wording))
        for pattern, wording in _WORDS.items()
        for match in re.finditer(rf"\b{pattern}\b", part)
    ]
    words += [(m.start(), f"{m[1]} cm from the nipple") for m in _DISTANCE.finditer(part)]
    clock = _CLOCK.search(_DISTANCE.sub(" ", part))
    ordered = [word for _, word in sorted(words)]
    kept = [w for w in ordered if not any(w != longer and w in longer for longer in ordered)]
    return Site(side, _times(clock.groups()) if clock else (), tuple(dict.fromkeys(kept)))


def _times(written: Sequence[str | None]) -> Clock:
    """Minutes of "9", "930" or "9:30", and of the two of a range; () if one is no time."""
    times = []
    for text in written:
        if text is None:
            continue
        digits = text.replace(":", "")
        hour, minute = (digits, "0") if len(digits) < 3 else (digits[:-2], digits[-2:])
        if not 1 <= int(hour) <= 12 or int(minute) > 59:
            return ()
        times.append(int(hour) % 12 * 60 + int(minute))
    return tuple(times)


# --- composing ---------------------------------------------------------------------------------


def compose(findings: Findings, *, by_box: bool) -> str:
    """Compose a caption like "Left breast, 9 o'clock; unifocal, luminal-like, grade 2 tumour."

    Values that the sheets lack are left out. In bilateral cancer the side is named only for TCIA's
    boxes, whose side the sheet gives. Where the side is unknown, the caption has no site, and no
    subtype or grade in which the two tumors differ.

    Args:
        findings: of one patient.
        by_box: the mask is TCIA's box; the sheet gives the side of this one alone.
    """
    side = tumor_side(findings, by_box=by_box)
    traits = _pathology(findings, side)
    if findings.multifocal is not None:
        traits.insert(0, "multifocal" if findings.multifocal else "unifocal")
    text = f"{', '.join(traits)} {'tumour' if side else 'breast tumour'}".lstrip()
    if side:
        sites = [site for site in read_position(findings.position) if site.side == side]
        text = f"{', '.join([f'{side} breast', *_site_phrases(side, sites)])}; {text}"
    return f"{text[0].upper()}{text[1:]}."


def tumor_side(findings: Findings, *, by_box: bool) -> Side:
    """Find the side of the tumor in the mask; "" where the sheet leaves it uncertain."""
    if findings.bilateral:
        return findings.annotated if by_box else ""
    named = {site.side for site in read_position(findings.position)} | {findings.location}
    named.discard("")
    return named.pop() if len(named) == 1 else ""


def quadrant(side: Side, clock: Clock) -> str:
    """Name the quadrant of a clock position, facing the patient; "" on a border.

    The outer half of the left breast is at 1 to 5 o'clock, that of the right at 7 to 11.
    """
    if not clock or not side or max(clock) - min(clock) > 180:
        return ""
    quarters = {time // 180 for time in clock}
    if len(quarters) != 1 or any(time % 180 == 0 for time in clock):
        return ""
    quarter = quarters.pop()
    vertical = "upper" if quarter in (0, 3) else "lower"
    outer = (quarter < 2) == (side == "left")
    return f"{vertical} {'outer' if outer else 'inner'} quadrant"


def clock_words(clock: Clock) -> str:
    """Word a clock position as "9 o'clock", "2:30 o'clock" or "10 to 11 o'clock"."""
    hours = [f"{time // 60 or 12}" + (f":{time % 60:02d}" if time % 60 else "") for time in clock]
    return f"{' to '.join(hours)} o'clock"


def _site_phrases(side: Side, sites: Sequence[Site]) -> list[str]:
    """The comma-separated parts that locate the sites; none for a bare side."""
    sites = [site for site in sites if site.clock or site.words]
    if not sites:
        return []
    located = [[*([clock_words(s.clock)] if s.clock else []), *s.words] for s in sites]
    quadrants = {quadrant(side, site.clock) for site in sites}
    common = quadrants.pop() if len(quadrants) == 1 else ""
    stated = any("quadrant" in word or "axilla" in word for parts in located for word in parts)
    shared = [common] if common and not stated else []
    if len(located) == 1:
        return [*located[0][:1], *shared, *located[0][1:]]
    phrases = [" ".join(parts) for parts in located]
    return [f"{', '.join(phrases[:-1])} and {phrases[-1]}", *shared]


def _pathology(findings: Findings, side: Side) -> list[str]:
    """Subtype and grade of the tumor on this side."""
    subtype, grade = findings.subtype, findings.grade
    if findings.bilateral:
        other = (findings.other_subtype, findings.other_grade)
        if side and side == findings.other_side and side != findings.location:
            subtype, grade = other[0], other[1]
        elif not side:
            subtype = subtype if subtype == other[0] else ""
            grade = grade if grade == other[1] else None
    return [subtype] * bool(subtype) + [f"grade {grade}"] * (grade is not None)


# --- the oracle --------------------------------------------------------------------------------


def oracle_caption(mask: NDArray[np.uint8]) -> str:
    """Describe a mask in words marked as read from it; a control experiment, never a result.

    Args:
        mask: [H, W], 0 and 1.
    """
    count = int(ndimage.label(mask, np.ones((3, 3)))[1])
    noun = "area" if count == 1 else "areas"
    number = COUNTS[count] if count < len(COUNTS) else "many"
    if not count:
        return "Oracle from the mask: no tumour area."
    rows, columns = (cast("float", c) for c in ndimage.center_of_mass(mask))
    height, width = mask.shape
    depth = ("anterior", "middle", "posterior")[min(2, int(3 * (rows + 0.5) / height))]
    half = "left" if columns + 0.5 < width / 2 else "right"
    share = 100 * float(mask.mean())
    return (
        f"Oracle from the mask: {number} tumour {noun}, {half} half, {depth} third, "
        f"{share:.1f} percent of the picture."
    )
