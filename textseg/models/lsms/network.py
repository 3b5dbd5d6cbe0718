"""LSMS whole: encoder, decoder, the paper's contrastive term, and the LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.backbone import TextImageBackboneMixin
from textseg.batch import Batch, SegmentationOutput, TextFeatures
from textseg.errors import UserError
from textseg.explain import recorded
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
    """z_t and z_j of L_con, with its learnable temperature and bias."""

    def __init__(self, text_dim: int, dim: int, width: int = 128) -> None:
        super().__init__()
        self.text = nn.Linear(text_dim, width)
        self.pixel = nn.Conv2d(dim, width, 1)
        self.log_temperature = nn.Parameter(torch.tensor(0.07).log())
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, text: TextFeatures, decoded: Tensor) -> dict[str, Tensor]:
        return {
            "text": self.text(text.pooled),  # [B, width]
            "pixel": self.pixel(decoded),  # [B, width, H/8, W/8]
            "log_temperature": self.log_temperature,
            "bias": self.bias,
        }


class NoContrast(nn.Module):
    """Stands in for `TextToPixelContrast` where L_con has no weight: nothing built or computed."""

    def forward(self, text: TextFeatures, decoded: Tensor) -> dict[str, Tensor]:
        return {}


class LSMS(TextImageBackboneMixin, SegmentationModule):
    """Language-guided Scale-aware MedSegmentor (arXiv 2408.17347), rebuilt from its description.

    Args:
        image_encoder: size of the language-guided encoder: mscan_tiny, mscan_small or mscan_base.
        text_encoder: hub name or local folder of a BERT, or "scratch" for a small one trained along
            with the network. Not built when language_branch is "none".
        pretrained: load the text encoder's published weights.
        freeze_text: keep the text encoder fixed; by default if and only if it is pretrained.
        max_tokens: length of every caption in tokens, special ones included.
        language_branch: one query of the words for all scales ("shared"), one for each scale
            ("per_scale"), or image-only mode ("none").
        strips: lengths of the strip kernels, out of 7, 11 and 21.
        drop_path: stochastic depth of the deepest block.
        layer_scale: initial weight of every residual branch; 0.1 helps short runs from scratch.
        image_weights: local file of SegNeXt's published MSCAN weights.
        full_scale_decoder: the paper's decoder; false is the ablation, a plain top-down sum.
        decoder_stages: encoder stages the decoder reads; 1 adds boundaries.
        decoder_stride: pixels per cell of the decoder's grid, 4 or 8.
        decoder_dim: width of the decoder's map.
        decoder_reduction: side of the cells whose mean the decoder's self-attention reads as one
            key: 1 or 2. Checkpoints that do not name it were trained with 1.
        contrastive_weight: weight of the text-to-pixel contrastive loss; 0 builds no such part.
        lr: peak learning rate of AdamW.
        weight_decay: of weights with two or more dimensions.
        pretrained_lr_scale: learning rate of pretrained parts over lr.
        schedule: course of the learning rate after the warm-up.
        warmup: share of all steps over which the learning rate rises.
        protocol: how test masks are scored; "lvit" reproduces LViT's test and nothing else.
    """

    EARLIER: ClassVar = {"decoder_reduction": 1}

    def __init__(
        self,
        image_encoder: Literal["mscan_tiny", "mscan_small", "mscan_base"] = "mscan_small",
        text_encoder: str = "microsoft/BiomedVLP-CXR-BERT-specialized",
        *,
        pretrained: bool = True,
        freeze_text: bool | None = None,
        max_tokens: int = 32,
        language_branch: LanguageBranch = "shared",
        strips: tuple[int, ...] = STRIPS,
        drop_path: float = 0.1,
        layer_scale: float = 1e-2,
        image_weights: str | None = None,
        full_scale_decoder: bool = True,
        decoder_stages: tuple[int, ...] = (2, 3, 4),
        decoder_stride: Literal[4, 8] = 8,
        decoder_dim: int = 256,
        decoder_reduction: Literal[1, 2] = 2,
        contrastive_weight: float = 0.1,
        lr: float = 6e-4,
        weight_decay: float = 0.05,
        pretrained_lr_scale: float = 0.1,
        schedule: Literal["poly", "cosine", "constant"] = "poly",
        warmup: float = 0.05,
        protocol: Literal["standard", "lvit"] = "standard",
    ) -> None:
        super().__init__(
            lr=lr,
            weight_decay=weight_decay,
            pretrained_lr_scale=pretrained_lr_scale,
            schedule=schedule,
            warmup=warmup,
            protocol=protocol,
        )
        self.save_hyperparameters(logger=False)
        _check_names(image_encoder, language_branch)
        _check_lists(strips, decoder_stages)
        _check_numbers(decoder_stride, decoder_dim, decoder_reduction, drop_path)
        _check_contrast(contrastive_weight, language_branch)
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
        grid: dict[str, Any] = {"stages": decoder_stages, "stride": decoder_stride}
        channels, strides = self.image_encoder.channels, self.image_encoder.strides
        self.decoder: nn.Module
        if full_scale_decoder:
            self.decoder = FullScaleDecoder(
                channels, strides, dim=decoder_dim, reduction=decoder_reduction, **grid
            )
        else:
            self.decoder = TopDownDecoder(channels, strides, dim=decoder_dim, **grid)
        self.head = nn.Conv2d(decoder_dim, 1, 1)
        self.contrastive_weight = contrastive_weight
        self.contrast = (
            TextToPixelContrast(self.text_encoder.dim, decoder_dim)
            if contrastive_weight
            else NoContrast()
        )
        self.to(memory_format=torch.channels_last)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """The tensor part: what compile, export, benchmark and explanations act on."""
        features = self.encode_image(image, text=text)  # F_1..F_4
        decoded = self.decoder(features, image.shape[-2:])  # [B, dim, H/8, W/8]
        logits = F.interpolate(
            self.head(decoded), size=image.shape[-2:], mode="bilinear", align_corners=False
        )
        return SegmentationOutput(logits, self.contrast(text, decoded))

    def explanation_maps(
        self, image: Tensor, text: TextFeatures, words: Tensor
    ) -> dict[str, Tensor]:
        """How the last SVLA of each stage reads: raw maps [B, H/s_i, W/s_i], means over its looks.

        ``stage<i>.attention``: weight of `words` among all words at a position, mean over heads;
        ``stage<i>.gate``: size of what the language branch adds there, |A_L|, mean over channels.
        """
        stages = self.image_encoder.last_language_attention()
        looks = {f"{i}.{n}": look for i in stages for n, look in enumerate(stages[i])}
        with recorded(looks) as seen:
            self.encode_image(image, text=text)
        maps = {}
        for stage in stages:
            calls = [(looks[name], seen[name]) for name in looks if name.startswith(f"{stage}.")]
            weights = torch.stack([look.weights(*x).mean(1) for look, x in calls])  # [., B, N, L]
            answers = torch.stack([look(*x).abs().mean(1) for look, x in calls])  # [., B, h, w]
            on_words = (weights.mean(0) * words[:, None]).sum(-1)  # [B, N]
            maps[f"{stage}.attention"] = on_words.view_as(answers[0])
            maps[f"{stage}.gate"] = answers.mean(0)
        return maps

    def compute_loss(self, output: SegmentationOutput, batch: Batch) -> dict[str, Tensor]:
        """L = L_seg + contrastive_weight * L_con."""
        losses = super().compute_loss(output, batch)
        if not self.contrastive_weight:
            return losses
        aux = output.aux
        contrastive = text_to_pixel_contrastive_loss(
            aux["text"], aux["pixel"], batch["mask"], aux["log_temperature"], aux["bias"]
        )
        total = losses["loss"] + self.contrastive_weight * contrastive
        return {**losses, "loss_con": contrastive, "loss": total}


def _check_names(image_encoder: str, language_branch: str) -> None:
    if image_encoder not in VARIANTS:
        raise UserError(
            f"image_encoder={image_encoder!r} is no variant of LSMS", f"choose of {list(VARIANTS)}"
        )
    if language_branch not in get_args(LanguageBranch):
        raise UserError(
            f"language_branch={language_branch!r} is unknown",
            f"choose of {list(get_args(LanguageBranch))}",
        )


def _check_lists(strips: Sequence[int], decoder_stages: Sequence[int]) -> None:
    if not set(strips) <= set(STRIPS) or len(set(strips)) < len(strips):
        raise UserError(
            f"strips={list(strips)} names others than 7, 11, 21, or one twice",
            "give each length once, for example [7, 11]",
        )
    stages = set(decoder_stages)
    if not {4} <= stages <= {1, 2, 3, 4} or len(stages) < len(decoder_stages):
        raise UserError(
            f"decoder_stages={list(decoder_stages)} lacks 4, names others than 1..4, or one twice",
            "the deepest stage is always read: give for example [2, 3, 4]",
        )


def _check_numbers(
    decoder_stride: int, decoder_dim: int, decoder_reduction: int, drop_path: float
) -> None:
    if decoder_reduction not in (1, 2):
        raise UserError(
            f"decoder_reduction={decoder_reduction} is neither 1 nor 2", "give one of these"
        )
    if decoder_stride not in (4, 8):
        raise UserError(f"decoder_stride={decoder_stride} is neither 4 nor 8", "give one of these")
    if decoder_dim < 32 or decoder_dim % 32:
        raise UserError(
            f"decoder_dim={decoder_dim} is no multiple of 32, the width of an attention head",
            "give for example 128 or 256",
        )
    if not 0 <= drop_path < 1:
        raise UserError(f"drop_path={drop_path} is not in [0, 1)", "0.1 is usual, 0 for short runs")


def _check_contrast(contrastive_weight: float, language_branch: str) -> None:
    if contrastive_weight < 0:
        raise UserError(
            f"contrastive_weight={contrastive_weight} is negative", "give 0 or more; 0.1 is usual"
        )
    if language_branch == "none" and contrastive_weight:
        raise UserError(
            f"contrastive_weight={contrastive_weight} needs words, but language_branch is 'none'",
            "set contrastive_weight: 0 for an image-only run",
        )
