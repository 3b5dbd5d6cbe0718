"""A network that reads four words and needs no training: it outlines what is bright in a place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.models.stand_ins import CAPTIONS
from textseg.batch import SegmentationOutput, TextFeatures
from textseg.checkpoint import ABOUT
from textseg.encoders import TextEncoder
from textseg.models.base import SegmentationModule

PLACES = ("left", "right", "upper", "lower")
SIZE = 64
BRIGHT = 0.3  # from which on a pixel is outlined


class PlaceNetwork(SegmentationModule):
    """Pixels brighter than 0.3, in the halves of the picture that the words name."""

    def __init__(self, *, max_tokens: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text_encoder = TextEncoder("scratch", pretrained=False, max_tokens=max_tokens)

    def prepare_captions(self, captions: Sequence[str], *, training: bool) -> None:
        self.text_encoder.prepare_captions(captions, training=training)

    def encode_text(self, text: Sequence[str]) -> TextFeatures:
        features = self.text_encoder(text)
        named = [[float(place in caption.split()) for place in PLACES] for caption in text]
        return TextFeatures(features.tokens, features.mask, torch.tensor(named))

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        height, width = image.shape[-2:]
        right = (torch.arange(width) >= width / 2).float().expand(height, width)
        lower = (torch.arange(height) >= height / 2).float()[:, None].expand(height, width)
        named = text.pooled[:, :, None, None]  # [B, 4, 1, 1]
        outside = named[:, 0] * right + named[:, 1] * (1 - right)
        outside = outside + named[:, 2] * lower + named[:, 3] * (1 - lower)
        logits = 40 * (image.mean(1) - BRIGHT) - 80 * outside
        return SegmentationOutput(logits[:, None], {})

    def explanation_maps(
        self, image: Tensor, text: TextFeatures, words: Tensor
    ) -> dict[str, Tensor]:
        return {"stage1.attention": image.mean(1) * words.sum(1)[:, None, None]}

    def token_mask(self, text: Sequence[str], word: str | None) -> Tensor:
        return self.text_encoder.word_mask(text, word)


def write_checkpoint(folder: Path) -> str:
    """A checkpoint of the network as a Trainer leaves it."""
    torch.manual_seed(0)
    network = PlaceNetwork()
    network.prepare_captions(CAPTIONS, training=True)
    path = f"{PlaceNetwork.__module__}.{PlaceNetwork.__name__}"
    stored = {
        "state_dict": network.state_dict(),
        "hyper_parameters": {**network.hparams, "_class_path": path},
        ABOUT: {"image_size": [SIZE, SIZE], "resize": "stretch"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(stored, folder / "best.ckpt")
    return str(folder / "best.ckpt")
