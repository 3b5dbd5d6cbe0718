"""LSMS's language-guided vision encoder: MSCAN blocks with language attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.batch import TextFeatures
from textseg.encoders import Normalize, is_restoring
from textseg.encoders.weights import load_mscan
from textseg.layers import (
    DropPath,
    LayerNorm2d,
    attention_weights,
    merge_heads,
    sincos_position_embedding_2d,
    split_heads,
    to_map,
    to_tokens,
)
from textseg.models.lsms.strips import StripConv

LanguageBranch = Literal["shared", "per_scale", "none"]
STRIPS = (7, 11, 21)
POSITION_DIM = 64
MLP_RATIOS = (8, 8, 4, 4)  # of the four stages, in every variant


class Variant(NamedTuple):
    """Widths and depths of the four stages."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]


VARIANTS = {
    "mscan_tiny": Variant((32, 64, 160, 256), (3, 3, 5, 2)),
    "mscan_small": Variant((64, 128, 320, 512), (2, 2, 4, 2)),
    "mscan_base": Variant((64, 128, 320, 512), (3, 3, 12, 3)),
}


class TextKeyValues(NamedTuple):
    """Keys and values of a stage's text tokens, both [B, heads, L, d]; mask [B, 1, 1, L]."""

    keys: Tensor
    values: Tensor
    mask: Tensor


