"""TMCA at its smallest, for the files that test it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.stand_ins import CAPTIONS
from textseg.models.tmca import TMCA

OFF: dict[str, Any] = {"alignment": "none", "enhancement_levels": ()}


def make(captions: Sequence[str] = CAPTIONS, **settings: Any) -> TMCA:
    """A tiny network whose vocabulary is that of `captions`."""
    defaults: dict[str, Any] = {
        "image_encoder": "test_convnext",
        "text_encoder": "scratch",
        "pretrained": False,
        "max_tokens": 16,
        "alignment_dim": 16,
    }
    torch.manual_seed(0)
    model = TMCA(**{**defaults, **settings})
    model.prepare_captions(captions, training=True)
    return model


def random_places(count: int, dim: int = 8, size: int = 7) -> Tensor:
    """[count, dim, size, size], each place of unit length."""
    return F.normalize(torch.randn(count, dim, size, size), dim=1)
