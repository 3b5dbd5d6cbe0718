"""Explanations without a paper's network: recording, modes, saliency, pictures, a blob found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.batch import SegmentationOutput, TextFeatures
from textseg.errors import UserError
from textseg.explain import eval_mode, normalize_map, record_inputs, saliency
from textseg.layers import CrossAttention, attention_weights, merge_heads, split_heads
from textseg.models.base import SegmentationModule
from textseg.preprocess import word_spans


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- recording ------------------------------------------------------------------------------------


class Chain(nn.Module):
    """Calls `inner` twice, with other arguments each time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Bilinear(3, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x) + self.inner(2 * x, x + 1)


def hooks_of(module: nn.Module) -> int:
    return sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in module.modules())


def test_what_is_recorded_is_what_the_latest_forward_got() -> None:
    chain, x = Chain(), noise(4, 3)
    with record_inputs({"inner": chain.inner}) as calls:
        chain(x)
    assert set(calls) == {"inner"}
    assert torch.equal(calls["inner"][0], 2 * x)
    assert torch.equal(calls["inner"][1], x + 1)


def test_recording_ends_with_its_block_even_on_an_error() -> None:
    chain = Chain()
    with record_inputs({"inner": chain.inner}) as calls:
        assert hooks_of(chain) == 1
    assert hooks_of(chain) == 0
    with pytest.raises(RuntimeError), record_inputs({"inner": chain.inner}):
        chain(noise(4, 7))
    assert hooks_of(chain) == 0
    chain(noise(4, 3))
    assert calls == {}


def test_recording_does_not_change_the_result() -> None:
    chain, x = Chain(), noise(4, 3)
    with record_inputs({"inner": chain.inner, "whole": chain}):
        watched = chain(x)
    assert torch.equal(watched, chain(x))


@pytest.mark.parametrize("masked", [True, False])
def test_the_weights_of_recorded_arguments_reproduce_the_fused_attention(masked: bool) -> None:
    torch.manual_seed(0)
    attention = CrossAttention(64, 24)
    assert attention.heads == 2
    mask = torch.arange(7)[None] < torch.tensor([[7], [3]]) if masked else None
    arguments = (noise(2, 10, 64), noise(2, 7, 24, seed=1), noise(2, 7, 24, seed=2), mask)
    with record_inputs({"a": attention}) as calls:
        fused = attention(*arguments)
    weights = attention.weights(*calls["a"])  # [B, heads, N, M]
    values = split_heads(attention.to_value(calls["a"][2]), attention.heads)
    torch.testing.assert_close(attention.proj(merge_heads(weights @ values)), fused)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 10))
    if masked:
        assert weights[1, :, :, 3:].abs().max() == 0


def test_attention_weights_are_the_softmax_of_scaled_products() -> None:
    q, k = noise(2, 3, 5, 8), noise(2, 3, 4, 8, seed=1)
    mask = torch.tensor([True, True, False, True])
    scores = np.einsum("bhnd,bhmd->bhnm", q.numpy(), k.numpy()) / np.sqrt(8)
    powers = np.exp(scores) * mask.numpy()
    expected = powers / powers.sum(-1, keepdims=True)
    np.testing.assert_allclose(attention_weights(q, k, mask).numpy(), expected, rtol=1e-5)


# --- modes ----------------------------------------------------------------------------------------


def modes(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


def test_evaluating_gives_every_part_its_own_mode_back_even_on_an_error() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout())
    network[1].eval()  # somebody froze its statistics
    before = modes(network)
    assert before == [True, True, False, True]
    with eval_mode(network):
        assert not any(modes(network))
    assert modes(network) == before
    with pytest.raises(ZeroDivisionError), eval_mode(network):
        _ = 1 / 0
    assert modes(network) == before


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("left", ["left", "Left"]),
        ("LEFT", ["left", "Left"]),
        ("upper left", ["upper  left"]),
        (" upper   left ", ["upper  left"]),
        ("lung", []),  # "lungs" is another word
        ("(t2-weighted)", ["(t2-weighted)"]),
        ("t2", ["t2"]),
        (".*", []),
        ("l.ft", []),
        ("", []),
        (" ", []),
    ],
)
def test_a_word_is_found_whole_and_in_any_case_and_spacing(word: str, found: list[str]) -> None:
    text = "in the upper  left of both lungs (t2-weighted). Left, too"
    assert [text[a:b] for a, b in word_spans(text, word)] == found


