"""Every network at its smallest, for what is asked of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import textseg.models
from tests.models.stand_ins import CAPTIONS
from textseg.models.lsms.encoder import VARIANTS, Variant

# One block a stage, which the command line does not know: there mscan_tiny is the smallest.
VARIANTS["mscan_test"] = Variant((32, 64, 96, 128), (1, 1, 1, 1), "none")

TINY_SWIN: dict[str, Any] = {
    "embed_dim": 24,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 4,
    "drop_path_rate": 0.0,
}
_ON_SWIN = {
    "image_encoder": "swin_tiny_patch4_window7_224",
    "image_encoder_options": TINY_SWIN,
    "text_encoder": "scratch",
    "pretrained": False,
}

# Class name -> init_args, as YAML would give them.
NETWORKS: dict[str, dict[str, Any]] = {
    "LSMS": {
        "image_encoder": "mscan_test",
        "text_encoder": "scratch",
        "pretrained": False,
        "drop_path": 0.0,
        "decoder_dim": 32,
    },
    "TMC": _ON_SWIN,
    "TMCA": {
        "image_encoder": "test_convnext",
        "text_encoder": "scratch",
        "pretrained": False,
        "alignment_dim": 16,
    },
    "LAVT": _ON_SWIN,
    "LanGuideMedSeg": {
        "image_encoder": "test_convnext",
        "text_encoder": "scratch",
        "pretrained": False,
    },
    "LViT": {"text_encoder": "scratch", "pretrained": False, "width": 8, "dropout": 0.0},
    "ImageBaseline": {"image_encoder": "tu-test_convnext", "pretrained": False},
}

NO_TEXT: dict[str, dict[str, Any]] = {  # settings of an image-only network
    "LSMS": {"language_branch": "none", "contrastive_weight": 0.0},
    "TMC": {"mcm_stages": (), "alignment": "none"},
    "TMCA": {"alignment": "none", "enhancement_levels": ()},
}


def tiny(name: str, captions: Sequence[str] = CAPTIONS, **settings: Any) -> Any:
    """A seeded tiny network whose vocabulary is that of `captions`; `settings` override."""
    defaults = NETWORKS[name]
    short = {"max_tokens": 16} if "text_encoder" in defaults else {}
    torch.manual_seed(0)
    network = getattr(textseg.models, name)(**{**defaults, **short, **settings})
    network.prepare_captions(captions, training=True)
    return network
