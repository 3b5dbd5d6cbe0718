"""TMCA: the shared promises, its alignment against numpy, its enhancement, and what they teach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tests.models.contract import (
    NetworkContract,
    never_moved,
    train_three_steps,
    without_gradient,
)
from tests.models.stand_ins import (
    CAPTIONS,
    BatchesInMemory,
    make_batch,
    pictures,
    quiet_trainer,
    write_bert,
)
from textseg.batch import Batch, SegmentationOutput, TextFeatures, stable_id
from textseg.encoders import NoText
from textseg.errors import UserError
from textseg.models.tmca import (
    LEVELS,
    TMCA,
    LanguageGuidedTargetEnhancement,
    SubPixelDecoder,
    TargetGate,
    pool_regions,
    semantic_distance,
)

OFF: dict[str, Any] = {"alignment": "none", "enhancement_levels": ()}


def make(captions: Sequence[str] = CAPTIONS, **settings: Any) -> TMCA:
    """A tiny network whose vocabulary is that of `captions`."""
    defaults: dict[str, Any] = {
        "image_encoder": "test_convnext",
        "text_encoder": "scratch",
        "pretrained": False,
        "max_tokens": 16,
        "alignment_dim": 16,
    }
    torch.manual_seed(0)
    model = TMCA(**{**defaults, **settings})
    model.on_captions(captions, training=True)
    return model


class TestTMCA(NetworkContract):
    def make(self, **settings: Any) -> TMCA:
        return make(**settings)


VARIATIONS: dict[str, dict[str, Any]] = {
    "none": OFF,
    "global alignment at level 4": {
        "alignment": "global",
        "alignment_levels": (4,),
        "enhancement_levels": (),
    },
    "target-sensitive at level 4": {"alignment_levels": (4,), "enhancement_levels": ()},
    "target-sensitive at 1..4": {"enhancement_levels": ()},
    "enhancement without alignment": {"alignment": "none"},
    "enhancement, alignment of weight 0": {"alignment_weight": 0.0},
    "other levels for each": {"alignment_levels": (1, 3), "enhancement_levels": (4, 3)},
    "all, larger residuals": {"enhancement_scale": 1.0},
}


@pytest.mark.parametrize("settings", VARIATIONS.values(), ids=VARIATIONS)
def test_every_ablation_trains_all_of_its_parameters(settings: dict[str, Any]) -> None:
    model = make(**settings)
    assert model.eval()(pictures(1, 64, 96), CAPTIONS[:1]).logits.shape == (1, 1, 64, 96)
    steps = train_three_steps(model, make_batch())
    assert without_gradient(steps) == []
    assert never_moved(steps, but_for=TestTMCA.gradient_free) == []


@pytest.mark.parametrize("settings", VARIATIONS.values(), ids=VARIATIONS)
def test_a_batch_of_one_trains(settings: dict[str, Any]) -> None:
    model, batch = make(**settings).train(), make_batch(1)
    losses = model.compute_loss(model(batch["image"], batch["text"]), batch)
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])


# --- what is built


def parts(model: TMCA) -> set[str]:
    """Every level's part, such as "spaces.level4", and the encoders and decoder."""
    names = [name.split(".") for name, _ in model.named_parameters()]
    return {".".join(n[:2]) if n[0] in ("spaces", "enhancement") else n[0] for n in names}


