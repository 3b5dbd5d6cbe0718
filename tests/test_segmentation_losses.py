"""The losses of a mask by name, against numpy and scipy; empty, full and saturated masks."""

from __future__ import annotations

import subprocess
import sys

import monai.losses
import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from tests.models.stand_ins import BatchesInMemory, make_batch, quiet_trainer
from tests.models.tiny import tiny
from textseg.errors import UserError
from textseg.losses import SEGMENTATION_LOSSES, check_segmentation_loss, segmentation_loss

NAMES = ("dice", "bce", "focal", "tversky", "boundary")
needs_boundary = pytest.mark.skipif(
    not hasattr(monai.losses, "BoundaryLoss"), reason="MONAI is older than 1.6"
)
EACH_LOSS = [
    pytest.param(name, marks=[needs_boundary] if name == "boundary" else []) for name in NAMES
]


def masks() -> Tensor:
    """A lesion, another one of two parts, an empty and a full mask: [4, 1, 12, 10]."""
    mask = torch.zeros(4, 1, 12, 10)
    mask[0, 0, 2:7, 3:9] = 1
    mask[1, 0, 8:10, 1:4] = mask[1, 0, 1, 8] = 1
    mask[3] = 1
    return mask


def some_logits() -> Tensor:
    return 3 * torch.randn(4, 1, 12, 10, generator=torch.Generator().manual_seed(0))


# --- by numpy and scipy, one image at a time


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def dice(z: np.ndarray, t: np.ndarray) -> float:
    p = sigmoid(z)
    return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def bce(z: np.ndarray, t: np.ndarray) -> float:
    return -np.log(np.where(t > 0, sigmoid(z), 1 - sigmoid(z))).mean()


def focal(z: np.ndarray, t: np.ndarray) -> float:
    q = np.where(t > 0, sigmoid(z), 1 - sigmoid(z))
    return ((1 - q) ** 2 * -np.log(q)).mean()


def tversky(z: np.ndarray, t: np.ndarray) -> float:
    p = sigmoid(z)
    hits, false, missed = (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum()
    return 1 - (hits + 1) / (hits + 0.3 * false + 0.7 * missed + 1)


def boundary(z: np.ndarray, t: np.ndarray) -> float:
    if t.min() == t.max():
        return 0.0
    inside = distance_transform_edt(t)
    outside = distance_transform_edt(1 - t)
    signed = np.where(t > 0, -(inside - 1), outside)
    return (sigmoid(z) * signed).mean()


BY_NUMPY = {f.__name__: f for f in (dice, bce, focal, tversky, boundary)}


@pytest.mark.parametrize("name", EACH_LOSS)
def test_a_loss_is_the_mean_over_images_of_its_formula(name: str) -> None:
    logits, target = some_logits(), masks()
    rows = zip(logits[:, 0].numpy(), target[:, 0].numpy(), strict=True)
    expected = [BY_NUMPY[name](z, t) for z, t in rows]
    found = SEGMENTATION_LOSSES[name](logits, target)
    assert found.ndim == 0
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-4)
    alone = [SEGMENTATION_LOSSES[name](logits[i : i + 1], target[i : i + 1]) for i in range(4)]
    assert [loss.item() for loss in alone] == pytest.approx(expected, rel=1e-4, abs=1e-6)


# --- empty and full masks


@pytest.mark.parametrize(
    ("name", "silent", "shouting"),
    [
        ("dice", 0.0, 1 - 1 / 121),
        ("bce", 0.0, 30.0),
        ("focal", 0.0, 30.0),
        ("tversky", 0.0, 1 - 1 / (0.3 * 120 + 1)),
        pytest.param("boundary", 0.0, 0.0, marks=needs_boundary),
    ],
)
def test_an_empty_mask_rewards_an_empty_prediction_or_contributes_nothing(
    name: str, silent: float, shouting: float
) -> None:
    empty, sure = torch.zeros(1, 1, 12, 10), torch.full((1, 1, 12, 10), 30.0)
    loss = SEGMENTATION_LOSSES[name]
    assert loss(-sure, empty).item() == pytest.approx(silent, abs=1e-6)
    assert loss(sure, empty).item() == pytest.approx(shouting, rel=1e-5)


