"""Pictures padded to the network's input, and everything that comes back from it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules import ManifestDataModule
from tests.datamodules.contract import assert_equal, batches, refused
from tests.models.stand_ins import quiet_trainer
from textseg.batch import Batch, SegmentationOutput, TextFeatures
from textseg.callbacks.explanation_writer import ExplanationWriter
from textseg.callbacks.sample_tables import SampleTables
from textseg.metrics.case_table import without_border
from textseg.metrics.summary import mean_scores
from textseg.models.base import SegmentationModule
from textseg.preprocess import Size, fit_image, fit_mask, frame_of, resize_image, resize_mask
from textseg.runs.outputs import picture_of
from textseg.segment import network as segment_network
from textseg.segment.network import Segmenter

INPUT = (64, 96)
SIZES: list[Size] = [
    *((64, 96), (128, 192), (32, 48), (64, 64), (96, 64), (300, 200), (37, 91), (91, 37)),
    *((1, 1), (1, 300), (300, 1), (2, 999), (65, 96), (64, 97), (1000, 999)),
]


# --- where the picture lies


@pytest.mark.parametrize("original", SIZES)
def test_one_side_fills_the_input_and_the_other_keeps_the_ratio(original: Size) -> None:
    """Against exact fractions: rounding is half up, borders differ by a pixel at most."""
    top, left, height, width = frame_of(original, INPUT, "pad")
    scale = min(Fraction(INPUT[0], original[0]), Fraction(INPUT[1], original[1]))
    exact = [side * scale for side in original]
    assert [height, width] == [max(1, int(side + Fraction(1, 2))) for side in exact]
    assert height == INPUT[0] or width == INPUT[1]
    below, right = INPUT[0] - top - height, INPUT[1] - left - width
    assert 0 <= below - top <= 1
    assert 0 <= right - left <= 1


@pytest.mark.parametrize("original", SIZES)
def test_stretching_fills_the_input_as_ever(original: Size) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*original, 3), dtype=np.uint8)
    assert frame_of(original, INPUT) == (0, 0, *INPUT)
    assert np.array_equal(fit_image(image, INPUT), resize_image(image, INPUT))
    assert np.array_equal(fit_mask(image[..., 0], INPUT), resize_mask(image[..., 0], INPUT))


@pytest.mark.parametrize("original", SIZES)
def test_pixels_are_those_of_pillow_inside_and_black_outside(original: Size) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(1, 256, (*original, 3), dtype=np.uint8)
    mask = np.ones(original, np.uint8)
    top, left, height, width = frame_of(original, INPUT, "pad")
    expected = Image.new("RGB", INPUT[::-1])
    smaller = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    expected.paste(smaller, (left, top))
    assert np.array_equal(fit_image(image, INPUT, "pad"), np.asarray(expected))
    fitted = fit_mask(mask, INPUT, "pad")
    assert fitted.sum() == height * width
    assert fitted[top : top + height, left : left + width].all()


@pytest.mark.parametrize("original", SIZES)
def test_a_mask_comes_back_where_it_was(original: Size) -> None:
    """Logits of a padded box of a third of each side, with a bright border, cut and resized."""
    height, width = original
    mask = np.zeros(original, np.uint8)
    mask[height // 3 : 2 * height // 3 + 1, width // 3 : 2 * width // 3 + 1] = 1
    frames = torch.tensor([frame_of(original, INPUT, "pad")])
    logits = torch.from_numpy(fit_mask(mask, INPUT, "pad")).float()[None, None] * 20 - 10
    top, left, inner_height, inner_width = frames[0].tolist()
    outside = torch.ones(INPUT, dtype=torch.bool)
    outside[top : top + inner_height, left : left + inner_width] = False
    logits[0, 0, outside] = 50.0
    sizes = torch.tensor([original])
    (found,) = SegmentationModule.resize_and_threshold(without_border(logits, frames), sizes)
    assert tuple(found.shape) == original
    both = int((found.numpy() & (mask > 0)).sum())
    dice = 2 * both / (int(found.sum()) + int(mask.sum()))
    smallest = min(inner_height / height, inner_width / width, 1.0)
    assert dice > (0.85 if smallest > 0.2 else 0.6)


def test_without_borders_planes_stay_what_they_are() -> None:
    planes = torch.rand(2, 1, 8, 8)
    assert without_border(planes, None) is planes
    cut = without_border(planes, torch.tensor([[0, 2, 8, 3], [1, 0, 2, 8]]))
    assert torch.equal(cut[0], planes[0, :, :, 2:5])
    assert torch.equal(cut[1], planes[1, :, 1:3, :])


# --- from files to scores


class DarkIsLesion(SegmentationModule):
    """Finds what is dark, black borders too, which therefore must be cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(100.0))

    def encode_text(self, text: Sequence[str]) -> TextFeatures:
        tokens = torch.zeros(len(text), 1, 1)
        return TextFeatures(tokens, torch.ones(len(text), 1, dtype=torch.bool), tokens[:, 0])

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        return SegmentationOutput((0.5 - image.mean(1, keepdim=True)) * self.scale, {})

    def token_mask(self, text: Sequence[str], word: str | None) -> Tensor:
        return torch.ones(len(text), 1, dtype=torch.bool)

    def explanation_maps(
        self, image: Tensor, text: TextFeatures, words: Tensor
    ) -> dict[str, Tensor]:
        return {"stage1.gate": image.mean(1)}

    def parameter_groups(self, **rates: float) -> list[dict[str, Any]]:
        return [{"params": [self.scale], "lr": 0.0}]


