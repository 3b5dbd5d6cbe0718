"""Training augmentation that keeps the words true. The only file importing albumentations."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, get_args

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.captions.languages import LanguageSetting
from datamodules.captions.modes import count_unmirrored, swap_sides
from datamodules.transforms.rules import built_transforms, set_state
from textseg.errors import UserError, check_choice, check_probability
from textseg.preprocess import Bytes

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise its import asks a registry for news

NONE = "none"
STRENGTHS = {"light": 0.5, "standard": 1.0, "strong": 2.0}
PRESETS = (NONE, *STRENGTHS)
# A preset's name, or a list of transforms.
Augmentation: TypeAlias = str | list[dict[str, Any]]

# A pure function of the caption, and captions come back every epoch.
_swap_sides = lru_cache(maxsize=8192)(swap_sides)


def check_augmentation(augmentation: Augmentation) -> None:
    """Check a setting before data are read; albumentations is imported only for a list.

    Raises:
        UserError: there is no such preset or transform, or a transform may falsify words.
    """
    if isinstance(augmentation, list):
        _listed(augmentation)
    else:
        check_choice("augmentation", augmentation, PRESETS)


def mirror_probability(augmentation: Augmentation, hflip: float | None) -> float:
    """The probability of mirroring: `hflip` where it is given, 0 with "none", otherwise 0.5.

    Raises:
        UserError: it is no probability.
    """
    if hflip is None:
        return 0.0 if augmentation == NONE else 0.5
    check_probability("hflip", hflip)
    return hflip


@lru_cache(maxsize=8)  # says it once of the same captions
def report_unmirrored(texts: tuple[str, ...], language: LanguageSetting) -> None:
    """Say how many training captions are never mirrored; warn where a language is not known."""
    found = count_unmirrored(texts, language)
    if not found.rows:
        return
    cause = f"hflip: {found.rows} of {len(texts)} training captions and their pictures are never "
    if not found.unknown:
        rank_zero_info(
            f"{cause}mirrored, as their sides cannot be exchanged safely, such as {found.example!r}"
        )
        return
    rank_zero_warn(
        f"{cause}mirrored; {found.unknown} are in no language that is known here, such as "
        f"{found.example!r}: set data.language if theirs is one of "
        f"{', '.join(get_args(LanguageSetting)[1:])}"
    )


class TrainAugmentation:
    """Mirror image, mask and words together, then vary the picture.

    There is no vertical flip and no quarter turn: "upper left lung" would become false. A picture
    whose caption cannot be mirrored safely is not mirrored.

    | preset | turn, degrees | shift, of a side | scale | brightness, contrast | gamma |
    |---|---|---|---|---|---|
    | light | 5 | 0.025 | 0.95 to 1.05 | 0.075 | 0.9 to 1.1 |
    | standard | 10 | 0.05 | 0.9 to 1.1 | 0.15 | 0.8 to 1.2 |
    | strong | 20 | 0.1 | 0.8 to 1.2 | 0.3 | 0.6 to 1.4 |

    Pictures are moved with probability 0.7; brightness and contrast, and gamma, vary with 0.5.

    Args:
        augmentation: a preset, "none", or a list of albumentations' transforms, which
            `datamodules.transforms.rules` must allow.
        hflip: probability of mirroring.
        language: of the captions, for their sides.
    """

    def __init__(
        self,
        augmentation: Augmentation = "standard",
        hflip: float = 0.5,
        *,
        language: LanguageSetting = "auto",
    ) -> None:
        check_augmentation(augmentation)
        self.hflip = hflip
        self.language: LanguageSetting = language
        self._pipeline = None if augmentation == NONE else _pipeline(augmentation)
        self._is_preset = isinstance(augmentation, str)
        # Albumentations wants one of these as well. A preset's transforms draw from Python's alone,
        # and to seed this one for every sample would cost as much as half a transform.
        self._undrawn = np.random.default_rng(0)

    def __call__(self, image: Bytes, mask: Bytes, text: str, seed: int) -> tuple[Bytes, Bytes, str]:
        """A pure function of its arguments, in any process and after any number of calls.

        Args:
            image: [H, W, 3] uint8, or [H, W, 1] where the channels are equal.
            mask: [H, W] uint8.
            text: the caption.
            seed: decides everything that is drawn.

        Returns:
            Image and mask of the same height and width, and the caption of what is now seen.
        """
        draw = random.Random(seed)
        mirrored = _swap_sides(text, self.language) if draw.random() < self.hflip else None
        if mirrored is not None:
            image, mask, text = image[:, ::-1], mask[:, ::-1], mirrored
        if self._pipeline is None:
            return image, mask, text
        if self._is_preset:
            self._pipeline.set_random_state(self._undrawn, draw)
        else:
            set_state(self._pipeline, seed, draw)
            # Gray pictures come with one channel from a cache and with three from their files, and
            # noise or color drawn by channel must be the same for both.
            image = np.broadcast_to(image, (*image.shape[:2], 3))
        moved = self._pipeline(image=np.ascontiguousarray(image), mask=np.ascontiguousarray(mask))
        return moved["image"], moved["mask"], text


def _albumentations() -> Any:
    import albumentations  # takes a second, and only a training needs it
    import cv2

    cv2.setNumThreads(0)  # OpenCV's thread pool does not survive the fork of a loader's worker
    return albumentations


def _pipeline(augmentation: Augmentation) -> Any:
    library = _albumentations()
    transforms = (
        _preset(library, STRENGTHS[augmentation])
        if isinstance(augmentation, str)
        else _listed(augmentation)
    )
    # A cache or a resize made image and mask of one size.
    return library.Compose(transforms, is_check_shapes=False)


def _preset(library: Any, strength: float) -> list[Any]:
    import cv2

    def around(center: float, reach: float) -> tuple[float, float]:
        return center - strength * reach, center + strength * reach

    return [
        library.Affine(
            translate_percent=around(0, 0.05),
            scale=around(1, 0.1),
            rotate=around(0, 10),
            keep_ratio=True,
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST,
            p=0.7,
        ),
        library.RandomBrightnessContrast(
            brightness_limit=strength * 0.15, contrast_limit=strength * 0.15, p=0.5
        ),
        library.RandomGamma(gamma_limit=around(100, 20), p=0.5),
    ]


def _listed(augmentation: Sequence[Mapping[str, Any]]) -> list[Any]:
    if not augmentation:
        raise UserError("augmentation=[] lists no transform", f"give {NONE}, or a transform")
    return built_transforms(_albumentations(), augmentation)
