"""Building blocks used by two or more networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same."""
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
        """[B, ...] -> the same; in training, samples of the batch may be 0."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        shape = (len(x),) + (1,) * (x.ndim - 1)
        return x * torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(keep) / keep


def sincos_position_embedding_2d(height: int, width: int, dim: int, like: Tensor) -> Tensor:
    """Sine-cosine position embedding of both coordinates: [1, H*W, dim].

    Coordinates run over (0, 1) from edge to edge, so "upper left" has one embedding at every size.

    Args:
        height, width: of the map.
        dim: width of the embedding, a multiple of 4.
        like: gives device and dtype.
    """
    if dim % 4:
        raise ValueError(f"dim={dim} of a 2-D position embedding is not a multiple of 4")
    bands = dim // 4
    frequency = math.pi * 2.0 ** (torch.arange(bands, device=like.device) / max(1, bands / 6))
    rows = (torch.arange(height, device=like.device) + 0.5) / height
    columns = (torch.arange(width, device=like.device) + 0.5) / width
    everywhere = torch.zeros(height, width, bands, device=like.device)
    row_angle = rows[:, None, None] * frequency + everywhere
    column_angle = columns[None, :, None] * frequency + everywhere
    parts = [row_angle.sin(), row_angle.cos(), column_angle.sin(), column_angle.cos()]
    return torch.cat(parts, dim=-1).reshape(1, height * width, dim).to(like.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split channels into heads: [B, N, C] -> [B, heads, N, C / heads]."""
    B, N, C = x.shape
    return x.view(B, N, heads, C // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Concatenate heads: [B, heads, N, d] -> [B, N, heads * d]."""
    return x.transpose(1, 2).flatten(2)


def to_tokens(x: Tensor) -> Tensor:
    """Flatten a map to a sequence of positions: [B, C, H, W] -> [B, H*W, C]."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `to_tokens`: [B, H*W, C] -> [B, C, H, W]."""
    return x.transpose(1, 2).unflatten(2, (height, width))


def resize_map(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize bilinearly by pixel centers: [B, C, h, w] -> [B, C, H, W]."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def pool_regions(pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Means of a map inside and outside of a mask: two of [B, D].

    Weighted with the mask averaged by area, and with 1 minus it, so that a lesion of one pixel
    keeps a weight at H/32. A region without any pixel gives 0.

    Args:
        pixels: [B, D, h, w].
        mask: [B, 1, H, W], 0 or 1.
    """
    grid = (pixels.shape[2], pixels.shape[3])
    # Pooled apart, because 1 minus a pooled full mask need not be exactly 0.
    regions = torch.cat([mask, 1 - mask], dim=1).float()
    weights = F.adaptive_avg_pool2d(regions, grid).flatten(2)  # [B, 2, h w]
    totals = weights.sum(2, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    inside, outside = ((weights / totals) @ to_tokens(pixels)).unbind(1)
    return inside, outside


class SelfAttentionLayer(nn.Module):
    """A pre-norm transformer layer over the positions of a map.

    Args:
        dim: width C; heads are 32 wide.
        reduction: side of the cells whose mean is one key; every position attends to all cells.
            At the far edge of an odd grid cells are smaller.
    """

    def __init__(self, dim: int, reduction: int = 1) -> None:
        super().__init__()
        self.heads = max(1, dim // 32)
        self.reduction = reduction
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, positions: Tensor, grid: tuple[int, int]) -> Tensor:
        """x [B, H*W, C], a position embedding [1, H*W, C] and (H, W) -> [B, H*W, C].

        The embedding is added to the input of the attention, not to the residual.
        """
        normed = self.norm1(x) + positions
        cells = F.avg_pool2d(to_map(normed, *grid), self.reduction, ceil_mode=True)
        cells = to_tokens(cells)  # [B, H*W/r^2, C]
        query_weight, *rest = self.qkv.weight.chunk(3)
        query_bias, *rest_bias = self.qkv.bias.chunk(3)
        key_value = F.linear(cells, torch.cat(rest), torch.cat(rest_bias))
        query, key, value = (
            split_heads(t, self.heads)
            for t in (F.linear(normed, query_weight, query_bias), *key_value.chunk(2, -1))
        )
        x = x + self.proj(merge_heads(F.scaled_dot_product_attention(query, key, value)))
        return x + self.mlp(self.norm2(x))


class CrossAttention(nn.Module):
    """Multi-head attention of one sequence to another.

    Args:
        dim: width C of the queries and of the result.
        context_dim: width D of the keys and values.
        heads: by default they are 32 wide. If C is no multiple, the next smaller number that fits.
    """

    def __init__(self, dim: int, context_dim: int, *, heads: int | None = None) -> None:
        super().__init__()
        most = heads or max(1, dim // 32)
        self.heads = next(h for h in range(most, 0, -1) if dim % h == 0)
        self.to_query = nn.Linear(dim, dim)
        self.to_key = nn.Linear(context_dim, dim, bias=False)  # a bias cancels in the softmax
        self.to_value = nn.Linear(context_dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """query [B, N, C]; key and value [B, M, D]; mask [B, M], False is left out -> [B, N, C]."""
        allowed = None if mask is None else mask[:, None, None, :]
        q = split_heads(self.to_query(query), self.heads)
        k = split_heads(self.to_key(key), self.heads)
        v = split_heads(self.to_value(value), self.heads)
        return self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v, allowed)))

    def weights(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The attention weights of `forward`: [B, heads, N, M], rows sum to 1."""
        q = split_heads(self.to_query(query), self.heads)
        k = split_heads(self.to_key(key), self.heads)
        return attention_weights(q, k, None if mask is None else mask[:, None, None, :])


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(d)), masked: [B, h, N, d] and [B, h, M, d] -> [B, h, N, M].

    `scaled_dot_product_attention` does not return them; explanations need them.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1)


