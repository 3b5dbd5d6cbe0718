"""LanGuideMedSeg: "Ariadne's Thread: Using Text Prompts to Improve Segmentation of Infected Areas
from Chest X-ray Images" (Zhong et al., MICCAI 2023, arXiv 2307.03942).

A reconstruction from a digest of the paper and from facts of its public code, of which nothing is
copied.

From the public code:
  * ConvNeXt-T, whose four stages F_1..F_4 know no text, and the last hidden states L of a frozen
    CXR-BERT at 24 tokens;
  * three decoder steps, 1/32 -> 1/16 -> 1/8 -> 1/4. Each guides the coarse map X by the text, then
    doubles its size, joins the skip and convolves:
    X_1 = X + LN(self-attention(LN(X) + P, LN(X) + P, LN(X))), one head,
    X_2 = X_1 + s LN(cross-attention(LN(X_1) + P, T + Q, T)), four heads, s learned from 1.421,
    Y = two 3x3 conv-BN-LeakyReLU of [transposed conv x2 of X_2; F_i];
  * T = LeakyReLU(W_t GELU(M L + b)): the words that a step reads are 24, 12 and 9 learned mixtures
    of the tokens. P and Q are sine codes of places and words, as wide as the step;
  * sub-pixel upsampling x4 to 24 channels (3x3 convolution, pixel shuffle, a mean over 4 x 4), and
    a 1x1 head;
  * its setting: 224 x 224, Dice + cross-entropy, AdamW of 3e-4 for all trained parts
    (`pretrained_lr_scale: 1`), cosine over 200 epochs, stopped after 20 without a better loss and
    after 100 at most, batch 32, no augmentation but a zoom with probability 0.1.

Our choice:
  * padding is left out: M mixes it as 0. The public code mixes the states that BERT has at padding,
    hence its masks depend on how long captions are padded. A mixture is no token any more, so no
    mask is left for the cross-attention to apply;
  * any size that is a multiple of 32, where theirs is fixed at 224: P is a code of row and column
    from edge to edge, theirs of the index of the flattened map;
  * no projection heads: theirs map the pooled text and image to a shared width, are trained by
    nothing and hold 1.77 of its 44.0 million trainable parameters. No bias in the keys, where the
    softmax does not see it;
  * any timm encoder with stages at strides 4, 8, 16 and 32; the suite's Dice + BCE, learning rates
    and warm-up by default, for equal terms with the other networks.

Shapes: image [B, 3, H, W], H and W multiples of 32; tokens L [B, L, D]; X [B, C_i, H/s_i, W/s_i],
N = H/s_i * W/s_i places; T [B, S, C_i], S mixtures.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.backbone import TextImageBackboneMixin
from textseg.batch import SegmentationOutput, TextFeatures
from textseg.encoders import STRIDES, check_strides
from textseg.errors import UserError
from textseg.explain import record_inputs
from textseg.layers import CrossAttention, sincos_position_embedding_2d, to_map, to_tokens
from textseg.models.base import SegmentationModule

MIXTURES = (24, 12, 9)  # S of the steps, coarse to fine
HEADS = 4  # of the cross-attention
SCALE = 1.421  # s at the start
SUBPIXEL_WIDTH = 24  # channels at input size


# --- guide layer


class WordMixtures(nn.Module):
    """T = LeakyReLU(W_t GELU(M L + b)): mixtures of the tokens, at the width of a step.

    Args:
        text_dim: width D of the tokens.
        channels: width C of the step.
        max_tokens: columns of M.
        mixtures: S, rows of M.
    """

    def __init__(self, text_dim: int, channels: int, *, max_tokens: int, mixtures: int) -> None:
        super().__init__()
        self.mix = nn.Linear(max_tokens, mixtures)  # M and b
        self.project = nn.Linear(text_dim, channels)  # W_t

    def forward(self, text: TextFeatures) -> Tensor:
        """The encoded caption, of which what exceeds `max_tokens` is padding -> T [B, S, C]."""
        mixed = self.mix(self._real_tokens(text).transpose(1, 2)).transpose(1, 2)  # [B, S, D]
        return F.leaky_relu(self.project(F.gelu(mixed)))

    def shares(self, text: TextFeatures) -> Tensor:
        """Each token's share of the mixtures, |M_st| |L_t| over their sum: [B, S, L].

        The size of a summand, not its weight alone (Kobayashi et al. 2020). Rows sum to 1, padding
        is 0.
        """
        sizes = self._real_tokens(text).norm(dim=-1)  # [B, max_tokens]
        parts = self.mix.weight.abs() * sizes[:, None]  # [B, S, max_tokens]
        shares = parts / parts.sum(-1, keepdim=True)
        return F.pad(shares, (0, text.mask.shape[1] - shares.shape[-1]))

    def _real_tokens(self, text: TextFeatures) -> Tensor:
        """The tokens [B, max_tokens, D], 0 where there is padding or nothing."""
        tokens = text.tokens.masked_fill(~text.mask[..., None], 0)
        return F.pad(tokens, (0, 0, 0, self.mix.in_features - tokens.shape[1]))


class GuideLayer(nn.Module):
    """Self-attention of the places of a map, then cross-attention from them to the words.

    Args:
        channels: width C of the map.
        text_dim: width D of the tokens.
        max_tokens: length of every caption.
        mixtures: how many mixtures of the words are read.
    """

    def __init__(self, channels: int, text_dim: int, *, max_tokens: int, mixtures: int) -> None:
        super().__init__()
        self.words = WordMixtures(text_dim, channels, max_tokens=max_tokens, mixtures=mixtures)
        self.norm1 = nn.LayerNorm(channels)
        self.self_attention = CrossAttention(channels, channels, heads=1)
        self.self_norm = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.cross_attention = CrossAttention(channels, channels, heads=HEADS)
        self.cross_norm = nn.LayerNorm(channels)
        self.scale = nn.Parameter(torch.tensor(SCALE))  # s

    def forward(self, x: Tensor, text: TextFeatures) -> Tensor:
        """X [B, C, H, W] and the encoded caption -> X_2, the same shape."""
        height, width = x.shape[-2:]
        places = to_tokens(x)  # [B, N, C]
        code = sincos_position_embedding_2d(height, width, places.shape[-1], x)  # P [1, N, C]
        normed = self.norm1(places)
        asking = normed + code
        places = places + self.self_norm(self.self_attention(asking, asking, normed))  # X_1
        words = self.words(text)  # T [B, S, C]
        # Q: one row of S places. What its row adds is the same for all keys: no softmax sees it.
        named = words + sincos_position_embedding_2d(1, words.shape[1], words.shape[2], words)
        read = self.cross_attention(self.norm2(places) + code, named, words)
        return to_map(places + self.scale * self.cross_norm(read), height, width)


# --- decoder


class UpBlock(nn.Module):
    """Transposed convolution x2, concatenate the skip, two 3x3 conv-BN-LeakyReLU.

    Args:
        coarse: channels of the coarser map.
        fine: channels of the skip and of the result.
    """

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=False)
        self.block = nn.Sequential(
            *_conv_bn_leaky_relu(2 * fine, fine), *_conv_bn_leaky_relu(fine, fine)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, C, H/2, W/2] and [B, D, H, W] -> [B, D, H, W]."""
        return self.block(torch.cat([self.up(x), skip], dim=1))


