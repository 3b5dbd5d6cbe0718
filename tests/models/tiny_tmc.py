"""TMC at its smallest, for the files that test it."""

from __future__ import annotations

from typing import Any

import torch

from tests.models.stand_ins import CAPTIONS
from textseg.models.tmc import TMC

TINY_SWIN: dict[str, Any] = {
    "embed_dim": 24,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 4, 8),
    "window_size": 4,
    "drop_path_rate": 0.0,
}
NO_TEXT: dict[str, Any] = {"mcm_stages": (), "alignment": "none"}


def make(**settings: Any) -> TMC:
    defaults: dict[str, Any] = {
        "image_encoder": "swin_tiny_patch4_window7_224",
        "image_encoder_options": TINY_SWIN,
        "text_encoder": "scratch",
        "pretrained": False,
        "max_tokens": 16,
    }
    torch.manual_seed(0)
    model = TMC(**{**defaults, **settings})
    model.prepare_captions(CAPTIONS, training=True)
    return model
