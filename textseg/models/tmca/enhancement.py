"""TMCA's language-guided target enhancement: FiLM and cross-attention, both behind a gate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from textseg.layers import CrossAttention, sincos_position_embedding_2d, to_map, to_tokens
from textseg.models.tmca.alignment import POSITION_DIM, Shared


class TargetGate(nn.Module):
    """g_l = sigmoid(gamma_l <p_l, t_l> + beta_l), gamma_l from 10 = 1 / tau, beta_l from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor(10.0))
        self.beta = nn.Parameter(torch.tensor(0.0))

    def forward(self, pixels: Tensor, text: Tensor) -> Tensor:
        """p_l [B, D, H_l, W_l] and t_l [B, D] -> [B, 1, H_l, W_l] in (0, 1)."""
        with torch.autocast(pixels.device.type, enabled=False):  # a product of matrices, in fp32
            similarity = to_map(to_tokens(pixels) @ text[:, :, None], *pixels.shape[-2:])
        return torch.sigmoid(self.gamma * similarity + self.beta)


class LanguageGuidedTargetEnhancement(nn.Module):
    """Gated FiLM (Perez et al. 2018), then gated cross-attention from the pixels to the words.

        F~ = F + alpha_l g_l * (scale * W F + shift),   (scale, shift) = MLP(t_l)
        F^ = F~ + rho_l g_l * attention(queries: LayerNorm(F~) + position; keys and values: w_l)

    It reads the text in the aligned embedding, t_l and w_l, never as the text encoder gives it;
    both times sqrt(D), so that their entries are as large as what linear layers are made for. The
    gate g_l of p_l and t_l decides where either may change the image.

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
        """F_l [B, C_l, H_l, W_l], p_l, t_l and w_l, mask of words [B, L] -> the enhanced F_l."""
        height, width = feature.shape[-2:]
        root = math.sqrt(shared.text.shape[-1])
        text, words = (root * x.to(feature.dtype) for x in (shared.text, shared.words))
        scale, shift = self.film(text)[..., None, None].chunk(2, 1)  # [B, C_l, 1, 1]
        gate = self.gate(shared.pixels, shared.text).to(feature.dtype)  # similarity in fp32
        modulated = torch.addcmul(shift, scale, self.project(feature))
        x = torch.addcmul(feature, self.alpha * gate, modulated)
        # Captions name positions ("upper left"), which a convolution does not know.
        position = sincos_position_embedding_2d(height, width, POSITION_DIM, x)
        query = self.norm(to_tokens(x)) + self.position_embedding(position)  # [B, H_l W_l, C_l]
        attended = self.attention(query, words, words, mask)
        return torch.addcmul(x, self.rho * gate, to_map(attended, height, width))
