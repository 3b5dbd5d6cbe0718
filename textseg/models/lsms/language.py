"""LSMS's language branch: cross-attention from maps of several receptive fields to the words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.batch import TextFeatures
from textseg.layers import (
    attention_weights,
    merge_heads,
    sincos_position_embedding_2d,
    split_heads,
    to_map,
)

LanguageBranch = Literal["shared", "per_scale", "none"]
POSITION_DIM = 64


class TextKeyValues(NamedTuple):
    """Keys and values of a stage's text tokens, both [B, heads, L, d]; mask [B, 1, 1, L]."""

    keys: Tensor
    values: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Heads:
    """How the heads of a stage's language attentions are dealt to the maps that ask the words.

    Attributes:
        scales: maps that ask.
        each: heads of each of them.
        width: of all heads together.
    """

    scales: int
    each: int
    width: int

    @classmethod
    def of(cls, branch: LanguageBranch, channels: int, strips: int) -> Heads | None:
        """Heads of a stage of `channels`; None in image-only mode.

        One map alone has the whole width; of several each has a quarter, so that four cost what
        one does. Heads are 32 wide, or as wide as their map's part if that is less.
        """
        if branch == "none":
            return None
        scales = 1 if branch == "shared" else 1 + strips
        part = channels if scales == 1 else channels // 4
        return cls(scales, max(1, part // 32), scales * part)

    @property
    def total(self) -> int:
        """Heads of all maps."""
        return self.scales * self.each


class StageTextProjection(nn.Module):
    """Keys and values of the tokens and the position embedding, shared by a stage's blocks.

    Args:
        text_dim: width D of the tokens.
        heads: of the stage's language attentions.
    """

    def __init__(self, text_dim: int, heads: Heads) -> None:
        super().__init__()
        self.heads = heads.total
        self.norm = nn.LayerNorm(text_dim)
        self.to_key = nn.Linear(text_dim, heads.width, bias=False)  # a bias cancels in the softmax
        self.to_value = nn.Linear(text_dim, heads.width)
        self.position_embedding = nn.Linear(POSITION_DIM, heads.width)

    def forward(self, text: TextFeatures, x: Tensor) -> tuple[TextKeyValues, Tensor]:
        """Keys and values, and the position embedding [1, H*W, width] of x [B, C, H, W]."""
        height, width = x.shape[-2:]
        tokens = self.norm(text.tokens)
        key_values = TextKeyValues(
            split_heads(self.to_key(tokens), self.heads),
            split_heads(self.to_value(tokens), self.heads),
            text.mask[:, None, None, :],
        )
        position = sincos_position_embedding_2d(height, width, POSITION_DIM, x)
        return key_values, self.position_embedding(position)


class MapQueries(nn.Linear):
    """Queries of a map's positions: a linear layer over LayerNorm by channel.

    The maps of four receptive fields differ in size, by network and by step; normed, none of them
    drowns the position embedding that is added, nor gives one word all attention from the start.
    The norm has no weights of its own: they would be this layer's.

    Args:
        in_features: channels of the map.
        out_features: width of the queries.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, H*W, width]."""
        normed = F.layer_norm(x.permute(0, 2, 3, 1), (self.in_features,))
        return super().forward(normed).flatten(1, 2)


class LanguageAttention(nn.Module):
    """Gated cross-attention from maps of several receptive fields to the text tokens.

    One multi-head attention whose heads are dealt to the maps: each map has queries, keys and
    values of its own, and a gate for each of its channels, which depends on what all maps found.
    With Q_k = W_k LN(A_k) + position and O = LN(heads side by side),
    A_L = W_o(O * tanh(G2 ReLU(G1 O))).
    LayerNorm by channel keeps no running statistics, so an image does not depend on its batch.

    Args:
        channels: width C of the maps and of the result.
        heads: how they are dealt.
        closed: start with A_L = 0, for a network whose image weights are loaded; otherwise the
            gates start open and the text has an effect from the first step.
    """

    def __init__(self, channels: int, heads: Heads, *, closed: bool = False) -> None:
        super().__init__()
        self.heads = heads.total
        width = heads.width
        self.to_query = nn.ModuleList(
            MapQueries(channels, width // heads.scales) for _ in range(heads.scales)
        )
        self.norm = nn.LayerNorm(width)
        squeeze, widen = nn.Linear(width, width // 4), nn.Linear(width // 4, width)
        if closed:
            nn.init.zeros_(widen.weight)
        nn.init.constant_(widen.bias, 0.0 if closed else 1.0)
        self.gate = nn.Sequential(squeeze, nn.ReLU(), widen)
        self.proj = nn.Linear(width, channels, bias=False)  # a bias would be that of conv3

    def forward(self, scales: Sequence[Tensor], text: TextKeyValues, position: Tensor) -> Tensor:
        """Maps [B, C, H, W], one a scale, and position [1, H*W, width] -> A_L [B, C, H, W]."""
        height, width = scales[0].shape[-2:]
        query = self._query(scales, position)
        attended = F.scaled_dot_product_attention(query, text.keys, text.values, text.mask)
        out = self.norm(merge_heads(attended))  # [B, N, width]
        return to_map(self.proj(out * torch.tanh(self.gate(out))), height, width)

    def weights(self, scales: Sequence[Tensor], text: TextKeyValues, position: Tensor) -> Tensor:
        """Attention of each position to the tokens: [B, heads, N, L], rows sum to 1."""
        return attention_weights(self._query(scales, position), text.keys, text.mask)

    def _query(self, scales: Sequence[Tensor], position: Tensor) -> Tensor:
        queries = [layer(x) for layer, x in zip(self.to_query, scales, strict=True)]
        return split_heads(torch.cat(queries, dim=-1) + position, self.heads)
