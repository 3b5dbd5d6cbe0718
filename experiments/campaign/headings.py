"""The headings of a campaign's part of the page, below which its tables stand."""

from __future__ import annotations

SCORES = "Scores"
DIFFERENCES = "Difference from the first"
WORDS = "What the words are worth"
PROBE = "The words by probe"
LESIONS = "Images with and without a lesion"
CALIBRATION = "Calibration"
COST = "Cost"
SPEED = "Speed"
SAID = "Said by the commands"
LEFT = "Left"

COMPARISON = "the comparison"
"""Which warns as rows do."""

Parts = dict[str, list[str]]
"""Lines of Markdown by their heading; those above the first heading at ""."""
