"""LSMS whole: the shared promises, its loss, its settings, and that words steer the mask."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tests.models.contract import NetworkContract, TextGuidedContract
from tests.models.stand_ins import CAPTIONS, make_batch, pictures, write_bert
from tests.models.tiny import NO_TEXT, tiny
from textseg.batch import TextFeatures
from textseg.benchmark.cost import count_gflops
from textseg.encoders import restoring

make = partial(tiny, "LSMS")


class TestLSMS(NetworkContract, TextGuidedContract):
    network_name = "LSMS"
    gradient_free = (
        *NetworkContract.gradient_free,
        r"text_projection\d\.to_key\.bias",
        # A bias that a batch norm takes out again; those of MSCAN are kept for its weights' names.
        r"patch_embed\d\.proj(\.\d)?\.bias",
        r"image_encoder\.norm4\.bias",
    )
    learning_settings: ClassVar[dict[str, Any]] = {"decoder_dim": 64}
    learning_encoder: ClassVar[dict[str, Any]] = {"image_encoder": "mscan_tiny"}
    learning_rate = 2e-3
    golden = ("lsms_mscan_tiny.txt", {"image_encoder": "mscan_tiny"})
    variations: ClassVar = {
        "shared": {"language_branch": "shared"},
        "no strips": {"strips": ()},
        "strip 7": {"strips": (7,)},
        "strips 7 and 11": {"strips": (7, 11)},
        "strips 21 and 7": {"strips": (21, 7)},
        "top-down": {"full_scale_decoder": False},
        "stages 2 to 4": {"decoder_stages": (2, 3, 4)},
        "stages 2 to 4 at H/8": {"decoder_stages": (2, 3, 4), "decoder_stride": 8},
        "all stages at H/8": {"decoder_stages": (4, 1, 3, 2), "decoder_stride": 8},
        "top-down at H/8": {"decoder_stride": 8, "full_scale_decoder": False},
        "every position a key": {"decoder_reduction": 1},
        "no contrast": {"contrastive_weight": 0.0},
        "no text": NO_TEXT["LSMS"],
    }
    bad_settings: ClassVar = {
        "unknown variant": ({"image_encoder": "mscan_huge"}, "mscan_huge"),
        "unknown branch": ({"language_branch": "both"}, "both"),
        "other strip": ({"strips": (7, 9)}, "9"),
        "strip twice": ({"strips": (7, 7)}, "strips"),
        "stage 5": ({"decoder_stages": (2, 5)}, "decoder_stages"),
        "stage twice": ({"decoder_stages": (2, 2, 3)}, "decoder_stages"),
        "no stages": ({"decoder_stages": ()}, "decoder_stages"),
        "boundaries alone": ({"decoder_stages": (1,)}, "decoder_stages"),
        "stride 6": ({"decoder_stride": 6}, "decoder_stride"),
        "width that heads do not divide": ({"decoder_dim": 100}, "decoder_dim"),
        "width of odd position code": ({"decoder_dim": 30}, "decoder_dim"),
        "cells of 3": ({"decoder_reduction": 3}, "decoder_reduction"),
        "contrast without words": ({"language_branch": "none"}, "contrastive_weight"),
        "negative contrast": ({"contrastive_weight": -0.1}, "contrastive_weight"),
        "missing weights": ({"image_weights": "nowhere/mscan_t.pth"}, "mscan_t.pth"),
        "layer scale beside weights": (
            {"image_weights": "nowhere/mscan_t.pth", "layer_scale": 0.1},
            *("layer_scale=0.1", "nowhere/mscan_t.pth"),
        ),
        "negative layer scale": ({"layer_scale": -0.1}, "layer_scale=-0.1"),
        "layer scale that is no number": ({"layer_scale": float("nan")}, "layer_scale=nan"),
        "drop path of 1": ({"drop_path": 1.0}, "drop_path"),
    }


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("full_scale", [True, False])
def test_the_decoder_works_on_the_grid_that_its_stride_says(stride: int, full_scale: bool) -> None:
    model = make(decoder_stride=stride, full_scale_decoder=full_scale).eval()
    with torch.no_grad():
        output = model(pictures(1, 64, 96), CAPTIONS[:1])
    assert output.aux["pixel"].shape[-2:] == (64 // stride, 96 // stride)


def test_contrastive_weight_0_builds_no_parameters_and_no_term() -> None:
    with_it, without = make(), make(contrastive_weight=0.0)
    kept = {n for n, _ in with_it.named_parameters() if not n.startswith("contrast.")}
    assert {n for n, _ in without.named_parameters()} == kept
    output = without(pictures(2), CAPTIONS)
    assert output.aux == {}
    assert set(without.compute_loss(output, make_batch())) == {"loss", "loss_dice", "loss_bce"}


def test_image_only_mode_builds_no_language_part_and_ignores_the_words() -> None:
    model = make(**NO_TEXT["LSMS"]).eval()
    names = {n for n, _ in model.named_parameters()}
    assert not [n for n in names if "language" in n or "words" in n or "text" in n]
    with torch.no_grad():
        first, second = (model(pictures(1), [text]).logits for text in CAPTIONS)
    assert torch.equal(first, second)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def numpy_contrast(aux: dict[str, np.ndarray], mask: np.ndarray) -> float:
    """L_con straight from the text of the specification, row by row."""
    total = 0.0
    for text, pixel, truth in zip(aux["text"], aux["pixel"], mask[:, 0], strict=True):
        h, w = pixel.shape[1:]
        cells = truth.reshape(h, truth.shape[0] // h, w, truth.shape[1] // w)
        m = cells.mean(axis=(1, 3)).ravel()
        z_t = text / np.linalg.norm(text)
        z_j = pixel.reshape(len(pixel), -1)
        z_j = z_j / np.linalg.norm(z_j, axis=0)
        s = z_t @ z_j / math.exp(aux["log_temperature"]) + aux["bias"]
        positives = (m * -np.log(sigmoid(s))).sum() / m.sum() if m.any() else 0.0
        negatives = ((1 - m) * -np.log(sigmoid(-s))).sum() / (1 - m).sum()
        total += (positives + negatives) / 2
    return total / len(mask)


def numpy_dice_and_bce(logits: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    p, t = sigmoid(logits).reshape(len(mask), -1), mask.reshape(len(mask), -1)
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    bce = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    return float(dice.mean()), float(bce.mean())


@pytest.mark.parametrize("weight", [0.1, 2.0])
def test_the_total_is_dice_plus_bce_plus_weighted_contrast(weight: float) -> None:
    model = make(contrastive_weight=weight).train()
    batch = make_batch(3, 64, 96)
    batch["mask"][2] = 0
    output = model(batch["image"], batch["text"])
    losses = model.compute_loss(output, batch)
    mask = batch["mask"].double().numpy()
    aux = {k: v.detach().double().numpy() for k, v in output.aux.items()}
    dice, bce = numpy_dice_and_bce(output.logits.detach().double().numpy(), mask)
    contrast = numpy_contrast(aux, mask)
    assert aux["log_temperature"] == pytest.approx(math.log(0.07), abs=1e-6)
    assert losses["loss_con"].item() == pytest.approx(contrast, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(dice + bce + weight * contrast, rel=1e-4)


def test_variant_small_costs_under_8_gflops_at_224_without_its_text_encoder() -> None:
    with torch.device("meta"):  # no memory, and no arithmetic
        model = make(image_encoder="mscan_small", decoder_dim=128, max_tokens=32).eval()
        dim, mask = model.text_encoder.dim, torch.ones(1, 32, dtype=torch.bool)
        text = TextFeatures(torch.empty(1, 32, dim), mask, torch.empty(1, dim))
        image = torch.empty(1, 3, 224, 224)
        cost = count_gflops(lambda: model.forward_features(image, text))
    assert 6.0 < cost < 8.0, "6.90 were counted"


# --- pretrained parts


def test_a_pretrained_text_encoder_is_frozen_by_default_and_can_be_trained(tmp_path: Path) -> None:
    write_bert(tmp_path)
    frozen = make(text_encoder=str(tmp_path), pretrained=True)
    assert frozen.text_encoder.frozen
    tuned = make(text_encoder=str(tmp_path), pretrained=True, freeze_text=False)
    groups = tuned.parameter_groups(lr=1.0, weight_decay=0.0, pretrained_lr_scale=0.1)
    slow = {id(p) for g in groups if g["lr"] == pytest.approx(0.1) for p in g["params"]}
    assert slow == {id(p) for p in tuned.text_encoder.parameters()}


@pytest.fixture
def image_weights(tmp_path: Path) -> Path:
    plain = make(**NO_TEXT["LSMS"]).image_encoder
    path = tmp_path / "mscan_t.pth"
    torch.save({"state_dict": plain.state_dict()}, path)
    return path


def test_new_language_parts_beside_published_image_weights_learn_at_the_full_rate(
    image_weights: Path,
) -> None:
    model = make(image_weights=str(image_weights))
    groups = model.parameter_groups(lr=1.0, weight_decay=0.0, pretrained_lr_scale=0.1)
    slow = {id(p) for g in groups if g["lr"] == pytest.approx(0.1) for p in g["params"]}
    names = {n for n, p in model.named_parameters() if id(p) in slow}
    assert names == {
        f"image_encoder.{n}"
        for n, _ in model.image_encoder.named_parameters()
        if ".language_attention." not in n and not n.startswith("text_projection")
    }


def test_restoring_a_checkpoint_does_not_read_the_published_image_weights_again(
    image_weights: Path,
) -> None:
    model = make(image_weights=str(image_weights)).eval()
    state = model.state_dict()
    image_weights.unlink()
    with restoring(state):
        restored = make(image_weights=str(image_weights)).eval()
    restored.load_state_dict(state)
    with torch.no_grad():
        pair = [m(pictures(1), CAPTIONS[:1]).logits for m in (model, restored)]
    assert torch.equal(*pair)
