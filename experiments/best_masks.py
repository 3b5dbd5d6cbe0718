"""The best Dice that a network's grid of logits can draw on real masks, whatever it learns.

    python experiments/best_masks.py FOLDER_OF_MASKS --image_size 224 --strides 1 4 8

For each mask and stride, logits on a grid of image_size / stride are fitted to the mask by gradient
descent. As in a test they are resized bilinearly to the input, then to the mask's own size, and cut
at 0. Strides of the suite's networks: LSMS, TMC and LAVT 4, TMCA, LViT and the U-Net 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from textseg.layers import resize_map
from textseg.losses import dice_loss
from textseg.metrics.case_table import resize_logits
from textseg.preprocess import read_mask


def dice(logits: Tensor, mask: Tensor) -> float:
    """2 |A and B| / (|A| + |B|) of the logits above 0 and a mask that is not empty."""
    found = logits > 0
    return 2 * float((found & mask.bool()).sum()) / float(found.sum() + mask.sum())


def best_dice(mask: Tensor, image_size: int, stride: int, steps: int = 100) -> float:
    """The best Dice with a mask [1, 1, H, W] while logits at `stride` are fitted to it."""
    cells = (image_size // stride, image_size // stride)
    grid = (20 * (F.interpolate(mask, cells, mode="area") - 0.5)).requires_grad_()
    optimizer = torch.optim.Adam([grid], lr=1.0)
    best = 0.0
    for _ in range(steps):
        logits = resize_logits(resize_map(grid, (image_size, image_size)), mask.shape[-2:])
        best = max(best, dice(logits, mask))
        optimizer.zero_grad()
        (dice_loss(logits, mask) + F.binary_cross_entropy_with_logits(logits, mask)).backward()
        optimizer.step()
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of mask images; its folders are searched, too")
    parser.add_argument("--image_size", type=int, default=224, help="of the networks' input")
    parser.add_argument("--strides", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--limit", type=int, default=200, help="masks at most, evenly chosen")
    given = parser.parse_args()
    files = sorted(f for f in given.folder.rglob("*.png") if not f.name.startswith("."))
    masks = [read_mask(file) for file in files[:: max(1, -(-len(files) // given.limit))]]
    masks = [mask for mask in masks if mask.any()]
    small = np.argsort([mask.mean() for mask in masks])[: -(-len(masks) // 3)]
    print(f"{len(masks)} masks that are not empty; mean, mean of the smallest third, minimum")
    for stride in given.strides:
        tensors = (torch.from_numpy(mask)[None, None].float() for mask in masks)
        scores = np.array([best_dice(mask, given.image_size, stride) for mask in tensors])
        print(f"1/{stride}: {scores.mean():.3f} {scores[small].mean():.3f} {scores.min():.3f}")


if __name__ == "__main__":
    main()
