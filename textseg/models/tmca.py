"""TMCA: Target-informed Multi-level Contrastive Alignments (Li et al., arXiv 2412.13533).

"Language-guided Medical Image Segmentation with Target-informed Multi-level Contrastive
Alignments". A reconstruction: the authors' repository holds no code. Read were the abstract (its
third version, too), captions and a digest by others; not read was the full text with its equations,
so differences are to be expected.

From its abstract and captions:
- a target-sensitive semantic distance module: disease-relevant local regions, rather than whole
  images, are aligned with the description;
- a multi-level strategy: the contrastive alignment also reaches low-level features, which carry the
  lesion's boundary;
- a language-guided target enhancement module: attention to critical regions, reinforced by the
  aligned patterns of image and text; the digest describes cross-modal attention and modulation by
  the text.

Our choice:
- every formula of the three modules, and every number;
- ConvNeXt-T and a frozen CXR-BERT; one pair of projections phi_l, psi_l for each level, the pixels'
  with a position embedding, because captions say where;
- equal captions are positives of each other, rows of one image with another caption are left out;
- each row's own background is a further negative of its text: it makes the loss target-sensitive;
- the enhancement reads the text in the aligned embedding only: cross-attention to its words, and
  FiLM (Perez et al. 2018), both behind a spatial gate of the similarity that the alignment trains;
- enhanced levels go to the decoder; `enhancement_feeds_encoder` lets the encoder read them as well;
- "feature-guided text prompting" for boundaries, which the digest mentions, is not built;
- the decoder: transposed convolutions, residual blocks, sub-pixel upsampling by 4.

Shapes: B rows of a process, N rows of all processes, L tokens, T width of the text encoder,
D width of the shared embedding;
level l = 1..4 has C_l channels on H_l x W_l = H/4..H/32 x W/4..W/32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.backbone import TextImageBackboneMixin
from textseg.batch import Batch, SegmentationOutput, TextFeatures
from textseg.encoders import STRIDES, check_strides
from textseg.errors import UserError, check_at_least, check_choice, check_choices
from textseg.explain import record_inputs
from textseg.layers import (
    CrossAttention,
    pool_regions,
    sincos_position_embedding_2d,
    to_map,
    to_tokens,
)
from textseg.losses import (
    ContrastiveTargets,
    all_gather_with_grad,
    contrastive_targets,
    soft_cross_entropy,
)
from textseg.models.base import SegmentationModule

Alignment = Literal["target", "global", "none"]
LEVELS = (1, 2, 3, 4)
POSITION_DIM = 64
SUBPIXEL_WIDTH = 16  # channels at input size


# --- target-sensitive semantic distance


class Shared(NamedTuple):
    """A level in the embedding that pixels and text share, each vector of length 1, in fp32.

    pixels p_l [B, D, H_l, W_l]; text t_l [B, D]; words w_l [B, L, D].
    """

    pixels: Tensor
    text: Tensor
    words: Tensor


class SharedEmbedding(nn.Module):
    """phi_l and psi_l: project the pixels of level l and the text to one unit sphere.

        p_l = norm(phi_l F_l + E_l P),   t_l = norm(psi_l pooled),   w_l = norm(psi_l tokens)

    P is the sine-cosine position embedding: captions say where, and an early level sees but a part
    of the image, so that without E_l P a lesion on the left and one on the right are alike.

    Args:
        channels: C_l.
        text_dim: T.
        dim: D.
        position: add E_l P.
    """

    def __init__(self, channels: int, text_dim: int, dim: int, *, position: bool) -> None:
        super().__init__()
        self.phi = nn.Conv2d(channels, dim, 1)
        self.psi = nn.Linear(text_dim, dim)
        self.position_embedding = nn.Linear(POSITION_DIM, dim, bias=False) if position else None

    def forward(self, feature: Tensor, text: TextFeatures) -> Shared:
        """F_l [B, C_l, H_l, W_l] and the encoded caption -> p_l, t_l and w_l."""
        pixels = self.phi(feature)
        if self.position_embedding is not None:
            height, width = feature.shape[-2:]
            code = sincos_position_embedding_2d(height, width, POSITION_DIM, feature)
            pixels = pixels + to_map(self.position_embedding(code), height, width)
        return Shared(
            F.normalize(pixels.float(), dim=1),
            F.normalize(self.psi(text.pooled).float(), dim=-1),
            F.normalize(self.psi(text.tokens).float(), dim=-1),
        )


def semantic_distance(lesions: Tensor, texts: Tensor) -> Tensor:
    """d_l(i, j) = 1 - <v+_l,i, t_l,j>: [N, D] and [N, D] -> [N, N], in [0, 2]."""
    return 1 - lesions @ texts.T


# --- multi-level contrastive alignment


def level_alignment_loss(
    vectors: Tensor, targets: ContrastiveTargets, has_background: Tensor, temperature: float
) -> Tensor:
    """Mean of image-to-text and text-to-image cross-entropy of <v+_i, t_j> / tau, at one level.

    Text to image has a further negative: <v-_i, t_i> / tau, the row's own background. It gives a
    gradient even if a whole batch shares one caption. A full mask has no such negative.

    Args:
        vectors: v+, v- and t of each row, [N, 3, D].
        targets: of the N rows; those with an empty mask are no anchors.
        has_background: [N] bool.
        temperature: tau.
    """
    lesions, backgrounds, texts = vectors.unbind(1)
    similarity = 1 - semantic_distance(lesions, texts)  # [N, N]
    background = (backgrounds * texts).sum(1, keepdim=True)  # [N, 1]
    background = background.masked_fill(~has_background[:, None], -torch.inf)
    image_to_text = soft_cross_entropy(similarity / temperature, targets)
    candidates = torch.cat([similarity.T, background], dim=1)  # [N, N + 1]
    text_to_image = soft_cross_entropy(candidates / temperature, targets)
    return (image_to_text + text_to_image) / 2


# --- language-guided target enhancement


class TargetGate(nn.Module):
    """g_l = sigmoid(gamma_l <p_l, t_l> + beta_l), gamma_l from 10 = 1 / tau, beta_l from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor(10.0))
        self.beta = nn.Parameter(torch.tensor(0.0))

    def forward(self, pixels: Tensor, text: Tensor) -> Tensor:
        """p_l [B, D, H_l, W_l] and t_l [B, D] -> [B, 1, H_l, W_l] in (0, 1)."""
        similarity = (pixels * text[:, :, None, None]).sum(1, keepdim=True)
        return torch.sigmoid(self.gamma * similarity + self.beta)


