"""Checkpoints of tiny networks, and captions for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.models.stand_ins import CAPTIONS
from tests.models.tiny import tiny
from textseg.batch import SegmentationOutput, TextFeatures
from textseg.checkpoint import ABOUT
from textseg.encoders import TextEncoder
from textseg.models.base import SegmentationModule

THIRTY = " ".join(" ".join(CAPTIONS * 3).split()[:30])
SIZE = (64, 96)


class WordsNetwork(SegmentationModule):
    """A convolution whose pixels attend to the words: converted in seconds, as no paper's is."""

    def __init__(
        self, *, text_encoder: str = "scratch", max_tokens: int = 32, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.text_encoder = TextEncoder(text_encoder, pretrained=False, max_tokens=max_tokens)
        self.pixels = nn.Conv2d(3, 8, 3, padding=1)
        self.words = nn.Linear(self.text_encoder.dim, 8)

    def prepare_captions(self, captions: Sequence[str], *, training: bool) -> None:
        self.text_encoder.prepare_captions(captions, training=training)

    def encode_text(self, text: Sequence[str]) -> TextFeatures:
        return self.text_encoder(text)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        x = self.pixels(image - 0.5)  # [B, 8, H, W]
        batch, _, height, width = x.shape
        query = x.flatten(2).transpose(1, 2)  # [B, H W, 8]
        words = self.words(text.tokens)  # [B, L, 8]
        scores = (query @ words.transpose(1, 2)).masked_fill(~text.mask[:, None], -1e4)
        read = query + scores.softmax(dim=-1) @ words - self.words(text.pooled)[:, None]
        return SegmentationOutput(read.sum(dim=-1).reshape(batch, 1, height, width), {})


def write_checkpoint(folder: Path, name: str, **settings: Any) -> tuple[Path, Any]:
    """A checkpoint as a Trainer leaves it, and its network in eval mode."""
    if name == WordsNetwork.__name__:
        torch.manual_seed(0)
        network: Any = WordsNetwork(**settings)
        network.prepare_captions(CAPTIONS, training=True)
    else:
        network = tiny(name, **({} if name == "ImageBaseline" else {"max_tokens": 32}), **settings)
    home = WordsNetwork.__module__ if name == WordsNetwork.__name__ else "textseg.models"
    network.eval()
    stored = {
        "state_dict": network.state_dict(),
        "hyper_parameters": {**network.hparams, "_class_path": f"{home}.{name}"},
        ABOUT: {"image_size": list(SIZE), "resize": "pad"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(stored, folder / "best.ckpt")
    return folder / "best.ckpt", network