@pytest.mark.parametrize("word", ["left", "gland left", "gland_left", "LEFT"])
def test_a_word_is_found_among_words_that_underscores_join(word: str) -> None:
    text = "adrenal_gland_left, leftmost"
    (span,) = word_spans(text, word)
    assert text[slice(*span)] == ("left" if len(word) == 4 else "gland_left")


# --- saliency -------------------------------------------------------------------------------------


def cells(values: np.ndarray) -> np.ndarray:
    """Means over cells of 4 x 4: [B, H, W] -> [B, H/4, W/4]."""
    B, H, W = values.shape
    return values.reshape(B, H // 4, 4, W // 4, 4).mean(axis=(2, 4))


def test_saliency_of_a_linear_network_is_its_probability_times_its_largest_weight() -> None:
    linear = nn.Conv2d(3, 1, 1).double()
    assert linear.bias is not None
    linear.weight.data = torch.tensor([0.5, -2.0, 1.0]).double().view(1, 3, 1, 1)
    image = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)).double()
    z = np.tensordot(image.numpy(), [0.5, -2.0, 1.0], axes=([1], [0])) + linear.bias.item()
    p = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(saliency(linear, image).numpy(), cells(2 * p), rtol=1e-9)


def test_saliency_is_the_slope_that_finite_differences_find() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 1, 3, padding=1)
    ).double()
    image = torch.rand(1, 3, 4, 8, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        held = network(image).sigmoid()
        slopes, step = np.zeros((3, 4, 8)), 1e-5
        for place in np.ndindex(3, 4, 8):
            shift = torch.zeros_like(image)
            shift[0][place] = step
            up, down = ((held * network(image + s)).sum().item() for s in (shift, -shift))
            slopes[place] = (up - down) / (2 * step)
    expected = cells(np.abs(slopes).max(axis=0)[None])
    np.testing.assert_allclose(saliency(network, image).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
def test_saliency_needs_no_gradients_around_it_and_leaves_none_behind(context: Any) -> None:
    network, image = nn.Conv2d(3, 1, 3, padding=1), torch.rand(1, 3, 8, 8)
    network.weight.grad = torch.full_like(network.weight, 7.0)
    with context():
        found = saliency(network, image)
    assert found.requires_grad is False
    assert network.weight.grad.unique().tolist() == [7.0]
    assert network.bias is not None
    assert network.bias.grad is None
    assert image.grad is None


def test_the_saliency_of_a_row_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    network, images = nn.Conv2d(3, 1, 3, padding=1), torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(saliency(network, images)[1:2], saliency(network, images[1:2]))


# --- pictures -------------------------------------------------------------------------------------


def test_a_picture_of_the_maps_own_size_is_its_min_max_by_row() -> None:
    raw = torch.stack([noise(6, 5), 100 + 1e-3 * noise(6, 5, seed=1), -1e-20 * noise(6, 5, seed=2)])
    values = raw.numpy().astype(np.float64)
    low = values.min(axis=(1, 2), keepdims=True)
    expected = (values - low) / (values.max(axis=(1, 2), keepdims=True) - low)
    found = normalize_map(raw, (6, 5))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-2)
    assert found.amin((1, 2)).tolist() == [0, 0, 0]
    torch.testing.assert_close(found.amax((1, 2)), torch.ones(3))


def test_a_picture_is_enlarged_without_a_shift() -> None:
    raw = torch.zeros(1, 4, 4)
    raw[0, 1, 2] = 1
    picture = normalize_map(raw, (16, 16))
    assert picture.shape == (1, 16, 16)
    rows, columns = np.nonzero(picture[0].numpy() > 0.5)
    assert (rows.mean(), columns.mean()) == (5.5, 9.5), "center of the cell of 4 x 4 pixels"


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3e4, 1e-30])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_constant_map_gives_an_empty_picture(value: float, kind: torch.dtype) -> None:
    raw = torch.full((1, 3, 3), value, dtype=kind)
    assert normalize_map(raw, (32, 48)).abs().max() == 0


# --- a network that sees a bright blob ------------------------------------------------------------


