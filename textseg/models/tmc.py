"""TMC: Text-guided Multi-stage Cross-perception network (Chen and Pan, arXiv 2506.07475).

A reconstruction from the published description: no code is released.

From the paper:
  * a Swin-based visual encoder, a BERT-based language encoder, and a U-shaped CNN decoder that
    takes the fused multi-scale features to the mask;
  * the Multi-stage Cross-attention Module (MCM): at selected stages, cross-attention in both
    directions between the visual feature V_i and the language feature L_i gives F_V^i;
  * the Multi-stage Alignment Loss (MA Loss): before each cross-attention block, L_align^i draws the
    stage's visual and textual embeddings together; L_seg supervises the mask.

Our choice:
  * the encoder's stages stay free of text: F_V^i goes to the decoder, not to the next stage;
  * L_i = LN(W_i T_i). T_1 is BERT's output, and T_{i+1} = T_i + U_i F_L^i propagates the updated
    tokens to the next selected stage. The last F_L, averaged over the tokens, conditions the
    coarsest feature by FiLM (Perez et al. 2018), so that every branch reaches the mask;
  * both directions of MCM read the same V_i and L_i, pre-norm; every sub-layer, and FiLM too, has a
    gate by channel that starts at 0 over a pretrained image encoder and at 0.1 from scratch. Heads
    are 32 wide, FFNs twice as wide as the stage, and a 2-D position embedding is added to the
    image's queries and keys, because captions name positions ("upper left");
  * MA Loss compares V_i with LN(W_i T_1), tokens that no image has updated: otherwise the network
    could match the two by copying. Projections to 256, temperature from 0.07, kept in [0.01, 1].
    "infonce": symmetric, over the batches of all processes; equal captions are positives of each
    other, and rows of one image with different captions neither positive nor negative. "pixel":
    text to pixel against the mask. L = L_seg + 0.1 * mean_i L_align^i;
  * the decoder's widths are the encoder's, a coarser map is reduced to them by a 1x1 convolution
    before it is upsampled, and the head works at the finest stage;
  * all settings of training.

Shapes: image [B, 3, H, W], H and W multiples of 32; text tokens T [B, L, D], mask [B, L]; stage
i = 1..4: V_i and F_V^i [B, C_i, H_i, W_i] at strides 4, 8, 16, 32, N_i = H_i W_i positions;
L_i and F_L^i [B, L, C_i].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.backbone import TextImageBackboneMixin
from textseg.batch import Batch, SegmentationOutput, TextFeatures
from textseg.encoders import masked_mean
from textseg.errors import UserError, check_at_least, check_choice, check_choices
from textseg.explain import record_inputs
from textseg.layers import (
    CrossAttention,
    UNetDecoder,
    resize_map,
    sincos_position_embedding_2d,
    to_map,
    to_tokens,
)
from textseg.losses import (
    ContrastiveTargets,
    all_gather_with_grad,
    contrastive_targets,
    soft_cross_entropy,
    text_to_pixel_contrastive_loss,
)
from textseg.models.base import SegmentationModule

Alignment = Literal["infonce", "pixel", "none"]
STAGES = (1, 2, 3, 4)
EMBEDDING_DIM = 256  # of the embeddings that MA Loss compares
TEMPERATURE = 0.07  # initial
# Range of the temperature: below 0.01 a single pair of rows would dominate every softmax.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 1.0


def _gate(dim: int, value: float) -> nn.Parameter:
    return nn.Parameter(torch.full((dim,), float(value)))


def _feed_forward(dim: int) -> nn.Sequential:
    """FFN(LN x)."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
    )


