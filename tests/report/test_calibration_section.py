"""The calibration on a run's page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from textseg.errors import UserError
from textseg.report.blocks import Caution, Picture, Table
from textseg.report.calibration_section import calibration_blocks

CURVE = {"pixels": [90, 0, 10], "probability": [0.1, None, 0.8], "share": [0.2, None, 0.7]}
STORED: dict[str, Any] = {
    **{"weights": ["ab"], "cases": 9, "temperature": 1.5, "threshold": 0.4},
    **{"threshold_scaled": 0.43, "dice": 0.8, "dice_best": 0.81, "warnings": ["9 images"]},
    "measured": {"ece": 0.02, "ece_margin": 0.125, "nll": 0.05},
    "scaled": {"ece": 0.01, "ece_margin": None, "nll": 0.04},
    "curves": dict.fromkeys(("all", "margin", "all_scaled", "margin_scaled"), CURVE),
    "dice_by_threshold": [0.5, 0.8, 0.6],
}


def test_the_page_has_the_plot_and_the_numbers_of_the_calibration(tmp_path: Path) -> None:
    assert calibration_blocks(tmp_path) == []
    file = tmp_path / "calibration/calibration.json"
    file.parent.mkdir()
    file.write_text(json.dumps(STORED))
    warning, text, picture, table = calibration_blocks(tmp_path)
    assert isinstance(warning, Caution)
    assert "0.8100" in str(text)
    assert isinstance(picture, Picture)
    assert picture.width > picture.height > 300
    assert isinstance(table, Table)
    assert [[cell.text for cell in row[1:]] for row in table.rows] == [
        *(["0.0200", "0.0100"], ["0.1250", "-"], ["0.0500", "0.0400"])
    ]
    file.write_text(json.dumps(STORED | {"temperature": "hot"}))
    with pytest.raises(UserError, match="temperature"):
        calibration_blocks(tmp_path)
