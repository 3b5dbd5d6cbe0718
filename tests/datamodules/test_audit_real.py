"""Audits of the real samples, against counts made by other means."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import MosMedDataModule, QaTaCov19DataModule
from datamodules.audit import KINDS
from tests.datamodules import spoil
from tests.datamodules.audited import QUIET, look

pytestmark = pytest.mark.slow


@pytest.mark.real_data
@QUIET
def test_the_real_qata_sample_has_323_captions_off_the_template_of_which_34_are_lost(
    real_data: Path,
) -> None:
    root, captions = real_data / "qata_images_sample", real_data / "qata_text"
    settings = {"on_missing": "skip", "split": "first80", "image_size": 224}
    result = look(QaTaCov19DataModule(str(root), str(captions), cache=None, **settings))
    kinds = Counter(finding.kind for finding in result.findings)
    assert kinds["caption breaks the template"] + kinds["caption beyond repair"] == 323
    assert kinds["caption beyond repair"] == 34
    assert kinds["caption without image"] == 9258 - 1000
    assert result.facts["images read"] == result.facts["masks read"] == 1000
    assert result.exit_status == 0
    of_captions = list(KINDS)[list(KINDS).index("lesion lost at network size") :]
    files = {kind for kind in kinds if kind not in of_captions}
    assert files == {"caption without image"}
    # Counted again from the sample's own list, in plain captions of one lung.
    with (root / "sample_manifest.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for side in ("left", "right"):
        told = str(result.facts[f"captions of one side, {side}: mask there"])
        there = [
            _in_half(root, row, side)
            for row in rows
            if re.fullmatch(rf"Unilateral [^,]*,[^,]*,[a-z ]* {side} lung\.", row["text"])
        ]
        agree, total = map(int, told.split(" of "))
        # Misspelt captions are read, too: the plain ones are nearly all.
        assert sum(there) <= agree <= sum(there) + 5
        assert len(there) <= total <= len(there) + 5


def _in_half(root: Path, row: dict[str, str], side: str) -> bool:
    folder = "Test Set" if row["split"] == "test" else "Train Set"
    with Image.open(root / spoil.QATA / folder / "Ground-truths" / row["mask"]) as image:
        columns = np.nonzero(np.asarray(image))[1]
    return bool(columns.mean() + 0.5 < 112) == (side == "left")


@pytest.mark.real_data
@QUIET
def test_the_27_real_mosmed_pairs_have_a_rim_and_agree_with_their_words(real_data: Path) -> None:
    root, captions = real_data / "mosmed_images_sample", real_data / "mosmed_text"
    result = look(
        MosMedDataModule(str(root), str(captions), on_missing="skip", image_size=224, cache=None)
    )
    kinds = Counter(finding.kind for finding in result.findings)
    assert kinds["faint mask values"] == 27
    assert all("12, 17, 21;" in f.detail for f in result.findings if f.kind == "faint mask values")
    assert kinds["caption without image"] == 2729 - 27
    texts = [
        line.split(";")[1]
        for file in captions.glob("*.csv")
        for line in file.read_text().splitlines()[1:]
    ]
    quirks = sum(", left lung and " in text or text.endswith("..") for text in texts)
    assert kinds["caption breaks the template"] == quirks == 501
    sides = [
        result.facts[f"captions of one side, {side}: mask there"] for side in ("left", "right")
    ]
    assert sides == ["2 of 2", "4 of 4"]  # six captions of one lung, all true
    assert kinds["caption count against mask"] == 1
    assert result.exit_status == 0
