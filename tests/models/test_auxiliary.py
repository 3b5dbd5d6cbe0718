"""Auxiliary heads: their loss, what they cost, and networks that offer no maps to them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.models.contract import never_moved, train_three_steps, without_gradient
from tests.models.stand_ins import (
    CAPTIONS,
    BatchesInMemory,
    make_batch,
    pictures,
    quiet_trainer,
)
from tests.models.tiny import NETWORKS, tiny
from textseg.backbone import TextImageBackboneMixin
from textseg.batch import SegmentationOutput, TextFeatures
from textseg.errors import UserError
from textseg.models import SegmentationModule
from textseg.training import GradientCheckpointing

HEADS = ("auxiliary_8", "auxiliary_16")


def bilinear_by_numpy(x: np.ndarray, factor: int) -> np.ndarray:
    """[h, w] -> [h * factor, w * factor] by pixel centers, the border repeated."""
    rows, columns = (np.arange(n * factor) for n in x.shape)
    for axis, places in enumerate((rows, columns)):
        centers = np.clip((places + 0.5) / factor - 0.5, 0, x.shape[axis] - 1)
        low = np.floor(centers).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = (centers - low)[:, None] if axis == 0 else (centers - low)[None]
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return x


def dice_and_bce(logits: np.ndarray, mask: np.ndarray) -> float:
    p = 1 / (1 + np.exp(-logits))
    bce = -np.log(np.where(mask > 0, p, 1 - p)).mean()
    return 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1) + bce


@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_is_that_of_the_heads_logits_resized_mean_over_heads(name: str) -> None:
    network, batch = tiny(name, auxiliary_weight=0.4).train(), make_batch(2, 64, 96)
    output = network(batch["image"], batch["text"])
    losses = network.compute_loss(output, batch)
    for head, stride in zip(HEADS, (8, 16), strict=True):
        logits = output.aux[head]
        assert logits.shape == (2, 1, 64 // stride, 96 // stride)
        rows = zip(logits.detach().double().numpy(), batch["mask"].numpy(), strict=True)
        expected = [dice_and_bce(bilinear_by_numpy(z[0], stride), m[0]) for z, m in rows]
        assert losses[f"loss_{head}"].item() == pytest.approx(np.mean(expected), rel=1e-4)
    plain = network.eval().compute_loss(output, batch)
    assert not set(plain) & {f"loss_{head}" for head in HEADS}
    added = 0.4 * (losses["loss_auxiliary_8"] + losses["loss_auxiliary_16"]) / 2
    torch.testing.assert_close(losses["loss"], plain["loss"] + added)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_is_trained_and_eval_runs_no_head(name: str) -> None:
    network = tiny(name, auxiliary_weight=0.4)
    heads = {f"auxiliary_heads.{s}.{p}" for s in (8, 16) for p in ("weight", "bias")}
    assert heads == {n for n, _ in network.named_parameters() if n.startswith("auxiliary_heads")}
    calls: list[Any] = []
    for head in network.auxiliary_heads.values():
        head.register_forward_hook(lambda *call: calls.append(call))
    with torch.no_grad():
        aux = network.eval()(pictures(2), CAPTIONS).aux
    assert not calls
    assert not set(aux) & set(HEADS)
    steps = train_three_steps(network, make_batch())
    assert len(calls) == 6
    assert without_gradient(steps) == []
    assert [n for n in never_moved(steps, but_for=()) if n in heads] == []


@pytest.mark.parametrize("name", NETWORKS)
def test_without_a_weight_there_are_no_heads_and_no_terms(name: str) -> None:
    network, batch = tiny(name).train(), make_batch()
    assert not [key for key in network.state_dict() if key.startswith("auxiliary_heads")]
    output = network(batch["image"], batch["text"])
    assert not set(output.aux) & set(HEADS)
    terms = network.compute_loss(output, batch)
    assert not [term for term in terms if "auxiliary" in term]


def test_heads_read_maps_that_the_words_change() -> None:
    for name in ("LSMS", "TMC", "TMCA", "LAVT", "LanGuideMedSeg"):
        network = tiny(name, auxiliary_weight=0.4).train()
        for part in network.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()
        with torch.no_grad():
            one, other = (network(pictures(2), text).aux for text in (CAPTIONS, CAPTIONS[::-1]))
        assert all(not torch.equal(one[head], other[head]) for head in HEADS), name


@pytest.mark.parametrize("name", ["ImageBaseline", "TMC"])
def test_recomputed_blocks_give_the_gradients_of_a_plain_step(name: str) -> None:
    first = tiny(name, auxiliary_weight=0.4).train()
    second = copy.deepcopy(first)
    checkpointing = GradientCheckpointing()
    checkpointing.on_fit_start(None, second)  # type: ignore[arg-type]
    batch = make_batch()
    for network in (first, second):
        network.compute_loss(network(batch["image"], batch["text"]), batch)["loss"].backward()
    for (key, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=key)


def test_a_copy_of_a_baseline_reads_its_own_maps() -> None:
    """As Lightning's averaging of weights copies a network."""
    network = tiny("ImageBaseline", auxiliary_weight=0.4).train()
    other = copy.deepcopy(network)
    aux = other(pictures(2), CAPTIONS).aux
    aux["auxiliary_8"].sum().backward()
    assert other.auxiliary_heads["8"].weight.grad is not None
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ImageBaseline", "LAVT"])
def test_the_tensor_part_with_heads_compiles_in_one_graph(name: str) -> None:
    network = tiny(name, auxiliary_weight=0.4).train()
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
    torch.compiler.reset()
    compiled = torch.compile(network.forward_features, fullgraph=True, backend="aot_eager")
    text = network.encode_text(CAPTIONS)
    plain, fast = (f(pictures(2), text) for f in (network.forward_features, compiled))
    for head in HEADS:
        torch.testing.assert_close(fast.aux[head], plain.aux[head], rtol=1e-3, atol=1e-4)


