"""Strip and 1x1 convolutions: the same sums, whatever way round they are computed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from textseg.models.lsms.convolutions import PointwiseConv, StripConv

LAYOUTS = {"first": torch.contiguous_format, "last": torch.channels_last}


def strip(length: int, *, row: bool) -> StripConv:
    torch.manual_seed(length)
    return StripConv(3, length, row=row).double()


def by_hand(x: Tensor, layer: StripConv) -> Tensor:
    """out[.., i] = bias + sum_j weight[j] x[.., i + j - k // 2], along one axis, zeros outside."""
    axis = 3 if layer.row else 2
    weight, reach = layer.weight.flatten(1), layer.weight.numel() // 3 // 2
    size, total = x.shape[axis], torch.zeros_like(x)
    for j in range(2 * reach + 1):
        shift = j - reach
        taken = range(max(0, -shift), min(size, size - shift))  # positions whose neighbor is inside
        if taken:
            here = torch.tensor(taken)
            part = x.index_select(axis, here + shift) * weight[:, j, None, None]
            total = total.index_add(axis, here, part)
    assert layer.bias is not None
    return total + layer.bias[:, None, None]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(24, 30), (30, 24), (9, 12), (4, 3)])
@pytest.mark.parametrize("length", [7, 11, 21])
@pytest.mark.parametrize("row", [True, False])
def test_output_and_gradients_in_training_are_the_sums_by_hand(
    row: bool, length: int, size: tuple[int, int], layout: str
) -> None:
    layer = strip(length, row=row).train()
    x = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=LAYOUTS[layout])
    x.requires_grad_()
    assert layer.bias is not None
    inputs = [x, layer.weight, layer.bias]
    weighing = torch.randn(2, 3, *size, dtype=torch.float64)
    results = []
    for out in (layer(x), by_hand(x, layer)):
        results.append([out, *torch.autograd.grad((out * weighing).sum(), inputs)])
    for own, expected in zip(*results, strict=True):
        torch.testing.assert_close(own, expected)
    assert results[0][0].is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("row", [True, False])
def test_in_evaluation_it_is_torchs_own_convolution_bit_for_bit(row: bool) -> None:
    layer = strip(11, row=row).eval()
    x = torch.randn(2, 3, 16, 20, dtype=torch.float64)
    padding = (0, 5) if row else (5, 0)
    expected = F.conv2d(x, layer.weight, layer.bias, padding=padding, groups=3)
    assert torch.equal(layer(x), expected)


def test_training_and_evaluation_differ_by_rounding_only() -> None:
    layer = strip(21, row=True).float()
    x = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(layer.train()(x), layer.eval()(x))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_one_position_is_a_sum_over_channels_with_the_same_gradients(
    size: tuple[int, int], layout: str
) -> None:
    torch.manual_seed(0)
    layer = PointwiseConv(6, 4).double()
    x = torch.randn(3, 6, *size, dtype=torch.float64).contiguous(memory_format=LAYOUTS[layout])
    x.requires_grad_()
    assert layer.bias is not None
    inputs = [x, layer.weight, layer.bias]
    weighing = torch.randn(3, 4, *size, dtype=torch.float64)
    by_hand = torch.einsum("bchw,oc->bohw", x, layer.weight[:, :, 0, 0]) + layer.bias[:, None, None]
    results = []
    for out in (layer(x), by_hand):
        results.append([out, *torch.autograd.grad((out * weighing).sum(), inputs)])
    for own, expected in zip(*results, strict=True):
        torch.testing.assert_close(own, expected)
    assert results[0][0].is_contiguous(memory_format=LAYOUTS[layout])
