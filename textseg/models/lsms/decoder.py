"""LSMS's Full-Scale Decoder, and the plain top-down sum that its ablation puts in its place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.layers import (
    LayerNorm2d,
    SelfAttentionLayer,
    resize_map,
    sincos_position_embedding_2d,
    to_map,
    to_tokens,
)


class PositionAlignment(nn.Module):
    """Resize a feature to the decoder's grid, its channels kept: F_i -> P_i.

    Bilinear if the feature is coarser; a strided depthwise convolution if it is finer.

    Args:
        channels: C_i.
        stride: s_i.
        grid: stride of the decoder's grid.
    """

    def __init__(self, channels: int, stride: int, grid: int) -> None:
        super().__init__()
        step = grid // stride
        self.down = (  # without bias: a projection follows, which has one or a batch norm
            nn.Conv2d(channels, channels, step + 1, step, step // 2, groups=channels, bias=False)
            if step > 1
            else nn.Identity()
        )

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, C_i, H/s_i, W/s_i] and the grid's (h, w) -> [B, C_i, h, w]."""
        x = self.down(x)
        return x if x.shape[-2:] == size else resize_map(x, size)


def _alignments(
    channels: Sequence[int], strides: Sequence[int], stages: Sequence[int], grid: int
) -> nn.ModuleDict:
    return nn.ModuleDict(
        {str(i): PositionAlignment(channels[i - 1], strides[i - 1], grid) for i in stages}
    )


class FullScaleDecoder(nn.Module):
    """FSD: P_1..P_4 on one grid; P_2..P_4 are modeled globally and P_1 joins for boundaries.

    P_2, P_3 and P_4 hold nothing finer than F_2, so the global operator works on F_2's grid and its
    map is resized to the decoder's: on a grid at 1/4 that is a quarter of the positions.

    Args:
        channels, strides: of F_1..F_4.
        stages: which of 1..4 are used; those from 2 on are modeled globally.
        stride: of the grid and of the result, 4 or 8.
        dim: width of the joint map.
        reduction: side of the cells whose mean is one key of the self-attention.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        stages: Sequence[int] = (1, 2, 3, 4),
        stride: int = 4,
        dim: int = 256,
        reduction: int = 2,
    ) -> None:
        super().__init__()
        self.stages = [i for i in sorted(stages) if i > 1]
        self.stride, self.global_stride = stride, strides[1]
        self.squeeze = _squeeze(sum(channels[i - 1] for i in self.stages), dim)
        self.layers = nn.ModuleList(SelfAttentionLayer(dim, reduction=reduction) for _ in range(2))
        self.norm = LayerNorm2d(dim)
        self.align = PositionAlignment(channels[0], strides[0], stride) if 1 in stages else None
        self.boundary = BoundaryRefinement(dim, channels[0]) if 1 in stages else None

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """F_1..F_4 and the input's (H, W) -> [B, dim, H/stride, W/stride]."""
        grid = (size[0] // self.stride, size[1] // self.stride)
        modeled = self._model_globally([features[i - 1] for i in self.stages], size)
        if self.align is None or self.boundary is None:
            return modeled if modeled.shape[-2:] == grid else resize_map(modeled, grid)
        return self.boundary(modeled, self.align(features[0], grid))

    def _model_globally(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """F_2..F_4 -> [B, dim, H/8, W/8]."""
        cells = (size[0] // self.global_stride, size[1] // self.global_stride)
        joint = _squeeze_resized(self.squeeze, features, cells)
        tokens = to_tokens(joint)  # [B, N, dim]
        positions = sincos_position_embedding_2d(*cells, tokens.shape[-1], tokens)
        for layer in self.layers:
            tokens = layer(tokens, positions, cells)
        return self.norm(to_map(tokens, *cells))


class BoundaryRefinement(nn.Module):
    """P_1 joins the global map, on the former's grid: X + DW3x3(GELU(BN(W [X; P_1])))."""

    def __init__(self, dim: int, fine: int) -> None:
        super().__init__()
        self.reduce = _squeeze(dim + fine, dim)
        self.refine = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """X [B, dim, h, w] and P_1 [B, C_1, H, W] -> [B, dim, H, W]."""
        grid = (fine.shape[-2], fine.shape[-1])
        joint = _squeeze_resized(self.reduce, [coarse, fine], grid)
        return resize_map(coarse, grid) + self.refine(joint)


def _squeeze(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()
    )


def _squeeze_resized(
    squeeze: nn.Sequential, maps: Sequence[Tensor], grid: tuple[int, int]
) -> Tensor:
    """`squeeze` of maps [B, C_i, h_i, w_i], resized to `grid`, side by side: [B, C, h, w].

    W [P_2; P_3; P_4] is the sum of W_i P_i, and a 1x1 convolution commutes with a bilinear
    resize. So each W_i works on its map's own grid, which costs less where that is the coarser.
    """
    projection, normalize = squeeze[0], squeeze[1:]
    weights = projection.get_parameter("weight").split([x.shape[1] for x in maps], dim=1)
    parts = [F.conv2d(x, weight) for x, weight in zip(maps, weights, strict=True)]
    parts = [x if x.shape[-2:] == grid else resize_map(x, grid) for x in parts]
    return normalize(sum(parts[1:], parts[0]))


class TopDownDecoder(nn.Module):
    """The ablation without FSD: selected stages projected to one width, upsampled and summed.

    Args:
        channels, strides, stages, stride, dim: as for `FullScaleDecoder`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        stages: Sequence[int],
        stride: int,
        dim: int,
    ) -> None:
        super().__init__()
        self.stages = tuple(sorted(stages))
        self.stride = stride
        self.align = _alignments(channels, strides, self.stages, stride)
        self.lateral = nn.ModuleDict(
            {str(i): nn.Conv2d(channels[i - 1], dim, 1) for i in self.stages}
        )

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """F_1..F_4 and the input's (H, W) -> [B, dim, H/s, W/s]."""
        grid = (size[0] // self.stride, size[1] // self.stride)
        parts = [
            self.lateral[str(i)](self.align[str(i)](features[i - 1], grid)) for i in self.stages
        ]
        return torch.stack(parts).sum(0)