class StageTextProjection(nn.Module):
    """Keys and values of the tokens and the position embedding, shared by a stage's blocks.

    Args:
        text_dim: width D of the tokens.
        channels: width C of the stage.
        heads: attention heads.
    """

    def __init__(self, text_dim: int, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(text_dim)
        self.to_key = nn.Linear(text_dim, channels, bias=False)  # a bias cancels in the softmax
        self.to_value = nn.Linear(text_dim, channels)
        self.position_embedding = nn.Linear(POSITION_DIM, channels)

    def forward(self, text: TextFeatures, x: Tensor) -> tuple[TextKeyValues, Tensor]:
        """Keys and values, and the position embedding [1, C, H, W] of the map x [B, C, H, W]."""
        height, width = x.shape[-2:]
        tokens = self.norm(text.tokens)
        key_values = TextKeyValues(
            split_heads(self.to_key(tokens), self.heads),
            split_heads(self.to_value(tokens), self.heads),
            text.mask[:, None, None, :],
        )
        position = sincos_position_embedding_2d(height, width, POSITION_DIM, x)
        return key_values, to_map(self.position_embedding(position), height, width)


class LanguageAttention(nn.Module):
    """Gated cross-attention from a feature map to the text tokens: O * tanh(G2 ReLU(G1 O)).

    LayerNorm by channel keeps no running statistics, so an image does not depend on its batch.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_query = nn.Conv2d(channels, channels, 1)
        self.proj = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        squeeze, widen = nn.Linear(channels, channels // 4), nn.Linear(channels // 4, channels)
        nn.init.ones_(widen.bias)  # open: the text has an effect from the first step
        self.gate = nn.Sequential(squeeze, nn.ReLU(), widen)

    def forward(self, x: Tensor, text: TextKeyValues, position: Tensor) -> Tensor:
        """x [B, C, H, W], position [1, C, H, W] -> [B, C, H, W]."""
        height, width = x.shape[-2:]
        query = self._query(x, position)
        attended = F.scaled_dot_product_attention(query, text.keys, text.values, text.mask)
        out = self.norm(self.proj(merge_heads(attended)))  # [B, N, C]
        return to_map(out * torch.tanh(self.gate(out)), height, width)

    def weights(self, x: Tensor, text: TextKeyValues, position: Tensor) -> Tensor:
        """Attention of each position to the tokens: [B, heads, N, L], rows sum to 1."""
        return attention_weights(self._query(x, position), text.keys, text.mask)

    def _query(self, x: Tensor, position: Tensor) -> Tensor:
        return split_heads(to_tokens(self.to_query(x) + position), self.heads)  # [B, h, N, d]


class ScaleAwareVisionLanguageAttention(nn.Module):
    """SVLA: M = W3(A0 + sum A_k + A_L), returned as M * Z.

    A0 = DW5x5(Z); A_k = DW_kx1(DW_1xk(A0)) for k in `strips`; A_L is the sum of the language
    branches. Parameter names of the visual half are MSCAN's.

    Args:
        channels: width C.
        strips: lengths of the strip kernels, out of 7, 11 and 21.
        num_language_branches: 0 (image only), 1 (shared), or 1 + strips (per scale).
        heads: heads of each language attention.
    """

    def __init__(
        self, channels: int, strips: Sequence[int], num_language_branches: int, heads: int
    ) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.strip_names = [
            (f"conv{i}_1", f"conv{i}_2") for i, k in enumerate(STRIPS) if k in strips
        ]
        for (row, column), k in zip(self.strip_names, sorted(strips), strict=True):
            self.add_module(row, StripConv(channels, k, row=True))
            self.add_module(column, StripConv(channels, k, row=False))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.language_attention = nn.ModuleList(
            LanguageAttention(channels, heads) for _ in range(num_language_branches)
        )

    def forward(self, z: Tensor, text: TextKeyValues | None, position: Tensor | None) -> Tensor:
        """z [B, C, H, W] -> [B, C, H, W]; `text` and `position` are None in image-only mode."""
        first = self.conv0(z)
        scales = [first]
        for row, column in self.strip_names:
            scales.append(getattr(self, column)(getattr(self, row)(first)))
        total = sum(scales[1:], first)
        # A shared branch reads A0; branches per scale read A0, A_7, A_11, A_21 in this order.
        for attention, scale in zip(self.language_attention, scales, strict=False):
            total = total + attention(scale, text, position)
        return self.conv3(total) * z


class SpatialAttention(nn.Module):
    """Y = W2 SVLA(GELU(W1 Xh)) + Xh."""

    def __init__(
        self, channels: int, strips: Sequence[int], num_language_branches: int, heads: int
    ) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = ScaleAwareVisionLanguageAttention(
            channels, strips, num_language_branches, heads
        )
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, text: TextKeyValues | None, position: Tensor | None) -> Tensor:
        """Xh [B, C, H, W] -> Y [B, C, H, W]."""
        z = self.activation(self.proj_1(x))
        return self.proj_2(self.spatial_gating_unit(z, text, position)) + x


class DepthwiseConv(nn.Module):
    """A 3x3 depthwise convolution under MSCAN's parameter name."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same."""
        return self.dwconv(x)


class ConvMLP(nn.Sequential):
    """1x1 (widening) -> depthwise 3x3 -> GELU -> 1x1."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = DepthwiseConv(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)


class Block(nn.Module):
    """X' = X + DropPath(gamma1 Y); X'' = X' + DropPath(gamma2 MLP(BN X'))."""

    def __init__(
        self,
        channels: int,
        mlp_ratio: int,
        *,
        strips: Sequence[int],
        num_language_branches: int,
        heads: int,
        drop_path: float,
        layer_scale: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = SpatialAttention(channels, strips, num_language_branches, heads)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = ConvMLP(channels, channels * mlp_ratio)
        self.drop_path = DropPath(drop_path)
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), layer_scale))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x: Tensor, text: TextKeyValues | None, position: Tensor | None) -> Tensor:
        """X [B, C, H, W] -> X'' [B, C, H, W]."""
        attended = self.attn(self.norm1(x), text, position)
        x = x + self.drop_path(self.layer_scale_1[:, None, None] * attended)
        return x + self.drop_path(self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    """Entry of a stage: stride 4 by two convolutions for the first, stride 2 for the others."""

    def __init__(self, inputs: int, outputs: int, first: bool) -> None:
        super().__init__()
        if first:
            half = outputs // 2
            self.proj: nn.Module = nn.Sequential(
                nn.Conv2d(inputs, half, 3, stride=2, padding=1),
                nn.BatchNorm2d(half),
                nn.GELU(),
                nn.Conv2d(half, outputs, 3, stride=2, padding=1),
                nn.BatchNorm2d(outputs),
            )
            self.norm: nn.Module = nn.Identity()
        else:
            self.proj = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
            self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H/4, W/4] for the first stage, else H/2, W/2."""
        return self.norm(self.proj(x))


class LanguageGuidedVisionEncoder(nn.Module):
    """Four stages of SVLA blocks: image and text to F_1..F_4.

    Args:
        variant: ``mscan_tiny``, ``mscan_small`` or ``mscan_base``.
        text_dim: width D of the text tokens.
        language_branch: ``shared``, ``per_scale``, or ``none`` for the plain MSCAN.
        strips: lengths of the strip kernels, out of 7, 11 and 21.
        drop_path: stochastic depth of the last block, rising linearly from 0.
        layer_scale: initial gamma of every residual branch.
        weights: local file of SegNeXt's published MSCAN weights.

    Attributes:
        channels, strides: of F_1..F_4.
    """

    takes_text = True
    strides = (4, 8, 16, 32)

    def __init__(
        self,
        variant: str,
        *,
        text_dim: int = 0,
        language_branch: LanguageBranch = "shared",
        strips: Sequence[int] = STRIPS,
        drop_path: float = 0.1,
        layer_scale: float = 1e-2,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        shape = VARIANTS[variant]
        self.variant = variant
        self.channels = shape.channels
        self.depths = shape.depths
        self.normalize = Normalize()
        branches = {"none": 0, "shared": 1, "per_scale": 1 + len(strips)}[language_branch]
        rates = torch.linspace(0, drop_path, sum(shape.depths)).tolist()
        inputs = 3
        for i, (channels, depth) in enumerate(zip(shape.channels, shape.depths, strict=True), 1):
            heads = channels // 32
            blocks = [
                Block(
                    channels,
                    MLP_RATIOS[i - 1],
                    strips=strips,
                    num_language_branches=branches,
                    heads=heads,
                    drop_path=rates.pop(0),
                    layer_scale=layer_scale,
                )
                for _ in range(depth)
            ]
            self.add_module(f"patch_embed{i}", PatchEmbedding(inputs, channels, first=i == 1))
            self.add_module(f"block{i}", nn.ModuleList(blocks))
            self.add_module(f"norm{i}", LayerNorm2d(channels))
            if branches:
                projection = StageTextProjection(text_dim, channels, heads)
                self.add_module(f"text_projection{i}", projection)
            inputs = channels
        self.uses_text = branches > 0
        self.pretrained = weights is not None
        self.apply(_initialize)
        if weights is not None and not is_restoring():
            self.load_mscan(weights)

    @property
    def blocks(self) -> list[nn.Module]:
        """The SVLA blocks of all stages; see `textseg.training.GradientCheckpointing`."""
        return [block for i in range(1, 5) for block in getattr(self, f"block{i}")]

    def forward(self, image: Tensor, text: TextFeatures | None = None) -> list[Tensor]:
        """image [B, 3, H, W] in [0, 1] -> F_1..F_4, [B, C_i, H/s_i, W/s_i]."""
        # Depthwise strips are up to ten times as fast with channels last, on CPUs above all.
        x = self.normalize(image).contiguous(memory_format=torch.channels_last)
        features = []
        for i in range(1, 5):
            x = getattr(self, f"patch_embed{i}")(x)
            key_values, position = (
                getattr(self, f"text_projection{i}")(text, x) if self.uses_text else (None, None)
            )
            for block in getattr(self, f"block{i}"):
                x = block(x, key_values, position)
            x = getattr(self, f"norm{i}")(x)
            features.append(x)
        return features

    def last_language_attention(self) -> dict[str, list[LanguageAttention]]:
        """Language attentions of each stage's last SVLA, by stage; none in image-only mode."""
        if not self.uses_text:
            return {}
        last = {f"stage{i}": getattr(self, f"block{i}")[-1] for i in range(1, 5)}
        return {
            i: list(block.attn.spatial_gating_unit.language_attention) for i, block in last.items()
        }

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Parameters that started from MSCAN's weights: all but the language branches."""
        named = self.named_parameters() if self.pretrained else ()
        return [parameter for name, parameter in named if _is_visual(name)]

    def load_mscan(self, path: str) -> None:
        """Load SegNeXt's published ImageNet weights by name; language branches stay as they are.

        Raises:
            UserError: the file cannot be read, or is not of this variant.
        """
        load_mscan(self, path, asked=self.variant, belongs=_is_visual)


def _is_visual(name: str) -> bool:
    """Whether a parameter is MSCAN's, not a language branch's."""
    return ".language_attention." not in name and not name.startswith("text_projection")


def _initialize(module: nn.Module) -> None:
    # As MSCAN: fan-out for convolutions, so that depthwise and dense ones start at one scale.
    # Linear layers keep torch's default: with MSCAN's 0.02 the text has too little effect at first.
    if isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
        nn.init.normal_(module.weight, std=(2.0 / (fan_out // module.groups)) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
