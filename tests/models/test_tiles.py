"""Tiles over large pictures, against a loop of numpy and against one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tests.models.stand_ins import CAPTIONS
from tests.models.tiny import tiny
from textseg.batch import SegmentationOutput
from textseg.errors import UserError
from textseg.metrics.case_table import resize_logits
from textseg.models.ensemble import Ensemble
from textseg.models.tiles import Tiles, tiled_logits, tiles_of

RNG = np.random.default_rng(0)


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_place(pieces: list[NDArray[np.uint8]]) -> Tensor:
    """Logits that depend on the pixel and on its place in the tile."""
    side = pieces[0].shape[0]
    slope = np.linspace(-3, 3, side)[:, None] * np.linspace(1, 2, side)
    return torch.tensor(np.stack([piece[..., 0] / 50 + slope for piece in pieces])[:, None]).float()


def mean_by_hand(image: NDArray[np.uint8], side: int, overlap: float) -> NDArray[np.float64]:
    """Tiles from the top left at steps of (1 - overlap) side, the last ones moved inside."""
    height, width = image.shape[:2]
    step = int(side * (1 - overlap))
    starts = [
        sorted({min(at, length - side) for at in range(0, length - side + step, step)})
        for length in (height, width)
    ]
    along = np.arange(side) - (side - 1) / 2
    gauss = np.exp(-0.5 * (along / (side / 8)) ** 2)
    weight = np.maximum(np.outer(gauss, gauss), 1e-3)
    total, weights = np.zeros((height, width)), np.zeros((height, width))
    for top in starts[0]:
        for left in starts[1]:
            place = np.s_[top : top + side, left : left + side]
            total[place] += weight * by_place([image[place]])[0, 0].numpy()
            weights[place] += weight
    return total / weights


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("size", [(96, 128), (70, 101), (32, 90)])
def test_tiles_are_blended_as_a_loop_of_numpy_blends_them(
    size: tuple[int, int], overlap: float
) -> None:
    image = picture(*size)
    got = tiled_logits(image, Tiles(32, overlap), by_place, device=torch.device("cpu"))
    assert got.numpy() == pytest.approx(mean_by_hand(image, 32, overlap), abs=1e-4)


@pytest.mark.parametrize("size", [(20, 90), (90, 20)])
def test_a_picture_narrower_than_a_tile_gets_black_borders_that_are_cut_off_again(
    size: tuple[int, int],
) -> None:
    image = picture(*size)
    rows, columns = max(size[0], 32), max(size[1], 32)
    top, left = (rows - size[0]) // 2, (columns - size[1]) // 2
    canvas = np.zeros((rows, columns, 3), np.uint8)
    inside = np.s_[top : top + size[0], left : left + size[1]]
    canvas[inside] = image
    got = tiled_logits(image, Tiles(32), by_place, device=torch.device("cpu"))
    assert got.numpy() == pytest.approx(mean_by_hand(canvas, 32, 0.25)[inside], abs=1e-4)


@pytest.mark.parametrize(
    ("size", "overlap", "named"),
    [(31, 0.25, "tile_size=31"), (64, 1.0, "tile_overlap=1.0"), (64, -0.1, "-0.1")],
)
def test_tiles_out_of_range_are_refused(size: int, overlap: float, named: str) -> None:
    with pytest.raises(UserError, match=named):
        tiles_of(size, overlap)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 7.0])
def test_an_overlap_without_a_size_is_refused(overlap: float) -> None:
    assert tiles_of(None, None) is None
    with pytest.raises(UserError, match=f"tile_overlap={overlap}"):
        tiles_of(None, overlap)


def test_tiles_overlap_by_a_quarter_unless_told() -> None:
    assert tiles_of(64, None) == Tiles(64, 0.25)


# --- in a test and a prediction ------------------------------------------------------------------


class Pointwise(nn.Module):
    """Logits of a pixel by itself, so that tiles and one pass must agree."""

    def forward(self, image: Tensor, text: Any) -> SegmentationOutput:
        return SegmentationOutput(8 * (image[:, :1] - 0.5), {})


def batch_of(folder: Path, images: list[NDArray[np.uint8]], side: int) -> dict[str, Any]:
    files = [folder / f"{number}.png" for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    small = [
        Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR) for image in images
    ]
    pixels = np.stack([np.asarray(one) for one in small]).transpose(0, 3, 1, 2)
    return {
        "image": torch.from_numpy(pixels).float() / 255,
        "text": ["lesion"] * len(images),
        "original_size": torch.tensor([image.shape[:2] for image in images]),
        "file": [str(file) for file in files],
        "case": [file.stem for file in files],
    }


def test_only_a_picture_larger_than_a_tile_is_seen_through_tiles(tmp_path: Path) -> None:
    network = tiny("LSMS", CAPTIONS).eval()
    ensemble = Ensemble([network], tiles=Tiles(64))
    batch: Any = batch_of(tmp_path, [picture(64, 64), picture(80, 64)], 64)
    with torch.inference_mode():
        plain = network.predict_step(batch, 0)["pred"]
        got = ensemble.predict_step(batch, 0)["pred"]
        logits = ensemble.picture_logits(ensemble(batch["image"], batch["text"]).logits, batch)
    assert torch.equal(got[0], plain[0]), "it fits: one pass"
    whole = resize_logits(network(batch["image"], batch["text"]).logits[1], (80, 64))
    assert (logits[1] - whole).abs().max() > 1e-3
    assert [tuple(one.shape) for one in logits] == [(1, 64, 64), (1, 80, 64)]
    assert [tuple(one.shape) for one in got] == [(64, 64), (80, 64)]


def test_a_tile_is_shown_to_the_network_as_a_whole_picture_is(tmp_path: Path) -> None:
    """The upper tile of two without overlap gives what its own file gives in one pass."""
    network = tiny("LSMS", CAPTIONS).eval()
    image = picture(192, 96)
    batch: Any = batch_of(tmp_path, [image], 64)
    with torch.inference_mode():
        got = Ensemble([network], tiles=Tiles(96, 0.0)).picture_logits(
            torch.zeros(1, 1, 64, 64), batch
        )
        alone: Any = batch_of(tmp_path, [image[:96]], 64)
        once = resize_logits(network(alone["image"], alone["text"]).logits[0], (96, 96))
    assert got[0][:, :96].numpy() == pytest.approx(once.numpy(), abs=1e-4)


def test_where_each_pixel_counts_alone_tiles_and_one_pass_agree(tmp_path: Path) -> None:
    network: Any = Pointwise()
    ensemble = Ensemble([tiny("ImageBaseline", CAPTIONS)], tiles=Tiles(64, 0.5))
    ensemble.members = nn.ModuleList([network])
    image = picture(150, 170)
    batch: Any = batch_of(tmp_path, [image], 64)
    with torch.inference_mode():
        (got,) = ensemble.picture_logits(torch.zeros(1, 1, 64, 64), batch)
    wanted = 8 * (image[..., 0] / 255 - 0.5)
    assert got[0].numpy() == pytest.approx(wanted, abs=1e-4)


def test_a_threshold_holds_for_tiles(tmp_path: Path) -> None:
    ensemble = Ensemble([tiny("ImageBaseline", CAPTIONS)], tiles=Tiles(64, 0.5))
    ensemble.members = nn.ModuleList([Pointwise()])
    ensemble.mask_threshold, ensemble.mask_temperature = 0.9, 0.5
    image = picture(150, 70)
    batch: Any = batch_of(tmp_path, [image], 64)
    with torch.inference_mode():
        (mask,) = ensemble.predict_step(batch, 0)["pred"]
    probs = 1 / (1 + np.exp(-8 * (image[..., 0] / 255 - 0.5) / 0.5))
    sure = np.abs(probs - 0.9) > 1e-4
    assert 0 < mask.float().mean() < 1
    assert np.array_equal(mask.numpy()[sure], probs[sure] > 0.9)


def test_the_words_of_a_place_are_warned_of_with_a_count() -> None:
    network = tiny("LSMS", CAPTIONS)
    swapped = {"left": "right", "lesion": "lesion"}
    ensemble = Ensemble([network], tiles=Tiles(64), mirror_text=swapped.get)
    with pytest.warns(UserWarning, match=r"tiles of 64 .* 1 of 2 "):
        ensemble.prepare_captions(["left", "lesion"], training=False)
