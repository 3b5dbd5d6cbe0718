"""TMCA as a network: aligned and enhanced levels, the decoder and the settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.batch import Batch, SegmentationOutput, TextFeatures
from textseg.encoders import STRIDES, check_strides
from textseg.errors import UserError, check_at_least, check_choice, check_choices
from textseg.explain import record_inputs
from textseg.layers import SubPixelHead, UpBlock, conv_bn, pool_regions
from textseg.losses import all_gather_with_grad, contrastive_targets
from textseg.models.pyramid import PyramidNetwork
from textseg.models.tmca.alignment import Shared, SharedEmbedding, level_alignment_loss
from textseg.models.tmca.enhancement import LanguageGuidedTargetEnhancement

Alignment = Literal["target", "global", "none"]
LEVELS = (1, 2, 3, 4)


# --- decoder


class ResidualBlock(nn.Module):
    """Two 3x3 conv-BN and a 1x1 conv-BN as shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn(inputs, outputs), nn.ReLU(inplace=True), *conv_bn(outputs, outputs)
        )
        self.shortcut = nn.Sequential(*conv_bn(inputs, outputs, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D, H, W]."""
        return F.relu(self.body(x) + self.shortcut(x))


class ResidualDecoder(nn.Module):
    """Three up-steps to H/4 and a sub-pixel head.

    Args:
        channels: C_1..C_4.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            UpBlock(coarse, fine, ResidualBlock) for fine, coarse in pairwise(channels)
        )
        self.head = SubPixelHead(channels[0], STRIDES[0])

    @property
    def blocks(self) -> list[nn.Module]:
        """The residual blocks; see `textseg.training.GradientCheckpointing`."""
        return [step.block for step in self.steps]  # type: ignore[misc]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """F_1..F_4 -> logits [B, 1, H, W]."""
        x = features[-1]
        for step, skip in zip(reversed(self.steps), features[-2::-1], strict=True):
            x = step(x, skip)  # [B, C_l, H_l, W_l]
        return self.head(x)


# --- the network