class LanguageGuidedTargetEnhancement(nn.Module):
    """Gated FiLM (Perez et al. 2018), then gated cross-attention from the pixels to the words.

        F~ = F + alpha_l g_l * (scale * W F + shift),   (scale, shift) = MLP(t_l)
        F^ = F~ + rho_l g_l * attention(queries: LayerNorm(F~) + position; keys and values: w_l)

    It reads the text in the aligned embedding, t_l and w_l, never as the text encoder gives it;
    both times sqrt(D), so that their entries are as large as what linear layers are made for.

    Args:
        channels: C_l.
        dim: D.
        residual: initial value of alpha_l and rho_l.
    """

    def __init__(self, channels: int, dim: int, residual: float) -> None:
        super().__init__()
        self.gate = TargetGate()
        self.film = nn.Sequential(
            nn.Linear(dim, channels), nn.GELU(), nn.Linear(channels, 2 * channels)
        )
        self.project = nn.Conv2d(channels, channels, 1, bias=False)  # W
        self.alpha = nn.Parameter(torch.tensor(float(residual)))
        self.norm = nn.LayerNorm(channels)
        self.position_embedding = nn.Linear(POSITION_DIM, channels, bias=False)
        self.attention = CrossAttention(channels, dim)
        self.rho = nn.Parameter(torch.tensor(float(residual)))

    def forward(self, feature: Tensor, shared: Shared, mask: Tensor) -> Tensor:
        """F_l [B, C_l, H_l, W_l], p_l, t_l and w_l, mask [B, L] -> the enhanced F_l."""
        height, width = feature.shape[-2:]
        scaled = math.sqrt(shared.text.shape[-1])
        text, words = (scaled * x.to(feature.dtype) for x in (shared.text, shared.words))
        scale, shift = self.film(text)[..., None, None].chunk(2, 1)  # [B, C_l, 1, 1]
        gate = self.gate(shared.pixels, shared.text).to(feature.dtype)  # similarity in fp32
        x = feature + self.alpha * gate * (scale * self.project(feature) + shift)
        # Captions name positions ("upper left"), which a convolution does not know.
        position = sincos_position_embedding_2d(height, width, POSITION_DIM, x)
        query = self.norm(to_tokens(x)) + self.position_embedding(position)  # [B, H_l W_l, C_l]
        attended = self.attention(query, words, words, mask)
        return x + self.rho * gate * to_map(attended, height, width)


# --- decoder


class ResidualBlock(nn.Module):
    """Two 3x3 conv-BN and a 1x1 conv-BN as shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D, H, W]."""
        return F.relu(self.body(x) + self.shortcut(x))


