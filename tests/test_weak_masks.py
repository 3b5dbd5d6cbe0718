"""Scores against boxes must say so wherever they are written."""

from __future__ import annotations

import csv
import json

import lightning as L
import numpy as np
import pytest
from PIL import Image

from datamodules import RefHLSegDataModule
from textseg.callbacks.results_writer import ResultsWriter
from textseg.metrics.text import format_results
from textseg.models import LSMS


class Boxes(RefHLSegDataModule):
    """Phantoms whose masks are taken for boxes."""

    mask_source = "boxes"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ResultsWriter]:
    found = {}
    for kind in (RefHLSegDataModule, Boxes):
        folder = tmp_path_factory.mktemp(kind.__name__)
        report = ResultsWriter(overlays=1, ranked=0)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            data = kind(synthesize=4, image_size=32, num_workers=0, cache=None)
            L.seed_everything(0)
            network = LSMS("mscan_tiny", "scratch", decoder_dim=32)
            data.prepare_data()
            network.text_encoder.learn_vocabulary(["a lesion"])
            trainer = L.Trainer(
                accelerator="cpu",
                logger=False,
                callbacks=[report],
                default_root_dir=folder,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.test(network, data, verbose=False)
        found[kind.__name__] = report
    return found


@pytest.mark.parametrize(
    ("name", "truth"), [("RefHLSegDataModule", "outlines"), ("Boxes", "boxes")]
)
def test_metrics_and_cases_say_what_the_truth_is(
    reports: dict[str, ResultsWriter], name: str, truth: str
) -> None:
    folder = reports[name].folder
    assert json.loads((folder / "metrics.json").read_text())["truth"] == truth
    with (folder / "cases.csv").open(newline="") as lines:
        assert {row["truth"] for row in csv.DictReader(lines)} == {truth}


def test_the_printed_table_warns_of_boxes_only(reports: dict[str, ResultsWriter]) -> None:
    printed = {name: format_results(report.results) for name, report in reports.items()}
    assert "boxes, not outlines" in printed["Boxes"]
    assert "outlines" not in printed["RefHLSegDataModule"]


def test_an_overlay_against_boxes_has_a_line_more(reports: dict[str, ResultsWriter]) -> None:
    heights = []
    for report in reports.values():
        (picture,) = (report.folder / "overlays").glob("*.png")
        heights.append(np.asarray(Image.open(picture)).shape[0])
    outlines, boxes = heights
    assert boxes > outlines
