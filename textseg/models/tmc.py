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
  * L_i = LN(W_i T_i). T_1 is what BERT gives, and T_{i+1} = T_i + U_i F_L^i carries the words on to
    the next selected stage. The last F_L, its mean over words, scales and shifts the decoder's
    entry, so that no branch ends nowhere;
  * both directions of MCM read the same V_i and L_i, pre-norm; every sub-layer, and the scale and
    shift too, stands behind a gate by channel that starts at 0 over a pretrained image encoder and
    at 0.1 from scratch. Heads are 32 wide, FFNs twice as wide as the stage, and a 2-D position code
    joins visual queries and keys, because words name places;
  * MA Loss compares V_i with LN(W_i T_1), the words before any image has touched them: what was
    carried along could be matched by copying. Projections to 256, temperature from 0.07, kept in
    [0.01, 1]. "infonce": symmetric, over the batches of all processes; equal captions are positives
    of each other, and rows of one image with different captions neither positive nor negative.
    "pixel": text to pixel against the mask. L = L_seg + 0.1 * mean_i L_align^i;
  * the decoder's widths are the encoder's, what comes from below is brought to them by a 1x1
    convolution before it is upsampled, and the head works at the finest stage;
  * all settings of training.

Shapes: image [B, 3, H, W], H and W multiples of 32; words T [B, L, D], mask [B, L]; stage
i = 1..4: V_i and F_V^i [B, C_i, H_i, W_i] at strides 4, 8, 16, 32, N_i = H_i W_i positions;
L_i and F_L^i [B, L, C_i].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.backbone import TextImageBackboneMixin
from textseg.batch import Batch, SegmentationOutput, TextFeatures
from textseg.encoders import masked_mean
from textseg.errors import UserError
from textseg.explain import recorded
from textseg.layers import (
    CrossAttention,
    UNetDecoder,
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

STAGES = (1, 2, 3, 4)
PROJECTION = 256  # width of the embeddings that MA Loss compares
TEMPERATURE = 0.07  # where it starts
MIN_TEMPERATURE, MAX_TEMPERATURE = (
    0.01,
    1.0,
)  # where it may go: colder and one row's scores drown all others
Alignment = Literal["infonce", "pixel", "none"]


def _gate(dim: int, value: float) -> nn.Parameter:
    return nn.Parameter(torch.full((dim,), float(value)))


def _feed_forward(dim: int) -> nn.Sequential:
    """FFN(LN x)."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
    )


class StageCrossAttention(nn.Module):
    """MCM at one stage: what is seen asks the words, and the words ask what is seen.

    Args:
        dim: C, of V and of L.
        gate: where the gates g1..g4 start; at 0 the block passes V and L on unchanged.
    """

    def __init__(self, dim: int, gate: float) -> None:
        super().__init__()
        self.norm_vision = nn.LayerNorm(dim)
        self.norm_words = nn.LayerNorm(dim)
        self.image_to_text = CrossAttention(dim, dim)
        self.text_to_image = CrossAttention(dim, dim)
        self.vision_ffn = _feed_forward(dim)
        self.words_ffn = _feed_forward(dim)
        self.g1, self.g2 = _gate(dim, gate), _gate(dim, gate)
        self.g3, self.g4 = _gate(dim, gate), _gate(dim, gate)

    def forward(self, vision: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """V [B, C, H, W], L [B, L, C] and mask [B, L] -> F_V [B, C, H, W] and F_L [B, L, C]."""
        H, W = vision.shape[-2:]
        seen = to_tokens(vision)  # [B, N, C]
        v, placed, said = self._normed(vision, words)
        F_V = seen + self.g1 * self.image_to_text(placed, said, said, mask)
        F_L = words + self.g2 * self.text_to_image(said, placed, v)
        F_V = F_V + self.g3 * self.vision_ffn(F_V)
        F_L = F_L + self.g4 * self.words_ffn(F_L)
        return to_map(F_V, H, W), F_L

    def places_of_words(self, vision: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Where each word looks, from the arguments of `forward`: [B, heads, L, H, W].

        Sums to 1 over the positions.
        """
        v, placed, said = self._normed(vision, words)
        return self.text_to_image.weights(said, placed, v).unflatten(-1, vision.shape[-2:])

    def _normed(self, vision: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """LN V, the same with its position code, both [B, N, C], and LN L [B, L, C]."""
        H, W = vision.shape[-2:]
        v = self.norm_vision(to_tokens(vision))
        return v, v + sincos_position_embedding_2d(H, W, v.shape[-1], v), self.norm_words(words)


class FiLM(nn.Module):
    """Scales and shifts the decoder's entry by what the words have become.

    Args:
        dim: C of the last selected stage.
        entry_dim: C_4.
        gate: where its gate starts; at 0 the entry passes unchanged.
    """

    def __init__(self, dim: int, entry_dim: int, gate: float) -> None:
        super().__init__()
        self.scale_and_shift = nn.Linear(dim, 2 * entry_dim)
        self.gate = _gate(entry_dim, gate)

    def forward(self, entry: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """[B, C_4, H, W], F_L [B, L, C] and mask [B, L] -> [B, C_4, H, W]."""
        scale, shift = self.scale_and_shift(masked_mean(words, mask)).chunk(2, -1)  # [B, C_4]
        scale, shift = (self.gate * x for x in (scale, shift))
        return entry * (1 + scale[..., None, None]) + shift[..., None, None]


class MultiStageCrossAttention(nn.Module):
    """MCM at the selected stages, the words carried from each to the next.

    Args:
        channels: C_1..C_4.
        stages: the selected ones, ascending, at least one.
        text_dim: D.
        gate: where all gates start.
    """

    def __init__(
        self, channels: Sequence[int], stages: Sequence[int], *, text_dim: int, gate: float
    ) -> None:
        super().__init__()
        width = {str(i): channels[i - 1] for i in stages}
        self.blocks: Any = nn.ModuleDict(
            {i: StageCrossAttention(c, gate) for i, c in width.items()}
        )
        # U_i, between selected stages only: behind the last one nobody would listen.
        self.carry = nn.ModuleDict(
            {str(i): nn.Linear(channels[i - 1], text_dim) for i, _ in pairwise(stages)}
        )
        self.condition = FiLM(channels[stages[-1] - 1], channels[-1], gate)

    def forward(
        self, features: Sequence[Tensor], text: TextFeatures, words: nn.ModuleDict
    ) -> list[Tensor]:
        """V_1..V_4 -> F_V^1..F_V^4, and V_i where stage i is not selected.

        Args:
            features: [B, C_i, H_i, W_i].
            text: T_1 and its mask.
            words: LN(W_i .) by stage.
        """
        fused, tokens = list(features), text.tokens
        *earlier, last = self.blocks
        for i in earlier:
            k = int(i) - 1
            fused[k], F_L = self.blocks[i](fused[k], words[i](tokens), text.mask)
            tokens = tokens + self.carry[i](F_L)  # T_{i+1} = T_i + U_i F_L^i
        k = int(last) - 1
        fused[k], F_L = self.blocks[last](fused[k], words[last](tokens), text.mask)
        fused[-1] = self.condition(fused[-1], F_L, text.mask)
        return fused


class TextFreePyramid(nn.Module):
    """Stands in for MCM where no stage is selected: the decoder sees V_1..V_4."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: Any = nn.ModuleDict()

    def forward(
        self, features: Sequence[Tensor], text: TextFeatures, words: nn.ModuleDict
    ) -> list[Tensor]:
        return list(features)


def info_nce_halves(
    vision: Tensor, language: Tensor, log_temperature: Tensor, matches: ContrastiveTargets
) -> tuple[Tensor, Tensor]:
    """Image-to-text and text-to-image cross-entropy of s_ij = <v_i, l_j> / tau, in fp32.

    Where all captions are the same and so are their embeddings, the first half is ln N and has no
    gradient, and the second only draws the images together.

    Args:
        vision, language: [N, P], L2-normalized.
        log_temperature: scalar, ln tau.
        matches: of the N rows.
    """
    with torch.autocast(vision.device.type, enabled=False):
        scores = vision.float() @ language.float().T * (-log_temperature.float()).exp()  # [N, N]
        return soft_cross_entropy(scores, matches), soft_cross_entropy(scores.T, matches)


class MultiStageAlignment(nn.Module):
    """What both forms of MA Loss hold: projections and a temperature by stage.

    Args:
        channels: C_1..C_4.
        stages: the S selected ones, ascending.
    """

    def __init__(self, channels: Sequence[int], stages: Sequence[int]) -> None:
        super().__init__()
        self.stages = tuple(stages)
        width = {str(i): channels[i - 1] for i in stages}
        self.vision = nn.ModuleDict({i: nn.Linear(c, PROJECTION) for i, c in width.items()})
        self.language = nn.ModuleDict({i: nn.Linear(c, PROJECTION) for i, c in width.items()})
        self.log_temperature = nn.Parameter(torch.full((len(stages),), math.log(TEMPERATURE)))

    def project_words(self, text: TextFeatures, words: nn.ModuleDict) -> Tensor:
        """Mean of LN(W_i T_1) over the words, projected: [B, S, 256]."""
        means = {i: masked_mean(words[i](text.tokens), text.mask) for i in self.language}
        return torch.stack([project(means[i]) for i, project in self.language.items()], dim=1)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """To be called after each step: a clamp in `forward` would have no gradient back."""
        self.log_temperature.clamp_(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))


class InfoNCEAlignment(MultiStageAlignment):
    """MA Loss over the batch: each image finds its caption, and each caption its image."""

    def forward(
        self, features: Sequence[Tensor], text: TextFeatures, words: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """Embeddings `align_vision` and `align_language`, both [B, S, 256] and L2-normalized."""
        means = {i: features[int(i) - 1].mean((2, 3)) for i in self.vision}  # [B, C_i]
        vision = torch.stack([project(means[i]) for i, project in self.vision.items()], dim=1)
        return {
            "align_vision": F.normalize(vision.float(), dim=-1),
            "align_language": F.normalize(self.project_words(text, words).float(), dim=-1),
            "align_log_temperature": self.log_temperature,
        }

    def losses(self, aux: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """L_align^i as `loss_align_<i>`, over the rows of all processes."""
        matches = contrastive_targets(
            all_gather_with_grad(batch["caption_id"]), all_gather_with_grad(batch["image_id"])
        )
        vision = all_gather_with_grad(aux["align_vision"])  # [N, S, 256]
        language = all_gather_with_grad(aux["align_language"])
        log_tau = aux["align_log_temperature"]  # [S]
        terms = {}
        for k, i in enumerate(self.stages):
            halves = info_nce_halves(vision[:, k], language[:, k], log_tau[k], matches)
            terms[f"loss_align_{i}"] = (halves[0] + halves[1]) / 2
        return terms


class PixelAlignment(MultiStageAlignment):
    """MA Loss within each image: the caption finds the pixels of its mask.

    For data in which several expressions share an image, so that a batch leaves few to compare.
    """

    def __init__(self, channels: Sequence[int], stages: Sequence[int]) -> None:
        super().__init__(channels, stages)
        self.bias = nn.Parameter(torch.zeros(len(stages)))

    def forward(
        self, features: Sequence[Tensor], text: TextFeatures, words: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """`align_pixel_<i>` [B, 256, H_i, W_i] and `align_language` [B, S, 256]."""
        aux = {
            "align_language": self.project_words(text, words),
            "align_log_temperature": self.log_temperature,
            "align_bias": self.bias,
        }
        for i, project in self.vision.items():
            feature = features[int(i) - 1]
            H, W = feature.shape[-2:]
            aux[f"align_pixel_{i}"] = to_map(project(to_tokens(feature)), H, W)
        return aux

    def losses(self, aux: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """L_align^i as `loss_align_<i>`."""
        log_tau, bias = aux["align_log_temperature"], aux["align_bias"]  # [S]
        terms = {}
        for k, i in enumerate(self.stages):
            text, pixels = aux["align_language"][:, k], aux[f"align_pixel_{i}"]
            terms[f"loss_align_{i}"] = text_to_pixel_contrastive_loss(
                text, pixels, batch["mask"], log_tau[k], bias[k]
            )
        return terms


class NoAlignment(nn.Module):
    """Stands in for MA Loss where it has no weight: nothing built, nothing computed."""

    def forward(
        self, features: Sequence[Tensor], text: TextFeatures, words: nn.ModuleDict
    ) -> dict[str, Tensor]:
        return {}

    def losses(self, aux: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """None."""
        return {}

    def clamp_temperature(self) -> None:
        """There is none."""


class TMC(TextImageBackboneMixin, SegmentationModule):
    """Text-guided Multi-stage Cross-perception network (arXiv 2506.07475), from its description.

    Args:
        image_encoder: timm name of an encoder with four stages.
        text_encoder: hub name or local folder of a BERT, or "scratch" for a small one trained along
            with the network; emilyalsentzer/Bio_ClinicalBERT is the clinical alternative. Not built
            where neither MCM nor MA Loss reads words.
        pretrained: load the published weights of both encoders.
        freeze_text: keep the text encoder fixed; by default if and only if it is pretrained.
        max_tokens: length of every caption in tokens, special ones included; 24 holds QaTa's.
        image_encoder_options: further arguments of the timm model, such as drop_path_rate; a Swin
            on other than 224 pixels wants img_size, by which timm decides where windows shift.
        mcm_stages: stages, out of 1..4, with cross-attention to the words; [] for none.
        gate: where the gates of MCM start; by default 0 over a pretrained image encoder and 0.1
            from scratch.
        alignment: form of MA Loss: over the batch ("infonce"), text to pixel where several
            expressions share an image ("pixel"), or none of it ("none").
        alignment_stages: stages of MA Loss; by default those of MCM.
        alignment_weight: weight of MA Loss; 0 builds no such part.
        narrow_decoder: bring what comes from below to the width of the decoder's step before it is
            upsampled. Checkpoints that do not name it were trained with false.
        lr: peak learning rate of AdamW.
        weight_decay: of weights with two or more dimensions.
        pretrained_lr_scale: learning rate of pretrained parts over lr.
        schedule: course of the learning rate after the warm-up.
        warmup: share of all steps over which the learning rate rises.
        protocol: how test masks are scored; "lvit" reproduces LViT's test and nothing else.
    """

    EARLIER: ClassVar = {"narrow_decoder": False}

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
        narrow_decoder: bool = True,
        lr: float = 3e-4,
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
        fused = _checked_stages("mcm_stages", mcm_stages)
        aligned = _aligned_stages(alignment, alignment_weight, fused, alignment_stages)
        reading = sorted({*fused, *aligned})
        self.build_backbone(
            image_encoder,
            text_encoder if reading else None,
            pretrained=pretrained,
            freeze=freeze_text,
            max_tokens=max_tokens,
            image_encoder_options=image_encoder_options,
        )
        channels = _checked_channels(image_encoder, self.image_encoder.channels)
        text_dim = self.text_encoder.dim
        self.words = nn.ModuleDict({str(i): _words(text_dim, channels[i - 1]) for i in reading})
        gate = (0.0 if pretrained else 0.1) if gate is None else gate
        self.mcm = (
            MultiStageCrossAttention(channels, fused, text_dim=text_dim, gate=gate)
            if fused
            else TextFreePyramid()
        )
        form = InfoNCEAlignment if alignment == "infonce" else PixelAlignment
        self.alignment = form(channels, aligned) if aligned else NoAlignment()
        self.alignment_weight = alignment_weight
        self.decoder = UNetDecoder(channels, narrow=narrow_decoder)
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """The tensor part: what compile, export, benchmark and explanations act on."""
        features = self.encode_image(image)  # V_1..V_4
        aux = self.alignment(features, text, self.words)  # before the blocks
        decoded = self.decoder(self.mcm(features, text, self.words))  # [B, C_1, H/4, W/4]
        logits = F.interpolate(
            self.head(decoded), size=image.shape[-2:], mode="bilinear", align_corners=False
        )
        return SegmentationOutput(logits, aux)

    def compute_loss(self, output: SegmentationOutput, batch: Batch) -> dict[str, Tensor]:
        """L = L_seg + alignment_weight * mean_i L_align^i."""
        losses = super().compute_loss(output, batch)
        terms = self.alignment.losses(output.aux, batch)
        if not terms:
            return losses
        align = torch.stack(list(terms.values())).mean()
        total = losses["loss"] + self.alignment_weight * align
        return {**losses, **terms, "loss_align": align, "loss": total}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Bring the temperatures of MA Loss back into their range."""
        self.alignment.clamp_temperature()

    def explanation_maps(
        self, image: Tensor, text: TextFeatures, words: Tensor
    ) -> dict[str, Tensor]:
        """`stage<i>.attention` [B, H_i, W_i]: where `words` look, mean over them and the heads.

        From the words' queries: what a position asks of the words sums to 1 over them, so its mean
        over all words would be the same everywhere.
        """
        with recorded(dict(self.mcm.blocks.items())) as calls:
            self.forward_features(image, text)
        maps = {}
        for i, block in self.mcm.blocks.items():
            places = block.places_of_words(*calls[i]).mean(1)  # [B, L, H_i, W_i]
            share = words / words.sum(1, keepdim=True)
            maps[f"stage{i}.attention"] = torch.einsum("bl,blhw->bhw", share.to(places), places)
        return maps


def _words(text_dim: int, dim: int) -> nn.Sequential:
    """LN(W_i .)."""
    return nn.Sequential(nn.Linear(text_dim, dim), nn.LayerNorm(dim))


def _checked_stages(field: str, stages: Sequence[int]) -> tuple[int, ...]:
    """Ascending, whatever order they were given in."""
    if not set(stages) <= set(STAGES) or len(set(stages)) < len(stages):
        raise UserError(
            f"{field}={list(stages)} names others than 1..4, or one twice",
            "give each stage once, for example [2, 3, 4]",
        )
    return tuple(sorted(stages))


def _aligned_stages(
    alignment: str, weight: float, fused: tuple[int, ...], stages: Sequence[int] | None
) -> tuple[int, ...]:
    """Those of MA Loss; none where it has no weight."""
    if alignment not in get_args(Alignment):
        raise UserError(
            f"alignment={alignment!r} is unknown", f"choose of {list(get_args(Alignment))}"
        )
    if weight < 0:
        raise UserError(f"alignment_weight={weight} is negative", "give 0 or more; 0.1 is usual")
    aligned = fused if stages is None else _checked_stages("alignment_stages", stages)
    if alignment == "none" or not weight:
        return ()
    if stages is None and not fused:
        raise UserError(
            f"alignment={alignment!r} has no stages: alignment_stages follows mcm_stages=[]",
            "set alignment_stages: [1, 2, 3, 4] for MA Loss alone, or alignment: none for no text",
        )
    return aligned


def _checked_channels(image_encoder: str, channels: Sequence[int]) -> tuple[int, ...]:
    if len(channels) != len(STAGES):
        raise UserError(
            f"image_encoder={image_encoder!r} has {len(channels)} stages, and TMC reads four",
            "leave out the finest: image_encoder_options: {out_indices: [1, 2, 3, 4]}",
        )
    if any(c % 4 for c in channels):
        raise UserError(
            f"image_encoder={image_encoder!r} has widths {list(channels)}, not all multiples of 4",
            "the position code needs four parts of a width: choose another encoder",
        )
    return tuple(channels)
