"""LSMS's language-guided vision encoder: MSCAN blocks with language attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from textseg.batch import TextFeatures
from textseg.encoders import Normalize, is_restoring
from textseg.encoders.weights import load_mscan
from textseg.layers import DropPath, LayerNorm2d
from textseg.models.lsms.convolutions import PointwiseConv, StripConv
from textseg.models.lsms.language import (
    Heads,
    LanguageAttention,
    LanguageBranch,
    StageTextProjection,
    TextKeyValues,
)

STRIPS = (7, 11, 21)
MLP_RATIOS = (8, 8, 4, 4)  # of the four stages, in every variant
LAYER_SCALE = 0.01  # initial, from scratch: MSCAN's


class Variant(NamedTuple):
    """Widths and depths of the four stages, and the file of ImageNet weights at `WEIGHTS`."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    file: str


VARIANTS = {
    "mscan_tiny": Variant((32, 64, 160, 256), (3, 3, 5, 2), "mscan_t_20230227-119e8c9f.pth"),
    "mscan_small": Variant((64, 128, 320, 512), (2, 2, 4, 2), "mscan_s_20230227-f33ccdf2.pth"),
    "mscan_base": Variant((64, 128, 320, 512), (3, 3, 12, 3), "mscan_b_20230227-3ab7d230.pth"),
}
# OpenMMLab's copies of SegNeXt's weights.
WEIGHTS = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segnext/"


class ScaleAwareVisionLanguageAttention(nn.Module):
    """SVLA: M = W3(A0 + sum A_k + A_L), returned as M * Z.

    A0 = DW5x5(Z); A_k = DW_kx1(DW_1xk(A0)) for k in `strips`; A_L is the language attention from
    A0 alone ("shared") or from A0 and every A_k ("per_scale"). Parameter names of the visual half
    are MSCAN's.

    Args:
        channels: width C.
        strips: lengths of the strip kernels, out of 7, 11 and 21.
        heads: of the language attention; None in image-only mode.
        closed: start with A_L = 0.
    """

    def __init__(
        self, channels: int, strips: Sequence[int], heads: Heads | None, *, closed: bool = False
    ) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.strip_names = [
            (f"conv{i}_1", f"conv{i}_2") for i, k in enumerate(STRIPS) if k in strips
        ]
        for (row, column), k in zip(self.strip_names, sorted(strips), strict=True):
            self.add_module(row, StripConv(channels, k, row=True))
            self.add_module(column, StripConv(channels, k, row=False))
        self.conv3 = PointwiseConv(channels, channels)
        self.language_attention = (
            None if heads is None else LanguageAttention(channels, heads, closed=closed)
        )
        self.scales_asking = 0 if heads is None else heads.scales

    def forward(self, z: Tensor, text: TextKeyValues | None, position: Tensor | None) -> Tensor:
        """z [B, C, H, W] -> [B, C, H, W]; `text` and `position` are None in image-only mode."""
        first = self.conv0(z)
        scales = [first]
        for row, column in self.strip_names:
            scales.append(getattr(self, column)(getattr(self, row)(first)))
        total = sum(scales[1:], first)
        if self.language_attention is not None:
            asking = scales[: self.scales_asking]  # A0, then A_7, A_11, A_21
            total = total + self.language_attention(asking, text, position)
        return self.conv3(total) * z