def conv_bn(inputs: int, outputs: int, kernel: int = 3) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution that keeps the size, and a batch norm, whose shift makes its bias idle."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


relu = partial(nn.ReLU, inplace=True)


def double_conv(
    inputs: int, outputs: int, activation: Callable[[], nn.Module] = relu
) -> nn.Sequential:
    """Two 3x3 conv-BN-activation: [B, inputs, H, W] -> [B, outputs, H, W]."""
    return nn.Sequential(
        *(*conv_bn(inputs, outputs), activation()), *(*conv_bn(outputs, outputs), activation())
    )


class SubPixelHead(nn.Module):
    """Features -> logits at `factor` times their size: a 3x3 convolution and a pixel shuffle.

    Sub-pixel convolution (Shi et al. 2016). It is linear: with a ReLU or a leaky one and a 1x1
    convolution behind the shuffle, the channels that vote for a lesion die, in some trainings for
    good, while the network first learns the background, and no probability rises above 0.5.

    Args:
        channels: of the features.
        factor: 4 for features at H/4.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(channels, factor**2, 3, padding=1)
        with torch.no_grad():  # the pixels of a place alike at first, so that it is no checkerboard
            self.conv.weight.copy_(self.conv.weight[:1].expand_as(self.conv.weight))
            nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> logits [B, 1, factor * h, factor * w]."""
        return F.pixel_shuffle(self.conv(x), self.factor)


class UpBlock(nn.Module):
    """Transposed convolution x2, concatenate the skip, and a block.

    Args:
        coarse: channels of the coarser map.
        fine: channels of the skip and of the result.
        block: makes the block, given 2 * fine and fine channels.
    """

    def __init__(self, coarse: int, fine: int, block: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=False)
        self.block = block(2 * fine, fine)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, coarse, h, w] and [B, fine, 2h, 2w] -> [B, fine, 2h, 2w]."""
        return self.block(torch.cat([self.up(x), skip], dim=1))


class UNetDecoder(nn.Module):
    """U-Net decoder: at each step upsample x2, concatenate the skip, two 3x3 conv-BN-ReLU.

    Args:
        channels: of the features, fine to coarse; step i is as wide as feature i.
        narrow: reduce the coarser map to the width of the step by a 1x1 convolution before it is
            upsampled. If widths double, this saves a third of the step's first 3x3 convolution, its
            most costly part.
    """

    def __init__(self, channels: Sequence[int], *, narrow: bool = False) -> None:
        super().__init__()
        steps = list(pairwise(channels))
        self.narrow = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1, bias=False) if narrow else nn.Identity()
            for fine, coarse in steps
        )
        self.blocks = nn.ModuleList(
            double_conv(fine + (fine if narrow else coarse), fine) for fine, coarse in steps
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[B, C_i, H/s_i, W/s_i], fine to coarse -> [B, C_1, H/s_1, W/s_1]."""
        x = features[-1]
        steps = zip(reversed(self.narrow), reversed(self.blocks), features[-2::-1], strict=True)
        for narrow, block, skip in steps:
            x = resize_map(narrow(x), skip.shape[-2:])
            x = block(torch.cat([x, skip], dim=1))
        return x
