"""The worst cases of the best network and the phantoms, as experiments/campaign.py writes them."""

from __future__ import annotations

import random
import re
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.experiments.fake_suite import FakeSuite, campaign_of, cells, worker_of
from textseg.runs.cases import CaseRow, write_cases

from campaign import failures, page  # isort: skip

TESTS = ["true", "empty", "shuffled"]
PIXELS = 10_000
IMAGES = 200


def case(number: int, true: int, predicted: int, both: int) -> CaseRow:
    """Small lesions stand under words that no other has."""
    small = 0 < true < 100
    text = "tiny spot, left" if small else "large shade of the right lung"
    return CaseRow(
        **{"case": f"name of a patient__{number}", "case_id": "", "caption": text},
        **{"patient": f"name of a patient__{number}"},
        **{"dice": 2 * both / (true + predicted) if true + predicted else 1.0, "iou": 0.5},
        **{"intersection": both, "predicted": predicted, "true": true, "pixels": PIXELS},
        **{"hd95": None, "nsd": None, "diagonal": None, "surface_unit": ""},
        **{"lesion_size": "none" if not true else "small" if small else "large"},
        **{"lesion_number": 0 if not true else 2 if small else 1, "lesions_predicted": None},
        **{"lesions_matched": None, "lesions_matched_half": None},
        **{"lesion_side": "none" if not true else "both" if small else "right"},
        truth="outlines",
    )


def some_cases(quality: float) -> list[CaseRow]:
    """Images of which every tenth has a small lesion, found badly, and another tenth none."""
    draw = random.Random(int(100 * quality))
    found = []
    for number in range(IMAGES):
        true = {9: 0, 3: 40 + number // 10}.get(number % 10, 2000 + number)
        share = draw.uniform(0.1, 0.3) if true < 100 else draw.uniform(0.8, 0.95)
        both = int(true * share * quality)
        found.append(case(number, true, both + 10 * bool(true), both))
    return found


QUALITY = {"true": 1.0, "empty": 0.7, "shuffled": 0.5}


@pytest.fixture
def done(tmp_path: Path, fake: FakeSuite) -> Any:
    """A campaign whose tests have cases; of its networks TMCA has the best val/dice."""
    stages = {
        "networks": ["unet", "tmca", "lsms"],
        "words": [{"network": "best", "name": "twin", "words": False}],
        "seeds": [{"network": "unet", "seeds": [2]}],
    }
    campaign = campaign_of(tmp_path, tests=TESTS, stages=stages)
    worker_of(campaign, "train", "test").work(list(campaign.rows))
    for row in campaign.rows:
        run = campaign.run_folder(row)
        for name in campaign.tests_of(row):
            quality = QUALITY[name] if row.name == "tmca" else 0.6
            write_cases(run / "test" / name / "cases.csv", some_cases(quality))
    return campaign


def test_the_worst_cases_are_those_of_the_best_network_beside_all_others(done: Any) -> None:
    ((heading, lines),) = failures.failures(done, done.rows).items()
    assert heading == "The 20 worst test images of TMCA"
    start = next(number for number, line in enumerate(lines) if line.startswith("| row |"))
    head = [cell.strip() for cell in lines[start].split("|")[1:-1]]
    twin = "TMCA, no words (empty captions)"
    assert head[-4:] == [f"dice, {name}" for name in ("empty", "shuffled", "U-Net", twin)]
    wanted = sorted(some_cases(1.0), key=lambda one: (one.dice, one.case))[:20]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[start + 2 :]][:20]
    others = {name: {c.case: c for c in some_cases(q)} for name, q in QUALITY.items()}
    image_only = {one.case: one for one in some_cases(0.6)}
    for row, one in zip(table, wanted, strict=True):
        assert row[0] == one.case.removeprefix("name of a patient__")
        assert row[1] == f"{one.dice:.3f}"
        assert row[2:4] == [f"{100 * n / PIXELS:.2f}%" for n in (one.true, one.predicted)]
        assert row[4:6] == [str(one.lesion_number), one.lesion_side]
        assert row[6:8] == ["left", str(len(one.caption.split()))]
        dices = [others["empty"], others["shuffled"], image_only, image_only]
        assert row[8:] == [f"{of[one.case].dice:.3f}" for of in dices]


def test_what_they_have_in_common_is_told_beside_the_others(done: Any) -> None:
    (lines,) = failures.failures(done, done.rows).values()
    every = sorted(some_cases(1.0), key=lambda one: (one.dice, one.case))
    empty = {one.case: one for one in some_cases(0.7)}

    def both_of(name: str) -> list[str]:
        (row,) = cells(lines, name)
        return row

    parts = every[:20], every[20:]
    assert both_of("dice, mean") == [f"{fmean(c.dice for c in part):.3f}" for part in parts]
    assert both_of("lesion, median of those with a lesion") == [
        f"{100 * median(c.true / PIXELS for c in part if c.true):.2f}%" for part in parts
    ]
    small = [100 * fmean(c.lesion_size == "small" for c in part) for part in parts]
    assert both_of("lesion in the smallest third") == [f"{share:.0f}%" for share in small]
    assert both_of("lesions on both sides") == [f"{share:.0f}%" for share in small]
    assert both_of("without a lesion")[0] == "0%"
    # Small lesions lie on both sides under the word left, large ones on the right as is said.
    contradicted = both_of("caption names another side than the mask shows")
    assert contradicted == ["20 of 20", "0 of 180"]
    assert both_of("dice less that with empty captions, mean") == [
        f"{fmean(c.dice - empty[c.case].dice for c in part):+.3f}" for part in parts
    ]
    (said,) = [line for line in lines if "The word" in line]
    assert small[1] == 0
    assert re.findall(r"\d+%", said) == [f"{100 - small[0]:.0f}%", "100%"], "large, not small"


def test_no_name_and_no_caption_of_a_patient_is_written(done: Any, tmp_path: Path) -> None:
    target = tmp_path / "docs" / "results.md"
    target.parent.mkdir()
    page.write_docs(done, done.rows, target)
    text = target.read_text()
    assert "20 worst" in text
    assert "patient__" not in text
    assert "tiny spot" not in text
    copy = target.parent / "results/tiny_phantoms.png"
    assert f"({copy.relative_to(target.parent).as_posix()})" in text
    assert np.asarray(Image.open(copy)).std() > 20
    before = (done.out / "phantoms.png").stat().st_mtime_ns
    page.write_summary(done, done.rows)
    assert (done.out / "phantoms.png").stat().st_mtime_ns == before, "drawn once"


def test_a_network_that_is_not_tested_has_no_worst_cases(tmp_path: Path, fake: FakeSuite) -> None:
    campaign = campaign_of(tmp_path, tests=TESTS)
    assert failures.failures(campaign, campaign.rows) == {}
    worker_of(campaign, "train").work(list(campaign.rows))
    assert failures.failures(campaign, campaign.rows) == {}


@pytest.mark.parametrize(("images", "worst"), [(7, 1), (78, 7), (200, 20)])
def test_the_worst_are_a_tenth_of_the_images_at_most(done: Any, images: int, worst: int) -> None:
    for row in done.rows:
        for name in done.tests_of(row):
            file = done.run_folder(row) / "test" / name / "cases.csv"
            write_cases(file, some_cases(1.0)[:images])
    assert f"The {worst} worst" in next(iter(failures.failures(done, done.rows)))