@pytest.mark.parametrize(
    ("settings", "aligned", "spaces", "enhanced"),
    [
        ({}, LEVELS, LEVELS, LEVELS),
        ({"alignment": "none"}, (), LEVELS, LEVELS),
        ({"alignment_weight": 0.0, "enhancement_levels": (2,)}, (), (2,), (2,)),
        ({"alignment_levels": (), "enhancement_levels": (3, 4)}, (), (3, 4), (3, 4)),
        ({"alignment_levels": (4,), "enhancement_levels": ()}, (4,), (4,), ()),
        ({"alignment_levels": (4, 1), "enhancement_levels": (2,)}, (1, 4), (1, 2, 4), (2,)),
    ],
)
def test_projections_exist_where_alignment_or_a_gate_uses_them_and_terms_where_aligned(
    settings: dict[str, Any],
    aligned: tuple[int, ...],
    spaces: tuple[int, ...],
    enhanced: tuple[int, ...],
) -> None:
    model, batch = make(**settings), make_batch()
    expected = {f"spaces.level{n}" for n in spaces} | {f"enhancement.level{n}" for n in enhanced}
    assert parts(model) == expected | {"image_encoder", "text_encoder", "decoder"}
    output = model(batch["image"], batch["text"])
    assert set(output.aux) == {f"{name}_{n}" for name in ("places", "text") for n in aligned}
    terms = {f"loss_align_{n}" for n in aligned}
    terms |= {"loss_align", "empty_masks"} if aligned else set()
    losses = model.compute_loss(output, batch)
    assert set(losses) == terms | {"loss", "loss_dice", "loss_bce"}


@pytest.mark.parametrize(
    "settings",
    [
        OFF,
        {"alignment_weight": 0.0, "enhancement_levels": ()},
        {"alignment_levels": (), "enhancement_levels": ()},
    ],
)
def test_without_alignment_and_enhancement_it_is_the_plain_encoder_decoder(
    settings: dict[str, Any],
) -> None:
    model = make(**settings).eval()
    assert parts(model) == {"image_encoder", "decoder"}
    assert isinstance(model.text_encoder, NoText)
    with torch.no_grad():
        plain = model.decoder(model.image_encoder(pictures(2)))
        output = model(pictures(2), CAPTIONS)
    assert torch.equal(output.logits, plain)
    assert output.aux == {}


def test_alignment_alone_changes_no_mask_only_the_loss() -> None:
    aligned, plain = make(enhancement_levels=()).eval(), make(**OFF).eval()
    own = {k: v for k, v in aligned.state_dict().items() if k in plain.state_dict()}
    plain.load_state_dict(own)
    with torch.no_grad():
        pair = [m(pictures(2), CAPTIONS).logits for m in (aligned, plain)]
    assert torch.equal(*pair)


def test_forward_takes_no_mask_and_predicting_needs_none() -> None:
    batch = make_batch()
    del batch["mask"]
    preds = make().eval().predict_step(batch, 0)["pred"]
    assert [p.shape for p in preds] == [(64, 64)] * 2


# --- target-sensitive semantic distance


def unit(x: np.ndarray, axis: int) -> np.ndarray:
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


def random_places(count: int, dim: int = 8, size: int = 7) -> Tensor:
    return F.normalize(torch.randn(count, dim, size, size), dim=1)


