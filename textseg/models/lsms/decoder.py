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
        self.down = (
            nn.Conv2d(channels, channels, step + 1, step, step // 2, groups=channels)
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
    """FSD: aligned stages, squeezed to one map, modeled globally, F_1 merged for boundaries.

    Args:
        channels, strides: of F_1..F_4.
        stages: which of 1..4 are used; those from 2 on are modeled globally. With 1 the result
            is refined on F_1's own grid, which shows boundaries best.
        stride: of the grid of the global operator, 4 or 8.
        dim: width of the joint map.
        reduction: side of the cells whose mean is one key of the self-attention.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        stages: Sequence[int] = (2, 3, 4),
        stride: int = 8,
        dim: int = 256,
        reduction: int = 2,
    ) -> None:
        super().__init__()
        self.stages = [i for i in sorted(stages) if i > 1]
        self.stride = stride
        self.align = _alignments(channels, strides, self.stages, stride)
        joint = sum(channels[i - 1] for i in self.stages)
        self.squeeze = nn.Sequential(
            nn.Conv2d(joint, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.GELU()
        )
        self.layers = nn.ModuleList(SelfAttentionLayer(dim, reduction=reduction) for _ in range(2))
        self.norm = LayerNorm2d(dim)
        self.boundary = BoundaryRefinement(dim, channels[0]) if 1 in stages else None

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """F_1..F_4 and the input's (H, W) -> [B, dim, H/s, W/s], s = 4 with stage 1."""
        grid = (size[0] // self.stride, size[1] // self.stride)
        tokens = to_tokens(self._joint([features[i - 1] for i in self.stages], grid))  # [B, N, dim]
        positions = sincos_position_embedding_2d(*grid, tokens.shape[-1], tokens)
        for layer in self.layers:
            tokens = layer(tokens, positions, grid)
        coarse = self.norm(to_map(tokens, *grid))
        return coarse if self.boundary is None else self.boundary(coarse, features[0])

    def _joint(self, features: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """squeeze(P_2, P_3, P_4): [B, C_i, H/s_i, W/s_i] -> [B, dim, h, w].

        W [P_2; P_3; P_4] is the sum of W_i P_i, and a 1x1 convolution commutes with a bilinear
        resize. So each W_i works on F_i's own grid: a quarter of the cost, and `dim`
        channels are resized in place of C_i.
        """
        squeeze, normalize = self.squeeze[0], self.squeeze[1:]
        widths = [feature.shape[1] for feature in features]
        weights = squeeze.get_parameter("weight").split(widths, dim=1)
        parts = [
            self.align[str(i)](F.conv2d(feature, weight), grid)
            for i, feature, weight in zip(self.stages, features, weights, strict=True)
        ]
        return normalize(sum(parts[1:], parts[0]))


class BoundaryRefinement(nn.Module):
    """Refine the global map by the finest feature, on the latter's grid."""

    def __init__(self, dim: int, fine: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(dim + fine, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.GELU()
        )
        self.refine = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """coarse [B, dim, h, w] and F_1 [B, C_1, H/4, W/4] -> [B, dim, H/4, W/4]."""
        coarse = resize_map(coarse, fine.shape[-2:])
        return coarse + self.refine(self.reduce(torch.cat([coarse, fine], dim=1)))


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
