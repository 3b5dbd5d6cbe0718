"""Captions that give away whether there is anything to outline."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

LEAST_CASES = 10  # with a lesion and without one; of fewer any word may tell them apart by chance
TOLD = 0.5  # difference of shares from which on captions are said to give emptiness away


class TellingWord(NamedTuple):
    """The word whose presence tells images without a lesion best from the others.

    `without` and `with_lesion` are the shares of captions that hold it, of images without and with
    a lesion; word is "" for captions without any word.
    """

    word: str
    without: float
    with_lesion: float


def telling_word(captions: Sequence[str], true: Sequence[int]) -> TellingWord | None:
    """Find the word with the largest difference of shares between the two kinds of images.

    Args:
        captions: of N images, compared by lower-case words.
        true: pixels of their lesions, 0 for none.

    Returns:
        None with fewer than `LEAST_CASES` images of either kind. Of equal words the first by the
        alphabet.
    """
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    cases: Counter[bool] = Counter()
    for caption, pixels in zip(captions, true, strict=True):
        words = set(re.findall(r"\w+", caption.lower())) or {""}
        counts[pixels > 0].update(words)
        cases[pixels > 0] += 1
    if min(cases[True], cases[False]) < LEAST_CASES:
        return None
    shares = [
        TellingWord(word, counts[False][word] / cases[False], counts[True][word] / cases[True])
        for word in sorted(counts[True] | counts[False])
    ]
    return max(shares, key=lambda one: abs(one.without - one.with_lesion))


def emptiness_warnings(captions: Sequence[str], true: Sequence[int]) -> list[str]:
    """Warn of captions that give emptiness away, in one sentence; usually there is none."""
    found = telling_word(captions, true)
    if found is None or abs(found.without - found.with_lesion) < TOLD:
        return []
    word = repr(found.word) if found.word else "no word at all"
    return [
        f"captions give emptiness away: {word} is in {found.without:.0%} of the captions of images "
        f"without a lesion and in {found.with_lesion:.0%} of the others; read dice_with_lesion and "
        "false_alarm_rate beside dice"
    ]
