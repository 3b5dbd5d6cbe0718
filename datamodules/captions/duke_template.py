"""The captions that `datamodules.duke_breast_mri.captions` composes, told from free text like them.

    {Left|Right} breast[, <places>]; [<traits> ]tumour.

Places and traits are those that the module knows; any other word makes a text free.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_HOUR = r"\d{1,2}(?::\d\d)?"
_PLACES = (
    rf"{_HOUR}(?: to {_HOUR})? o'clock",
    r"\d+(?:\.\d+)? cm from the nipple",
    "close to the nipple",
    "(?:upper|lower) (?:inner|outer) quadrant",
    "(?:upper|lower|inner|outer) quadrant",
    "middle depth",
    "axilla|axillary tail",
    "subareolar|retroareolar|central|midline|medial|lateral|superior|inferior",
    "anterior|posterior|deep|superficial",
)
_PLACE = f"(?:{'|'.join(_PLACES)})"
_TRAITS = (
    "unifocal|multifocal",
    "luminal-like|luminal [AB]|triple-negative|(?:hormone-receptor-positive, )?HER2-positive",
    "grade [123]",
)
_TRAIT = f"(?:{'|'.join(_TRAITS)})"
_COMPOSED = re.compile(
    rf"(?P<side>Left|Right) breast(?P<places>(?:, {_PLACE}(?:(?: | and |, ){_PLACE})*)?); "
    rf"(?P<tumor>(?:{_TRAIT}(?:, {_TRAIT})* )?tumour)\."
)


class BreastCaption(NamedTuple):
    """The parts of a composed caption as they are written.

    `places` begins with a comma, or is empty.
    """

    side: str
    places: str
    tumor: str


def read_breast(text: str) -> BreastCaption | None:
    """Read a composed caption that names a side; None for any other text."""
    match = _COMPOSED.fullmatch(text)
    return None if match is None else BreastCaption(**match.groupdict())