class BlobNetwork(SegmentationModule):
    """Outlines what is bright; where it is bright it reads "bright", elsewhere "dark"."""

    meaning: ClassVar = {"bright": 8.0, "dark": -8.0}

    def __init__(self) -> None:
        super().__init__()
        self.attention = CrossAttention(1, 1)
        for layer in (self.attention.to_query, self.attention.to_key):
            nn.init.ones_(layer.weight)
        nn.init.zeros_(self.attention.to_query.bias)

    def encode_text(self, text: Sequence[str]) -> TextFeatures:
        rows = [
            [0.0, *(self.meaning.get(word, 0.0) for word in caption.split())] for caption in text
        ]
        tokens = torch.tensor(rows)[..., None]
        return TextFeatures(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), tokens.mean(1))

    def token_mask(self, text: Sequence[str], word: str | None) -> Tensor:
        rows = [[False, *(word in (None, w) for w in caption.split())] for caption in text]
        if not all(any(row) for row in rows):
            raise UserError(f"no {word!r}", "give another")
        return torch.tensor(rows)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        seen = F.avg_pool2d(image.mean(1, keepdim=True), 4) - 0.5  # [B, 1, H/4, W/4]
        query = seen.flatten(2).transpose(1, 2)
        self.attention(query, text.tokens, text.tokens, text.mask)
        logits = F.interpolate(20 * seen, image.shape[-2:], mode="bilinear")
        return SegmentationOutput(logits, {})

    def explanation_maps(
        self, image: Tensor, text: TextFeatures, words: Tensor
    ) -> dict[str, Tensor]:
        with record_inputs({"look": self.attention}) as seen:
            self.forward_features(image, text)
        weights = self.attention.weights(*seen["look"]).mean(1)  # [B, N, L]
        attention = (weights * words[:, None]).sum(-1)
        return {"stage1.attention": attention.unflatten(1, (image.shape[-2] // 4, -1))}

    def parameter_groups(self, **_: Any) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters())}]


def blob(top: int, left: int) -> Tensor:
    image = torch.full((1, 3, 64, 96), 0.1)
    image[:, :, top : top + 16, left : left + 16] = 0.9
    return image


def peak(picture: Tensor) -> tuple[int, int]:
    row, column = divmod(int(picture.flatten().argmax()), picture.shape[-1])
    return row, column


PLACES = [(0, 0), (8, 60), (44, 20), (48, 80)]


@pytest.mark.parametrize(("top", "left"), PLACES)
def test_the_explanation_of_a_bright_blob_lies_on_the_blob(top: int, left: int) -> None:
    maps = BlobNetwork().explain(blob(top, left), ["one bright blob"], "bright")
    assert set(maps) == {"stage1.attention", "saliency"}
    for name, picture in maps.items():
        assert picture.shape == (1, 64, 96)
        row, column = peak(picture[0])
        assert top <= row < top + 16, name
        assert left <= column < left + 16, name
        around = torch.zeros(64, 96, dtype=torch.bool)
        around[max(0, top - 4) : top + 20, max(0, left - 4) : left + 20] = True
        assert picture[0][~around].max() < 0.1, name


def test_another_word_of_the_same_caption_has_another_map() -> None:
    network, text = BlobNetwork(), ["bright not dark"]
    bright, dark = (network.explain(blob(8, 60), text, word) for word in ("bright", "dark"))
    assert bright["stage1.attention"][0, 16, 68] > 0.9
    assert dark["stage1.attention"][0, 16, 68] < 0.1
    assert torch.equal(bright["saliency"], dark["saliency"]), "saliency is of the whole caption"


def test_explaining_in_inference_mode_gives_the_same_maps() -> None:
    """Lightning tests and predicts in inference mode, in which no tensor has a gradient."""
    network, text = BlobNetwork(), ["bright not dark"]
    expected = network.explain(blob(8, 60), text)
    with torch.inference_mode():
        found = network.explain(blob(8, 60), text)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_batch_is_explained_row_by_row() -> None:
    network = BlobNetwork()
    both = network.explain(torch.cat([blob(0, 0), blob(44, 20)]), ["one bright"] * 2, "bright")
    alone = network.explain(blob(44, 20), ["one bright"], "bright")
    assert all(torch.equal(both[name][1:], alone[name]) for name in alone)


@pytest.mark.parametrize("training", [True, False])
def test_explaining_changes_neither_mode_nor_gradients_nor_the_image(training: bool) -> None:
    network, image = BlobNetwork().train(training), blob(8, 60)
    before = image.clone()
    for word in ("bright", "absent"):
        try:
            network.explain(image, ["one bright blob"], word)
        except UserError:
            assert word == "absent"
        assert modes(network) == [training] * len(modes(network))
        assert all(parameter.grad is None for parameter in network.parameters())
        assert hooks_of(network) == 0
    assert torch.equal(image, before)


def test_a_batch_norm_that_was_frozen_stays_frozen_when_the_network_is_explained() -> None:
    network = BlobNetwork().train()
    network.norm = nn.BatchNorm2d(3).eval()
    before = modes(network)
    assert before.count(False) == 1
    network.explain(blob(8, 60), ["one bright blob"])
    assert modes(network) == before
