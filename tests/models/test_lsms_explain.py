"""What LSMS's own maps show: where each stage weighs a word, and where the words are written."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.stand_ins import CAPTIONS, pictures, write_bert
from tests.models.tiny import NO_TEXT, tiny
from textseg.batch import TextFeatures
from textseg.errors import UserError
from textseg.explain import record_inputs
from textseg.layers import merge_heads, to_map
from textseg.models.lsms import LSMS

make = partial(tiny, "LSMS")
STAGES = ["stage1", "stage2", "stage3", "stage4"]


@pytest.fixture
def network() -> LSMS:
    return make().eval()


def raw_maps(network: LSMS, words: Tensor, text: TextFeatures) -> dict[str, Tensor]:
    with torch.no_grad():
        return network.explanation_maps(pictures(2, 64, 96), text, words)


@pytest.mark.parametrize("branch", ["shared", "per_scale"])
def test_every_stage_has_an_attention_and_a_gate_at_its_own_stride(branch: str) -> None:
    network = make(language_branch=branch).eval()
    text = network.encode_text(CAPTIONS)
    maps = raw_maps(network, network.token_mask(CAPTIONS, None), text)
    assert set(maps) == {f"{stage}.{kind}" for stage in STAGES for kind in ("attention", "gate")}
    for number, stage in enumerate(STAGES):
        stride = 4 * 2**number
        for kind in ("attention", "gate"):
            assert maps[f"{stage}.{kind}"].shape == (2, 64 // stride, 96 // stride)


@pytest.mark.parametrize("branch", ["shared", "per_scale"])
def test_all_real_tokens_together_weigh_1_everywhere_and_padding_nothing(branch: str) -> None:
    network = make(language_branch=branch).eval()
    text = network.encode_text(CAPTIONS)
    assert not text.mask.all()
    real, padding = (raw_maps(network, words, text) for words in (text.mask, ~text.mask))
    for stage in STAGES:
        name = f"{stage}.attention"
        torch.testing.assert_close(real[name], torch.ones_like(real[name]))
        assert padding[name].abs().max() == 0


def test_the_weights_of_single_tokens_add_up_to_those_of_all() -> None:
    network = make().eval()
    text = network.encode_text(CAPTIONS)
    words = network.token_mask(CAPTIONS, None)
    total = raw_maps(network, words, text)["stage2.attention"]
    single = [
        raw_maps(network, words & (torch.arange(words.shape[1]) == i), text)["stage2.attention"]
        for i in range(words.shape[1])
    ]
    torch.testing.assert_close(sum(single), total)
    assert total.max() < 1, "the special tokens have their share"


def numpy_attention(
    attention: Any, maps: list[Tensor], text: Any, position: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [B, N, L], a mean over heads, and |A_L| [B, h, w], from the docstrings' formulas."""

    def linear(layer: Any, values: np.ndarray) -> np.ndarray:
        weight = layer.weight.detach().double().numpy().reshape(layer.weight.shape[:2])
        bias = 0 if layer.bias is None else layer.bias.detach().double().numpy()
        return values @ weight.T + bias

    def positions_last(x: Tensor) -> np.ndarray:
        return x.double().numpy().reshape(*x.shape[:2], -1).transpose(0, 2, 1)

    def normed(values: np.ndarray, eps: float) -> np.ndarray:
        return (values - values.mean(-1, keepdims=True)) / np.sqrt(
            values.var(-1, keepdims=True) + eps
        )

    B, _, H, W = maps[0].shape
    queries = [
        linear(q, normed(positions_last(x), 1e-5))
        for q, x in zip(attention.to_query, maps, strict=True)
    ]
    query = np.concatenate(queries, axis=-1) + position.double().numpy()
    query = query.reshape(B, H * W, attention.heads, -1)
    keys, values = text.keys.double().numpy(), text.values.double().numpy()
    scores = np.einsum("bnhd,bhld->bhnl", query, keys) / np.sqrt(query.shape[-1])
    powers = np.exp(scores) * text.mask.numpy()
    weights = powers / powers.sum(-1, keepdims=True)
    seen = np.einsum("bhnl,bhld->bnhd", weights, values).reshape(B, H * W, -1)
    out = normed(seen, attention.norm.eps)
    gate = np.tanh(linear(attention.gate[2], np.maximum(linear(attention.gate[0], out), 0)))
    written = linear(attention.proj, out * gate)
    return weights.mean(1), np.abs(written).mean(-1).reshape(B, H, W)


