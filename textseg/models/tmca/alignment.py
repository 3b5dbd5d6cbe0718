"""TMCA's alignment: the embedding of pixels and text, and the contrast of lesions and texts."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textseg.batch import TextFeatures
from textseg.layers import sincos_position_embedding_2d, to_map, to_tokens
from textseg.losses import ContrastiveTargets, soft_cross_entropy

POSITION_DIM = 64


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

        p_l = norm(phi_l LN(F_l) + E_l P),   t_l = norm(psi_l pooled),   w_l = norm(psi_l tokens)

    P is the sine-cosine position embedding: captions say where, and an early level sees but a part
    of the image, so that without E_l P a lesion on the left and one on the right are alike. LN is
    over channels and without weights; some encoders' features are a dozen times as large as P.

    Args:
        channels: C_l.
        text_dim: T.
        dim: D.
        position: add E_l P.
    """

    def __init__(self, channels: int, text_dim: int, dim: int, *, position: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.phi = nn.Linear(channels, dim)
        self.psi = nn.Linear(text_dim, dim)
        self.position_embedding = nn.Linear(POSITION_DIM, dim, bias=False) if position else None

    def forward(self, feature: Tensor, text: TextFeatures) -> Shared:
        """F_l [B, C_l, H_l, W_l] and the encoded caption -> p_l, t_l and w_l."""
        height, width = feature.shape[-2:]
        pixels = self.phi(self.norm(to_tokens(feature)))  # [B, H_l W_l, D]
        if self.position_embedding is not None:
            code = sincos_position_embedding_2d(height, width, POSITION_DIM, feature)
            pixels = pixels + self.position_embedding(code)
        return Shared(
            to_map(F.normalize(pixels.float(), dim=-1), height, width),
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
