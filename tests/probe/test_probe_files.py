"""What a probe writes: numbers, rows, tables and pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.probe.drawing_networks import MARKUP, VARIANTS, Reader, run, truth_of_row
from textseg.metrics.shares import wilson_interval
from textseg.probe import ProbeResult, plain_table
from textseg.probe.pictures import Panel, probe_picture
from textseg.visualize.overlay import PREDICTION, TRUTH


def test_the_numbers_are_written_without_nan(obeying: ProbeResult) -> None:
    assert obeying.output is not None
    written = json.loads(
        (obeying.output / "probe.json").read_text(), parse_constant=lambda name: pytest.fail(name)
    )
    assert (written["network"], written["cases"], written["patients"]) == ("Reader", 8, 4)
    assert list(written["variants"]) == list(VARIANTS)
    assert written["variants"]["empty"]["mask_change"] == pytest.approx(7 / 8)
    assert written["variants"]["count_changed"] == {
        **dict.fromkeys(written["variants"]["empty"]),
        **{"cases": 0, "patients": 0, "same": 0},
    }
    assert written["pairs"]["followed"] == 1
    assert written["side_swap"] is None


def test_every_case_and_variant_has_a_row(obeying: ProbeResult) -> None:
    assert obeying.output is not None
    with (obeying.output / "probe.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ["case", "case_id", "variant", "text", "dice", "mask_change", "predicted", "pixels"]
    assert list(rows[0]) == columns
    sizes = {f"image{i // 2}__{i}": truth_of_row(i).size for i in range(8)}
    assert all(int(row["pixels"]) == sizes[row["case"]] for row in rows)
    halves = [row for row in rows if row["variant"] == "true" and row["text"] != "none"]
    assert all(2 * int(row["predicted"]) == int(row["pixels"]) for row in halves)
    found = [(row["case"], row["variant"], row["text"]) for row in rows]
    assert found == [
        (f"image{i // 2}__{i}", name, column[i])
        for i in range(8)
        for name, column in VARIANTS.items()
        if column[i] is not None
    ]
    swapped = [float(row["mask_change"]) for row in rows if row["variant"] == "side_swapped"]
    assert swapped == [1.0] * 7


def test_a_caption_with_markup_shows_as_text(tmp_path: Path) -> None:
    variants = VARIANTS | {"typos": [MARKUP, *[None] * 7]}
    result = run(Reader(), tmp_path, variants=variants)
    assert result.output is not None
    (line,) = (
        line
        for line in (result.output / "probe.md").read_text().splitlines()
        if line.startswith("| typos") and "left" in line
    )
    assert "&lt;b&gt;left&lt;/b&gt;" in line
    assert "<b>" not in line
    assert "\\*\\*of\\*\\*" in line
    assert line.replace("\\|", "").count("|") == 4, "three cells"


def test_a_second_probe_writes_beside_the_first(tmp_path: Path) -> None:
    for name in ("probe", "probe_2"):
        assert run(Reader(), tmp_path).output == tmp_path / name


def test_the_plain_table_has_a_line_for_each_variant(obeying: ProbeResult) -> None:
    lines = plain_table(obeying).splitlines()
    starts = [line.split()[0] for line in lines if line.split()]
    first = starts.index("captions")
    assert starts[first + 1 : first + 6] == list(VARIANTS)
    swapped = lines[[line.startswith("side_swapped") for line in lines].index(True)]
    assert " 1.000 " in swapped
    assert " 7 of 8 " in swapped
    # Three patients of 4, 2 and 1 cases are as good as 49 / 21 cases that are independent.
    low, high = wilson_interval(1.0, 49 / 21)
    assert swapped.endswith(f"100% [{low:.0%}, {high:.0%}]")
    assert "swapping them swaps the masks in 1.000" in plain_table(obeying)


def test_pictures_are_drawn_of_cases_over_the_whole_set(obeying: ProbeResult) -> None:
    assert obeying.output is not None
    drawn = sorted((obeying.output / "pictures").iterdir())
    assert [path.name for path in drawn] == ["image0__0.png", "image3__7.png"]
    for path in drawn:
        page = np.asarray(Image.open(path))
        for color in (TRUTH, PREDICTION):
            assert (page == color).all(axis=-1).sum() > 1000, "more than a legend's square"


def test_a_long_caption_makes_a_picture_taller_and_none_wider() -> None:
    image = np.zeros((64, 24, 3), dtype=np.uint8)
    mask = np.zeros((64, 24), dtype=np.uint8)
    short, long = (
        probe_picture(image, mask, [Panel("true", mask, text, "dice 1.00")] * 3, title="case")
        for text in ("left", "left lung " * 40)
    )
    assert short.shape[1] == long.shape[1]
    assert long.shape[0] > short.shape[0] + 100
    assert (long[-10:] == 255).all(), "the last line is not cut"
