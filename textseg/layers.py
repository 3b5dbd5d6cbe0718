"""Building blocks used by two or more networks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map: [B, C, H, W] -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): a whole sample's branch is dropped and rescaled.

    Args:
        rate: probability of dropping, in [0, 1).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        shape = (len(x),) + (1,) * (x.ndim - 1)
        return x * torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(keep) / keep


def sine_positions(height: int, width: int, dim: int, like: Tensor) -> Tensor:
    """Sine and cosine of both coordinates at octave frequencies: [1, H*W, dim].

    Coordinates run over (0, 1) from edge to edge, so "upper left" has one code at every size.

    Args:
        dim: width of the code, a multiple of 4.
        like: gives device and dtype.
    """
    if dim % 4:
        raise ValueError(f"dim={dim} of a 2-D position code is not a multiple of 4")
    bands = dim // 4
    frequency = math.pi * 2.0 ** (torch.arange(bands, device=like.device) / max(1, bands / 6))
    rows = (torch.arange(height, device=like.device) + 0.5) / height
    columns = (torch.arange(width, device=like.device) + 0.5) / width
    row_angle = rows[:, None, None] * frequency + torch.zeros(height, width, bands).to(rows)
    column_angle = columns[None, :, None] * frequency + torch.zeros_like(row_angle)
    code = [row_angle.sin(), row_angle.cos(), column_angle.sin(), column_angle.cos()]
    return torch.cat(code, dim=-1).reshape(1, height * width, dim).to(like.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, C] -> [B, heads, N, C / heads]."""
    B, N, C = x.shape
    return x.view(B, N, heads, C // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, N, d] -> [B, N, heads * d]."""
    return x.transpose(1, 2).flatten(2)


def to_tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H*W, C]."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Tensor, height: int, width: int) -> Tensor:
    """[B, H*W, C] -> [B, C, H, W]."""
    return x.transpose(1, 2).unflatten(2, (height, width))


class SelfAttentionLayer(nn.Module):
    """A pre-norm transformer layer over the positions of a map.

    Args:
        dim: width C; heads are 32 wide.
        mlp_ratio: hidden width of the MLP over `dim`.
    """

    def __init__(self, dim: int, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.heads = max(1, dim // 32)
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [B, N, C] and a position code [1, N, C] -> [B, N, C].

        The code joins what the attention reads, not what it passes on.
        """
        query, key, value = (
            split_heads(t, self.heads) for t in self.qkv(self.norm1(x) + positions).chunk(3, -1)
        )
        x = x + self.proj(merge_heads(F.scaled_dot_product_attention(query, key, value)))
        return x + self.mlp(self.norm2(x))