class UpStep(nn.Module):
    """Transposed conv x2, concatenate the skip, residual block.

    Args:
        coarse: channels of the coarser map.
        fine: channels of the skip and of the result.
    """

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=False)
        self.block = ResidualBlock(2 * fine, fine)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, C_l+1, H_l / 2, W_l / 2] and [B, C_l, H_l, W_l] -> [B, C_l, H_l, W_l]."""
        return self.block(torch.cat([self.up(x), skip], dim=1))


class SubPixelDecoder(nn.Module):
    """Three up-steps to H/4, sub-pixel upsampling by 4, and a 1x1 head.

    Args:
        channels: C_1..C_4.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(UpStep(coarse, fine) for fine, coarse in pairwise(channels))
        self.to_subpixels = nn.Conv2d(channels[0], STRIDES[0] ** 2 * SUBPIXEL_WIDTH, 1)
        self.head = nn.Conv2d(SUBPIXEL_WIDTH, 1, 1)

    @property
    def blocks(self) -> list[nn.Module]:
        """The residual blocks; see `textseg.training.GradientCheckpointing`."""
        return [step.block for step in self.steps]  # type: ignore[misc]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """F_1..F_4 -> logits [B, 1, H, W]."""
        x = features[-1]
        for step, skip in zip(reversed(self.steps), features[-2::-1], strict=True):
            x = step(x, skip)  # [B, C_l, H_l, W_l]
        fine = F.pixel_shuffle(self.to_subpixels(x), STRIDES[0])  # [B, SUBPIXEL_WIDTH, H, W]
        # Leaky: with a ReLU the channels that respond to lesions die while the network first learns
        # the background, and no probability exceeds that of the head's bias.
        return self.head(F.leaky_relu(fine, 0.1))


# --- the network


class TMCA(TextImageBackboneMixin, SegmentationModule):
    """Target-informed Multi-level Contrastive Alignments (arXiv 2412.13533), rebuilt from its text.

    Args:
        image_encoder: a timm network with feature maps at strides 4, 8, 16 and 32.
        text_encoder: hub name or local folder of a BERT, or "scratch" for a small one trained along
            with the network. Not built if neither alignment nor enhancement uses text.
        pretrained: load the published weights of both encoders, of which `image_weights` replaces
            the image encoder's.
        freeze_text: keep the text encoder fixed; by default if and only if it is pretrained.
        max_tokens: length of every caption in tokens, special ones included.
        image_encoder_options: further arguments of the timm network, such as drop_path_rate.
        image_weights: local file of the image encoder's weights, which then count as pretrained;
            no hub is asked for them.
        alignment: what a text is aligned with: the masked region, contrasted with its background
            ("target"), the whole image ("global"), or nothing ("none").
        alignment_levels: encoder levels that are aligned, 1 (finest) to 4; an empty list is none.
        alignment_dim: width of the embedding that text and pixels share.
        temperature: of the contrastive softmax.
        alignment_weight: weight of the alignment loss; 0 builds no such part.
        alignment_position: add a position embedding to the pixels that are aligned.
        enhancement_levels: encoder levels that are enhanced by the text; an empty list is none.
        enhancement_scale: initial weight of both residual branches of an enhancement; a larger one
            helps short runs from scratch.
        enhancement_feeds_encoder: let the encoder's next stage read the enhanced level, not only
            the decoder. Levels 2 to 4 have then seen the words that they are aligned with.
    """

    def __init__(
        self,
        image_encoder: str = "convnext_tiny",
        text_encoder: str = "microsoft/BiomedVLP-CXR-BERT-specialized",
        *,
        pretrained: bool = True,
        freeze_text: bool | None = None,
        max_tokens: int = 32,
        image_encoder_options: dict[str, Any] | None = None,
        image_weights: str | None = None,
        alignment: Alignment = "target",
        alignment_levels: tuple[int, ...] = LEVELS,
        alignment_dim: int = 128,
        temperature: float = 0.1,
        alignment_weight: float = 0.1,
        alignment_position: bool = True,
        enhancement_levels: tuple[int, ...] = LEVELS,
        enhancement_scale: float = 0.01,
        enhancement_feeds_encoder: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("alignment", alignment, Alignment)
        check_choices("alignment_levels", alignment_levels, LEVELS)
        check_choices("enhancement_levels", enhancement_levels, LEVELS)
        check_at_least("alignment_dim", alignment_dim, 1, "128 is usual")
        check_at_least("alignment_weight", alignment_weight, 0, "0.1 is usual; 0 is none")
        if not temperature > 0:
            raise UserError(f"temperature={temperature} is not above 0", "0.1 is usual")
        if not enhancement_scale > 0:
            raise UserError(
                f"enhancement_scale={enhancement_scale} is not above 0",
                "0.01 is usual; for no enhancement give enhancement_levels: []",
            )
        builds_alignment = alignment != "none" and alignment_weight > 0
        self.aligned = tuple(sorted(alignment_levels)) if builds_alignment else ()
        text_levels = sorted({*self.aligned, *enhancement_levels})
        self.build_backbone(
            image_encoder,
            text_encoder if text_levels else None,
            pretrained=pretrained,
            freeze=freeze_text,
            max_tokens=max_tokens,
            image_encoder_options=image_encoder_options,
            image_weights=image_weights,
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
        self.decoder = SubPixelDecoder(channels)
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