class StageCrossAttention(nn.Module):
    """MCM at one stage: bidirectional cross-attention between image positions and text tokens.

    Args:
        dim: C, of V and of L.
        gate: initial value of the gates g1..g4; at 0 the block passes V and L on unchanged.
    """

    def __init__(self, dim: int, gate: float) -> None:
        super().__init__()
        self.norm_image = nn.LayerNorm(dim)
        self.norm_text = nn.LayerNorm(dim)
        self.image_to_text = CrossAttention(dim, dim)
        self.text_to_image = CrossAttention(dim, dim)
        self.image_ffn = _feed_forward(dim)
        self.text_ffn = _feed_forward(dim)
        self.g1, self.g2 = _gate(dim, gate), _gate(dim, gate)
        self.g3, self.g4 = _gate(dim, gate), _gate(dim, gate)

    def forward(self, feature: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """V [B, C, H, W], L [B, L, C] and mask [B, L] -> F_V [B, C, H, W] and F_L [B, L, C]."""
        H, W = feature.shape[-2:]
        image_tokens, image_tokens_pos, text_tokens = self._normalize(feature, text)
        F_V = to_tokens(feature) + self.g1 * self.image_to_text(
            image_tokens_pos, text_tokens, text_tokens, mask
        )
        F_L = text + self.g2 * self.text_to_image(text_tokens, image_tokens_pos, image_tokens)
        F_V = F_V + self.g3 * self.image_ffn(F_V)
        F_L = F_L + self.g4 * self.text_ffn(F_L)
        return to_map(F_V, H, W), F_L

    def text_to_image_weights(self, feature: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Attention of each token to the positions, given the arguments of `forward`.

        Returns:
            [B, heads, L, H, W], which sums to 1 over the positions.
        """
        image_tokens, image_tokens_pos, text_tokens = self._normalize(feature, text)
        weights = self.text_to_image.weights(text_tokens, image_tokens_pos, image_tokens)
        return weights.unflatten(-1, feature.shape[-2:])

    def _normalize(self, feature: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """LN V without and with position embedding, both [B, N, C], and LN L [B, L, C]."""
        H, W = feature.shape[-2:]
        image_tokens = self.norm_image(to_tokens(feature))
        position = sincos_position_embedding_2d(H, W, image_tokens.shape[-1], image_tokens)
        return image_tokens, image_tokens + position, self.norm_text(text)


class FiLM(nn.Module):
    """FiLM (Perez et al. 2018): scale and shift a map's channels by the mean text token.

    Args:
        text_dim: width C of the tokens.
        dim: channels of the map.
        gate: initial value of the gate by channel; at 0 the map passes unchanged.
    """

    def __init__(self, text_dim: int, dim: int, gate: float) -> None:
        super().__init__()
        self.scale_and_shift = nn.Linear(text_dim, 2 * dim)
        self.gate = _gate(dim, gate)

    def forward(self, feature: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """[B, C_4, H, W], F_L [B, L, C] and mask [B, L] -> [B, C_4, H, W]."""
        scale, shift = self.scale_and_shift(masked_mean(text, mask)).chunk(2, -1)  # [B, C_4]
        scale, shift = self.gate * scale, self.gate * shift
        return feature * (1 + scale[..., None, None]) + shift[..., None, None]


class MultiStageCrossAttention(nn.Module):
    """MCM at the selected stages; each propagates its updated text tokens to the next.

    Args:
        channels: C_1..C_4.
        stages: the selected ones, ascending; without any the decoder reads V_1..V_4.
        text_dim: D.
        gate: initial value of all gates.
    """

    def __init__(
        self, channels: Sequence[int], stages: Sequence[int], *, text_dim: int, gate: float
    ) -> None:
        super().__init__()
        self.blocks: Any = nn.ModuleDict(
            {str(i): StageCrossAttention(channels[i - 1], gate) for i in stages}
        )
        # U_i. The last stage has no successor, so its output would be unused.
        self.propagate = nn.ModuleDict(
            {str(i): nn.Linear(channels[i - 1], text_dim) for i, _ in pairwise(stages)}
        )
        if stages:
            self.film = FiLM(channels[stages[-1] - 1], channels[-1], gate)

    def forward(
        self, features: Sequence[Tensor], text: TextFeatures, text_projection: nn.ModuleDict
    ) -> list[Tensor]:
        """V_1..V_4 -> F_V^1..F_V^4, and V_i where stage i is not selected.

        Args:
            features: [B, C_i, H_i, W_i].
            text: T_1 and its mask.
            text_projection: LN(W_i .) by stage.
        """
        fused, tokens = list(features), text.tokens
        for i, block in self.blocks.items():
            k = int(i) - 1
            fused[k], F_L = block(fused[k], text_projection[i](tokens), text.mask)
            if i in self.propagate:
                tokens = tokens + self.propagate[i](F_L)  # T_{i+1} = T_i + U_i F_L^i
            else:
                fused[-1] = self.film(fused[-1], F_L, text.mask)
        return fused


def info_nce(
    image: Tensor, text: Tensor, log_temperature: Tensor, targets: ContrastiveTargets
) -> tuple[Tensor, Tensor]:
    """Image-to-text and text-to-image cross-entropy of s_ij = <v_i, l_j> / tau, in fp32.

    If all captions are the same and so are their embeddings, the first term is ln N without a
    gradient, and the second only draws the images together.

    Args:
        image, text: embeddings [N, P], L2-normalized.
        log_temperature: scalar, ln tau.
        targets: of the N rows.
    """
    with torch.autocast(image.device.type, enabled=False):
        scores = image.float() @ text.float().T * (-log_temperature.float()).exp()  # [N, N]
        return soft_cross_entropy(scores, targets), soft_cross_entropy(scores.T, targets)


class MultiStageAlignment(nn.Module):
    """Projections and temperatures by stage, which both forms of MA Loss share.

    Args:
        channels: C_1..C_4.
        stages: the S selected ones, ascending.
    """

    def __init__(self, channels: Sequence[int], stages: Sequence[int]) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.project_image, self.project_text = (
            nn.ModuleDict({str(i): nn.Linear(channels[i - 1], EMBEDDING_DIM) for i in stages})
            for _ in range(2)
        )
        self.log_temperature = nn.Parameter(torch.full((len(stages),), math.log(TEMPERATURE)))

    def embed_text(self, text: TextFeatures, text_projection: nn.ModuleDict) -> Tensor:
        """Mean of LN(W_i T_1) over the tokens, projected: [B, S, 256]."""
        embeddings = [
            project(masked_mean(text_projection[i](text.tokens), text.mask))
            for i, project in self.project_text.items()
        ]
        return torch.stack(embeddings, dim=1)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Clamp the temperatures to their range.

        To be called after each step: a clamp in `forward` would stop their gradient.
        """
        self.log_temperature.clamp_(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))


class InfoNCEAlignment(MultiStageAlignment):
    """MA Loss over the batch: symmetric InfoNCE between images and captions."""

    def forward(
        self, features: Sequence[Tensor], text: TextFeatures, text_projection: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """Embeddings `align_image` and `align_text`, both [B, S, 256] and L2-normalized."""
        embeddings = [
            project(features[int(i) - 1].mean((2, 3)))  # [B, C_i] -> [B, 256]
            for i, project in self.project_image.items()
        ]
        image = torch.stack(embeddings, dim=1)
        return {
            "align_image": F.normalize(image.float(), dim=-1),
            "align_text": F.normalize(self.embed_text(text, text_projection).float(), dim=-1),
            "align_log_temperature": self.log_temperature,
        }

    def losses(self, aux: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """L_align^i as `loss_align_<i>`, over the rows of all processes."""
        targets = contrastive_targets(
            all_gather_with_grad(batch["caption_id"]), all_gather_with_grad(batch["image_id"])
        )
        image = all_gather_with_grad(aux["align_image"])  # [N, S, 256]
        text = all_gather_with_grad(aux["align_text"])
        log_tau = aux["align_log_temperature"]  # [S]
        terms = {}
        for k, i in enumerate(self.stages):
            to_text, to_image = info_nce(image[:, k], text[:, k], log_tau[k], targets)
            terms[f"loss_align_{i}"] = (to_text + to_image) / 2
        return terms


class PixelAlignment(MultiStageAlignment):
    """MA Loss within each image: text-to-pixel contrast against the mask.

    For data in which several expressions share an image, so that a batch has few negatives.

    Args:
        channels, stages: as for `MultiStageAlignment`.
    """

    def __init__(self, channels: Sequence[int], stages: Sequence[int]) -> None:
        super().__init__(channels, stages)
        self.bias = nn.Parameter(torch.zeros(len(stages)))

    def forward(
        self, features: Sequence[Tensor], text: TextFeatures, text_projection: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """Embeddings `align_pixel_<i>` [B, 256, H_i, W_i] and `align_text` [B, S, 256]."""
        aux = {
            "align_text": self.embed_text(text, text_projection),
            "align_log_temperature": self.log_temperature,
            "align_bias": self.bias,
        }
        for i, project in self.project_image.items():
            feature = features[int(i) - 1]
            H, W = feature.shape[-2:]
            aux[f"align_pixel_{i}"] = to_map(project(to_tokens(feature)), H, W)
        return aux

    def losses(self, aux: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """L_align^i as `loss_align_<i>`."""
        log_tau, bias = aux["align_log_temperature"], aux["align_bias"]  # [S]
        terms = {}
        for k, i in enumerate(self.stages):
            text, pixels = aux["align_text"][:, k], aux[f"align_pixel_{i}"]
            terms[f"loss_align_{i}"] = text_to_pixel_contrastive_loss(
                text, pixels, batch["mask"], log_tau[k], bias[k], batch["caption_id"]
            )
        return terms


class TMC(TextImageBackboneMixin, SegmentationModule):
    """Text-guided Multi-stage Cross-perception network (arXiv 2506.07475), from its description.

    Args:
        image_encoder: timm name of an encoder with four stages.
        text_encoder: hub name or local folder of a BERT, or "scratch" for a small one trained along
            with the network; emilyalsentzer/Bio_ClinicalBERT is the clinical alternative. Not built
            if neither MCM nor MA Loss uses text.
        pretrained: load the published weights of both encoders.
        freeze_text: keep the text encoder fixed; by default if and only if it is pretrained.
        max_tokens: length of every caption in tokens, special ones included; 24 holds QaTa's.
        image_encoder_options: further arguments of the timm model, such as drop_path_rate; a Swin
            on other than 224 pixels wants img_size, by which timm decides where windows shift.
        mcm_stages: stages, out of 1..4, with cross-attention to the text; [] for none.
        gate: initial value of MCM's gates; by default 0 over a pretrained image encoder and 0.1
            from scratch.
        alignment: form of MA Loss: over the batch ("infonce"), text to pixel where several
            expressions share an image ("pixel"), or none of it ("none").
        alignment_stages: stages of MA Loss; by default those of MCM.
        alignment_weight: weight of MA Loss; 0 builds no such part.
    """

    def __init__(
        self,
        image_encoder: str = "swin_tiny_patch4_window7_224",
        text_encoder: str = "google-bert/bert-base-uncased",
        *,
        pretrained: bool = True,
        freeze_text: bool | None = None,
        max_tokens: int = 32,
        image_encoder_options: dict[str, Any] | None = None,
        mcm_stages: tuple[int, ...] = STAGES,
        gate: float | None = None,
        alignment: Alignment = "infonce",
        alignment_stages: tuple[int, ...] | None = None,
        alignment_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("alignment", alignment, Alignment)
        check_choices("mcm_stages", mcm_stages, STAGES)
        fused = tuple(sorted(mcm_stages))
        aligned = _aligned_stages(alignment, alignment_weight, fused, alignment_stages)
        with_text = sorted({*fused, *aligned})
        self.build_backbone(
            image_encoder,
            text_encoder if with_text else None,
            pretrained=pretrained,
            freeze=freeze_text,
            max_tokens=max_tokens,
            image_encoder_options=image_encoder_options,
        )
        channels = _checked_channels(image_encoder, self.image_encoder.channels)
        text_dim = self.text_encoder.dim
        self.text_projection = nn.ModuleDict()  # LN(W_i .)
        for i in with_text:
            projection = nn.Linear(text_dim, channels[i - 1]), nn.LayerNorm(channels[i - 1])
            self.text_projection[str(i)] = nn.Sequential(*projection)
        gate = (0.0 if pretrained else 0.1) if gate is None else gate
        self.mcm = MultiStageCrossAttention(channels, fused, text_dim=text_dim, gate=gate)
        form = InfoNCEAlignment if alignment == "infonce" else PixelAlignment
        self.alignment = form(channels, aligned) if aligned else None
        self.alignment_weight = alignment_weight
        self.decoder = UNetDecoder(channels, narrow=True)
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """The tensor part: what compile, export, benchmark and explanations act on."""
        features = self.encode_image(image)  # V_1..V_4
        aux: dict[str, Tensor] = {}
        if self.alignment is not None:
            aux = self.alignment(features, text, self.text_projection)  # before MCM
        fused = self.mcm(features, text, self.text_projection)  # F_V^1..F_V^4
        decoded = self.decoder(fused)  # [B, C_1, H/4, W/4]
        logits = resize_map(self.head(decoded), image.shape[-2:])
        return SegmentationOutput(logits, aux)

    def compute_loss(self, output: SegmentationOutput, batch: Batch) -> dict[str, Tensor]:
        """L = L_seg + alignment_weight * mean_i L_align^i."""
        losses = super().compute_loss(output, batch)
        if self.alignment is None:
            return losses
        terms = self.alignment.losses(output.aux, batch)
        align = torch.stack(list(terms.values())).mean()
        total = losses["loss"] + self.alignment_weight * align
        return {**losses, **terms, "loss_align": align, "loss": total}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Clamp the temperatures of MA Loss to their range."""
        if self.alignment is not None:
            self.alignment.clamp_temperature()

    def explanation_maps(
        self, image: Tensor, text: TextFeatures, words: Tensor
    ) -> dict[str, Tensor]:
        """`stage<i>.attention` [B, H_i, W_i]: attention of `words` to the positions, averaged.

        Text to image, because image-to-text weights sum to 1 over the tokens: their mean over all
        tokens would be the same at every position.
        """
        with record_inputs(dict(self.mcm.blocks.items())) as inputs:
            self.forward_features(image, text)
        share = words / words.sum(1, keepdim=True)  # [B, L]
        maps = {}
        for i, block in self.mcm.blocks.items():
            weights = block.text_to_image_weights(*inputs[i]).mean(1)  # [B, L, H_i, W_i]
            maps[f"stage{i}.attention"] = torch.einsum("bl,blhw->bhw", share.to(weights), weights)
        return maps


def _aligned_stages(
    alignment: str, weight: float, fused: tuple[int, ...], stages: Sequence[int] | None
) -> tuple[int, ...]:
    """The stages of MA Loss, ascending; none where it has no weight."""
    check_at_least("alignment_weight", weight, 0, "0.1 is usual; 0 is none")
    check_choices("alignment_stages", stages or (), STAGES)
    if alignment == "none" or not weight:
        return ()
    if stages is None and not fused:
        raise UserError(
            f"alignment={alignment!r} has no stages: alignment_stages follows mcm_stages=[]",
            "set alignment_stages: [1, 2, 3, 4] for MA Loss alone, or alignment: none for no text",
        )
    return fused if stages is None else tuple(sorted(stages))


def _checked_channels(image_encoder: str, channels: Sequence[int]) -> tuple[int, ...]:
    if len(channels) != len(STAGES):
        raise UserError(
            f"image_encoder={image_encoder!r} has {len(channels)} stages, and TMC reads four",
            "leave out the finest: image_encoder_options: {out_indices: [1, 2, 3, 4]}",
        )
    if any(c % 4 for c in channels):
        raise UserError(
            f"image_encoder={image_encoder!r} has widths {list(channels)}, not all multiples of 4",
            "the position embedding splits a width into four: choose another encoder",
        )
    return tuple(channels)
