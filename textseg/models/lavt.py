"""LAVT: Language-Aware Vision Transformer (Yang et al., CVPR 2022, arXiv 2112.02244).

A reconstruction from a digest of its formulas and settings; neither the full text nor the public
code was read, so differences are to be expected.

From the digest:
  * image and text are fused inside the encoder: after each stage i of a Swin transformer,
    pixel-word attention of its positions V_i to the BERT tokens L gives the joint feature F_i:
    V_q = IN(W_q V_i), G_i = softmax(V_q K^T / sqrt(C_i), masked over tokens) Val,
    G_i = IN(W_w G_i), V_m = ReLU(W_m V_i), F_i = ReLU(W_o (V_m * G_i)); keys K and values Val are
    linear maps of L, IN is the instance norm over positions, all maps are 1x1, one head;
  * the language gate S_i = tanh(MLP(F_i)), two bias-free maps with a ReLU between; stage i + 1
    reads E_i = V_i + S_i * F_i. The last stage has no successor, hence no gate;
  * the decoder reads F_i: Y_4 = F_4, Y_i = two 3x3 conv-BN-ReLU of [upsample(Y_{i+1}); F_i], and a
    1x1 head on Y_1, bilinear to the input;
  * loss: the pixels' cross-entropy over two classes (`segmentation_loss: {bce: 1.0}`). On the one
    logit z = z_lesion - z_background that we keep it is the binary cross-entropy, number by number:
    softmax(z_background, z_lesion) is sigmoid(z);
  * its setting: swin_base_patch4_window12_384 at 480 x 480 (`image_encoder_options:
    {img_size: 480}`, or the last stage's windows are not shifted), 20 tokens, BERT fine-tuned, lr
    5e-5 for all parts (`text_lr_scale: 1`), weight decay 1e-2, polynomial decay of power 0.9,
    40 epochs.

Our choice:
  * no bias where it cancels: before an instance norm, in K (softmax) and in Val (instance norm);
  * W_w acts on the values of the tokens, not on their sums at the positions: the same by linearity,
    for 32 tokens instead of thousands of positions. Softmax, sum and second norm run in fp32: the
    norm magnifies differences between positions that bf16 would round away;
  * any timm encoder whose stages can be run one by one; Swin-T, 32 tokens, the suite's Dice + BCE,
    learning rates and warm-up by default, for equal terms with the other networks;
  * not in the paper, and off: `position_code` adds a learned map of a 2-D position embedding to the
    queries, V_q = IN(W_q V_i) + W_p P, because captions name positions ("upper left") and Swin has
    no absolute ones; `freeze_text` keeps BERT as it is. With either, a row of results is no longer
    LAVT's and should say so.

Shapes: image [B, 3, H, W], H and W multiples of 32 and at least 64 (an instance norm needs more
than one position); tokens L [B, L, D]; V_i, F_i, S_i, E_i [B, C_i, H/s_i, W/s_i] with strides
s = 4, 8, 16, 32; N = H/s_i * W/s_i positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from textseg.batch import SegmentationOutput, TextFeatures
from textseg.encoders import check_image_size
from textseg.explain import record_inputs
from textseg.layers import (
    UNetDecoder,
    attention_weights,
    resize_map,
    sincos_position_embedding_2d,
)
from textseg.models.pyramid import PyramidNetwork

POSITION_DIM = 64


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class PixelQueries(nn.Module):
    """V_q = IN(W_q V_i), zero mean and unit variance of each channel over the positions.

    With `position_code` W_p P is added, P the sine-cosine embedding of both coordinates.
    """

    def __init__(self, channels: int, *, position_code: bool) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.InstanceNorm1d(channels)
        self.position_embedding = (  # W_p
            nn.Linear(POSITION_DIM, channels, bias=False) if position_code else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, N, C]."""
        query = self.norm(self.project(x).flatten(2)).transpose(1, 2)
        if self.position_embedding is None:
            return query
        position = sincos_position_embedding_2d(x.shape[-2], x.shape[-1], POSITION_DIM, x)
        return query + self.position_embedding(position)  # [1, N, C]