FILES: list[Size] = [(40, 120), (120, 40), (64, 96), (33, 101), (90, 90)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures a split, a dark box on the left of a gray ground, none of them alike."""
    root = tmp_path_factory.mktemp("pictures")
    lines = ["image,mask,text,case_id,split"]
    for split in ("train", "val", "test"):
        for number, (height, width) in enumerate(FILES):
            mask = np.zeros((height, width), np.uint8)
            mask[height // 4 : height // 2, width // 8 : 3 * width // 8 + number] = 255
            image = np.where(mask, 20, 200).astype(np.uint8)
            name = f"{split}{number}"
            Image.fromarray(image).save(root / f"{name}.png")
            Image.fromarray(mask).save(root / f"{name}_mask.png")
            lines.append(f"{name}.png,{name}_mask.png,box {number} left,{name},{split}")
    (root / "manifest.csv").write_text("\n".join(lines))
    return root


def data(root: Path, **settings: Any) -> ManifestDataModule:
    given = {"image_size": list(INPUT), "batch_size": 2, "num_workers": 0, "cache": None}
    given |= {"resize": "pad", "augmentation": "none", **settings}
    return ManifestDataModule(str(root), **given)


@pytest.mark.parametrize("split", ["train", "val", "test", "predict"])
def test_a_batch_has_the_frames_of_its_pictures_and_the_cache_changes_none(
    root: Path, tmp_path: Path, split: str
) -> None:
    plain = batches(data(root), split)
    for left, right in zip(plain, batches(data(root, cache=str(tmp_path)), split), strict=True):
        assert_equal(left, right)
    for batch in plain:
        for row, size in enumerate(batch["original_size"].tolist()):
            top, left_, height, width = batch["frame"][row].tolist()
            assert (top, left_, height, width) == frame_of(tuple(size), INPUT, "pad")
            inside = torch.zeros(INPUT, dtype=torch.bool)
            inside[top : top + height, left_ : left_ + width] = True
            assert (batch["image"][row][:, ~inside] == 0).all()
            assert (batch["image"][row][:, inside] > 0).all()
            if split != "predict":
                assert not batch["mask"][row, 0][~inside].any()
                assert batch["mask"][row].any()


def test_stretched_batches_have_no_frame_and_a_cache_of_their_own(
    root: Path, tmp_path: Path
) -> None:
    stretched = data(root, resize="stretch", cache=str(tmp_path))
    assert all("frame" not in batch for batch in batches(stretched, "val"))
    padded = data(root, cache=str(tmp_path))
    assert "frame" in batches(padded, "val")[0]
    assert len(list(tmp_path.iterdir())) == 2
    assert_equal(batches(stretched, "val")[0], batches(data(root, resize="stretch"), "val")[0])


@pytest.mark.parametrize("protocol", ["standard", "lvit"])
def test_what_is_found_in_the_border_is_neither_scored_nor_returned(
    root: Path, protocol: str
) -> None:
    network, module = DarkIsLesion(), data(root)
    network.protocol = protocol  # type: ignore[assignment]
    trainer = quiet_trainer()
    (test,) = trainer.test(network, module, verbose=False)
    assert test["test/dice"] > (0.93 if protocol == "standard" else 0.85)
    (val,) = trainer.validate(network, module, verbose=False)
    assert val["val/dice"] > 0.93
    cases = mean_scores(network.val_cases.compute())
    assert cases["dice"] > 0.93
    masks = [mask for batch in trainer.predict(network, module) for mask in batch["pred"]]
    assert [tuple(mask.shape) for mask in masks] == FILES


def test_a_padded_fit_is_as_ever_and_its_checkpoint_segments_as_it_predicts(
    root: Path, tmp_path: Path
) -> None:
    network, module, trainer = DarkIsLesion(), data(root), quiet_trainer(max_steps=1)
    trainer.fit(network, module)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    stored = torch.load(tmp_path / "own.ckpt", weights_only=True)
    assert stored["textseg"]["resize"] == "pad"
    segmenter = segment_network.load(tmp_path / "own.ckpt", device="cpu")
    assert segmenter.resize == "pad"
    predicted = [mask for batch in trainer.predict(network, module) for mask in batch["pred"]]
    images = [record.image for record in module.records("predict")]
    found = list(segmenter.segment_all(images, ["a box"] * len(images), batch_size=3))
    for result, mask in zip(found, predicted, strict=True):
        assert np.array_equal(result.mask, mask.numpy())
        assert result.probs.shape == mask.shape
    stretched = Segmenter(network, image_size=INPUT, device="cpu").segment(images[0], "a box")
    assert stretched.mask.shape == FILES[0]


def test_the_runs_config_tells_how_its_pictures_were_resized(root: Path, tmp_path: Path) -> None:
    network, trainer = DarkIsLesion(), quiet_trainer(max_steps=1)
    trainer.fit(network, data(root, resize="stretch"))
    trainer.save_checkpoint(tmp_path / "checkpoints/own.ckpt")
    config = tmp_path / "config.yaml"
    config.write_text("data: {init_args: {image_size: [64, 96], resize: pad}}")
    load = segment_network.load
    assert load(tmp_path / "checkpoints/own.ckpt", device="cpu").resize == "pad"
    config.write_text("data: {init_args: {image_size: [64, 96]}}")
    assert load(tmp_path / "checkpoints/own.ckpt", device="cpu").resize == "stretch"
    config.write_text("data: {init_args: {image_size: [64, 96], resize: crop}}")
    with refused("config.yaml", "resize='crop'", "pad"):
        load(tmp_path / "checkpoints/own.ckpt", device="cpu")


# --- pictures


def test_pictures_are_drawn_without_their_border_at_their_own_size(root: Path) -> None:
    module = data(root)
    for batch in batches(module, "test"):
        for row, index in enumerate(batch["index"].tolist()):
            drawn = picture_of(batch, row)
            file = np.asarray(Image.open(module.records("test")[index].image).convert("RGB"))
            assert drawn.shape == file.shape
            assert np.abs(drawn.astype(int) - file.astype(int)).mean() < 8


def test_explanations_cut_their_maps_and_scale_what_is_left(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The border is darker than anything inside, so it would take the map's least value."""
    seen: list[dict[str, np.ndarray]] = []

    def explanation(image: Any, truth: Any, pred: Any, maps: Any, **more: Any) -> Any:
        seen.append(maps)
        assert image.shape[:2] == truth.shape == pred.shape
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr("textseg.callbacks.explanation_writer.explanation", explanation)
    writer = ExplanationWriter(5)
    trainer = quiet_trainer(callbacks=[writer], default_root_dir=tmp_path)
    trainer.test(DarkIsLesion(), data(root), verbose=False)
    assert len(seen) == 5
    for maps, size in zip(seen, FILES, strict=True):
        gate = maps["stage1.gate"]
        assert gate.shape == frame_of(size, INPUT, "pad")[2:]
        assert gate.min() == 0
        assert gate.max() == 1
        assert (gate < 0.1).mean() < 0.3, "the box alone is dark"


def test_validation_tables_show_the_picture_and_its_masks_without_the_border(root: Path) -> None:
    batch: Batch = batches(data(root), "val")[0]
    tables, network = SampleTables(), DarkIsLesion()
    tables._chosen, tables.upload = {0, 1}, True
    network.on_validation_epoch_start()
    pred = [
        (plane > 0)[0]
        for plane in without_border(network(batch["image"], batch["text"]).logits, batch["frame"])
    ]
    tables.on_validation_batch_end(quiet_trainer(), network, {"pred": pred}, batch, 0)
    for row in (0, 1):
        cells, _, pictures = tables._rows[row]
        assert pictures is not None
        image, truth, found = pictures
        assert image.shape[:2] == truth.shape == found.shape == tuple(batch["frame"][row][2:])
        assert cells[1] > 0.95
        assert image[found > 0].mean() < 80 < image[found == 0].mean()


# --- settings


def test_an_unknown_way_to_resize_is_refused(root: Path) -> None:
    with refused("resize='crop'", "stretch", "pad"):
        data(root, resize="crop")
