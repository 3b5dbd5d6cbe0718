"""What must be known of test sets with images that have nothing to outline."""

from __future__ import annotations

from collections.abc import Sequence

from textseg.preprocess import telling_word


def emptiness_warnings(captions: Sequence[str], true: Sequence[int]) -> list[str]:
    """Warn of captions that give emptiness away, or of truths that are all empty.

    Args:
        captions: of N images.
        true: pixels of their lesions, 0 for none.
    """
    if not any(true):
        return [
            "no image has a lesion: a score of 1 says only that nothing was outlined in any of them"
        ]
    found = telling_word(captions, true)
    if found is None or not found.tells:
        return []
    return [
        f"captions give emptiness away: {found}; read dice_with_lesion and false_alarm_rate "
        "beside dice"
    ]
