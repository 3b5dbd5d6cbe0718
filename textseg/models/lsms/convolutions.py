"""Convolutions of one position and of a strip, in the form that a CPU computes and trains fast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PointwiseConv(nn.Conv2d):
    """Convolution with a kernel of 1x1; on a CPU, over a map with channels last, a matrix product.

    The same sums in less time, of narrow and of small maps above all (experiments/README.md).

    Args:
        inputs, outputs: channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W]."""
        # A compiler and an export choose by themselves, and layouts are not known for every batch.
        if torch.compiler.is_compiling() or x.device.type != "cpu":
            return super().forward(x)
        if not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        out = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return out.permute(0, 3, 1, 2)


class StripConv(nn.Conv2d):
    """Depthwise convolution with a kernel of 1 x k or k x 1 and zero padding.

    In training on a CPU a row runs as a column of the transposed map, and a map shorter than the
    kernel is padded beforehand: the same sums, but torch's CPU library has a fast gradient of the
    weights only for columns that fit into the map (at 56x56 a row of 21 takes ten times as long;
    experiments/README.md).

    Args:
        channels: C.
        length: k, odd.
        row: whether the strip lies along a row (1 x k).
    """

    def __init__(self, channels: int, length: int, *, row: bool) -> None:
        kernel = (1, length) if row else (length, 1)
        padding = (kernel[0] // 2, kernel[1] // 2)
        super().__init__(channels, channels, kernel, padding=padding, groups=channels)
        self.row = row

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same."""
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        last = x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        if not self.row:
            return self._column(x, self.weight, layout)
        out = self._column(x.mT, self.weight.mT, layout)
        return out.mT.contiguous(memory_format=layout)

    def _column(self, x: Tensor, weight: Tensor, layout: torch.memory_format) -> Tensor:
        length = weight.shape[2]
        reach = length // 2
        if x.shape[2] < length:
            x, reach = F.pad(x, (0, 0, reach, reach)), 0
        x = x.contiguous(memory_format=layout)
        return F.conv2d(x, weight, self.bias, padding=(reach, 0), groups=self.groups)
