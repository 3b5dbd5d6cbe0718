"""Tiny offline stand-ins: a BERT folder as transformers saves it, and batches held in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BertConfig, BertModel, BertTokenizerFast

from textseg.batch import Batch, stable_id

CAPTIONS = ["small lesion in the upper left", "large lesion in the lower right"]
WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("small", "large", "lesion", "in", "the", "upper", "lower", "left", "right", "lung", "##s"),
]


def write_bert(folder: Path, *, seed: int = 3, hidden: int = 32) -> BertModel:
    """A two-layer BERT with weights, config and vocabulary, written as a published one would be."""
    folder.mkdir(parents=True, exist_ok=True)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertModel(config)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return model.eval()


def pictures(count: int, height: int = 64, width: int = 64, *, seed: int = 0) -> Tensor:
    """[count, 3, height, width] in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator)


def random_pixels(count: int, dim: int = 8, size: int = 7) -> Tensor:
    """[count, dim, size, size], each pixel of unit length."""
    return F.normalize(torch.randn(count, dim, size, size), dim=1)


def make_batch(count: int = 2, height: int = 64, width: int = 64, *, seed: int = 0) -> Batch:
    """A batch whose masks are one box each, captions alternating."""
    mask = torch.zeros(count, 1, height, width)
    for i in range(count):
        top = (i % 2) * height // 2
        mask[i, 0, top + 4 : top + height // 3, 4 : width // 3] = 1
    text = [CAPTIONS[i % 2] for i in range(count)]
    return {
        "image": pictures(count, height, width, seed=seed),
        "mask": mask,
        "text": text,
        "caption_id": torch.tensor([stable_id(t) for t in text]),
        "image_id": torch.arange(count),
        "index": torch.arange(count),
        "case": [f"case{i}" for i in range(count)],
        "case_id": [""] * count,
        "original_size": torch.tensor([[height, width]] * count),
        "spacing": torch.full((count, 2), torch.nan),
    }


class BatchesInMemory(L.LightningDataModule):
    """The same small batches for every stage, and their captions."""

    def __init__(self, batches: list[Batch]) -> None:
        super().__init__()
        self.batches = batches

    def captions(self, split: str) -> list[str]:
        return [text for batch in self.batches for text in batch["text"]]

    def train_dataloader(self) -> Any:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return self.train_dataloader()


def quiet_trainer(**settings: Any) -> L.Trainer:
    """A Trainer on the CPU that writes nothing."""
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
