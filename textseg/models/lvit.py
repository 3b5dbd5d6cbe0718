"""LViT: Language meets Vision Transformer (Li et al., IEEE TMI 2023, arXiv 2206.14718).

From its paper and public code:
  * two U-shaped branches. A CNN: a 3x3 stem gives x_1 of width w = 64 at full size, four down-steps
    (max-pool 2, two 3x3 conv-BN-ReLU) x_2..x_5 of 2w, 4w, 8w and 8w. Beside it transformer blocks
    (8 heads, MLP 4 wide with a GELU behind both of its maps, dropout 0.1 in embeddings and MLP) for
    x_1..x_4: patches of 16, 8, 4 and 2 make N = H/16 * W/16 tokens at every scale, as wide as its
    map, with a learned position embedding;
  * down: y_1 = Block(Embed(x_1) + T), y_i = [Conv(Block(Embed(x_i))); y_{i-1}] for i = 2, 3, 4, and
    Conv, a 1-D conv-BN-ReLU along the tokens, halves the width. Up: y_4 <- Block(y_4),
    y_i <- Block(y_i) + Conv(y_{i+1});
  * words: a chain of 1-D convolutions (kernel 3) along the words, without activations, takes BERT's
    vectors to the widths 8w, 4w, 2w and w. Only y_1 reads them: T is a 1-D convolution whose input
    channels are the words and whose output channels are the tokens, BN, ReLU;
  * skips: x_i <- x_i + Map(y_i), tokens upsampled (nearest), 1x1 conv-BN-ReLU. Each goes through
    pixel-level attention (PLAM): the mean over channels of ReLU(W_a x), the maximum over channels
    of ReLU(W_m x) and their sum, a 3-6-1 MLP for each pixel, times x;
  * decoder: x_5 upsampled (nearest), concatenated with the skip, two 3x3 conv-BN-ReLU, four times,
    to 4w, 2w, w and w; a 1x1 head at full size;
  * its setting: from scratch but for a frozen BERT, 224 x 224, lr 3e-4, 0.5 Dice + 0.5 BCE, which
    for AdamW is the suite's Dice + BCE.

Our choice:
  * what never runs in the public code is not built: 10 M of its 39.93 M parameters, such as patch
    embeddings of the upward blocks (tests/models/test_lvit.py adds them up). No bias before a batch
    norm;
  * Map's convolution runs before the upsampling, not behind it: the same by arithmetic (but for
    the n / (n - 1) of running variances), at N positions instead of H * W;
  * padding: every convolution of the chain reads zeros there. T has `max_tokens` input channels, 32
    by default instead of 10; words beyond them, of a text encoder of one's own, are not read;
  * every size of multiples of 16: position embeddings and T are learned for the 14 x 14 tokens of
    224 x 224 and resized bilinearly to others. Position embeddings do not decay;
  * images normalized as ImageNet's; torch's initialization; the suite's optimizer and schedule;
  * not rebuilt: its semi-supervised training (pseudo labels, language-vision loss).

Shapes: image [B, 3, H, W], H and W multiples of 16; words [B, L, D]; x_i [B, C_i, H/s_i, W/s_i]
with strides s = 1, 2, 4, 8, 16; y_i [B, N, C_i].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.backbone import TextImageBackboneMixin
from textseg.batch import SegmentationOutput, TextFeatures
from textseg.encoders import Normalize, check_image_size
from textseg.errors import UserError
from textseg.explain import record_inputs
from textseg.layers import merge_heads, resize_map, split_heads, to_map, to_tokens
from textseg.models.base import SegmentationModule

HEADS = 8
STRIDE = 16  # pixels for each token along either side
GRID = 14  # tokens along each side of the published 224 pixels


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU: [B, inputs, H, W] -> [B, outputs, H, W]."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class DownStep(nn.Sequential):
    """x_i -> x_{i+1}: max-pool 2, two 3x3 conv-BN-ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.MaxPool2d(2), conv_bn_relu(inputs, outputs), conv_bn_relu(outputs, outputs)
        )


