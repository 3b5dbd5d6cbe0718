"""Training augmentation that keeps the words true. The only file importing albumentations."""

from __future__ import annotations

import os
import random
from functools import lru_cache

import numpy as np

from datamodules.captions.modes import swap_sides
from textseg.preprocess import Bytes

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise its import asks a registry for news

# A pure function of the caption, and captions come back every epoch.
_swap_sides = lru_cache(maxsize=8192)(swap_sides)


class TrainAugmentation:
    """Mirror image, mask and words together; move a little; vary brightness, contrast and gamma.

    There is no vertical flip and no quarter turn: "upper left lung" would become false. A picture
    whose caption cannot be mirrored safely is not mirrored.

    Args:
        hflip: probability of a horizontal flip.
    """

    def __init__(self, hflip: float = 0.5) -> None:
        import albumentations as A  # takes a second, and only a training needs it
        import cv2

        cv2.setNumThreads(0)  # OpenCV's thread pool does not survive the fork of a loader's worker
        self.hflip = hflip
        self._pipeline = A.Compose(
            [
                A.Affine(
                    translate_percent=(-0.05, 0.05),
                    scale=(0.9, 1.1),
                    rotate=(-10, 10),
                    keep_ratio=True,
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_NEAREST,
                    p=0.7,
                ),
                A.RandomBrightnessContrast(brightness_limit=0.15, contrast_limit=0.15, p=0.5),
                A.RandomGamma(gamma_limit=(80, 120), p=0.5),
            ],
            is_check_shapes=False,  # a cache or a resize made image and mask of one size
        )
        # Albumentations wants one of these as well. The transforms above draw from Python's alone,
        # and to seed this one for every sample would cost as much as half a transform.
        self._undrawn = np.random.default_rng(0)

    def __call__(self, image: Bytes, mask: Bytes, text: str, seed: int) -> tuple[Bytes, Bytes, str]:
        """A pure function of its arguments, in any process and after any number of calls.

        Args:
            image: [H, W, 3] uint8.
            mask: [H, W] uint8.
            text: the caption.
            seed: decides everything that is drawn.

        Returns:
            Image and mask of the same shapes, and the caption of what is now seen.
        """
        draw = random.Random(seed)
        mirrored = _swap_sides(text) if draw.random() < self.hflip else None
        if mirrored is not None:
            image, mask, text = image[:, ::-1], mask[:, ::-1], mirrored
        # One generator for the whole pipeline: Compose.set_random_seed would start every transform
        # from the same number, so that strong shifts always came with strong contrast.
        self._pipeline.set_random_state(self._undrawn, draw)
        moved = self._pipeline(image=np.ascontiguousarray(image), mask=np.ascontiguousarray(mask))
        return moved["image"], moved["mask"], text