@pytest.mark.parametrize("branch", ["shared", "per_scale"])
@pytest.mark.parametrize("number", [1, 3])
def test_the_maps_are_the_attention_and_the_gated_response_of_the_last_block(
    branch: str, number: int
) -> None:
    network = make(language_branch=branch).eval()
    text, words = network.encode_text(CAPTIONS), network.token_mask(CAPTIONS, "lesion")
    attention = network.image_encoder.last_language_attention()[f"stage{number}"]
    assert len(attention.to_query) == {"shared": 1, "per_scale": 4}[branch]
    maps = raw_maps(network, words, text)
    with torch.no_grad(), record_inputs({"last": attention}) as calls:
        network.forward_features(pictures(2, 64, 96), text)
        weights, gate = numpy_attention(attention, *calls["last"])
    share = (weights * words.numpy()[:, None]).sum(-1)
    found = {kind: maps[f"stage{number}.{kind}"].detach().numpy() for kind in ("attention", "gate")}
    np.testing.assert_allclose(found["attention"].reshape(2, -1), share, rtol=1e-4)
    np.testing.assert_allclose(found["gate"], gate, rtol=1e-3, atol=1e-5)


def test_the_weights_of_an_attention_reproduce_its_fused_attention(network: LSMS) -> None:
    attention = network.image_encoder.last_language_attention()["stage2"]
    with torch.no_grad(), record_inputs({"attention": attention}) as calls:
        network(pictures(2, 64, 96), CAPTIONS)
        maps, text, position = calls["attention"]
        seen = attention.weights(maps, text, position) @ text.values
        out = attention.norm(merge_heads(seen))
        gated = attention.proj(out * torch.tanh(attention.gate(out)))
        rebuilt = to_map(gated, *maps[0].shape[-2:])
        torch.testing.assert_close(rebuilt, attention(maps, text, position), rtol=1e-4, atol=1e-5)


def test_two_words_have_different_attention_and_the_same_gate(network: LSMS) -> None:
    first, second = (network.explain(pictures(2), CAPTIONS, word) for word in ("lesion", "the"))
    for stage in STAGES:
        difference = (first[f"{stage}.attention"] - second[f"{stage}.attention"]).abs().max()
        assert difference > 0.05, stage
        assert torch.equal(first[f"{stage}.gate"], second[f"{stage}.gate"])


def test_the_words_of_one_row_are_not_those_of_another(network: LSMS) -> None:
    """Row 0 says "upper left", row 1 "lower right": each is explained by its own tokens."""
    both = network.explain(pictures(2), CAPTIONS)
    for row in (0, 1):
        alone = network.explain(pictures(2)[row : row + 1], CAPTIONS[row : row + 1])
        assert set(alone) == set(both)
        for name, picture in alone.items():
            torch.testing.assert_close(picture[0], both[name][row], rtol=1e-2, atol=1e-3)


def test_an_empty_caption_is_explained_by_its_special_tokens(network: LSMS) -> None:
    text = network.encode_text([""] * 2)
    words = network.token_mask([""] * 2, None)
    assert torch.equal(words, text.mask)
    for name, picture in network.explain(pictures(2), [""] * 2).items():
        assert torch.isfinite(picture).all()
        if name.endswith("attention"):
            assert picture.max() == 0, "their weights sum to 1 everywhere: a flat map"


def test_an_image_only_network_has_saliency_alone_and_no_word_to_explain() -> None:
    network = make(**NO_TEXT["LSMS"]).eval()
    assert set(network.explain(pictures(2), CAPTIONS)) == {"saliency"}
    with pytest.raises(UserError, match="left"):
        network.explain(pictures(2), CAPTIONS, "left")


@pytest.mark.parametrize("frozen", [True, False])
def test_explaining_in_inference_mode_gives_the_same_maps_and_harms_no_later_training(
    tmp_path: Path, frozen: bool
) -> None:
    write_bert(tmp_path)
    network = make(text_encoder=str(tmp_path)).eval()
    if frozen:
        network.text_encoder.freeze()
    with torch.inference_mode():
        found = network.explain(pictures(2), CAPTIONS, "lesion")
    expected = network.explain(pictures(2), CAPTIONS, "lesion")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    network.train()
    network(pictures(2), CAPTIONS).logits.sum().backward()


def test_under_bf16_the_maps_are_nearly_those_of_full_precision(network: LSMS) -> None:
    expected = network.explain(pictures(2), CAPTIONS, "lesion")
    with torch.autocast("cpu", torch.bfloat16):
        found = network.explain(pictures(2), CAPTIONS, "lesion")
    for name, picture in found.items():
        assert picture.dtype == torch.float32
        assert torch.isfinite(picture).all()
        pair = torch.stack([picture.flatten(), expected[name].flatten()])
        assert torch.corrcoef(pair)[0, 1] > 0.9, name
