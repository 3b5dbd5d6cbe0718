"""Requests for what an image does not show, and altered captions that a dataset offers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.stand_ins import quiet_trainer
from tests.probe.drawing_networks import CASE_IDS, TEXTS, VARIANTS, Blind, Reader, RowsInMemory, run
from textseg.batch import ABSENT, ABSENT_LESION
from textseg.metrics.shares import wilson_interval
from textseg.probe import ProbeResult, plain_table
from textseg.probe.masks import Probe

# Of the images, the truth of row 6 alone is empty, and its image has a lesion in row 7.
LESIONS: list[str | None] = ["left"] * 8
REQUESTS: dict[str, list[str | None]] = {
    f"{ABSENT}side": ["right", None, "right", None, None, "left", None, None],
    f"{ABSENT}letters": ["xq wrt", *[None] * 6, "left nonsense"],
    ABSENT_LESION: LESIONS,
    f"{ABSENT}organ": [None] * 8,
}


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> ProbeResult:
    folder = tmp_path_factory.mktemp("reading")
    return run(Reader(), folder, variants=VARIANTS | REQUESTS, pictures=1)


def test_a_request_counts_as_outlined_by_a_single_pixel_of_its_mask(reading: ProbeResult) -> None:
    kinds = reading.absent_kinds
    assert {name: kind.requests for name, kind in kinds.items()} == {
        **{"side": 3, "letters": 2, "lesion": 0, "organ": 0}
    }
    # Three requests of two patients: two of p1, one of p2.
    side, low = kinds["side"], wilson_interval(1.0, 9 / 5)[0]
    assert (side.outlined.value, side.outlined.high) == (1.0, 1.0)
    assert side.outlined.low == pytest.approx(low)
    assert (side.area.value, side.area_true.value) == (0.5, 0.5)
    assert (side.cases, side.patients) == (3, 2)
    letters = kinds["letters"]
    assert (letters.outlined.value, letters.area.value) == (0.5, 0.25)
    assert np.isnan(kinds["organ"].outlined.value)


def test_all_requests_together_are_one_number_of_patients(reading: ProbeResult) -> None:
    assert reading.absent is not None
    assert (reading.absent.requests, reading.absent.cases, reading.absent.patients) == (5, 4, 3)
    assert reading.absent.outlined.value == pytest.approx(4 / 5)
    assert reading.absent.area.value == pytest.approx(0.4)
    # Row 0 is asked for two things and stays one patient: p1 has three requests.
    wanted = wilson_interval(4 / 5, 25 / (9 + 1 + 1))
    found = (reading.absent.outlined.low, reading.absent.outlined.high)
    assert found == pytest.approx(wanted)


def test_a_network_without_text_outlines_whatever_is_asked_for(tmp_path: Path) -> None:
    result = run(Blind(), tmp_path, variants=VARIANTS | REQUESTS)
    assert result.absent is not None
    assert result.absent.outlined.value == 1.0
    assert result.absent.area.value == result.absent.area_true.value == 0.5
    without = run(Blind(), tmp_path)
    assert (without.absent, without.absent_kinds) == (None, {})
    assert "absent" not in plain_table(without)


def test_a_lesion_is_asked_for_only_where_no_row_of_the_image_has_one() -> None:
    variants = {"true": TEXTS, ABSENT_LESION: LESIONS}
    runner = Probe(Reader(), variants, 0)
    runs = probed(runner, [6, 7])
    assert runner.model.sizes == [2, 2], "row 6 is asked before row 7 shows its lesion"
    assert all(ABSENT_LESION not in case.measured for case in runs.values())
    alone = probed(Probe(Reader(), variants, 0), [6])
    assert alone[6].measured[ABSENT_LESION].predicted > 0


def probed(runner: Probe, rows: list[int]) -> dict[int, Any]:
    quiet_trainer().test(runner, datamodule=RowsInMemory(rows), verbose=False)
    return runner.cases


def test_requests_are_written_without_a_dice_and_apart_from_the_changes(
    reading: ProbeResult,
) -> None:
    assert reading.output is not None
    written = json.loads((reading.output / "probe.json").read_text())
    assert not any(name.startswith(ABSENT) for name in written["variants"])
    assert written["absent"]["outlined"] == pytest.approx(0.8)
    assert written["absent_kinds"]["side"]["outlined_ci_high"] == 1.0
    with (reading.output / "probe.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["variant"].startswith(ABSENT)]
    assert len(rows) == 5
    assert {(row["dice"], row["mask_change"]) for row in rows} == {("", "")}
    assert sum(int(row["predicted"]) > 0 for row in rows) == 4
    lines = plain_table(reading).splitlines()
    (side,) = (line for line in lines if line.startswith("side  "))
    assert "3 of 8" in side
    assert "50.0%" in side
    (together,) = (line for line in lines if line.startswith("all  "))
    assert "0.800" in together
    assert "0.800" in (reading.output / "probe.md").read_text()


def test_altered_captions_that_are_the_true_ones_are_counted(tmp_path: Path) -> None:
    altered = ["On the  left ", "left", None, "left", *[None] * 4]
    result = run(Reader(), tmp_path, variants=VARIANTS | {"altered:vague": altered})
    (vague,) = (one for one in result.variants if one.name == "altered:vague")
    assert (vague.cases, vague.same, vague.share_changed.value) == (3, 1, pytest.approx(2 / 3))
    (line,) = (one for one in plain_table(result).splitlines() if one.startswith("altered:vague"))
    assert "3 of 8 (1 the true ones)" in line


def test_shares_of_the_pairs_keep_room_where_all_agree(reading: ProbeResult) -> None:
    assert reading.pairs is not None
    sizes = np.array([2, 1, 1])  # pairs of p1, p2 and p3
    assert CASE_IDS[:4] == ["p1"] * 4
    low, high = wilson_interval(1.0, sizes.sum() ** 2 / (sizes**2).sum())
    assert (reading.pairs.followed.low, reading.pairs.followed.high) == pytest.approx((low, high))
