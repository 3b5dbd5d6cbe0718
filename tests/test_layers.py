"""Layers against explicit computations."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from textseg.layers import (
    CrossAttention,
    DropPath,
    LayerNorm2d,
    SelfAttentionLayer,
    SubPixelHead,
    UNetDecoder,
    merge_heads,
    sincos_position_embedding_2d,
    split_heads,
    to_map,
    to_tokens,
)


def numpy_softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def numpy_attention(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Any = True) -> Any:
    """A loop over heads of softmax(q k^T / sqrt(d)) v: [B, N, C], [B, M, C] -> [B, N, C]."""
    d = query.shape[-1] // heads
    parts = []
    for head in range(heads):
        q, k, v = (t[..., head * d : (head + 1) * d].detach().numpy() for t in (query, key, value))
        scores = np.where(mask, q @ k.swapaxes(1, 2) / math.sqrt(d), -np.inf)
        parts.append(numpy_softmax(scores) @ v)
    return torch.from_numpy(np.concatenate(parts, axis=-1))


def attend_by_hand(
    layer: SelfAttentionLayer, x: Tensor, positions: Tensor, grid: tuple[int, int]
) -> Tensor:
    """A pre-norm layer; a key is the mean of a cell of r x r positions."""
    B, _, C = x.shape
    read = F.layer_norm(x, (C,), layer.norm1.weight, layer.norm1.bias) + positions
    r = layer.reduction
    cells = read.view(B, grid[0] // r, r, grid[1] // r, r, C).mean((2, 4)).view(B, -1, C)
    projections = zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True)
    query, key, value = (
        source @ weight.T + bias
        for source, (weight, bias) in zip((read, cells, cells), projections, strict=True)
    )
    x = x + layer.proj(numpy_attention(query, key, value, layer.heads))
    hidden = F.layer_norm(x, (C,), layer.norm2.weight, layer.norm2.bias)
    return x + layer.mlp[2](F.gelu(layer.mlp[0](hidden)))


@pytest.mark.parametrize("reduction", [1, 2])
@pytest.mark.parametrize("dim", [24, 64, 96])
def test_self_attention_equals_an_explicit_softmax(dim: int, reduction: int) -> None:
    torch.manual_seed(0)
    layer = SelfAttentionLayer(dim, reduction=reduction).double()
    x, positions = torch.randn(2, 24, dim).double(), torch.randn(1, 24, dim).double()
    assert layer.heads == max(1, dim // 32)
    with torch.no_grad():
        found, wanted = (f(x, positions, (4, 6)) for f in (layer, partial(attend_by_hand, layer)))
    torch.testing.assert_close(found, wanted)


def test_self_attention_without_positions_does_not_know_the_order_of_its_tokens() -> None:
    torch.manual_seed(0)
    layer, x = SelfAttentionLayer(32).double(), torch.randn(1, 6, 32).double()
    none, some = torch.zeros(1, 6, 32).double(), torch.randn(1, 6, 32).double()
    with torch.no_grad():
        torch.testing.assert_close(layer(x.flip(1), none, (2, 3)), layer(x, none, (2, 3)).flip(1))
        assert not torch.allclose(layer(x.flip(1), some, (2, 3)), layer(x, some, (2, 3)).flip(1))


def cross_attention(dim: int = 96) -> tuple[CrossAttention, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    layer = CrossAttention(dim, 20).double()
    query, key, value = (torch.randn(2, n, w).double() for n, w in ((7, dim), (5, 20), (5, 20)))
    mask = torch.tensor([[True] * 5, [True, True, False, True, False]])
    return layer, query, key, value, mask


@pytest.mark.parametrize("dim", [24, 64, 80, 96])
def test_cross_attention_equals_an_explicit_masked_softmax(dim: int) -> None:
    layer, query, key, value, mask = cross_attention(dim)
    q, k, v = layer.to_query(query), layer.to_key(key), layer.to_value(value)
    wanted = layer.proj(numpy_attention(q, k, v, layer.heads, mask[:, None, :].numpy()))
    torch.testing.assert_close(layer(query, key, value, mask), wanted)
    assert dim % layer.heads == 0


def test_the_weights_of_cross_attention_are_those_its_forward_uses() -> None:
    layer, query, key, value, mask = cross_attention()
    weights = layer.weights(query, key, value, mask)
    assert weights.shape == (2, 3, 7, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 7).double())
    assert (weights[1, :, :, [2, 4]] == 0).all(), "masked words weigh nothing"
    values = split_heads(layer.to_value(value), layer.heads)
    torch.testing.assert_close(
        layer.proj(merge_heads(weights @ values)), layer(query, key, value, mask)
    )


def test_the_unet_decoder_joins_every_feature_on_the_finest_grid() -> None:
    torch.manual_seed(0)
    decoder = UNetDecoder((8, 12, 20, 32)).eval()
    sizes = ((24, 16), (12, 8), (6, 4), (3, 2))
    features = [
        torch.randn(2, c, *size, requires_grad=True)
        for c, size in zip((8, 12, 20, 32), sizes, strict=True)
    ]
    out = decoder(features)
    assert out.shape == (2, 8, 24, 16)
    out.square().sum().backward()
    assert all(f.grad is not None and f.grad.abs().sum() > 0 for f in features)


def test_the_unet_decoder_takes_features_that_are_not_halves_of_each_other() -> None:
    sizes = ((13, 9), (7, 5), (4, 3), (2, 2))
    features = [torch.randn(1, c, *s) for c, s in zip((4, 6, 8, 10), sizes, strict=True)]
    assert UNetDecoder((4, 6, 8, 10)).eval()(features).shape == (1, 4, 13, 9)


def test_a_narrow_step_of_the_unet_decoder_is_a_plain_one_behind_a_1x1_convolution() -> None:
    """Upsampled first and narrowed then, as the formula has it, is the same map."""
    torch.manual_seed(0)
    narrow, plain = UNetDecoder((4, 8), narrow=True).eval(), UNetDecoder((4, 4)).eval()
    plain.blocks.load_state_dict(narrow.blocks.state_dict())
    fine, coarse = torch.randn(1, 4, 6, 10), torch.randn(1, 8, 3, 5)
    (convolution,) = narrow.narrow
    x = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    x = torch.cat([torch.einsum("bchw,dc->bdhw", x, convolution.weight[..., 0, 0]), fine], dim=1)
    torch.testing.assert_close(narrow([fine, coarse]), plain.blocks[0](x))


def test_on_an_odd_grid_every_position_is_part_of_a_key() -> None:
    torch.manual_seed(0)
    layer, x = SelfAttentionLayer(32, reduction=2), torch.randn(1, 15, 32)
    changed = x.clone()
    changed[0, 14] += torch.randn(32)  # the last row and column of 3 x 5
    with torch.no_grad():
        first, second = (layer(t, torch.zeros(1, 15, 32), (3, 5))[0, 0] for t in (x, changed))
    assert not torch.equal(first, second)


def test_one_step_of_the_unet_decoder_is_upsample_concatenate_two_convolutions() -> None:
    torch.manual_seed(0)
    decoder = UNetDecoder((4, 6)).eval()
    fine, coarse = torch.randn(1, 4, 6, 10), torch.randn(1, 6, 3, 5)
    x = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    x = torch.cat([x, fine], dim=1)
    (block,) = decoder.blocks
    for convolution, norm in ((block[0], block[1]), (block[3], block[4])):
        x = F.conv2d(x, convolution.weight, padding=1) / math.sqrt(1 + norm.eps)
        x = x.clamp_min(0)  # fresh running statistics: mean 0, variance 1
    torch.testing.assert_close(decoder([fine, coarse]), x)


def numpy_code(row: float, column: float, dim: int) -> np.ndarray:
    """sin and cos of both coordinates in (0, 1), over six octaves from half a turn upwards."""
    bands = dim // 4
    frequency = np.pi * 2.0 ** (np.arange(bands) / max(1.0, bands / 6))
    angles = [row * frequency, column * frequency]
    return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)])


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 10)])
def test_the_position_code_of_a_cell_is_that_of_its_center(height: int, width: int) -> None:
    code = sincos_position_embedding_2d(height, width, 32, torch.zeros(1)).view(height, width, 32)
    for i in range(height):
        for j in range(width):
            expected = numpy_code((i + 0.5) / height, (j + 0.5) / width, 32)
            np.testing.assert_allclose(code[i, j].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("times", [3, 5, 7])
def test_a_place_has_the_same_code_at_every_resolution(times: int) -> None:
    """A cell's center is a center again on a grid finer by an odd factor."""
    coarse = sincos_position_embedding_2d(4, 6, 64, torch.zeros(1)).view(4, 6, 64)
    fine = sincos_position_embedding_2d(4 * times, 6 * times, 64, torch.zeros(1)).view(
        4 * times, 6 * times, 64
    )
    centers = fine[times // 2 :: times, times // 2 :: times]
    torch.testing.assert_close(centers, coarse, rtol=0, atol=2e-4)


def test_no_two_cells_share_a_position_code() -> None:
    code = sincos_position_embedding_2d(12, 12, 64, torch.zeros(1))[0]
    distance = torch.cdist(code, code) + 10 * torch.eye(len(code))
    assert distance.min() > 0.1


def test_left_and_right_and_up_and_down_have_different_codes() -> None:
    code = sincos_position_embedding_2d(8, 8, 64, torch.zeros(1)).view(8, 8, 64)
    corners = torch.stack([code[0, 0], code[0, -1], code[-1, 0], code[-1, -1]])
    assert (torch.cdist(corners, corners) + 10 * torch.eye(4)).min() > 1


def test_the_position_code_takes_dtype_from_its_example_and_refuses_odd_widths() -> None:
    assert (
        sincos_position_embedding_2d(2, 3, 8, torch.zeros(1, dtype=torch.float64)).dtype
        == torch.float64
    )
    assert sincos_position_embedding_2d(2, 3, 8, torch.zeros(1)).shape == (1, 6, 8)
    with pytest.raises(ValueError, match="30"):
        sincos_position_embedding_2d(2, 2, 30, torch.zeros(1))


def test_drop_path_drops_whole_samples_at_its_rate_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.3).train()(torch.ones(20000, 2, 3))
    values = dropped.flatten(1)
    assert (values == values[:, :1]).all(), "a sample is dropped whole or not at all"
    kept = values[:, 0] > 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.015)
    assert values[kept].unique().tolist() == pytest.approx([1 / 0.7])
    assert values.mean().item() == pytest.approx(1.0, abs=0.02)


