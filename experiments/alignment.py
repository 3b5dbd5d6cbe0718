"""How often the alignment of TMC or TMCA holds an image nearer to its own caption than to the
mirrored one, by level, on validation rows of QaTa-COV19.

    python experiments/alignment.py CKPT --root FOLDER --captions FOLDER

Chance is 0.5. The lesion's vector is that of the network's alignment loss: the mean of its pixels'
embeddings inside the true mask. Left out are rows without a lesion and captions that the mirror
leaves as they are, as it does where both lungs are named alike. One-sided captions, of which the
mirror is about the other lung, are also counted by themselves.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import textseg
from datamodules import QaTaCov19DataModule
from datamodules.captions.modes import swap_sides
from textseg.layers import pool_regions
from textseg.models.base import SegmentationModule

PREFIXES = {"align_pixels_": "align_text_", "pixels_": "text_"}  # of TMC, of TMCA


def embeddings(aux: dict[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Level, pixels [B, D, h, w] and text [B, D] of a forward pass."""
    for pixels, text in PREFIXES.items():
        for name in aux:
            if name.startswith(pixels):
                level = name.removeprefix(pixels)
                yield level, aux[name], aux[text + level]


@torch.inference_mode()
def margins(network: SegmentationModule, data: QaTaCov19DataModule) -> dict[str, list[float]]:
    """By level and kind of caption: similarity to the own caption less that to the mirrored one."""
    found: dict[str, list[float]] = defaultdict(list)
    data.setup("validate")
    for loaded in data.val_dataloader():
        batch = data.on_after_batch_transfer(loaded, 0)
        mirrored = [swap_sides(text) for text in batch["text"]]
        used = [
            i
            for i, (own, other) in enumerate(zip(batch["text"], mirrored, strict=True))
            if other not in (None, own) and batch["mask"][i].any()
        ]
        if not used:
            continue
        image, mask = batch["image"][used], batch["mask"][used]
        texts = [batch["text"][i] for i in used]
        own, other = (
            {level: (pixels, text) for level, pixels, text in embeddings(output.aux)}
            for output in (
                network(image, texts),
                network(image, [mirrored[i] or "" for i in used]),
            )
        )
        for level, (pixels, text) in own.items():
            lesion, _ = pool_regions(F.normalize(pixels.float(), dim=1), mask)
            margin = (
                (F.normalize(text, dim=1) - F.normalize(other[level][1], dim=1)) * lesion
            ).sum(1)
            found[level] += margin.tolist()
            one_sided = ["unilateral" in text.lower() for text in texts]
            found[f"{level}, one-sided"] += margin[torch.tensor(one_sided)].tolist()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="the unpacked dataset")
    parser.add_argument("--captions", type=Path, help="folder of caption tables, if not in root")
    parser.add_argument("--image_size", type=int, default=128)
    given = parser.parse_args()
    network = textseg.load(given.ckpt, device="cpu").model.eval()
    data = QaTaCov19DataModule(
        root=str(given.root),
        captions=given.captions and str(given.captions),
        split="first80",
        on_missing="skip",
        image_size=given.image_size,
        num_workers=0,
        cache=None,
    )
    found = margins(network, data)
    if not found:
        parser.error(f"{given.ckpt} is of a network without alignment: give one of TMC or TMCA")
    for name, values in sorted(found.items()):
        nearer = sum(value > 0 for value in values) / max(len(values), 1)
        print(f"level {name}: {nearer:.3f} of {len(values)} rows")


if __name__ == "__main__":
    main()
