"""Other wordings of captions for training.

No wording here is one of `datamodules.captions.paraphrases`, with which `textseg probe` tests: what
it calls paraphrased stays unseen in training, whatever `paraphrase` was.
"""

from __future__ import annotations

import re
from functools import lru_cache

from lightning.pytorch.utilities import rank_zero_info

from datamodules.captions.duke_template import read_breast
from datamodules.captions.expressions import is_expression
from datamodules.captions.lvit_template import (
    COUNTS,
    SIDES,
    Reading,
    is_template_kind,
    read_template,
)
from textseg.errors import UserError


@lru_cache(maxsize=8192)  # captions come back every epoch
def rephrasings(text: str) -> tuple[str, ...]:
    """List other wordings of a caption of a kind that is known here.

    | caption | one of its wordings |
    |---|---|
    | LViT's template | "Two infected regions: upper left lung, lower right lung." |
    | Duke's, composed | "In the left breast, 9 o'clock: unifocal, grade 2 tumour." |
    | a referring expression | "the small-sized low-density focus in the upper left liver" |

    A caption is of a kind only as a whole. Free text, even with a kind's words in it, has no other
    wording: they may mean something else there.

    Returns:
        none for any other caption, and for one of LViT's whose extent and lungs disagree.
    """
    if is_template_kind(text):
        reading = read_template(text)
        return () if reading is None else _of_template(reading)
    breast = read_breast(text)
    if breast is not None:
        side, places, tumor = breast
        return (
            f"In the {side.lower()} breast{places}: {tumor}.",
            f"{side} breast with {tumor}{places}.",
        )
    if not is_expression(text):
        return ()
    return (_REFERRING.sub(_in_other_words, text),)


@lru_cache(maxsize=8)  # says it once of the same captions
def check_rephrasings(texts: tuple[str, ...]) -> None:
    """Say how many training captions have no other wording.

    Raises:
        UserError: none has one.
    """
    fixed = sum(not rephrasings(text) for text in texts)
    if fixed == len(texts):
        raise UserError(
            f"paraphrase: none of {fixed} training captions is of a kind that can be put in other "
            f"words; the first is {texts[0]!r}",
            "leave paraphrase out",
        )
    if fixed:
        rank_zero_info(
            f"paraphrase: {fixed} of {len(texts)} training captions have no other wording and "
            "stay as they are"
        )


_EXTENT_LUNGS = {"bilateral": 2, "unilateral": 1}


def _of_template(reading: Reading) -> tuple[str, ...]:
    if reading.extent == "none":
        return ("No infected region in either lung.", "Both lungs are free of infection.")
    if len(reading.zones) != _EXTENT_LUNGS[reading.extent]:
        return ()
    lungs = [
        f"{_zones(reading.zones[side])} {side} lung" for side in SIDES if side in reading.zones
    ]
    count, several = COUNTS[reading.count], "" if reading.count == 1 else "s"
    foci = "focus" if reading.count == 1 else "foci"
    lung = "both lungs" if len(lungs) == 2 else "a single lung"
    return (
        f"{count.capitalize()} infected region{several}: {', '.join(lungs)}.",
        f"Infection of {lung} with {count} {foci}: {' and '.join(lungs)}.",
        f"{' and '.join(lungs).capitalize()} with {count} infiltrate{several}.",
    )


def _zones(zones: tuple[str, ...]) -> str:
    return "entire" if len(zones) == 3 else " and ".join(zones)


_WORDS = {
    **{"lesion": "focus", "lesions": "foci"},
    **dict.fromkeys(("small", "little"), "small-sized"),
    **dict.fromkeys(("large", "big"), "large-sized"),
    **dict.fromkeys(("hypodense", "dark", "hypoattenuating"), "low-density"),
    **dict.fromkeys(("hyperdense", "dense", "hyperattenuating"), "high-density"),
    **dict.fromkeys(("isodense", "isoattenuating"), "equal-density"),
}
_REFERRING = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b", re.IGNORECASE)


def _in_other_words(match: re.Match[str]) -> str:
    word = _WORDS[match[0].lower()]
    return word.capitalize() if match[0][0].isupper() else word
