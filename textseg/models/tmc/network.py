"""TMC as a network: MCM at the selected stages, the decoder and the settings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from textseg.batch import Batch, SegmentationOutput, TextFeatures
from textseg.encoders import check_widths, masked_mean
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
from textseg.models.pyramid import PyramidNetwork
from textseg.models.tmc.alignment import InfoNCEAlignment, PixelAlignment

Alignment = Literal["infonce", "pixel", "none"]
AlignmentText = Literal["input", "stage"]
STAGES = (1, 2, 3, 4)


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
        self.stages = tuple(stages)
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
        self, stage: int, feature: Tensor, text: Tensor, tokens: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One selected stage.

        Args:
            stage: i.
            feature: V_i [B, C_i, H_i, W_i].
            text: L_i [B, L, C_i].
            tokens: T_i [B, L, D].
            mask: [B, L].

        Returns:
            F_V^i, F_L^i and T_{i+1}.
        """
        i = str(stage)
        F_V, F_L = self.blocks[i](feature, text, mask)
        if i in self.propagate:
            tokens = tokens + self.propagate[i](F_L)  # T_{i+1} = T_i + U_i F_L^i
        return F_V, F_L, tokens


class TMC(PyramidNetwork):
    """Text-guided Multi-stage Cross-perception network (arXiv 2506.07475), from its description.

    Args:
        image_encoder: timm name of an encoder with four stages.
        text_encoder: hub name or local folder of a BERT, or "scratch" for a small one trained along
            with the network; emilyalsentzer/Bio_ClinicalBERT is the clinical alternative. Not built
            if neither MCM nor MA Loss uses text.
        mcm_stages: stages, out of 1..4, with cross-attention to the text; [] for none.
        mcm_feeds_encoder: let the image encoder's next stage read F_V^i, not only the decoder. V_2
            to V_4 have then seen the words that MA Loss compares them with.
        gate: initial value of MCM's gates; by default 1, and 0 where `mcm_feeds_encoder` puts them
            into a pretrained image encoder.
        alignment: form of MA Loss: lesions and captions of the batch ("infonce"), text to pixel
            where several expressions share an image ("pixel"), or none of it ("none").
        alignment_stages: stages of MA Loss; by default those of MCM.
        alignment_text: the text of a stage that MA Loss compares: as the text encoder gives it
            ("input"), or as the stages before have updated it ("stage").
        alignment_position: add a position embedding to the positions that MA Loss compares.
        alignment_weight: weight of MA Loss; 0 builds no such part.
    """

    def __init__(
        self,
        image_encoder: str = "swin_tiny_patch4_window7_224",
        text_encoder: str = "google-bert/bert-base-uncased",
        *,
        mcm_stages: tuple[int, ...] = STAGES,
        mcm_feeds_encoder: bool = False,
        gate: float | None = None,
        alignment: Alignment = "infonce",
        alignment_stages: tuple[int, ...] | None = None,
        alignment_text: AlignmentText = "input",
        alignment_position: bool = True,
        alignment_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        check_choice("alignment", alignment, Alignment)
        check_choice("alignment_text", alignment_text, AlignmentText)
        check_choices("mcm_stages", mcm_stages, STAGES)
        check_at_least(
            "gate", gate or 0.0, 0, "1 lets the words in from the start, 0 keeps them out"
        )
        fused = tuple(sorted(mcm_stages))
        aligned = _aligned_stages(alignment, alignment_weight, fused, alignment_stages)
        with_text = sorted({*fused, *aligned})
        super().__init__(
            image_encoder=image_encoder,
            text_encoder=text_encoder if with_text else None,
            **kwargs,
        )
        channels = _checked_channels(image_encoder, self.image_encoder.channels)
        if mcm_feeds_encoder:
            self.image_encoder.check_steppable()
        text_dim = self.text_encoder.dim
        self.text_projection = nn.ModuleDict()  # LN(W_i .)
        for i in with_text:
            projection = nn.Linear(text_dim, channels[i - 1]), nn.LayerNorm(channels[i - 1])
            self.text_projection[str(i)] = nn.Sequential(*projection)
        if gate is None:
            gate = 0.0 if mcm_feeds_encoder and self.image_encoder.pretrained else 1.0
        self.mcm: Any = MultiStageCrossAttention(channels, fused, text_dim=text_dim, gate=gate)
        form = InfoNCEAlignment if alignment == "infonce" else PixelAlignment
        self.alignment = form(channels, aligned, position=alignment_position) if aligned else None
        self.alignment_text, self.alignment_weight = alignment_text, alignment_weight
        self.mcm_feeds_encoder = mcm_feeds_encoder
        self.decoder = UNetDecoder(channels, narrow=True)
        self.head = nn.Conv2d(channels[0], 1, 1)
        self.to(memory_format=torch.channels_last)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """The tensor part: what compile, export, benchmark and explanations act on."""
        tokens, updated = text.tokens, text.tokens  # T_i, and the last F_L^i
        aux: dict[str, Tensor] = {}

        def fuse(k: int, feature: Tensor) -> Tensor:
            """V_i -> F_V^i, i = k + 1."""
            nonlocal tokens, updated
            i = k + 1
            if self.alignment is not None and i in self.alignment.stages:  # before the block
                words = self.text_projection[str(i)](self._aligned_tokens(text.tokens, tokens))
                aux.update(self.alignment(i, feature, words, text.mask))
            if i in self.mcm.stages:
                words = self.text_projection[str(i)](tokens)  # L_i
                feature, updated, tokens = self.mcm(i, feature, words, tokens, text.mask)
            return feature

        if self.mcm_feeds_encoder:
            fused = self.encode_image(image, fuse)  # F_V^1..F_V^4
        else:
            fused = [fuse(k, feature) for k, feature in enumerate(self.encode_image(image))]
        if self.mcm.stages:
            fused[-1] = self.mcm.film(fused[-1], updated, text.mask)
        decoded = self.decoder(fused)  # [B, C_1, H/4, W/4]
        logits = resize_map(self.head(decoded), image.shape[-2:])
        return SegmentationOutput(logits, {**aux, **self.auxiliary_logits(fused)})

    def _aligned_tokens(self, first: Tensor, tokens: Tensor) -> Tensor:
        """T_1, or the values of T_i with the gradient of T_1."""
        if self.alignment_text == "input":
            return first
        # Otherwise MA Loss would teach MCM to copy the image into the words.
        return first + (tokens - first).detach()

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
    check_widths(image_encoder, channels)
    return tuple(channels)