def test_drop_path_is_the_identity_in_eval_and_at_rate_0() -> None:
    x = torch.randn(4, 3)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0).train()(x) is x


def test_layer_norm_2d_normalizes_every_place_over_its_channels() -> None:
    x = torch.randn(2, 16, 3, 5) * 4 + 2
    out = LayerNorm2d(16)(x)
    x_np = x.numpy()
    mean, var = x_np.mean(1, keepdims=True), x_np.var(1, keepdims=True)
    expected = (x_np - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-5)


def test_maps_and_tokens_and_heads_survive_the_way_there_and_back() -> None:
    x = torch.randn(2, 12, 3, 5)
    assert torch.equal(to_map(to_tokens(x), 3, 5), x)
    assert to_tokens(x)[1, 5 * 2 + 4].tolist() == x[1, :, 2, 4].tolist()
    tokens = to_tokens(x)
    assert torch.equal(merge_heads(split_heads(tokens, 4)), tokens)
    assert split_heads(tokens, 4)[0, 1, 7].tolist() == tokens[0, 7, 3:6].tolist()


def test_a_sub_pixel_head_is_a_linear_map_of_a_place_and_its_neighbors() -> None:
    """An activation between has a side that bounds the logits: no lesion above 0.5."""
    torch.manual_seed(0)
    head = SubPixelHead(8, 4)
    values = head.state_dict()
    first = values["conv.weight"][:1]
    assert torch.equal(values["conv.weight"], first.expand(16, -1, -1, -1))  # no checkerboard
    assert not values["conv.bias"].any()
    values = {name: torch.randn_like(value) for name, value in values.items()}
    head.load_state_dict(values)
    x = torch.randn(1, 8, 16, 12)
    with torch.no_grad():
        logits = head(x)[0, 0].numpy()
    assert logits.shape == (64, 48)
    weight, bias = values["conv.weight"].double().numpy(), values["conv.bias"].double().numpy()
    padded = np.pad(x[0].double().numpy(), ((0, 0), (1, 1), (1, 1)))
    for row, column in ((0, 0), (21, 34), (63, 47), (40, 7)):
        place = padded[:, row // 4 : row // 4 + 3, column // 4 : column // 4 + 3]
        pixel = 4 * (row % 4) + column % 4
        wanted = (weight[pixel] * place).sum() + bias[pixel]
        np.testing.assert_allclose(logits[row, column], wanted, rtol=1e-4, atol=1e-4)
