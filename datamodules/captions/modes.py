"""Caption normalization, the mirrored caption, and the caption modes of an experiment."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from datamodules.captions.languages import LanguageSetting, language_of, swapped
from datamodules.captions.lvit_template import is_template_kind, mirrored, repaired
from textseg.batch import stable_id
from textseg.errors import UserError, check_choice

CaptionMode = Literal["true", "empty", "shuffled"]


def key(text: str) -> str:
    """Reduce a caption to what equal ones share: case and spacing do not matter."""
    return " ".join(text.split()).lower()


def if_changed(text: str, other: str | None) -> str | None:
    """Return `other`, but None where it equals `text` by `key`."""
    return None if other is None or key(other) == key(text) else other


def seeded_by(change: str, text: str, seed: int) -> np.random.Generator:
    """Return a generator that is the same for equal captions, and another for each change."""
    return np.random.default_rng([seed, stable_id(f"{change} {key(text)}")])


# --- the optional normalizer -------------------------------------------------------------------


def normalize(text: str) -> str:
    """Even out a caption's spacing and final period, or restore LViT's template.

    A caption that mentions a pulmonary infection is repaired (`lvit_template.repaired`), or left
    exactly as it is where words are lacking. In free text, where the same words may be right, only
    spacing and the final period change.
    """
    if is_template_kind(text):
        corrected = repaired(text)
        return text if corrected is None else corrected
    text = re.sub(r"\s*,\s*(?=\D)", ", ", " ".join(text.split()))
    text = " ".join(text.split()).rstrip(" .")
    return f"{text}." if text else ""


# --- left and right -----------------------------------------------------------------------------


def swap_sides(text: str, language: LanguageSetting = "auto") -> str | None:
    """Rewrite a caption for the mirrored picture: "left" and "right" exchanged, case kept.

    In LViT's template the zones of two lungs are exchanged instead, so that the left lung is still
    named first, as in every caption a network learns from. A clock position, as a breast's is
    given in English, is read on the mirrored face: 10 o'clock becomes 2 o'clock. A text without a
    side comes back unchanged. ``swap_sides(swap_sides(t)) == t`` for every text that can be
    rewritten.

    Args:
        text: the caption.
        language: of the caption; "auto" finds out, by its script and words.

    Returns:
        The rewritten text, or None where exchanging the words would not make it true or could
        miss one: a language that is not known here, times that may be clock positions, sides given
        as letters, sides of organs that are not symmetric, misspelled or joined side words, which
        within the template hinder only where they are misspelled and name a single lung.
    """
    if language in ("auto", "en"):
        in_template = mirrored(text)
        if in_template is not None:
            return in_template
    return swapped(text, language)


class Unmirrored(NamedTuple):
    """How many captions cannot be mirrored; `unknown` are in no language that is known here."""

    rows: int
    unknown: int
    example: str  # one of the unknown, or of all; "" where there is none


def count_unmirrored(texts: Sequence[str], language: LanguageSetting = "auto") -> Unmirrored:
    """Count the captions, repeats included, that `swap_sides` cannot rewrite."""
    kept = {t: n for t, n in Counter(texts).items() if swap_sides(t, language) is None}
    unknown = [t for t in kept if language == "auto" and language_of(t) is None]
    example = next(iter([*unknown, *kept]), "")
    return Unmirrored(sum(kept.values()), sum(kept[t] for t in unknown), example)


# --- controls ----------------------------------------------------------------------------------


def apply_caption_mode(texts: Sequence[str], mode: CaptionMode, seed: int) -> list[str]:
    """Apply an experiment's caption mode to the captions of one split.

    Args:
        texts: the split's captions, in row order.
        mode: "true" keeps them, "empty" blanks them, "shuffled" permutes them so that no row
            keeps a caption equal to its own.
        seed: of the permutation.

    Raises:
        UserError: an unknown mode, or one caption on more than half of the rows, where every
            permutation leaves some row its own.
    """
    check_choice("caption_mode", mode, CaptionMode)
    if mode == "true":
        return list(texts)
    if mode == "empty":
        return [""] * len(texts)
    return [texts[i] for i in _derangement([key(text) for text in texts], seed)]


def _derangement(keys: list[str], seed: int) -> list[int]:
    """A permutation p with keys[p[i]] != keys[i] for every i."""
    for caption, count in Counter(keys).most_common(1):
        if 2 * count > len(keys):
            raise UserError(
                f"caption_mode=shuffled cannot be done: {count} of {len(keys)} rows share the "
                f"caption {caption!r}, over half, so some row would keep its own",
                "use caption_mode=empty, or a split with more varied captions",
            )
    own = np.unique(np.array(keys), return_inverse=True)[1]
    generator = np.random.default_rng(seed)
    source = generator.permutation(len(keys))
    for row in np.flatnonzero(own[source] == own):
        if own[source[row]] != own[row]:
            continue  # already exchanged as another row's partner
        # With at most half of the rows sharing this caption, at least one row neither has it nor
        # holds it, so each exchange fixes a row and breaks none.
        partners = np.flatnonzero((own != own[row]) & (own[source] != own[row]))
        partner = generator.choice(partners)
        source[row], source[partner] = source[partner], source[row]
    return [int(i) for i in source]
