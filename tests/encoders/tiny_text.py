"""A tiny text encoder from scratch, for the files that test it."""

from __future__ import annotations

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