class PatchEmbedding(nn.Module):
    """A map cut into patches, with a learned position embedding.

    Args:
        channels: width of the map and of the tokens.
        patch: side of a patch in positions of the map.
        dropout: of the tokens.
    """

    def __init__(self, channels: int, patch: int, dropout: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, channels, patch, stride=patch)
        self.positions = nn.Parameter(torch.zeros(1, channels, GRID, GRID))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, h / patch * w / patch, C]."""
        tokens = self.patches(x)
        positions = resize_map(self.positions, tokens.shape[-2:])
        return self.dropout(to_tokens(tokens + positions))

    def no_weight_decay(self) -> set[str]:
        """The position embedding."""
        return {"positions"}


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP, whose GELU and dropout follow both of its maps."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            *(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(4 * dim, dim), nn.GELU(), nn.Dropout(dropout)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> the same."""
        query, key, value = (
            split_heads(part, HEADS) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        x = x + self.proj(merge_heads(F.scaled_dot_product_attention(query, key, value)))
        return x + self.mlp(self.norm2(x))


class TokenConv(nn.Module):
    """Conv: a 1-D convolution of kernel 3 along the tokens, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, inputs] -> [B, N, outputs]."""
        return F.relu(self.norm(self.conv(x.transpose(1, 2)))).transpose(1, 2)


class WordsToTokens(nn.Module):
    """T: what the caption adds to each token of the finest scale.

    Args:
        text_dim: width D of the words.
        widths: of the chain of convolutions along the words, in their order.
        max_tokens: how many words are read.
    """

    def __init__(self, text_dim: int, widths: Sequence[int], max_tokens: int) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        inputs = (text_dim, *widths[:-1])
        self.chain = nn.ModuleList(
            nn.Conv1d(a, b, 3, padding=1) for a, b in zip(inputs, widths, strict=True)
        )
        self.conv = nn.Conv1d(max_tokens, GRID * GRID, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(GRID * GRID)

    def forward(self, words: Tensor, mask: Tensor, size: Sequence[int]) -> Tensor:
        """Words [B, L, D], their mask [B, L], and the grid (h, w) -> [B, h * w, widths[-1]]."""
        padding = ~mask[:, None, :]
        x = words.transpose(1, 2).masked_fill(padding, 0)  # [B, D, L]
        for convolution in self.chain:
            x = convolution(x).masked_fill(padding, 0)  # [B, widths[i], L]
        x = F.pad(x, (0, self.max_tokens - x.shape[2])).transpose(1, 2)  # [B, max_tokens, C]
        added = F.relu(self.norm(self.conv(x)))  # [B, GRID * GRID, C]
        return to_tokens(resize_map(to_map(added, GRID, GRID), size))


class LViTEncoder(nn.Module):
    """Both branches: an image and its words to x_1..x_4, each with its tokens added, and x_5.

    Args:
        text_dim: width D of the words.
        width: w, of x_1.
        max_tokens: how many words are read.
        dropout: in the embeddings and MLPs of the transformer branch.

    Attributes:
        channels, strides: of the maps, fine to coarse.
    """

    takes_text = True
    strides = (1, 2, 4, 8, STRIDE)

    def __init__(self, text_dim: int, *, width: int, max_tokens: int, dropout: float) -> None:
        super().__init__()
        self.channels = (width, 2 * width, 4 * width, 8 * width, 8 * width)
        widths = self.channels[:4]
        self.normalize = Normalize()
        self.stem = conv_bn_relu(3, width)
        self.down = nn.ModuleList(map(DownStep, self.channels[:-1], self.channels[1:]))
        self.words = WordsToTokens(text_dim, widths[::-1], max_tokens)
        self.embed = nn.ModuleList(
            PatchEmbedding(c, STRIDE // s, dropout)
            for c, s in zip(widths, self.strides[:4], strict=True)
        )
        self.down_blocks = nn.ModuleList(TransformerBlock(c, dropout) for c in widths)
        self.down_convs = nn.ModuleList(TokenConv(c, c // 2) for c in widths[1:])
        self.up_blocks = nn.ModuleList(TransformerBlock(c, dropout) for c in widths)
        self.up_convs = nn.ModuleList(TokenConv(2 * c, c) for c in widths[:3])
        self.to_maps = nn.ModuleList(conv_bn_relu(c, c, kernel=1) for c in widths)

    @property
    def blocks(self) -> list[nn.Module]:
        """Parts that `textseg.training.GradientCheckpointing` computes again."""
        return [self.stem, *self.down, *self.down_blocks, *self.up_blocks]

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """None: this encoder starts from random weights."""
        return []

    def forward(self, image: Tensor, text: TextFeatures) -> list[Tensor]:
        """[B, 3, H, W] in [0, 1] and the encoded captions -> five maps [B, C_i, H/s_i, W/s_i].

        Raises:
            UserError: H or W is no multiple of 16.
        """
        check_image_size(image.shape[-2:], STRIDE, "LViT")
        maps = [self.stem(self.normalize(image))]
        for step in self.down:
            maps.append(step(maps[-1]))
        grid = maps[-1].shape[-2:]
        added = self.words(text.tokens, text.mask, grid)
        for i, tokens in enumerate(self._tokens(maps[:4], added)):
            read = self.to_maps[i](to_map(tokens, *grid))  # [B, C_i, H/16, W/16]
            maps[i] = maps[i] + F.interpolate(read, maps[i].shape[-2:])  # nearest
        return maps

    def _tokens(self, maps: Sequence[Tensor], added: Tensor) -> list[Tensor]:
        """The transformer branch: x_1..x_4 and T [B, N, w] -> y_1..y_4 [B, N, C_i]."""
        tokens = [self.down_blocks[0](self.embed[0](maps[0]) + added)]
        for i, conv in enumerate(self.down_convs, 1):
            narrow = conv(self.down_blocks[i](self.embed[i](maps[i])))  # [B, N, C_i / 2]
            tokens.append(torch.cat([narrow, tokens[-1]], dim=2))
        tokens = [block(y) for block, y in zip(self.up_blocks, tokens, strict=True)]
        for i in (2, 1, 0):
            tokens[i] = tokens[i] + self.up_convs[i](tokens[i + 1])
        return tokens


class PixelLevelAttention(nn.Module):
    """PLAM(x) = MLP([a; m; a + m]) * x, a and m mean and maximum of ReLU'd 1x1 maps of x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_mean = nn.Conv2d(channels, channels, 1, bias=False)  # W_a
        self.to_maximum = nn.Conv2d(channels, channels, 1, bias=False)  # W_m
        self.mlp = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same."""
        return self.factor(x) * x

    def factor(self, x: Tensor) -> Tensor:
        """What each pixel is multiplied by: [B, 1, H, W]."""
        mean = F.relu(self.to_mean(x)).mean(1, keepdim=True)
        maximum = F.relu(self.to_maximum(x)).amax(1, keepdim=True)
        return self.mlp(torch.cat([mean, maximum, mean + maximum], dim=1))


class UpStep(nn.Module):
    """Upsample x2, concatenate the skip after pixel-level attention, two 3x3 conv-BN-ReLU."""

    def __init__(self, coarse: int, fine: int, outputs: int) -> None:
        super().__init__()
        self.attention = PixelLevelAttention(fine)
        self.convolutions = nn.Sequential(
            conv_bn_relu(fine + coarse, outputs), conv_bn_relu(outputs, outputs)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, coarse, h, w] and [B, fine, 2h, 2w] -> [B, outputs, 2h, 2w]."""
        upsampled = F.interpolate(x, skip.shape[-2:])  # nearest
        return self.convolutions(torch.cat([self.attention(skip), upsampled], dim=1))


class LViT(TextImageBackboneMixin, SegmentationModule):
    """Language meets Vision Transformer (arXiv 2206.14718), rebuilt from its paper and code.

    Its image encoder is its own, from scratch: there are no published weights to give it.

    Args:
        text_encoder: hub name or local folder of a BERT, or "scratch" for a small one trained along
            with the network.
        pretrained: load the text encoder's published weights.
        freeze_text: keep the text encoder fixed; by default if and only if it is pretrained.
        max_tokens: length of every caption in tokens, special ones included. The network has
            weights for each, so that one trained with 32 cannot be used with more.
        width: channels at full size, a multiple of 8; at a coarser scale up to eight times as many.
        dropout: in the embeddings and MLPs of the transformer branch.
    """

    def __init__(
        self,
        text_encoder: str = "google-bert/bert-base-uncased",
        *,
        pretrained: bool = True,
        freeze_text: bool | None = None,
        max_tokens: int = 32,
        width: int = 64,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if width < HEADS or width % HEADS:
            raise UserError(
                f"width={width} is no multiple of {HEADS}, the attention heads", "64 is the paper's"
            )
        if not 0 <= dropout < 1:
            raise UserError(f"dropout={dropout} is not in [0, 1)", "0.1 is the paper's")
        self.build_backbone(
            lambda text_dim: LViTEncoder(
                text_dim, width=width, max_tokens=max_tokens, dropout=dropout
            ),
            text_encoder,
            pretrained=pretrained,
            freeze=freeze_text,
            max_tokens=max_tokens,
        )
        fine = self.image_encoder.channels[3::-1]  # 8w, 4w, 2w, w
        outputs = (4 * width, 2 * width, width, width)
        coarse = (8 * width, *outputs[:-1])
        self.decoder = nn.ModuleList(map(UpStep, coarse, fine, outputs))
        self.head = nn.Conv2d(width, 1, 1)
        self.to(memory_format=torch.channels_last)

    @property
    def blocks(self) -> list[nn.Module]:
        """Parts that `textseg.training.GradientCheckpointing` computes again."""
        return list(self.decoder)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """The tensor part: what compile, export, benchmark and explanations act on."""
        features = self.encode_image(image, text=text)  # x_1..x_5
        x = features[-1]
        for step, skip in zip(self.decoder, features[-2::-1], strict=True):
            x = step(x, skip)
        return SegmentationOutput(self.head(x), self.auxiliary_logits(features))

    def explanation_maps(
        self, image: Tensor, text: TextFeatures, words: Tensor
    ) -> dict[str, Tensor]:
        """What `words` [B, L] add to the tokens, and the factors of the pixel-level attention.

        ``stage1.words`` [B, H/16, W/16] is the mean over channels of |T - T without `words`|;
        ``stage<i>.gate`` [B, H/s_i, W/s_i] is what each pixel of skip i is multiplied by, which may
        be below 0.
        """
        steps = {f"stage{4 - i}.gate": step.attention for i, step in enumerate(self.decoder)}
        modules: dict[str, Any] = {**steps, "words": self.image_encoder.words}
        with record_inputs(modules) as inputs:
            self.forward_features(image, text)
        tokens, mask, size = inputs.pop("words")
        added, without = (self.image_encoder.words(tokens, m, size) for m in (mask, mask & ~words))
        maps = {"stage1.words": (added - without).abs().mean(2).unflatten(1, size)}
        gates = {name: modules[name].factor(*x)[:, 0] for name, x in inputs.items()}
        return maps | {name: gates[name] for name in sorted(gates)}
