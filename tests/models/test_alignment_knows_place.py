"""Trained on real rows, an alignment has a lesion nearer to its own caption than to the mirrored.

The measurement of "own nearer than mirrored": the lesion of a held-out image is compared with
the image's own caption and with the caption whose sides are exchanged, at each level. Chance is a
half. Captions that are their own mirror are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules import QaTaCov19DataModule
from datamodules.captions.modes import swap_sides
from tests.models.tiny import tiny
from textseg.batch import Batch, stable_id
from textseg.layers import pool_regions
from textseg.models.base import SegmentationModule
from textseg.models.tmc.alignment import pooled_lesion

BATCH, STEPS = 32, 150


def rows(root: Path, split: str) -> list[tuple[Tensor, Tensor, str]]:
    """Image [3, 64, 64], mask [1, 64, 64] and caption of every row that can be mirrored."""
    datamodule = QaTaCov19DataModule(
        str(root / "qata_images_sample"),
        str(root / "qata_text"),
        on_missing="skip",
        image_size=64,
        batch_size=BATCH,
        num_workers=0,
        augment=False,
        cache=None,
    )
    datamodule.prepare_data()
    datamodule.setup("fit")
    loader = datamodule.train_dataloader() if split == "train" else datamodule.val_dataloader()
    found = []
    for loaded in loader:
        batch = datamodule.on_after_batch_transfer(loaded, 0)
        for row in zip(batch["image"], batch["mask"], batch["text"], strict=True):
            if swap_sides(row[2]) not in (None, row[2]):
                found.append(row)
    return found


def as_batch(chosen: list[tuple[Tensor, Tensor, str]]) -> Batch:
    images, masks, text = zip(*chosen, strict=True)
    return {  # type: ignore[typeddict-item]
        "image": torch.stack(images),
        "mask": torch.stack(masks),
        "text": list(text),
        "caption_id": torch.tensor([stable_id(t) for t in text]),
        "image_id": torch.arange(len(text)),
    }


def mirrored(row: tuple[Tensor, Tensor, str]) -> tuple[Tensor, Tensor, str]:
    text = swap_sides(row[2])
    assert text is not None
    return row[0].flip(-1), row[1].flip(-1), text


def own_similarity(network: Any, batch: Batch) -> dict[int, Tensor]:
    """[B] of every aligned level: each image's similarity to its own text."""
    aux = network(batch["image"], batch["text"]).aux
    if "pixels_1" in aux:  # TMCA
        return {
            n: (pool_regions(aux[f"pixels_{n}"], batch["mask"])[0] * aux[f"text_{n}"]).sum(1)
            for n in network.aligned
        }
    found = {}
    for i in network.alignment.stages:
        lesion = pooled_lesion(aux[f"align_pixels_{i}"], batch["mask"])
        found[i] = (lesion * F.normalize(aux[f"align_text_{i}"], dim=1)).sum(1)
    return found


def nearer_shares(network: Any, held_out: list[tuple[Tensor, Tensor, str]]) -> dict[int, float]:
    """Share of rows nearer to their own caption than to the mirrored one, by level."""
    nearer: dict[int, list[bool]] = {}
    for at in range(0, len(held_out), BATCH):
        batch = as_batch(held_out[at : at + BATCH])
        swapped: Any = {**batch, "text": [swap_sides(text) for text in batch["text"]]}
        with torch.no_grad():
            own, other = (own_similarity(network.eval(), b) for b in (batch, swapped))
        for level, similarity in own.items():
            nearer.setdefault(level, []).extend((similarity > other[level]).tolist())
    return {level: float(np.mean(flags)) for level, flags in nearer.items()}


def learn_alignment(network: SegmentationModule, train: list[tuple[Tensor, Tensor, str]]) -> None:
    """The alignment alone, on rows of which half are mirrored."""
    draw = np.random.default_rng(0)
    groups = network.parameter_groups(lr=2e-3, weight_decay=0.05, pretrained_lr_scale=1.0)
    optimizer = torch.optim.AdamW(groups)
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        chosen = [train[k] for k in draw.choice(len(train), BATCH, replace=False)]
        batch = as_batch([mirrored(row) if draw.random() < 0.5 else row for row in chosen])
        losses = network.compute_loss(network.train()(batch["image"], batch["text"]), batch)
        optimizer.zero_grad()
        losses["loss_align"].backward()
        optimizer.step()
        course.step()


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("TMCA", {"enhancement_levels": (), "alignment_dim": 128}),
        ("TMC", {"mcm_stages": (), "alignment_stages": (1, 2, 3, 4)}),
        ("TMC", {"mcm_stages": (), "alignment_stages": (1, 2, 3, 4), "alignment": "pixel"}),
    ],
)
def test_a_lesion_is_nearer_to_its_own_caption_than_to_the_mirrored_one(
    name: str, settings: dict[str, Any], real_data: Path
) -> None:
    train, held_out = rows(real_data, "train"), rows(real_data, "val")
    captions = [text for row in train for text in (row[2], swap_sides(row[2]) or "")]
    network = tiny(name, captions, **{"max_tokens": 32, **settings})
    learn_alignment(network, train)
    shares = nearer_shares(network, held_out)
    print(f"{name}: {shares} of {len(held_out)}")
    assert min(shares.values()) >= 0.8
