"""LAVT whole: the shared promises, its attention and gate by hand, and where E_i and F_i go."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.contract import (
    NetworkContract,
    TextGuidedContract,
    first_steps,
    never_moved,
    without_gradient,
)
from tests.models.stand_ins import CAPTIONS, make_batch, pictures, write_bert
from tests.models.tiny import tiny
from textseg.batch import SegmentationOutput, TextFeatures
from textseg.encoders import masked_mean
from textseg.errors import UserError
from textseg.models.lavt import LAVT, LanguageGate, PixelWordAttention

make = partial(tiny, "LAVT")

# What the last LayerNorm adds to every word reaches the network twice: in the keys, where the
# softmax does not see it, and in the values, where it is the same everywhere and the instance norm
# takes it out. Both by the paper's own formula.
GRADIENT_FREE = (
    *NetworkContract.gradient_free,
    r"text_encoder\.model\.encoder\.layer\.1\.output\.LayerNorm\.bias",
)


class TestLAVT(NetworkContract, TextGuidedContract):
    network_name = "LAVT"
    gradient_free = GRADIENT_FREE
    learning_rate = 4e-3
    golden = ("lavt_swin_tiny.txt", {"image_encoder_options": None})
    variations: ClassVar = {
        "a ConvNeXt": {"image_encoder": "test_convnext", "image_encoder_options": None},
        "a ResNet": {"image_encoder": "test_resnet", "image_encoder_options": None},
        "a position code": {"position_code": True},
    }
    bad_settings: ClassVar = {
        "unknown loss": ({"segmentation_loss": {"focl": 1.0}}, "focl", "focal"),
        "unknown encoder": ({"image_encoder": "swin_tny_patch4_window7_224"}, "swin_tny"),
        "unknown option": ({"image_encoder_options": {"embed_dims": 24}}, "embed_dims"),
        "too few tokens": ({"max_tokens": 2}, "max_tokens=2"),
        "no stages": (
            {"image_encoder": "test_vit", "image_encoder_options": None},
            "image_encoder='test_vit'",
        ),
        "weights out of reach": ({"pretrained": True, "image_encoder_options": None}, "pretrained"),
    }


def test_the_papers_loss_trains_all_that_dice_and_bce_train() -> None:
    steps = first_steps(make(segmentation_loss={"bce": 1.0}), make_batch(), but_for=GRADIENT_FREE)
    assert without_gradient(steps) == []
    assert never_moved(steps, but_for=GRADIENT_FREE) == []


# --- the paper's formulas, by hand


def some_words(batch: int, length: int, dim: int, real: list[int]) -> TextFeatures:
    tokens = torch.randn(batch, length, dim, dtype=torch.float64)
    mask = torch.arange(length) < torch.tensor(real)[:, None]
    return TextFeatures(tokens, mask, masked_mean(tokens, mask))


def numpy_instance_norm(x: np.ndarray) -> np.ndarray:
    """x [C, N]: zero mean and unit variance over the positions."""
    mean = x.mean(1, keepdims=True)
    variance = ((x - mean) ** 2).mean(1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5)


def numpy_code(height: int, width: int, dim: int) -> np.ndarray:
    """[dim, H*W]: sine and cosine of both coordinates at the octaves of the position code."""
    bands = dim // 4
    code = np.zeros((dim, height * width))
    for row in range(height):
        for column in range(width):
            for band in range(bands):
                f = np.pi * 2 ** (band / (bands / 6))
                y, x = (row + 0.5) / height * f, (column + 0.5) / width * f
                for part, value in enumerate((np.sin(y), np.cos(y), np.sin(x), np.cos(x))):
                    code[part * bands + band, row * width + column] = value
    return code


def numpy_attention(
    p: dict[str, np.ndarray], v: np.ndarray, words: np.ndarray, real: int, *, position_code: bool
) -> tuple[np.ndarray, np.ndarray]:
    """One sample in the specification's order: weights [N, L] and F_i [C, H, W]."""
    C, height, width = v.shape
    flat = v.reshape(C, -1)
    query = numpy_instance_norm(p["to_query.project.weight"][:, :, 0, 0] @ flat)
    if position_code:
        query = query + p["to_query.position_embedding.weight"] @ numpy_code(height, width, 64)
    key, value = p["to_key.weight"] @ words.T, p["to_value.weight"] @ words.T  # [C, L]
    weights = np.zeros((flat.shape[1], len(words)))
    for n in range(flat.shape[1]):
        scores = query[:, n] @ key[:, :real] / np.sqrt(C)
        weights[n, :real] = np.exp(scores) / np.exp(scores).sum()
    g = value @ weights.T  # [C, N]
    g = numpy_instance_norm(p["to_language.weight"] @ g)
    vision = p["to_vision.0.weight"][:, :, 0, 0] @ flat + p["to_vision.0.bias"][:, None]
    joint = p["to_joint.0.weight"][:, :, 0, 0] @ (np.maximum(vision, 0) * g)
    joint = np.maximum(joint + p["to_joint.0.bias"][:, None], 0)
    return weights, joint.reshape(C, height, width)