class PixelWordAttention(nn.Module):
    """F_i = ReLU(W_o (ReLU(W_m V_i) * IN(W_w softmax(V_q K^T / sqrt(C)) Val))).

    Args:
        channels: width C of the stage.
        text_dim: width D of the text tokens.
        position_code: add the position embedding to the queries.
    """

    def __init__(self, channels: int, text_dim: int, *, position_code: bool) -> None:
        super().__init__()
        self.to_query = PixelQueries(channels, position_code=position_code)
        self.to_key = nn.Linear(text_dim, channels, bias=False)
        self.to_value = nn.Linear(text_dim, channels, bias=False)
        self.to_language = nn.Linear(channels, channels, bias=False)  # W_w
        self.norm = nn.InstanceNorm1d(channels)
        self.to_vision = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU())  # W_m
        self.to_joint = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU())  # W_o

    def forward(self, x: Tensor, text: TextFeatures) -> Tensor:
        """V_i [B, C, H, W] and the encoded caption -> F_i [B, C, H, W]."""
        weights = self.weights(x, text)  # [B, N, L]
        values = self.to_language(self.to_value(text.tokens))  # [B, L, C]
        with torch.autocast(x.device.type, enabled=False):
            attended = (weights @ values.to(weights.dtype)).transpose(1, 2)  # [B, C, N]
            language = self.norm(attended).unflatten(2, x.shape[-2:])  # G_i [B, C, H, W]
        return self.to_joint((self.to_vision(x) * language).to(x.dtype))

    def weights(self, x: Tensor, text: TextFeatures) -> Tensor:
        """Attention of each position to the tokens: [B, N, L], rows sum to 1, padding is 0."""
        query, key = self.to_query(x), self.to_key(text.tokens)  # [B, N, C], [B, L, C]
        with torch.autocast(x.device.type, enabled=False):
            return attention_weights(
                _at_least_fp32(query), _at_least_fp32(key), text.mask[:, None, :]
            )


class LanguageGate(nn.Module):
    """E_i = V_i + S_i * F_i with S_i = tanh(W_2 ReLU(W_1 F_i))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )

    def forward(self, x: Tensor, joint: Tensor) -> Tensor:
        """V_i and F_i [B, C, H, W] -> E_i [B, C, H, W]."""
        return x + self.gated(joint)

    def gated(self, joint: Tensor) -> Tensor:
        """S_i * F_i, which is added to the next stage's input: [B, C, H, W]."""
        return torch.tanh(self.mlp(joint)) * joint


class LAVT(PyramidNetwork):
    """Language-Aware Vision Transformer (arXiv 2112.02244), rebuilt from its description.

    The paper's loss is ``segmentation_loss: {bce: 1.0}``; by default it is every network's.

    Args:
        image_encoder: timm name of an encoder whose stages can be run one by one; the paper's is
            swin_base_patch4_window12_384.
        text_encoder: hub name or local folder of a BERT, or "scratch" for a small one trained along
            with the network.
        freeze_text: keep the text encoder fixed, which the paper does not; null if and only if it
            is pretrained.
        position_code: add a position embedding to the queries of the pixels, which the paper does
            not.
    """

    def __init__(
        self,
        image_encoder: str = "swin_tiny_patch4_window7_224",
        text_encoder: str = "google-bert/bert-base-uncased",
        *,
        freeze_text: bool | None = False,
        position_code: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            freeze_text=freeze_text,
            **kwargs,
        )
        self.image_encoder.check_steppable()
        channels = self.image_encoder.channels
        self.attention = nn.ModuleList(
            PixelWordAttention(width, self.text_encoder.dim, position_code=position_code)
            for width in channels
        )
        self.gate = nn.ModuleList(LanguageGate(width) for width in channels[:-1])
        self.decoder = UNetDecoder(channels)
        self.head = nn.Conv2d(channels[0], 1, 1)
        self.to(memory_format=torch.channels_last)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """The tensor part: what compile, export, benchmark and explanations act on."""
        # An instance norm needs more than one position.
        stride, name = self.image_encoder.strides[-1], self.image_encoder.name
        check_image_size(image.shape[-2:], stride, f"image_encoder={name!r}", positions=2)
        joint: list[Tensor] = []  # F_1..F_4

        def fuse(i: int, x: Tensor) -> Tensor:
            """V_i -> E_i; F_i is kept for the decoder."""
            joint.append(self.attention[i](x, text))
            return self.gate[i](x, joint[i]) if i < len(self.gate) else x

        self.encode_image(image, fuse)
        decoded = self.decoder(joint)  # Y_1 [B, C_1, H/4, W/4]
        logits = resize_map(self.head(decoded), image.shape[-2:])
        return SegmentationOutput(logits, self.auxiliary_logits(joint))

    def explanation_maps(
        self, image: Tensor, text: TextFeatures, words: Tensor
    ) -> dict[str, Tensor]:
        """Maps of the attention, and of the gates at all stages but the last.

        ``stage<i>.attention`` is the share of a position's attention that `words` [B, L] get;
        ``stage<i>.gate`` is the mean over channels of |S_i * F_i|.
        """
        attentions: dict[str, Any] = {
            f"stage{i}.attention": module for i, module in enumerate(self.attention, 1)
        }
        gates: dict[str, Any] = {f"stage{i}.gate": m for i, m in enumerate(self.gate, 1)}
        with record_inputs({**attentions, **gates}) as inputs:
            self.forward_features(image, text)
        maps: dict[str, Tensor] = {}
        for name, attention in attentions.items():
            weights = attention.weights(*inputs[name])  # [B, N, L]
            share = (weights * words[:, None, :]).sum(-1)  # [B, N]
            maps[name] = share.unflatten(1, inputs[name][0].shape[-2:])  # [B, h, w]
        for name, gate in gates.items():
            maps[name] = gate.gated(inputs[name][1]).abs().mean(1)  # [B, h, w]
        return maps
