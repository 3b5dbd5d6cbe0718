"""docs/notebooks: their cells run, one notebook after the other, in an empty folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny_run import ROOT

NOTEBOOKS = ROOT / "docs" / "notebooks"


def run_cells(name: str) -> dict[str, Any]:
    """Run a notebook's cells in their order and return what they leave behind."""
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "committed without outputs"
            exec("".join(cell["source"]), names)
    return names


@pytest.mark.slow
def test_a_folder_is_trained_on_and_one_of_its_images_segmented_and_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = run_cells("train_on_a_folder")
    image = np.asarray(Image.open(tmp_path / "my_data" / trained["row"].image))
    assert trained["found"].mask.shape == image.shape[:2]

    explained = run_cells("segment_and_explain")
    assert explained["found"].mask.shape == explained["other"].mask.shape == image.shape[:2]
    assert {values.shape for values in explained["maps"].values()} == {(1, 64, 64)}
    assert (tmp_path / "overlay.png").is_file()
    assert len(list(NOTEBOOKS.glob("*.ipynb"))) == 2, "one that no test runs"
