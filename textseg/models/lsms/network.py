"""The LSMS network: encoder, decoder and the paper's contrastive loss."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from textseg.backbone import TextImageBackboneMixin
from textseg.batch import Batch, SegmentationOutput, TextFeatures
from textseg.errors import UserError, check_at_least, check_choice, check_choices
from textseg.explain import record_inputs
from textseg.layers import resize_map
from textseg.losses import text_to_pixel_contrastive_loss
from textseg.models.base import SegmentationModule
from textseg.models.lsms.decoder import FullScaleDecoder, TopDownDecoder
from textseg.models.lsms.encoder import (
    STRIPS,
    VARIANTS,
    LanguageBranch,
    LanguageGuidedVisionEncoder,
)


class TextToPixelContrast(nn.Module):
    """Projections z_t of the text and z_j of the pixels for L_con, its temperature and its bias.

    Args:
        text_dim: width D of the pooled text.
        dim: channels of the decoder's map.
        width: of the projections.
    """

    def __init__(self, text_dim: int, dim: int, width: int = 128) -> None:
        super().__init__()
        self.text = nn.Linear(text_dim, width)
        self.pixel = nn.Conv2d(dim, width, 1)
        self.log_temperature = nn.Parameter(torch.tensor(0.07).log())
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, text: TextFeatures, decoded: Tensor) -> dict[str, Tensor]:
        """Arguments of `text_to_pixel_contrastive_loss`; `decoded` is [B, dim, h, w]."""
        return {
            "text": self.text(text.pooled),  # [B, width]
            "pixel": self.pixel(decoded),  # [B, width, h, w]
            "log_temperature": self.log_temperature,
            "bias": self.bias,
        }


class LSMS(TextImageBackboneMixin, SegmentationModule):
    """Language-guided Scale-aware MedSegmentor (arXiv 2408.17347), rebuilt from its description.

    Args:
        image_encoder: size of the language-guided encoder: mscan_tiny, mscan_small or mscan_base.
        text_encoder: hub name or local folder of a BERT, or "scratch" for a small one trained along
            with the network. Not built when language_branch is "none".
        pretrained: load the text encoder's published weights.
        freeze_text: keep the text encoder fixed; by default if and only if it is pretrained.
        max_tokens: length of every caption in tokens, special ones included.
        language_branch: which maps of a block attend to the text: those of all its receptive
            fields ("per_scale"), the first alone ("shared"), or none, in image-only mode ("none").
        strips: lengths of the strip kernels, out of 7, 11 and 21.
        drop_path: stochastic depth of the deepest block.
        layer_scale: initial weight of every residual branch, from scratch; null is 0.01. Not to
            be given beside `image_weights`, whose file has its own.
        image_weights: local file of SegNeXt's published MSCAN weights, or of OpenMMLab's copy of
            them; null is an image encoder from scratch. Over them the text has no effect at the
            first step, and learns to have one.
        full_scale_decoder: the paper's decoder; false is the ablation, a plain top-down sum.
        decoder_stages: encoder stages the decoder reads; 1 adds boundaries.
        decoder_stride: pixels per cell of the decoder's grid, on which the logits lie, 4 or 8; 8
            draws small lesions worse.
        decoder_dim: width of the decoder's map; 256 makes a step a tenth longer.
        decoder_reduction: side of the cells whose mean the decoder's self-attention reads as one
            key: 1 or 2.
        contrastive_weight: weight of the text-to-pixel contrastive loss; 0 builds no such part.
        lr: peak learning rate of AdamW.
    """

    def __init__(
        self,
        image_encoder: Literal["mscan_tiny", "mscan_small", "mscan_base"] = "mscan_small",
        text_encoder: str = "google-bert/bert-base-uncased",
        *,
        pretrained: bool = True,
        freeze_text: bool | None = None,
        max_tokens: int = 32,
        language_branch: LanguageBranch = "per_scale",
        strips: tuple[int, ...] = STRIPS,
        drop_path: float = 0.1,
        layer_scale: float | None = None,
        image_weights: str | None = None,
        full_scale_decoder: bool = True,
        decoder_stages: tuple[int, ...] = (1, 2, 3, 4),
        decoder_stride: Literal[4, 8] = 4,
        decoder_dim: int = 128,
        decoder_reduction: Literal[1, 2] = 2,
        contrastive_weight: float = 0.1,
        lr: float = 6e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, **kwargs)
        check_choice("image_encoder", image_encoder, VARIANTS)
        check_choice("language_branch", language_branch, LanguageBranch)
        check_choice("decoder_stride", decoder_stride, (4, 8))
        check_choice("decoder_reduction", decoder_reduction, (1, 2))
        check_choices("strips", strips, STRIPS)
        check_choices("decoder_stages", decoder_stages, (1, 2, 3, 4))
        check_at_least("contrastive_weight", contrastive_weight, 0, "0.1 is usual; 0 is none")
        check_at_least("layer_scale", layer_scale or 0.0, 0, "0.01 is MSCAN's; null is that")
        if 4 not in decoder_stages:
            raise UserError(
                f"decoder_stages={list(decoder_stages)} lacks 4",
                "the deepest stage is always read: give for example [2, 3, 4]",
            )
        if decoder_dim < 32 or decoder_dim % 32:
            raise UserError(
                f"decoder_dim={decoder_dim} is no multiple of 32, the width of an attention head",
                "give for example 128 or 256",
            )
        if not 0 <= drop_path < 1:
            raise UserError(
                f"drop_path={drop_path} is not in [0, 1)", "0.1 is usual, 0 for short runs"
            )
        if language_branch == "none" and contrastive_weight:
            raise UserError(
                f"contrastive_weight={contrastive_weight} needs text, but language_branch is "
                "'none'",
                "set contrastive_weight: 0 for an image-only run",
            )
        if image_weights is not None and layer_scale is not None:
            raise UserError(
                f"layer_scale={layer_scale} stands beside image_weights={image_weights!r}, whose "
                "file has layer scales of its own",
                "leave out one of the two (null)",
            )
        self.build_backbone(
            lambda text_dim: LanguageGuidedVisionEncoder(
                image_encoder,
                text_dim=text_dim,
                language_branch=language_branch,
                strips=strips,
                drop_path=drop_path,
                layer_scale=layer_scale,
                weights=image_weights,
            ),
            None if language_branch == "none" else text_encoder,
            pretrained=pretrained,
            freeze=freeze_text,
            max_tokens=max_tokens,
        )
        build_decoder = (
            partial(FullScaleDecoder, reduction=decoder_reduction)
            if full_scale_decoder
            else TopDownDecoder
        )
        self.decoder: nn.Module = build_decoder(
            self.image_encoder.channels,
            self.image_encoder.strides,
            stages=decoder_stages,
            stride=decoder_stride,
            dim=decoder_dim,
        )
        self.head = nn.Conv2d(decoder_dim, 1, 1)
        self.contrastive_weight = contrastive_weight
        if contrastive_weight:
            self.contrast = TextToPixelContrast(self.text_encoder.dim, decoder_dim)
        self.to(memory_format=torch.channels_last)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """The tensor part: what compile, export, benchmark and explanations act on."""
        features = self.encode_image(image, text=text)  # F_1..F_4
        decoded = self.decoder(features, image.shape[-2:])  # [B, dim, H/s, W/s]
        logits = resize_map(self.head(decoded), image.shape[-2:])
        aux = self.contrast(text, decoded) if self.contrastive_weight else {}
        return SegmentationOutput(logits, {**aux, **self.auxiliary_logits(features)})

    def explanation_maps(
        self, image: Tensor, text: TextFeatures, words: Tensor
    ) -> dict[str, Tensor]:
        """Maps [B, H/s_i, W/s_i] of each stage's last SVLA.

        ``stage<i>.attention`` is the share of a position's attention that `words` get, mean over
        heads, those of all scales; ``stage<i>.gate`` is the size of what the words add, mean over
        channels of |A_L|.
        """
        attentions = self.image_encoder.last_language_attention()
        with record_inputs(attentions) as inputs:
            self.encode_image(image, text=text)
        maps = {}
        for name, attention in attentions.items():
            written = attention(*inputs[name]).abs().mean(1)  # [B, h, w]
            weights = attention.weights(*inputs[name]).mean(1)  # [B, N, L]
            share = (weights * words[:, None]).sum(-1)
            maps[f"{name}.attention"] = share.view_as(written)
            maps[f"{name}.gate"] = written
        return maps

    def compute_loss(self, output: SegmentationOutput, batch: Batch) -> dict[str, Tensor]:
        """L = L_seg + contrastive_weight * L_con."""
        losses = super().compute_loss(output, batch)
        if not self.contrastive_weight:
            return losses
        aux = output.aux
        contrastive = text_to_pixel_contrastive_loss(
            aux["text"],
            aux["pixel"],
            batch["mask"],
            aux["log_temperature"],
            aux["bias"],
            batch["caption_id"],
        )
        total = losses["loss"] + self.contrastive_weight * contrastive
        return {**losses, "loss_con": contrastive, "loss": total}