@pytest.mark.parametrize("place", [(0, 0), (110, 31), (223, 223)])
def test_a_lesion_of_one_pixel_is_seen_on_a_grid_of_7(place: tuple[int, int]) -> None:
    mask = torch.zeros(1, 1, 224, 224)
    mask[0, 0, place[0], place[1]] = 1
    places = random_places(1)
    lesion, background = pool_regions(places, mask)
    torch.testing.assert_close(lesion[0], places[0, :, place[0] // 32, place[1] // 32])
    torch.testing.assert_close(background, places.mean((2, 3)), rtol=0, atol=1e-4)


def test_an_empty_and_a_full_mask_give_a_region_of_zeros_with_finite_gradients() -> None:
    places = random_places(2).requires_grad_(True)
    mask = torch.zeros(2, 1, 64, 64)
    mask[1] = 1
    lesion, background = pool_regions(places, mask)
    assert not lesion[0].any()
    assert not background[1].any()
    torch.testing.assert_close(lesion[1], places[1].mean((1, 2)))
    (lesion.sum() + background.sum()).backward()
    assert places.grad is not None
    assert torch.isfinite(places.grad).all()


def distances(model: TMCA, batch: Batch) -> dict[int, Tensor]:
    """d_l [B, B] of every level."""
    with torch.no_grad():
        aux = model(batch["image"], batch["text"]).aux
    return {
        n: semantic_distance(pool_regions(aux[f"places_{n}"], batch["mask"])[0], aux[f"text_{n}"])
        for n in LEVELS
    }


def test_permuting_the_batch_permutes_rows_and_columns_of_every_distance() -> None:
    model, batch = make().eval(), make_batch(4)
    order = torch.tensor([2, 0, 3, 1])
    permuted: Batch = {
        **batch,
        "image": batch["image"][order],
        "mask": batch["mask"][order],
        "text": [batch["text"][i] for i in order],
    }
    before, after = distances(model, batch), distances(model, permuted)
    for n in LEVELS:
        assert before[n].std() > 0
        torch.testing.assert_close(after[n], before[n][order][:, order], rtol=1e-4, atol=1e-5)


# --- multi-level contrastive alignment


def random_output(count: int, levels: tuple[int, ...] = LEVELS) -> SegmentationOutput:
    """Places and texts of unit length at 64 x 64, leaves of the graph."""
    aux = {}
    for n in levels:
        aux[f"places_{n}"] = random_places(count, 16, 32 // 2**n)
        aux[f"text_{n}"] = F.normalize(torch.randn(count, 16), dim=1)
    leaves = {name: value.requires_grad_(True) for name, value in aux.items()}
    return SegmentationOutput(torch.randn(count, 1, 64, 64), leaves)


def labelled(masks: Tensor, captions: list[str], images: list[int]) -> Batch:
    return {
        **make_batch(len(captions)),
        "mask": masks,
        "text": captions,
        "caption_id": torch.tensor([stable_id(c) for c in captions]),
        "image_id": torch.tensor(images),
    }


def numpy_region(places: np.ndarray, weight: np.ndarray) -> np.ndarray:
    h, w = places.shape[1:]
    cells = weight.reshape(h, len(weight) // h, w, weight.shape[1] // w).mean(axis=(1, 3))
    if cells.sum() == 0:
        return np.zeros(len(places))
    return sum(cells[y, x] * places[:, y, x] for y in range(h) for x in range(w)) / cells.sum()


def numpy_level(
    places: np.ndarray,
    text: np.ndarray,
    masks: np.ndarray,
    captions: list[str],
    images: list[int],
    tau: float,
    target: bool,
) -> float:
    """One level's L_align straight from the specification, anchor by anchor."""
    rows = [i for i in range(len(masks)) if not target or masks[i].any()]
    if not rows:
        return 0.0
    whole = np.ones_like(masks[0, 0])
    inside = {i: numpy_region(places[i], masks[i, 0] if target else whole) for i in rows}
    outside = {i: numpy_region(places[i], 1 - masks[i, 0]) for i in rows}
    halves = {"image to text": 0.0, "text to image": 0.0}
    for i in rows:
        others = [j for j in rows if captions[j] == captions[i] or images[j] != images[i]]
        positives = [j for j in rows if captions[j] == captions[i]]
        to_text = {j: math.exp(inside[i] @ text[j] / tau) for j in others}
        to_image = {j: math.exp(inside[j] @ text[i] / tau) for j in others}
        own = math.exp(outside[i] @ text[i] / tau) if target and not masks[i].all() else 0.0
        for j in positives:
            share = to_text[j] / sum(to_text.values())
            halves["image to text"] -= math.log(share) / len(positives)
            share = to_image[j] / (sum(to_image.values()) + own)
            halves["text to image"] -= math.log(share) / len(positives)
    return sum(halves.values()) / 2 / len(rows)


def mixed_rows() -> tuple[Tensor, list[str], list[int]]:
    """Equal captions, one image with two captions, an empty mask and a full one."""
    masks = (torch.rand(6, 1, 64, 64) > 0.8).float()
    masks[:, :, :20] = 0
    masks[2], masks[4] = 0, 1
    return masks, ["left", "right", "left", "left", "upper", "lower"], [0, 1, 2, 3, 1, 5]


@pytest.mark.parametrize("alignment", ["target", "global"])
@pytest.mark.parametrize("levels", [(1, 2, 3, 4), (2, 4)])
def test_the_alignment_is_the_one_computed_by_hand(alignment: str, levels: tuple[int, ...]) -> None:
    model = make(
        alignment=alignment, alignment_levels=levels, temperature=0.2, alignment_weight=0.7
    )
    masks, captions, images = mixed_rows()
    output = random_output(6, levels)
    losses = model.compute_loss(output, labelled(masks, captions, images))
    aux = {name: value.detach().double().numpy() for name, value in output.aux.items()}
    expected = [
        numpy_level(
            aux[f"places_{n}"],
            aux[f"text_{n}"],
            masks.double().numpy(),
            captions,
            images,
            0.2,
            alignment == "target",
        )
        for n in levels
    ]
    for n, value in zip(levels, expected, strict=True):
        assert losses[f"loss_align_{n}"].item() == pytest.approx(value, rel=1e-4)
    assert losses["loss_align"].item() == pytest.approx(np.mean(expected), rel=1e-4)
    left_out = 1 / 6 if alignment == "target" else 0
    assert losses["empty_masks"].item() == pytest.approx(left_out, abs=1e-6)
    total = losses["loss_dice"] + losses["loss_bce"] + 0.7 * losses["loss_align"]
    torch.testing.assert_close(losses["loss"], total)


@pytest.mark.parametrize("levels", [(1, 2, 3, 4), (3,)])
def test_every_aligned_level_is_logged_by_name_in_training_and_validation(
    levels: tuple[int, ...],
) -> None:
    model, batch = make(alignment_levels=levels), make_batch()
    batch["mask"][0] = 0
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, datamodule=BatchesInMemory([batch]))
    for stage in ("train", "val"):
        found = {
            name: value.item()
            for name, value in trainer.callback_metrics.items()
            if name.startswith(f"{stage}/loss_align")
        }
        names = {f"{stage}/loss_align_{n}" for n in levels}
        assert set(found) == names | {f"{stage}/loss_align"}
        mean = np.mean([found[name] for name in names])
        assert found[f"{stage}/loss_align"] == pytest.approx(mean, rel=1e-5)
        assert trainer.callback_metrics[f"{stage}/empty_masks"] == 0.5


def test_a_batch_of_empty_masks_has_no_alignment_but_is_connected_and_finite() -> None:
    model, batch = make().train(), make_batch(3)
    batch["mask"].zero_()
    losses = model.compute_loss(model(batch["image"], batch["text"]), batch)
    assert losses["loss_align"].item() == 0
    assert losses["empty_masks"].item() == 1
    losses["loss"].backward()
    grads = [p.grad for p in model.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


def test_a_caption_that_all_rows_share_teaches_by_the_background_alone() -> None:
    model, output = make(), random_output(4)
    with torch.no_grad():
        for n in LEVELS:
            output.aux[f"text_{n}"][1:] = output.aux[f"text_{n}"][:1]
    batch = labelled(make_batch(4)["mask"], ["left"] * 4, [0, 1, 2, 3])
    batch["mask"][:, :, :8] = 0
    losses = model.compute_loss(output, batch)
    losses["loss_align"].backward()
    for n in LEVELS:
        places, mask = output.aux[f"places_{n}"], batch["mask"]
        lesion, background = pool_regions(places.detach(), mask)
        score = (torch.stack([lesion, background]) * output.aux[f"text_{n}"].detach()).sum(-1) / 0.1
        rivals = torch.cat([score[:1].expand(4, 4), score[1][:, None]], dim=1)
        to_image = (rivals.logsumexp(1) - score[0].mean()).mean()
        both = (math.log(4) + to_image.item()) / 2
        assert losses[f"loss_align_{n}"].item() == pytest.approx(both, rel=1e-5)
        gradient = places.grad
        assert gradient is not None
        outside = F.adaptive_max_pool2d(mask, gradient.shape[-2:]) == 0
        assert (gradient * outside).abs().amax() > 1e-6, "the background must be pushed away"


def test_image_to_text_of_one_shared_caption_is_ln_b_without_a_gradient() -> None:
    # A global alignment has no background, so both directions are image to text transposed.
    model, output = make(alignment="global"), random_output(4)
    same = F.normalize(torch.randn(1, 16), dim=1).repeat(4, 1)
    for n in LEVELS:
        output.aux[f"text_{n}"] = same
        pooled = F.normalize(torch.randn(1, 16, 1, 1), dim=1).expand(4, 16, 2, 2)
        output.aux[f"places_{n}"] = pooled.clone().requires_grad_(True)
    losses = model.compute_loss(
        output, labelled(torch.zeros(4, 1, 64, 64), ["a"] * 4, [0, 1, 2, 3])
    )
    assert losses["loss_align"].item() == pytest.approx(math.log(4), rel=1e-6)
    losses["loss_align"].backward()
    for n in LEVELS:
        gradient = output.aux[f"places_{n}"].grad
        assert gradient is not None
        assert gradient.abs().amax() < 1e-6


def test_autocast_does_not_round_the_alignment() -> None:
    model, output, batch = make(), random_output(6), labelled(*mixed_rows())
    exact = model.compute_loss(output, batch)
    with torch.autocast("cpu", torch.bfloat16):
        under = model.compute_loss(output, batch)
    assert {name: exact[name].item() for name in exact} == {n: under[n].item() for n in under}


def test_only_the_target_alignment_reads_the_mask() -> None:
    masks, captions, images = mixed_rows()
    for alignment, reads in (("target", True), ("global", False)):
        model, output = make(alignment=alignment), random_output(6)
        pair = [
            model.compute_loss(output, labelled(m, captions, images))["loss_align"].item()
            for m in (masks, masks.flip(-2))
        ]
        assert (pair[0] != pair[1]) == reads


# --- language-guided target enhancement


def test_the_gate_is_a_sigmoid_of_ten_times_the_similarity_at_the_start() -> None:
    places, text = random_places(2), F.normalize(torch.randn(2, 8), dim=1)
    similarity = np.einsum("bdhw,bd->bhw", places.numpy(), text.numpy())
    gate = TargetGate()(places, text)
    assert gate.shape == (2, 1, 7, 7)
    np.testing.assert_allclose(
        gate.detach().numpy()[:, 0], 1 / (1 + np.exp(-10 * similarity)), rtol=1e-4
    )


def some_words(count: int = 2) -> TextFeatures:
    mask = torch.tensor([[True, True, True, False, False]]).repeat(count, 1)
    return TextFeatures(torch.randn(count, 5, 12), mask, torch.randn(count, 12))


def test_the_modulation_is_the_one_computed_by_hand() -> None:
    torch.manual_seed(0)
    block = LanguageGuidedTargetEnhancement(8, 12, 0.5)
    block.rho.data.zero_()  # the attention apart
    feature, places = torch.randn(2, 8, 7, 7), random_places(2)
    vector, text = F.normalize(torch.randn(2, 8), dim=1), some_words()
    with torch.no_grad():
        result = block(feature, places, vector, text).numpy()
        scale, shift = np.split(block.modulation(text.pooled).numpy(), 2, axis=1)
    w = block.project.weight.detach().numpy()[:, :, 0, 0]
    for b in range(2):
        for y, x in ((0, 0), (3, 5), (6, 6)):
            gate = 1 / (1 + np.exp(-10 * (places[b, :, y, x] @ vector[b]).item()))
            f = feature[b, :, y, x].numpy()
            expected = f + 0.5 * gate * (scale[b] * (w @ f) + shift[b])
            np.testing.assert_allclose(result[b, :, y, x], expected, rtol=1e-4, atol=1e-5)


def test_the_attention_tells_places_of_equal_features_apart() -> None:
    torch.manual_seed(0)
    block = LanguageGuidedTargetEnhancement(8, 12, 0.5)
    block.alpha.data.zero_()  # the modulation apart
    feature = torch.ones(1, 8, 4, 6)
    places, vector = random_places(1, size=4)[..., :1].expand(1, 8, 4, 6), torch.randn(1, 8)
    with torch.no_grad():
        change = (block(feature, places, vector, some_words(1)) - feature).flatten(2)[0].T
    gaps = torch.cdist(change, change) + 9 * torch.eye(24)
    assert gaps.min() > 1e-4


def test_the_decoder_sees_every_level() -> None:
    decoder = SubPixelDecoder((8, 12, 16, 20)).eval()
    features = [
        torch.randn(1, c, 16 // 2**i, 24 // 2**i, requires_grad=True)
        for i, c in enumerate((8, 12, 16, 20))
    ]
    logits = decoder(features)
    assert logits.shape == (1, 1, 64, 96)
    logits.square().sum().backward()
    assert all(f.grad is not None and f.grad.abs().sum() > 0 for f in features)


def test_a_lesion_can_outvote_the_heads_bias_whatever_the_sign_of_its_features() -> None:
    """With a ReLU before the head, features that are all negative leave the bias alone."""
    decoder = SubPixelDecoder((8, 12, 16, 20)).eval()
    torch.nn.init.constant_(decoder.spread.bias, -5.0)
    features = [torch.randn(1, c, 16 // 2**i, 16 // 2**i) for i, c in enumerate((8, 12, 16, 20))]
    logits = decoder(features)
    assert logits.std() > 1e-3
    assert (logits - decoder.head.bias).abs().min() > 0


def test_words_reach_the_mask_through_every_enhanced_level() -> None:
    for level in LEVELS:
        model = make(alignment="none", enhancement_levels=(level,)).eval()
        with torch.no_grad():
            pair = [model(pictures(1), [text]).logits for text in CAPTIONS]
        assert not torch.equal(*pair)


# --- explanations


def test_explanations_are_each_enhanced_levels_gate_and_attention_and_saliency() -> None:
    model = make(enhancement_levels=(1, 3)).eval()
    maps = model.explain(pictures(2, 64, 96), CAPTIONS)
    kinds = {f"level{n}.{part}" for n in (1, 3) for part in ("gate", "attention")}
    assert set(maps) == kinds | {"saliency"}
    for raw in maps.values():
        assert raw.shape == (2, 64, 96)
        assert raw.min() == 0
        assert raw.max() == 1


def explained(model: TMCA, word: str | None) -> dict[str, Tensor]:
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
        return model.explanation_maps(pictures(2), text, model.select_words(CAPTIONS, word))


def test_gates_do_not_depend_on_the_word_and_the_attention_does() -> None:
    model = make().eval()
    every, one = explained(model, None), explained(model, "lesion")
    for n in LEVELS:
        assert every[f"level{n}.gate"].shape == (2, 32 // 2**n, 32 // 2**n)
        assert torch.equal(every[f"level{n}.gate"], one[f"level{n}.gate"])
        assert (every[f"level{n}.attention"] > one[f"level{n}.attention"]).all()


def test_gate_maps_are_the_gate_of_the_aligned_similarity() -> None:
    model = make().eval()
    maps = explained(model, None)
    with torch.no_grad():
        aux = {k: v.numpy() for k, v in model(pictures(2), CAPTIONS).aux.items()}
    for n in LEVELS:
        similarity = np.einsum("bdhw,bd->bhw", aux[f"places_{n}"], aux[f"text_{n}"])
        np.testing.assert_allclose(
            maps[f"level{n}.gate"].numpy(), 1 / (1 + np.exp(-10 * similarity)), rtol=1e-4
        )


def test_attention_on_all_real_tokens_is_1_and_on_padding_0() -> None:
    model = make().eval()
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
        whole = model.explanation_maps(pictures(2), text, text.mask)
        padding = model.explanation_maps(pictures(2), text, ~text.mask)
    for n in LEVELS:
        attention = whole[f"level{n}.attention"]
        assert attention.shape == (2, 32 // 2**n, 32 // 2**n)
        torch.testing.assert_close(attention, torch.ones_like(attention))
        assert not padding[f"level{n}.attention"].any()


def test_explaining_leaves_the_mode_and_the_next_mask_as_they_were() -> None:
    model = make().train()
    before = {k: v.clone() for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    model.explain(pictures(2), CAPTIONS)
    assert model.training
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_an_image_only_network_explains_saliency_and_refuses_a_word() -> None:
    model = make(**OFF)
    assert set(model.explain(pictures(1), CAPTIONS[:1])) == {"saliency"}
    with pytest.raises(UserError, match="lesion"):
        model.explain(pictures(1), CAPTIONS[:1], "lesion")


# --- settings


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown alignment": ({"alignment": "local"}, "alignment='local'"),
    "alignment level 5": ({"alignment_levels": (4, 5)}, r"alignment_levels=\[4, 5\]"),
    "alignment level twice": ({"alignment_levels": (4, 4)}, "alignment_levels"),
    "enhancement level 0": ({"enhancement_levels": (0, 1)}, r"enhancement_levels=\[0, 1\]"),
    "enhancement level twice": ({"enhancement_levels": (2, 2)}, "enhancement_levels"),
    "no width": ({"alignment_dim": 0}, "alignment_dim=0"),
    "temperature 0": ({"temperature": 0.0}, "temperature=0.0"),
    "negative weight": ({"alignment_weight": -0.1}, "alignment_weight=-0.1"),
    "weight not a number": ({"alignment_weight": math.nan}, "alignment_weight=nan"),
    "scale 0": ({"enhancement_scale": 0.0}, "enhancement_scale=0.0"),
    "unknown encoder": ({"image_encoder": "convnext_tinny"}, "convnext_tinny"),
    "five stages": ({"image_encoder": "test_resnet"}, "out_indices"),
    "unknown option": ({"image_encoder_options": {"drop_paths": 1}}, "drop_paths"),
    "warm-up of all steps": ({"warmup": 1.0}, "warmup"),
}


@pytest.mark.parametrize(("settings", "named"), BAD.values(), ids=BAD)
def test_a_bad_setting_is_a_user_error_that_names_it(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        make(**settings)


def test_the_remedy_for_an_encoder_of_five_stages_works() -> None:
    model = make(image_encoder="test_resnet", image_encoder_options={"out_indices": (1, 2, 3, 4)})
    assert model.eval()(pictures(1), CAPTIONS[:1]).logits.shape == (1, 1, 64, 64)


def test_pretrained_goes_to_both_encoders_and_freezes_the_text_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bert(tmp_path)
    # Offline: no image weights are fetched, as when a checkpoint is restored.
    monkeypatch.setattr("textseg.encoders.image.is_restoring", lambda: True)
    frozen = make(text_encoder=str(tmp_path), pretrained=True)
    tuned = make(text_encoder=str(tmp_path), pretrained=True, freeze_text=False)
    assert frozen.text_encoder.frozen
    for model in (frozen, tuned):
        groups = model.parameter_groups(lr=1.0, weight_decay=0.0, pretrained_lr_scale=0.1)
        slow = {id(p) for g in groups if g["lr"] == pytest.approx(0.1) for p in g["params"]}
        names = {n.split(".")[0] for n, p in model.named_parameters() if id(p) in slow}
        assert names == {"image_encoder"} | ({"text_encoder"} if model is tuned else set())


# --- what is learnt


def fit(model: TMCA, batch: Batch, steps: int, lr: float = 2e-3) -> None:
    groups = model.parameter_groups(lr=lr, weight_decay=0.0, pretrained_lr_scale=1.0)
    optimizer = torch.optim.AdamW(groups)
    for _ in range(steps):
        output = model.train()(batch["image"], batch["text"])
        model.compute_loss(output, batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()


def test_two_expressions_of_one_image_are_learnt_and_swapping_them_swaps_the_masks() -> None:
    model = make(enhancement_scale=1.0)
    image, mask = 0.2 * pictures(1), torch.zeros(2, 1, 64, 64)
    mask[0, :, 8:24, 8:24] = 1
    mask[1, :, 36:56, 36:56] = 1
    image = (image + 0.5 * mask.sum(0)).repeat(2, 1, 1, 1)
    batch = labelled(mask, CAPTIONS, [0, 0])
    batch["image"] = image
    fit(model, batch, 60)
    with torch.no_grad():
        straight = model.eval()(image, CAPTIONS).logits > 0
        swapped = model(image, CAPTIONS[::-1]).logits > 0
    for pred, truth in ((straight, mask), (swapped, mask.flip(0))):
        overlap = (pred & truth.bool()).sum((1, 2, 3)) / (pred | truth.bool()).sum((1, 2, 3))
        assert (overlap > 0.9).all()


COLOURS = ["the red lesion", "the blue lesion"]


def two_colours(count: int, seed: int) -> Batch:
    """One half red, one half blue; the caption names one colour, the mask is its half.

    Each colour is the target in half of the images, so a similarity that does not read the text
    has an AUROC of 0.5.
    """
    image, mask = 0.3 * pictures(count, seed=seed), torch.zeros(count, 1, 64, 64)
    text = [COLOURS[i % 2] for i in range(count)]
    halves = [slice(None, 32), slice(32, None)]
    for i in range(count):
        red, blue = halves if i // 2 % 2 else halves[::-1]
        image[i, 0, red] += 0.6
        image[i, 2, blue] += 0.6
        mask[i, 0, blue if i % 2 else red] = 1
    batch = labelled(mask, text, list(range(count)))
    batch["image"] = image
    return batch


def alignment_auroc(model: TMCA, batch: Batch) -> dict[int, float]:
    """Of <p_l, t_l> against the mask, all places of all images together, by level."""
    with torch.no_grad():
        aux = model.eval()(batch["image"], batch["text"]).aux
    scores = {}
    for n in LEVELS:
        places = aux[f"places_{n}"]
        similarity = torch.einsum("bdhw,bd->bhw", places, aux[f"text_{n}"])
        truth = F.adaptive_avg_pool2d(batch["mask"], places.shape[-2:]) > 0.5
        scores[n] = float(roc_auc_score(truth.flatten().numpy(), similarity.flatten().numpy()))
    return scores


def test_alignment_teaches_the_similarity_to_find_the_lesion_that_the_text_names() -> None:
    model = make(COLOURS, enhancement_levels=(), alignment_weight=1.0)
    unseen = two_colours(8, seed=1)
    before = alignment_auroc(model, unseen)
    fit(model, two_colours(8, seed=0), 30, lr=1e-3)
    after = alignment_auroc(model, unseen)
    for n in LEVELS:
        assert 0.3 < before[n] < 0.7, "level 4 has few places: other seeds gave 0.32 to 0.64"
        assert after[n] > 0.85


# --- two processes


def eight_rows() -> Batch:
    """Rows for two processes of four: captions and an image shared across them, empty and full."""
    torch.manual_seed(5)
    masks = (torch.rand(8, 1, 64, 64) > 0.7).float()
    masks[:, :, :16] = 0
    masks[1], masks[6] = 0, 1
    captions = [CAPTIONS[i] for i in (0, 1, 0, 0, 1, 0, 1, 1)]
    batch = labelled(masks, captions, [0, 1, 2, 3, 0, 4, 5, 6])
    batch["image"] = pictures(8, seed=5)
    return batch


def rows_of(batch: Batch, rows: slice) -> Batch:
    return {key: value[rows] for key, value in batch.items()}  # type: ignore[return-value,index]


def gradients(model: torch.nn.Module, inner: TMCA, batch: Batch) -> dict[str, Tensor]:
    """In eval mode, since each process's batch norm would see its own rows."""
    output = model(batch["image"], batch["text"])
    inner.compute_loss(output, batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in inner.named_parameters() if p.grad is not None}


def one_rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    try:
        model = make(alignment_weight=1.0).double().eval()
        batch = rows_of(in_double(eight_rows()), slice(4 * rank, 4 * rank + 4))
        found = gradients(DistributedDataParallel(model), model, batch)
        torch.save(found, folder / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def in_double(batch: Batch) -> Batch:
    return {**batch, "image": batch["image"].double(), "mask": batch["mask"].double()}


@pytest.fixture
def two_processes(tmp_path: Path) -> Path:
    """This process is rank 0: starting one other costs half the imports of starting two."""
    other = torch.multiprocessing.get_context("spawn").Process(target=one_rank, args=(1, tmp_path))
    other.start()
    try:
        one_rank(0, tmp_path)
    finally:
        other.join(timeout=120)
        other.kill()
    assert other.exitcode == 0
    return tmp_path


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one_with_all_rows(two_processes: Path) -> None:
    model = make(alignment_weight=1.0).double().eval()
    expected = gradients(model, model, in_double(eight_rows()))
    for rank in (0, 1):
        found = torch.load(two_processes / f"{rank}.pt", weights_only=True)
        assert set(found) == set(expected)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