@pytest.mark.parametrize("position_code", [True, False])
def test_the_pixel_word_attention_is_the_papers_formula(position_code: bool) -> None:
    torch.manual_seed(1)
    attention = PixelWordAttention(8, 6, position_code=position_code).double()
    v, real = torch.randn(2, 8, 4, 6, dtype=torch.float64), [5, 3]
    text = some_words(2, 7, 6, real)
    with torch.no_grad():
        weights, joint = attention.weights(v, text), attention(v, text)
    p = {name: value.detach().numpy() for name, value in attention.named_parameters()}
    for b in range(2):
        expected = numpy_attention(
            p, v[b].numpy(), text.tokens[b].numpy(), real[b], position_code=position_code
        )
        # The code itself is computed in fp32.
        np.testing.assert_allclose(weights[b].numpy(), expected[0], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(joint[b].numpy(), expected[1], rtol=1e-4, atol=1e-5)


def test_the_language_gate_is_the_papers_formula() -> None:
    torch.manual_seed(1)
    gate = LanguageGate(8).double()
    v, joint = (torch.randn(2, 8, 3, 5, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        found = gate(v, joint).numpy()
    first, second = (gate.mlp[i].weight.detach().numpy()[:, :, 0, 0] for i in (0, 2))
    for b in range(2):
        f = joint[b].numpy().reshape(8, -1)
        s = np.tanh(second @ np.maximum(first @ f, 0))
        expected = v[b].numpy().reshape(8, -1) + s * f
        np.testing.assert_allclose(found[b].reshape(8, -1), expected, rtol=1e-12)


@pytest.mark.parametrize("empty", [True, False])
def test_the_papers_loss_is_the_cross_entropy_of_two_classes(empty: bool) -> None:
    torch.manual_seed(1)
    background, lesion = 3 * torch.randn(2, 2, 1, 16, 16)
    mask = torch.zeros_like(lesion) if empty else (torch.rand_like(lesion) > 0.7).float()
    model = make(segmentation_loss={"bce": 1.0})
    losses = model.compute_loss(
        SegmentationOutput(lesion - background, {}), {**make_batch(), "mask": mask}
    )
    z = np.stack([background.double().numpy(), lesion.double().numpy()])
    log_probs = z - np.log(np.exp(z).sum(0))
    expected = -np.where(mask.numpy() > 0, log_probs[1], log_probs[0]).mean()
    assert set(losses) == {"loss", "loss_bce"}
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_by_default_the_loss_is_dice_plus_bce() -> None:
    losses = make().compute_loss(SegmentationOutput(torch.zeros(2, 1, 64, 64), {}), make_batch())
    assert set(losses) == {"loss", "loss_dice", "loss_bce"}
    assert losses["loss"] == losses["loss_dice"] + losses["loss_bce"]


# --- where E_i and F_i go


def flow(model: LAVT, image: Tensor) -> dict[str, Any]:
    """What enters and leaves the encoder's stages, attentions, gates and the decoder."""
    seen: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, arguments: tuple[Any, ...], result: Any) -> None:
            seen[f"{name} in"], seen[f"{name} out"] = arguments, result

        return hook

    parts: dict[str, Any] = {"decoder": model.decoder}
    parts |= {f"attention {i}": m for i, m in enumerate(model.attention, 1)}
    parts |= {f"gate {i}": m for i, m in enumerate(model.gate, 1)}
    stages = [m for n, m in model.image_encoder.body.items() if n.startswith("layers")]
    parts |= {f"stage {i}": m for i, m in enumerate(stages, 1)}
    hooks = [module.register_forward_hook(keep(name)) for name, module in parts.items()]
    with torch.no_grad():
        model(image, CAPTIONS[:1])
    for hook in hooks:
        hook.remove()
    return seen


def test_the_next_stage_reads_e_and_the_decoder_reads_f() -> None:
    model = make().eval()
    seen = flow(model, pictures(1, 64, 96))
    for i in range(1, 5):
        f = seen[f"attention {i} out"]
        v = seen[f"attention {i} in"][0]
        assert torch.equal(v, seen[f"stage {i} out"].permute(0, 3, 1, 2))
        assert torch.equal(seen["decoder in"][0][i - 1], f)
        if i < 4:
            s = torch.tanh(model.gate[i - 1].mlp(f))
            e = seen[f"stage {i + 1} in"][0].permute(0, 3, 1, 2)
            torch.testing.assert_close(e, v + s * f)
            assert not torch.equal(e, v)
            assert not torch.equal(e, f)


def test_the_last_stage_has_no_gate() -> None:
    model = make()
    assert len(model.attention) == 4
    assert len(model.gate) == 3


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_with_gates_of_zero_the_encoder_is_timms_own_bit_for_bit(size: tuple[int, int]) -> None:
    model = make().eval()
    with torch.no_grad():
        for gate in model.gate:
            gate.mlp[2].weight.zero_()
        seen = flow(model, pictures(1, *size))
        plain = model.encode_image(pictures(1, *size))
    for i in range(1, 5):
        assert torch.equal(seen[f"attention {i} in"][0], plain[i - 1])


@pytest.mark.parametrize("size", [(224, 224), (128, 128), (64, 160), (96, 64)])
def test_swin_takes_other_sizes_than_224(size: tuple[int, int]) -> None:
    with torch.no_grad():
        logits = make().eval()(pictures(1, *size), CAPTIONS[:1]).logits
    assert logits.shape == (1, 1, *size)
    assert torch.isfinite(logits).all()


def test_the_logits_are_the_head_upsampled_without_the_encoders_last_change() -> None:
    model = make().eval()
    seen = flow(model, pictures(1))
    with torch.no_grad():
        head = model.head(seen["decoder out"])
        logits = model(pictures(1), CAPTIONS[:1]).logits
    expected = torch.nn.functional.interpolate(head, (64, 64), mode="bilinear")
    assert head.shape == (1, 1, 16, 16)
    assert torch.equal(logits, expected)


def test_bf16_keeps_the_language_map_within_a_tenth_of_its_spread() -> None:
    """The norm of G_i magnifies what bf16 rounds away: summed in bf16, it is off by 2.7 spreads."""
    torch.manual_seed(1)
    attention = PixelWordAttention(32, 32, position_code=True)
    v, text = torch.randn(1, 32, 16, 16), some_words(1, 12, 32, [9])
    # Words of LayerNorm'd size that differ little: their sums differ little between positions.
    tokens = (text.tokens[:, :1] + 0.05 * text.tokens).float()
    text = TextFeatures(tokens, text.mask, tokens.mean(1))
    kept: list[Tensor] = []
    attention.norm.register_forward_hook(lambda m, a, result: kept.append(result.float()))
    with torch.no_grad():
        attention(v, text)
        with torch.autocast("cpu", torch.bfloat16):
            attention(v, text)
    assert (kept[0] - kept[1]).std() < 0.1 * kept[0].std()


# --- explanations


def test_the_attention_maps_of_all_words_and_of_one_are_shares_that_add_up() -> None:
    model = make().eval()
    image = pictures(2, 64, 96)
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
        one = model.token_mask(CAPTIONS, "lesion")
        maps = {
            name: model.explanation_maps(image, text, words)
            for name, words in (("all", text.mask), ("one", one), ("rest", text.mask & ~one))
        }
    for i in range(1, 5):
        name = f"stage{i}.attention"
        assert maps["all"][name].shape == (2, 64 // 2 ** (i + 1), 96 // 2 ** (i + 1))
        torch.testing.assert_close(maps["all"][name], torch.ones_like(maps["all"][name]))
        torch.testing.assert_close(maps["one"][name] + maps["rest"][name], maps["all"][name])
        assert maps["one"][name].min() > 0
        assert maps["one"][name].max() < 1


def test_the_gate_maps_are_what_the_words_add_to_the_next_stage() -> None:
    model = make().eval()
    image = pictures(1, 64, 96)
    seen = flow(model, image)
    with torch.no_grad():
        text = model.encode_text(CAPTIONS[:1])
        maps = model.explanation_maps(image, text, text.mask)
    assert {n for n in maps if "gate" in n} == {"stage1.gate", "stage2.gate", "stage3.gate"}
    for i in range(1, 4):
        added = seen[f"gate {i} out"] - seen[f"gate {i} in"][0]
        torch.testing.assert_close(
            maps[f"stage{i}.gate"], added.abs().mean(1), rtol=1e-3, atol=1e-6
        )


# --- settings


def test_without_the_position_code_only_its_map_is_missing() -> None:
    with_it = {n for n, _ in make(position_code=True).named_parameters()}
    without = {n for n, _ in make().named_parameters()}
    assert with_it - without == {
        f"attention.{i}.to_query.position_embedding.weight" for i in range(4)
    }
    assert without <= with_it


def test_pretrained_parts_learn_more_slowly_and_bert_is_trained_unless_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bert(tmp_path)
    # Offline: no image weights are fetched, as when a checkpoint is restored.
    monkeypatch.setattr("textseg.encoders.image.is_restoring", lambda: True)
    published = {"text_encoder": str(tmp_path), "pretrained": True}
    assert make(**published, freeze_text=True).text_encoder.frozen
    tuned = make(**published)
    groups = tuned.parameter_groups(lr=1.0, weight_decay=0.0, pretrained_lr_scale=0.1)
    slow = {id(p) for g in groups if g["lr"] == pytest.approx(0.1) for p in g["params"]}
    both = (tuned.image_encoder, tuned.text_encoder)
    assert slow == {id(p) for part in both for p in part.parameters()}


@pytest.mark.parametrize("size", [(32, 32), (32, 64), (64, 32), (64, 80), (100, 100)])
def test_a_size_it_cannot_take_is_a_user_error_that_names_it(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=rf"{size[0]} x {size[1]}(.|\n)*data\.image_size(.|\n)*64"):
        make().eval()(pictures(1, *size), CAPTIONS[:1])