class TMCA(PyramidNetwork):
    """Target-informed Multi-level Contrastive Alignments (arXiv 2412.13533), rebuilt from its text.

    Args:
        image_encoder: a timm network with feature maps at strides 4, 8, 16 and 32.
        text_encoder: hub name or local folder of a BERT, or "scratch" for a small one trained along
            with the network. Not built if neither alignment nor enhancement uses text.
        alignment: what a text is aligned with: the masked region, contrasted with its background
            ("target"), the whole image ("global"), or nothing ("none").
        alignment_levels: encoder levels that are aligned, 1 (finest) to 4; an empty list is none.
        alignment_dim: width of the embedding that text and pixels share.
        temperature: of the contrastive softmax.
        alignment_weight: weight of the alignment loss; 0 builds no such part.
        alignment_position: add a position embedding to the pixels that are aligned.
        enhancement_levels: encoder levels that are enhanced by the text; an empty list is none.
        enhancement_scale: initial weight of both residual branches of an enhancement. From 0.01 the
            words come late: 0.01 of dice less after 8 epochs of 640 images.
        enhancement_feeds_encoder: let the encoder's next stage read the enhanced level, not only
            the decoder. Levels 2 to 4 have then seen the words that they are aligned with.
    """

    def __init__(
        self,
        image_encoder: str = "convnext_tiny",
        text_encoder: str = "microsoft/BiomedVLP-CXR-BERT-specialized",
        *,
        alignment: Alignment = "target",
        alignment_levels: tuple[int, ...] = LEVELS,
        alignment_dim: int = 128,
        temperature: float = 0.1,
        alignment_weight: float = 0.1,
        alignment_position: bool = True,
        enhancement_levels: tuple[int, ...] = LEVELS,
        enhancement_scale: float = 0.5,
        enhancement_feeds_encoder: bool = False,
        **kwargs: Any,
    ) -> None:
        check_choice("alignment", alignment, Alignment)
        check_choices("alignment_levels", alignment_levels, LEVELS)
        check_choices("enhancement_levels", enhancement_levels, LEVELS)
        check_at_least("alignment_dim", alignment_dim, 1, "128 is usual")
        check_at_least("alignment_weight", alignment_weight, 0, "0.1 is usual; 0 is none")
        if not 0 < temperature < math.inf:
            raise UserError(
                f"temperature={temperature} is no finite number above 0", "0.1 is usual"
            )
        if not 0 < enhancement_scale < math.inf:
            raise UserError(
                f"enhancement_scale={enhancement_scale} is no finite number above 0",
                "0.5 is the default; for no enhancement give enhancement_levels: []",
            )
        builds_alignment = alignment != "none" and alignment_weight > 0
        aligned = tuple(sorted(alignment_levels)) if builds_alignment else ()
        text_levels = sorted({*aligned, *enhancement_levels})
        super().__init__(
            image_encoder=image_encoder,
            text_encoder=text_encoder if text_levels else None,
            **kwargs,
        )
        channels, text_dim = self.image_encoder.channels, self.text_encoder.dim
        check_strides(image_encoder, self.image_encoder.strides)
        if enhancement_feeds_encoder:
            self.image_encoder.check_steppable()
        self.embeddings, self.enhancement = nn.ModuleDict(), nn.ModuleDict()
        for n in text_levels:
            self.embeddings[_key(n)] = SharedEmbedding(
                channels[n - 1], text_dim, alignment_dim, position=alignment_position
            )
        for n in sorted(enhancement_levels):
            self.enhancement[_key(n)] = LanguageGuidedTargetEnhancement(
                channels[n - 1], alignment_dim, enhancement_scale
            )
        self.decoder = ResidualDecoder(channels)
        self.aligned = aligned
        self.alignment, self.temperature = alignment, temperature
        self.alignment_weight = alignment_weight
        self.enhancement_feeds_encoder = enhancement_feeds_encoder
        self.to(memory_format=torch.channels_last)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """The tensor part: what compile, export, benchmark and explanations act on."""
        shared: dict[str, Shared] = {}

        def enhance(i: int, feature: Tensor) -> Tensor:
            """F_l -> the enhanced F_l, l = i + 1."""
            n = _key(i + 1)
            if n in self.embeddings:
                shared[n] = self.embeddings[n](feature, text)
            if n in self.enhancement:
                feature = self.enhancement[n](feature, shared[n], text.mask)
            return feature

        if self.enhancement_feeds_encoder:
            features = self.encode_image(image, enhance)
        else:
            features = [enhance(i, feature) for i, feature in enumerate(self.encode_image(image))]
        pixels = {f"pixels_{n}": shared[_key(n)].pixels for n in self.aligned}  # p_l
        texts = {f"text_{n}": shared[_key(n)].text for n in self.aligned}  # t_l
        auxiliary = self.auxiliary_logits(features)
        return SegmentationOutput(self.decoder(features), {**pixels, **texts, **auxiliary})

    def compute_loss(self, output: SegmentationOutput, batch: Batch) -> dict[str, Tensor]:
        """L = L_seg + alignment_weight * L_align, L_align the mean over the aligned levels.

        `empty_masks` is the share of rows that the alignment leaves out.
        """
        losses = super().compute_loss(output, batch)
        if not self.aligned:
            return losses
        terms = self._alignment_terms(output.aux, batch)
        total = losses["loss"] + self.alignment_weight * terms["loss_align"]
        return {**losses, **terms, "loss": total}

    def _alignment_terms(self, aux: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        # Global alignment is that of a mask that covers the whole image: no row is empty, no row
        # has a background.
        mask = batch["mask"] if self.alignment == "target" else torch.ones_like(batch["mask"])
        with torch.autocast(mask.device.type, enabled=False):
            own = [
                torch.stack([*pool_regions(aux[f"pixels_{n}"], mask), aux[f"text_{n}"]], dim=1)
                for n in self.aligned
            ]  # each [B, 3, D]
            levels = all_gather_with_grad(torch.stack(own, dim=1)).unbind(1)  # each [N, 3, D]
            flags = [mask.flatten(1).amax(1) > 0, mask.flatten(1).amin(1) < 1]
            ids = torch.stack([batch["caption_id"], batch["image_id"], *(f.long() for f in flags)])
            gathered = all_gather_with_grad(ids.T).T
            caption_id, image_id, has_lesion, has_background = gathered  # each [N]
            targets = contrastive_targets(caption_id, image_id, has_lesion.bool())
            terms = [
                level_alignment_loss(vectors, targets, has_background.bool(), self.temperature)
                for vectors in levels
            ]
        return {
            **{f"loss_align_{n}": term for n, term in zip(self.aligned, terms, strict=True)},
            "loss_align": torch.stack(terms).mean(),
            "empty_masks": 1 - has_lesion.float().mean(),
        }

    def explanation_maps(
        self, image: Tensor, text: TextFeatures, words: Tensor
    ) -> dict[str, Tensor]:
        """Two maps [B, H_l, W_l] of each enhanced level.

        ``level1.gate`` is g_l, which depends on the whole text, whatever `words`;
        ``level1.attention`` is the share of a pixel's attention that `words` get, mean over heads.
        """
        modules = {
            f"{n}.{part}": getattr(block, part)
            for n, block in self.enhancement.items()
            for part in ("gate", "attention")
        }
        with record_inputs(modules) as inputs:
            self.forward_features(image, text)
        maps: dict[str, Tensor] = {}
        for n in self.enhancement:
            gate, attention = f"{n}.gate", f"{n}.attention"
            maps[gate] = modules[gate](*inputs[gate])[:, 0]
            weights = modules[attention].weights(*inputs[attention]).mean(1)  # [B, H_l W_l, L]
            share = (weights * words[:, None]).sum(-1)
            maps[attention] = share.unflatten(1, maps[gate].shape[1:])
        return maps


def _key(level: int) -> str:
    return f"level{level}"