class SpatialAttention(nn.Module):
    """Y = W2 SVLA(GELU(W1 Xh)) + Xh."""

    def __init__(
        self, channels: int, strips: Sequence[int], heads: Heads | None, *, closed: bool = False
    ) -> None:
        super().__init__()
        self.proj_1 = PointwiseConv(channels, channels)
        self.activation = nn.GELU()
        self.spatial_gating_unit = ScaleAwareVisionLanguageAttention(
            channels, strips, heads, closed=closed
        )
        self.proj_2 = PointwiseConv(channels, channels)

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
        self.fc1 = PointwiseConv(channels, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.act = nn.GELU()
        self.fc2 = PointwiseConv(hidden, channels)


class Block(nn.Module):
    """X' = X + DropPath(gamma1 Y); X'' = X' + DropPath(gamma2 MLP(BN X'))."""

    def __init__(
        self,
        channels: int,
        mlp_ratio: int,
        *,
        strips: Sequence[int],
        heads: Heads | None,
        closed: bool,
        drop_path: float,
        layer_scale: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = SpatialAttention(channels, strips, heads, closed=closed)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = ConvMLP(channels, channels * mlp_ratio)
        self.drop_path = DropPath(drop_path)
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), layer_scale))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x: Tensor, text: TextKeyValues | None, position: Tensor | None) -> Tensor:
        """X [B, C, H, W] -> X'' [B, C, H, W]."""
        x = self._add(x, self.layer_scale_1, self.attn(self.norm1(x), text, position))
        return self._add(x, self.layer_scale_2, self.mlp(self.norm2(x)))

    def _add(self, x: Tensor, scale: Tensor, branch: Tensor) -> Tensor:
        # Layer scale and drop path are one factor by image and channel: one pass over the maps.
        kept = self.drop_path(x.new_ones(x.shape[0], 1, 1, 1))
        return torch.addcmul(x, scale[:, None, None] * kept, branch)


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
        language_branch: ``per_scale``, ``shared``, or ``none`` for the plain MSCAN.
        strips: lengths of the strip kernels, out of 7, 11 and 21.
        drop_path: stochastic depth of the last block, rising linearly from 0.
        layer_scale: initial gamma of every residual branch; None is 0.01, or, with `weights`, what
            the file has.
        weights: local file of SegNeXt's published MSCAN weights, with their or OpenMMLab's names;
            over it the language attentions start closed, so that F_1..F_4 are the plain MSCAN's.

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
        language_branch: LanguageBranch = "per_scale",
        strips: Sequence[int] = STRIPS,
        drop_path: float = 0.1,
        layer_scale: float | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        shape = VARIANTS[variant]
        self.variant = variant
        self.channels = shape.channels
        self.depths = shape.depths
        self.normalize = Normalize()
        rates = torch.linspace(0, drop_path, sum(shape.depths), device="cpu").tolist()
        inputs = 3
        for i, (channels, depth) in enumerate(zip(shape.channels, shape.depths, strict=True), 1):
            heads = Heads.of(language_branch, channels, len(strips))
            blocks = [
                Block(
                    channels,
                    MLP_RATIOS[i - 1],
                    strips=strips,
                    heads=heads,
                    closed=weights is not None,
                    drop_path=rates.pop(0),
                    layer_scale=LAYER_SCALE if layer_scale is None else layer_scale,
                )
                for _ in range(depth)
            ]
            self.add_module(f"patch_embed{i}", PatchEmbedding(inputs, channels, first=i == 1))
            self.add_module(f"block{i}", nn.ModuleList(blocks))
            self.add_module(f"norm{i}", LayerNorm2d(channels))
            if heads is not None:
                self.add_module(f"text_projection{i}", StageTextProjection(text_dim, heads))
            inputs = channels
        self.uses_text = language_branch != "none"
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

    def last_language_attention(self) -> dict[str, LanguageAttention]:
        """Language attention of each stage's last SVLA, by stage; none in image-only mode."""
        if not self.uses_text:
            return {}
        last = {f"stage{i}": getattr(self, f"block{i}")[-1] for i in range(1, 5)}
        return {i: block.attn.spatial_gating_unit.language_attention for i, block in last.items()}

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Parameters that started from MSCAN's weights: all but the language branches."""
        named = self.named_parameters() if self.pretrained else ()
        return [parameter for name, parameter in named if _is_visual(name)]

    def load_mscan(self, path: str) -> None:
        """Load SegNeXt's published ImageNet weights by name; language branches stay as they are.

        Raises:
            UserError: the file cannot be read, or is not of this variant.
        """
        address = WEIGHTS + VARIANTS[self.variant].file
        load_mscan(
            self,
            path,
            asked=self.variant,
            wanted=f"the file of {self.variant}, which is at {address}, or null for an image "
            "encoder from scratch",
            belongs=_is_visual,
        )


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