def _conv_bn_leaky_relu(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.01, inplace=True)


class SubPixelUpsample(nn.Module):
    """3x3 convolution, pixel shuffle, and the mean over a cell (Aitken et al. 2017).

    At the start the pixels of a cell are alike, so that the mean makes it a linear interpolation.

    Args:
        inputs, outputs: channels.
        factor: side of a cell.
    """

    def __init__(self, inputs: int, outputs: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(inputs, outputs * factor**2, 3, padding=1)
        with torch.no_grad():
            alike = nn.init.kaiming_normal_(self.conv.weight[:outputs].clone())
            self.conv.weight.copy_(alike.repeat_interleave(factor**2, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D, factor * H, factor * W]."""
        fine = F.pixel_shuffle(self.conv(x), self.factor)
        before = self.factor - 1  # the cell of a pixel is what lies above and left of it
        return F.avg_pool2d(F.pad(fine, (before, 0, before, 0)), self.factor, stride=1)


class GuideDecoder(nn.Module):
    """A guide layer and an up-block in each step, then sub-pixel upsampling and a 1x1 head.

    Args:
        channels: C_1..C_4.
        text_dim: width D of the tokens.
        max_tokens: length of every caption.
    """

    def __init__(self, channels: Sequence[int], text_dim: int, *, max_tokens: int) -> None:
        super().__init__()
        steps = list(zip(pairwise(channels[::-1]), MIXTURES, strict=True))  # coarse to fine
        self.guides = nn.ModuleList(
            GuideLayer(coarse, text_dim, max_tokens=max_tokens, mixtures=mixtures)
            for (coarse, _), mixtures in steps
        )
        self.up_blocks = nn.ModuleList(UpBlock(coarse, fine) for (coarse, fine), _ in steps)
        self.upsample = SubPixelUpsample(channels[0], SUBPIXEL_WIDTH, STRIDES[0])
        self.head = nn.Conv2d(SUBPIXEL_WIDTH, 1, 1)

    @property
    def blocks(self) -> list[nn.Module]:
        """The guide layers and up-blocks; see `textseg.training.GradientCheckpointing`."""
        return [*self.guides, *self.up_blocks]

    def forward(
        self, features: Sequence[Tensor], text: TextFeatures
    ) -> tuple[Tensor, list[Tensor]]:
        """F_1..F_4 and the encoded caption -> logits [B, 1, H, W] and decoded maps.

        The maps, of the features' shapes and order, are each step's X_2 and the last step's result.
        """
        x, decoded = features[-1], []
        for guide, up, skip in zip(self.guides, self.up_blocks, features[-2::-1], strict=True):
            decoded.append(guide(x, text))
            x = up(decoded[-1], skip)  # Y [B, C_i, H_i, W_i]
        return self.head(self.upsample(x)), [x, *reversed(decoded)]


# --- the network


class LanGuideMedSeg(TextImageBackboneMixin, SegmentationModule):
    """Language-guided decoder on an image encoder without text (arXiv 2307.03942), rebuilt.

    Args:
        image_encoder: a timm network with feature maps at strides 4, 8, 16 and 32.
        text_encoder: hub name or local folder of a BERT, or "scratch" for a small one trained along
            with the network.
        pretrained: load the published weights of both encoders, of which `image_weights` replaces
            the image encoder's.
        freeze_text: keep the text encoder fixed; by default if and only if it is pretrained.
        max_tokens: length of every caption in tokens, special ones included; the mixtures' weights
            are for as many.
        image_encoder_options: further arguments of the timm network, such as drop_path_rate.
        image_weights: local file of the image encoder's weights, which then count as pretrained;
            no hub is asked for them.
    """

    def __init__(
        self,
        image_encoder: str = "convnext_tiny",
        text_encoder: str = "microsoft/BiomedVLP-CXR-BERT-specialized",
        *,
        pretrained: bool = True,
        freeze_text: bool | None = None,
        max_tokens: int = 24,
        image_encoder_options: dict[str, Any] | None = None,
        image_weights: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.build_backbone(
            image_encoder,
            text_encoder,
            pretrained=pretrained,
            freeze=freeze_text,
            max_tokens=max_tokens,
            image_encoder_options=image_encoder_options,
            image_weights=image_weights,
        )
        channels, strides = self.image_encoder.channels, self.image_encoder.strides
        check_strides(image_encoder, strides)
        _check_widths(image_encoder, channels)
        self.decoder = GuideDecoder(channels, self.text_encoder.dim, max_tokens=max_tokens)
        self.to(memory_format=torch.channels_last)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """The tensor part: what compile, export, benchmark and explanations act on."""
        logits, decoded = self.decoder(self.encode_image(image), text)
        return SegmentationOutput(logits, self.auxiliary_logits(decoded))

    def explanation_maps(
        self, image: Tensor, text: TextFeatures, words: Tensor
    ) -> dict[str, Tensor]:
        """``stage<i>.attention`` [B, H/s_i, W/s_i] of the guide layers on stages 4, 3 and 2.

        The share of a place's attention that `words` [B, L] get: mean over heads of the attention
        to each mixture, times the share that they have of it.
        """
        guides: dict[str, Any] = {
            f"stage{4 - step}.attention": guide for step, guide in enumerate(self.decoder.guides)
        }
        attentions = {name: guide.cross_attention for name, guide in guides.items()}
        with record_inputs(attentions) as inputs:
            self.forward_features(image, text)
        maps: dict[str, Tensor] = {}
        for (name, guide), stride in zip(guides.items(), STRIDES[:0:-1], strict=True):
            weights = guide.cross_attention.weights(*inputs[name]).mean(1)  # [B, N, S]
            share = (guide.words.shares(text) * words[:, None]).sum(-1)  # [B, S]
            asked = (weights @ share[..., None].to(weights.dtype)).squeeze(-1)  # [B, N]
            maps[name] = asked.unflatten(1, [side // stride for side in image.shape[-2:]])
        return maps


def _check_widths(image_encoder: str, channels: Sequence[int]) -> None:
    if any(width % 4 for width in channels[1:]):
        raise UserError(
            f"image_encoder={image_encoder!r} has widths {list(channels)}, not multiples of 4 from "
            "the second on",
            "the position embedding splits a width into four: choose another encoder",
        )
