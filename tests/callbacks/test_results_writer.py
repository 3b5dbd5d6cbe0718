"""What a test keeps and draws: packed masks, the best, median and worst cases, JSON without NaN."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_run import SMALL, call, only, train_arguments, write_experiment, write_refhl
from textseg.metrics.text import to_json
from textseg.preprocess import read_image
from textseg.runs.outputs import pack_mask, unpack_mask
from textseg.visualize.sheet import panel_boxes


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 16), (70, 93)])
def test_a_packed_mask_comes_back_as_it_was(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8)
    packed = pack_mask(mask)
    assert unpack_mask(packed).dtype == np.uint8
    np.testing.assert_array_equal(unpack_mask(packed), mask)
    np.testing.assert_array_equal(unpack_mask(pack_mask(mask * 255)), mask)


def test_a_lesion_of_a_large_picture_packs_into_few_bytes() -> None:
    rows, columns = np.ogrid[:512, :512]
    disc = ((rows - 200) ** 2 + (columns - 300) ** 2 < 60**2).astype(np.uint8)
    assert len(pack_mask(disc).bits) < 1000


def test_json_has_null_for_what_it_has_no_number_for() -> None:
    nested = {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": (np.float64("nan"), 2)}}
    assert json.loads(to_json(nested)) == {"a": None, "b": [1.5, None], "c": {"d": [None, 2]}}


@pytest.mark.slow
def test_the_ranked_cases_are_drawn_as_a_picture_of_the_running_test_would_be(
    tmp_path: Path,
) -> None:
    root = write_refhl(tmp_path / "refhl")
    experiment = write_experiment(tmp_path, model=SMALL, seed_everything=6)  # its Dice differ
    assert call(*train_arguments(experiment, root), cwd=tmp_path).status == 0
    best = only(tmp_path / "runs/tiny") / "checkpoints/best.ckpt"
    for number in ("0", "9"):
        more = ["--results_writer.overlays", number, "--results_writer.ranked", "1"]
        assert call("test", "--ckpt_path", best, *more, cwd=tmp_path).status == 0
    ranked, every = (best.parents[1] / f"test/{name}" for name in ("true", "true_2"))
    none = call("test", "--ckpt_path", best, "--trainer.limit_test_batches", "0", cwd=tmp_path)
    assert none.status == 2
    assert "the test saw no case" in none.message()[0]
    part = call("test", "--ckpt_path", best, "--trainer.limit_test_batches", "1", cwd=tmp_path)
    assert part.status == 0, part.err
    assert "warning: 2 of 5 cases were tested" in part.out
    with (ranked / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    order = sorted(rows, key=lambda row: -float(row["dice"]))  # the best first; of equals the first
    expected = {order[place]["case"] for place in (0, len(order) // 2, -1)}
    drawn = {path.stem: path.read_bytes() for path in (ranked / "overlays").iterdir()}
    assert set(drawn) == expected
    assert drawn == {name: (every / f"overlays/{name}.png").read_bytes() for name in drawn}
    for name in drawn:
        with Image.open(ranked / f"overlays/{name}.png") as sheet:
            left, top, width, height = panel_boxes(sheet)["image"]
            shown = np.asarray(sheet.crop((left, top, left + width, top + height)))
        picture = read_image(root / "images" / f"{name.rpartition('__')[0]}.png")
        factor = height // picture.shape[0]
        assert np.array_equal(shown, np.kron(picture, np.ones((factor, factor, 1), np.uint8))), (
            "sharp"
        )


def test_a_negative_number_of_pictures_is_refused(tmp_path: Path) -> None:
    outcome = call(
        "fit", "--config", write_experiment(tmp_path), "--results_writer.ranked", "-1", cwd=tmp_path
    )
    assert outcome.status == 2
    assert "ranked=-1" in outcome.message()[0]