@pytest.mark.parametrize("size", [1e3, 1e4, 0.0])
@pytest.mark.parametrize("name", EACH_LOSS)
def test_losses_and_gradients_are_finite_for_empty_full_and_saturated_masks(
    name: str, size: float
) -> None:
    for sign in (1.0, -1.0):
        logits = (sign * size * torch.ones(4, 1, 12, 10)).requires_grad_()
        loss = SEGMENTATION_LOSSES[name](logits, masks())
        (gradient,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", EACH_LOSS)
def test_a_step_along_the_gradient_lowers_the_loss(name: str) -> None:
    logits = some_logits().requires_grad_()
    loss = SEGMENTATION_LOSSES[name](logits, masks())
    (gradient,) = torch.autograd.grad(loss, logits)
    after = SEGMENTATION_LOSSES[name](logits - 1e-2 * gradient / gradient.norm(), masks())
    assert after < loss


@pytest.mark.parametrize("name", EACH_LOSS)
def test_a_loss_of_half_precision_logits_is_computed_in_fp32_under_autocast(name: str) -> None:
    logits = some_logits().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = SEGMENTATION_LOSSES[name](logits, masks())
    assert found.dtype == torch.float32
    assert found.item() == SEGMENTATION_LOSSES[name](logits.float(), masks()).item()


# --- weights


@needs_boundary
def test_the_total_is_the_weighted_sum_and_the_terms_are_not_weighted() -> None:
    weights = {"bce": 0.5, "tversky": 2.0, "boundary": 0.01}
    losses = segmentation_loss(some_logits(), masks(), weights)
    assert set(losses) == {"loss", "loss_bce", "loss_tversky", "loss_boundary"}
    for name in weights:
        alone = SEGMENTATION_LOSSES[name](some_logits(), masks())
        assert losses[f"loss_{name}"].item() == alone.item()
    total = sum(weight * losses[f"loss_{name}"].item() for name, weight in weights.items())
    assert losses["loss"].item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ({"dice": 1.0, "tverski": 1.0}, ["'tverski'", "'tversky'"]),
        ({"mse": 1.0}, ["'mse'", *NAMES]),
        ({"dice": 1.0, "bce": -0.5}, ["'bce'", "-0.5"]),
        ({"dice": float("nan")}, ["'dice'", "nan"]),
        ({"dice": float("inf")}, ["'dice'", "inf"]),
        ({"dice": 0.0, "bce": 0.0}, ["{'dice': 0.0, 'bce': 0.0}"]),
        ({}, ["{}"]),
    ],
)
def test_weights_that_make_no_loss_are_refused_by_name(
    weights: dict[str, float], named: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        tiny("TMCA", segmentation_loss=weights)
    message = str(caught.value)
    assert [part for part in ["segmentation_loss", *named] if part not in message] == []


def test_an_old_monai_is_named_where_it_lacks_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("monai.losses.BoundaryLoss", raising=False)
    with pytest.raises(UserError, match=r"monai>=1\.6"):
        segmentation_loss(some_logits(), masks(), {"boundary": 1.0})


def test_a_term_without_a_weight_is_left_out() -> None:
    assert check_segmentation_loss({"dice": 0.0, "focal": 2.0}) == {"focal": 2.0}


def test_a_fit_logs_the_terms_that_were_asked_for() -> None:
    network = tiny("TMCA", segmentation_loss={"dice": 1.0, "focal": 20.0}, alignment_weight=0.0)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(network, BatchesInMemory([make_batch()]))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert set(logged) == {"train/loss", "train/loss_dice", "train/loss_focal"}
    total = logged["train/loss_dice"] + 20 * logged["train/loss_focal"]
    assert logged["train/loss"] == pytest.approx(total, rel=1e-6)


def test_importing_the_losses_imports_neither_monai_nor_the_library_of_the_baselines() -> None:
    code = "import sys, textseg.losses; print(*{m.split('.')[0] for m in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"monai", "segmentation_models_pytorch", "timm"} & set(found.stdout.split())
