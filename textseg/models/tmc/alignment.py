"""The Multi-stage Alignment Loss (MA Loss) of TMC.

Shapes: B rows of a process, N rows of all processes, n_i positions of stage i, P = 256 channels of
the embedding that positions and text share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.batch import Batch
from textseg.encoders import masked_mean
from textseg.layers import pool_regions, sincos_position_embedding_2d, to_map, to_tokens
from textseg.losses import (
    ContrastiveTargets,
    all_gather_with_grad,
    contrastive_targets,
    soft_cross_entropy,
    text_to_pixel_contrastive_loss,
)

EMBEDDING_DIM = 256  # P
POSITION_DIM = 64
TEMPERATURE = 0.07  # initial
# Range of the temperature: below 0.01 a single pair of rows would dominate every softmax.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 1.0
MAX_CELLS = 14  # InfoNCE reads a map averaged down to that many a side, which saves time


class MultiStageAlignment(nn.Module):
    """Embeddings and temperatures by stage, which both forms of MA Loss share.

        z_i = P_i LN(V_i) + E_i P,   l_i = Q_i mean over the tokens of LN(W_i T)

    P is the sine-cosine position embedding: captions say where, and the mean of a map does not. The
    LN of V_i, over channels and without weights, keeps large features from drowning it.

    Args:
        channels: C_1..C_4.
        stages: the selected ones, ascending.
        position: add E_i P.
    """

    max_cells: int | None = None  # maps with more positions a side are averaged down to it

    def __init__(self, channels: Sequence[int], stages: Sequence[int], *, position: bool) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.project_image, self.project_text = (
            nn.ModuleDict({str(i): nn.Linear(channels[i - 1], EMBEDDING_DIM) for i in stages})
            for _ in range(2)
        )
        self.norms = nn.ModuleDict(
            {str(i): nn.LayerNorm(channels[i - 1], elementwise_affine=False) for i in stages}
        )
        self.position_embedding = nn.ModuleDict()
        for i in stages if position else ():
            self.position_embedding[str(i)] = nn.Linear(POSITION_DIM, EMBEDDING_DIM, bias=False)
        self.log_temperature = nn.Parameter(torch.full((len(stages),), math.log(TEMPERATURE)))

    def forward(self, stage: int, feature: Tensor, text: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Embed one stage.

        Args:
            stage: i.
            feature: V_i [B, C_i, H_i, W_i].
            text: LN(W_i T) [B, L, C_i].
            mask: [B, L].

        Returns:
            `align_pixels_<i>`, z_i [B, P, h_i, w_i], and `align_text_<i>`, l_i [B, P].
        """
        i = str(stage)
        cells = self._reduced(feature)
        height, width = cells.shape[-2:]
        pixels = self.project_image[i](self.norms[i](to_tokens(cells)))  # [B, n_i, P]
        if i in self.position_embedding:
            code = sincos_position_embedding_2d(height, width, POSITION_DIM, pixels)
            pixels = pixels + self.position_embedding[i](code)
        return {
            f"align_pixels_{i}": to_map(pixels, height, width),
            f"align_text_{i}": self.project_text[i](masked_mean(text, mask)),
        }

    def _reduced(self, feature: Tensor) -> Tensor:
        if self.max_cells is None:
            return feature
        side = math.ceil(max(feature.shape[-2:]) / self.max_cells)
        return F.avg_pool2d(feature, side, ceil_mode=True) if side > 1 else feature

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Clamp the temperatures to their range.

        To be called after each step: a clamp in `forward` would stop their gradient.
        """
        self.log_temperature.clamp_(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))


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


def pooled_lesion(pixels: Tensor, mask: Tensor) -> Tensor:
    """v_i: the mean of norm(z_i) over the lesion, of length 1, in fp32; 0 for an empty mask.

    Args:
        pixels: z_i [B, P, h, w].
        mask: [B, 1, H, W], 0 or 1.

    Returns:
        [B, P].
    """
    with torch.autocast(pixels.device.type, enabled=False):
        lesion, _ = pool_regions(F.normalize(pixels.float(), dim=1), mask)
        return F.normalize(lesion, dim=1)


class InfoNCEAlignment(MultiStageAlignment):
    """MA Loss over the batch: symmetric InfoNCE of lesions and captions.

    Rows with an empty mask are left out.
    """

    max_cells = MAX_CELLS

    def losses(self, aux: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """L_align^i as `loss_align_<i>`, over the rows of all processes."""
        mask = batch["mask"]
        has_lesion = (mask.flatten(1).amax(1) > 0).long()
        ids = torch.stack([batch["caption_id"], batch["image_id"], has_lesion], dim=1)
        caption_id, image_id, present = all_gather_with_grad(ids).T  # each [N]
        targets = contrastive_targets(caption_id, image_id, present.bool())
        lesions = [pooled_lesion(aux[f"align_pixels_{i}"], mask) for i in self.stages]
        texts = [F.normalize(aux[f"align_text_{i}"].float(), dim=1) for i in self.stages]
        image = all_gather_with_grad(torch.stack(lesions, dim=1))  # [N, S, P]
        text = all_gather_with_grad(torch.stack(texts, dim=1))
        terms = {}
        for k, i in enumerate(self.stages):
            log_tau = self.log_temperature[k]
            to_text, to_image = info_nce(image[:, k], text[:, k], log_tau, targets)
            terms[f"loss_align_{i}"] = (to_text + to_image) / 2
        return terms


class PixelAlignment(MultiStageAlignment):
    """MA Loss within each image: text-to-pixel contrast against the mask.

    Args:
        channels, stages, position: as for `MultiStageAlignment`.
    """

    def __init__(self, channels: Sequence[int], stages: Sequence[int], *, position: bool) -> None:
        super().__init__(channels, stages, position=position)
        self.bias = nn.Parameter(torch.zeros(len(stages)))

    def losses(self, aux: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """L_align^i as `loss_align_<i>`."""
        terms = {}
        for k, i in enumerate(self.stages):
            terms[f"loss_align_{i}"] = text_to_pixel_contrastive_loss(
                aux[f"align_text_{i}"],
                aux[f"align_pixels_{i}"],
                batch["mask"],
                self.log_temperature[k],
                self.bias[k],
                batch["caption_id"],
            )
        return terms
