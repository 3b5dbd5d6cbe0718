"""Tiny text encoders, from scratch or of a folder, for the files that test them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.models.stand_ins import CAPTIONS
from textseg.encoders import TextEncoder

SMALL = {"dim": 32, "depth": 1, "max_tokens": 12}


def scratch(captions: list[str] | None = None, **settings: Any) -> TextEncoder:
    torch.manual_seed(0)
    encoder = TextEncoder("scratch", **{**SMALL, **settings})
    encoder.learn_vocabulary(CAPTIONS if captions is None else captions)
    return encoder.eval()


def frozen(folder: Path, **settings: Any) -> TextEncoder:
    encoder = TextEncoder(str(folder), **{"max_tokens": 12, **settings})
    encoder.requires_grad_(False)
    return encoder.eval()
