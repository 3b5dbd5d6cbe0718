"""docs/python_api.md: its blocks run, one after the other, and give what the page says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.docs.page import read_page
from tests.tiny_run import SMALL, call, only, train_arguments, write_experiment, write_refhl

PAGE = read_page("python_api.md")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page's blocks leave behind, with a trained checkpoint as CKPT."""
    home = tmp_path_factory.mktemp("home")
    experiment = write_experiment(home, model=SMALL)
    fit = call(*train_arguments(experiment, write_refhl(home / "data")), cwd=home)
    assert fit.status == 0, fit.err
    image = np.random.default_rng(0).integers(0, 255, (50, 70), dtype=np.uint8)
    Image.fromarray(image).save(home / "image.png")
    names: dict[str, Any] = {"CKPT": only(home, "runs/tiny/*/checkpoints/best.ckpt")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for content in PAGE.tested.values():
            exec(content, names)
    return names


def test_every_python_block_of_the_page_is_run() -> None:
    assert "" not in PAGE.named("python")


def test_masks_and_probabilities_have_the_images_own_size(names: dict[str, Any]) -> None:
    result = names["result"]
    assert result.mask.shape == result.probs.shape == (50, 70)
    assert (result.mask == (result.probs > 0.5)).all()


def test_explanations_are_maps_of_the_batch(names: dict[str, Any]) -> None:
    assert {values.shape for values in names["maps"].values()} == {(1, 64, 64)}


def test_a_plain_trainers_checkpoint_is_loaded_without_a_run(names: dict[str, Any]) -> None:
    home = names["CKPT"].parents[4]
    again = names["textseg"].load(home / "lsms.ckpt", device="cpu")
    assert tuple(again.image_size) == (64, 64)
    assert again.segment(str(home / "image.png"), "the large lesion").mask.shape == (50, 70)


def test_the_scores_of_the_page_are_those_of_its_arithmetic(names: dict[str, Any]) -> None:
    """16 x 16 pixels each, 12 rows of them shared; nothing in the second case."""
    shared, area = 12 * 16, 16 * 16
    scores = names["mean_scores"](names["table"].compute())
    assert scores["dice"] == pytest.approx((2 * shared / (2 * area) + 1) / 2)
    assert scores["dice_global"] == pytest.approx(2 * shared / (2 * area))
