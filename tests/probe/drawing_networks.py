"""Networks that draw what their words name, and rows in memory to probe them on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.models.stand_ins import quiet_trainer
from textseg.batch import Batch, SegmentationOutput, TextFeatures, stable_id
from textseg.encoders import NoText
from textseg.models.base import SegmentationModule
from textseg.probe import ProbeResult, probe

SIDE = 16  # of the network's input
SIZES = [(16, 16), (32, 48), (16, 48)]  # of the files
# Rows 0 and 1 are of one image, 2 and 3 of another, and so on; the truth of row 6 is empty.
TEXTS = ["on the left", "on the right", "left", "right", "the left", "the right", "none", "left"]
CASE_IDS = ["p1", "p1", "p1", "p1", "p2", "p2", "p3", ""]
MARKUP = "<b>left</b> | **of** $it$"
VARIANTS: dict[str, list[str | None]] = {
    "true": list(TEXTS),
    "empty": [""] * 8,
    "side_swapped": [
        *("on the right", "on the left", "right", "left", "the right", "the left", None, "right")
    ],
    "typos": [None, None, "lefft", None, None, None, None, MARKUP],
    "count_changed": [None] * 8,
}


class Reader(SegmentationModule):
    """Draws the half of the picture that its words name: left, right, both or nothing."""

    def __init__(self) -> None:
        super().__init__(
            lr=1e-3,
            weight_decay=0.0,
            pretrained_lr_scale=1.0,
            schedule="constant",
            warmup=0.0,
            protocol="standard",
        )
        self.strength = nn.Parameter(torch.ones(1))
        self.sizes: list[int] = []
        self.shown: list[tuple[list[str], bool]] = []

    def prepare_captions(self, captions: Sequence[str], *, training: bool) -> None:
        self.shown.append((list(captions), training))

    def encode_text(self, text: Sequence[str]) -> TextFeatures:
        self.sizes.append(len(text))
        named = torch.tensor([[float(side in t) for side in ("left", "right")] for t in text])
        return TextFeatures(named[:, None], torch.ones(len(text), 1, dtype=torch.bool), named)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        halves = text.pooled.repeat_interleave(SIDE // 2, dim=1) * 2 - 1  # [B, W]
        logits = halves[:, None, None].expand(-1, 1, SIDE, -1)  # [B, 1, H, W]
        return SegmentationOutput(logits * self.strength, {})

    def token_mask(self, text: Sequence[str], word: str | None) -> Tensor:
        return torch.ones(len(text), 1, dtype=torch.bool)

    def parameter_groups(self, **_: Any) -> list[dict[str, Any]]:
        return [{"params": [self.strength]}]


class Blind(Reader):
    """Draws the left half whatever the words."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = NoText()

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        left = torch.tensor([[1.0, 0.0]]).expand(len(image), -1)
        return super().forward_features(image, TextFeatures(text.tokens, text.mask, left))


def half(text: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask that `Reader` draws, at the file's size, whose width is even."""
    mask = np.zeros(size, dtype=bool)
    mask[:, : size[1] // 2] |= "left" in text
    mask[:, size[1] // 2 :] |= "right" in text
    return mask


def truth_of_row(row: int) -> NDArray[np.bool_]:
    """Four fifths of the rows of the half that the true words name; nothing for row 6."""
    height, width = SIZES[row // 2 % 3]
    mask = half(TEXTS[row], (height, width))
    mask[height * 4 // 5 :] = False
    return mask


def make_batch(rows: Sequence[int]) -> Batch:
    generator = torch.Generator().manual_seed(1)
    texts = [TEXTS[row] for row in rows]
    truths = [torch.from_numpy(truth_of_row(row).astype(np.uint8)) for row in rows]
    return {
        "image": torch.rand(len(rows), 3, SIDE, SIDE, generator=generator),
        "mask": torch.zeros(len(rows), 1, SIDE, SIDE),
        "truth": truths,
        "text": texts,
        "caption_id": torch.tensor([stable_id(text) for text in texts]),
        "image_id": torch.tensor([row // 2 for row in rows]),
        "index": torch.tensor(rows),
        "case": [f"image{row // 2}__{row}" for row in rows],
        "case_id": [CASE_IDS[row] for row in rows],
        "original_size": torch.tensor([truth.shape for truth in truths]),
        "spacing": torch.full((len(rows), 2), torch.nan),
    }


class RowsInMemory(L.LightningDataModule):
    """The rows above, two or another number at a time."""

    def __init__(self, rows: Sequence[int] = range(8), batch_size: int = 3) -> None:
        super().__init__()
        self.rows, self.batch_size = list(rows), batch_size

    def captions(self, split: str) -> list[str]:
        assert split == "test"
        return TEXTS

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, self.batch_size, collate_fn=make_batch)  # type: ignore[arg-type]


def run(model: SegmentationModule, folder: Path, **settings: Any) -> ProbeResult:
    trainer = quiet_trainer(default_root_dir=folder)
    given: dict[str, Any] = {"variants": VARIANTS, "pictures": 0} | settings
    return probe(model, RowsInMemory(), trainer=trainer, **given)