def test_a_fit_logs_the_heads_terms_in_training_alone() -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(tiny("TMCA", auxiliary_weight=0.4), BatchesInMemory([make_batch()]))
    logged = {name for name in trainer.callback_metrics if "auxiliary" in name}
    assert logged == {"train/loss_auxiliary_8", "train/loss_auxiliary_16"}


# --- a network of one's own, and mistakes


class Own(TextImageBackboneMixin, SegmentationModule):
    """A head on the coarsest map."""

    def __init__(self, image_encoder: Any = "test_convnext", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.build_backbone(image_encoder, "scratch", pretrained=False)
        self.head = nn.Conv2d(self.image_encoder.channels[-1], 1, 1)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        coarse = self.encode_image(image)[-1]
        logits = nn.functional.interpolate(self.head(coarse), image.shape[-2:])
        return SegmentationOutput(logits, {})


def test_a_network_that_offers_no_maps_is_told_what_to_add() -> None:
    network, batch = Own(auxiliary_weight=0.4), make_batch()
    network.prepare_captions(CAPTIONS, training=True)
    with pytest.raises(UserError) as caught:
        network.compute_loss(network(batch["image"], batch["text"]), batch)
    message = str(caught.value)
    named = ("auxiliary_weight=0.4", "Own", "auxiliary_logits")
    assert [part for part in named if part not in message] == []


def test_an_encoder_without_maps_at_the_heads_strides_is_refused() -> None:
    def deep(text_dim: int) -> nn.Module:
        module: Any = nn.Module()
        module.channels, module.strides, module.takes_text = (2,), (32,), False
        module.pretrained_parameters = list
        return module

    with pytest.raises(UserError, match=r"\[32\]"):
        Own(deep, auxiliary_weight=0.4)


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_a_negative_weight_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=f"auxiliary_weight={value}"):
        tiny("TMCA", auxiliary_weight=value)


def test_a_baseline_without_maps_of_several_strides_is_refused() -> None:
    with pytest.raises(UserError, match="dpt"):
        tiny(
            "ImageBaseline",
            architecture="dpt",
            image_encoder="tu-vit_tiny_patch16_224",
            auxiliary_weight=0.4,
        )
