"""Every network at its smallest, for what is asked of all of them."""

from __future__ import annotations

from typing import Any

_SWIN = {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}
_ON_SWIN = {
    "image_encoder": "swin_tiny_patch4_window7_224",
    "image_encoder_options": {**_SWIN, "drop_path_rate": 0.0},
    "text_encoder": "scratch",
    "pretrained": False,
}

# Class name -> init_args, as YAML would give them.
NETWORKS: dict[str, dict[str, Any]] = {
    "LSMS": {
        "image_encoder": "mscan_tiny",
        "text_encoder": "scratch",
        "drop_path": 0.0,
        "decoder_dim": 32,
    },
    "TMC": _ON_SWIN,
    "TMCA": {"image_encoder": "test_convnext", "text_encoder": "scratch", "pretrained": False},
    "LAVT": _ON_SWIN,
    "ImageBaseline": {"image_encoder": "tu-test_convnext", "pretrained": False},
}
