"""Areas of what was found, and the table that a visitor downloads."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO

import numpy as np

from textseg.demo.networks import Finding
from textseg.demo.opening import Source
from textseg.tables import spreadsheet_cell

COLUMNS = (
    *("image", "slice", "window", "network", "text", "threshold"),
    *("area_pixels", "area_mm2", "unknown_words"),
)


def area_pixels(finding: Finding) -> int:
    """Pixels of a mask."""
    return int(np.count_nonzero(finding.mask))


def area_mm2(finding: Finding, source: Source) -> float | None:
    """Square millimeters of a mask; None where the file does not tell the size of pixels."""
    if source.spacing is None:
        return None
    return area_pixels(finding) * source.spacing[0] * source.spacing[1]


def table_of(source: Source, z: int, findings: Sequence[Finding]) -> str:
    """The findings as CSV, one row each; cells that a spreadsheet would compute are quoted."""
    text = StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for finding in findings:
        area = area_mm2(finding, source)
        row: dict[str, object] = {
            "image": source.name,
            "slice": "" if source.volume is None else z,
            "window": "" if source.volume is None else source.volume.window,
            "network": finding.network,
            "text": finding.question.text,
            "threshold": finding.threshold,
            "area_pixels": area_pixels(finding),
            "area_mm2": None if area is None else round(area, 2),
            "unknown_words": None if finding.unknown is None else round(finding.unknown, 4),
        }
        table.writerow({name: spreadsheet_cell(value) for name, value in row.items()})
    return text.getvalue()
