from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.captions.modes import swap_sides
from datamodules.transforms import Bytes, TrainAugmentation

IMAGE = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
MASK = np.zeros((64, 80), np.uint8)
MASK[20:30, 5:25] = 1
SEEDS = range(40)


def augmented(seed: int, text: str = "left lung") -> tuple[Bytes, Bytes, str]:
    return TrainAugmentation()(IMAGE, MASK, text, seed)


class _Augmented(Dataset[torch.Tensor]):
    def __init__(self) -> None:
        self.augment = TrainAugmentation()

    def __len__(self) -> int:
        return len(SEEDS)

    def __getitem__(self, seed: int) -> torch.Tensor:
        image, mask, _ = self.augment(IMAGE, MASK, "left lung", seed)
        return torch.from_numpy(np.dstack([image, mask]))


def test_a_worker_draws_what_the_main_process_draws() -> None:
    alone = list(DataLoader(_Augmented(), batch_size=4, num_workers=0))
    helped = list(DataLoader(_Augmented(), batch_size=4, num_workers=2))
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_the_result_does_not_depend_on_earlier_calls_or_on_global_generators() -> None:
    used = TrainAugmentation()
    for seed in SEEDS:
        np.random.seed(seed)
        torch.manual_seed(seed)
        image, mask, text = used(IMAGE, MASK, "left lung", 7)
        fresh = augmented(7)
        assert np.array_equal(image, fresh[0])
        assert np.array_equal(mask, fresh[1])
        assert text == fresh[2]


def test_seeds_differ() -> None:
    unchanged = 4  # of 40, about 4 % are drawn to be left alone
    assert len({augmented(seed)[0].tobytes() for seed in SEEDS}) >= len(SEEDS) - unchanged


def test_inputs_are_left_as_they_were() -> None:
    image, mask = IMAGE.copy(), MASK.copy()
    for seed in SEEDS:
        augmented(seed)
    assert np.array_equal(image, IMAGE)
    assert np.array_equal(mask, MASK)


def test_word_side_and_mask_side_move_together() -> None:
    texts = set()
    for seed in SEEDS:
        _, mask, text = augmented(seed)
        texts.add(text)
        center = np.nonzero(mask)[1].mean()
        assert text == ("left lung" if center < mask.shape[1] / 2 else "right lung")
    assert texts == {"left lung", "right lung"}


def test_a_caption_that_cannot_be_mirrored_keeps_its_picture_unmirrored() -> None:
    for seed in SEEDS:
        _, mask, text = augmented(seed, "left hepatic vein")
        assert text == "left hepatic vein"
        assert np.nonzero(mask)[1].mean() < mask.shape[1] / 2


def test_masks_stay_binary_and_shapes_and_types_stay() -> None:
    for seed in SEEDS:
        image, mask, _ = augmented(seed)
        assert (image.shape, image.dtype) == (IMAGE.shape, np.uint8)
        assert (mask.shape, mask.dtype) == (MASK.shape, np.uint8)
        assert set(np.unique(mask)) <= {0, 1}


def test_up_stays_up() -> None:
    for seed in SEEDS:
        _, mask, _ = augmented(seed)
        assert np.nonzero(mask)[0].mean() < mask.shape[0] / 2 + 4


def test_image_and_mask_move_by_the_same_amount() -> None:
    picture = np.repeat(MASK[..., None] * np.uint8(255), 3, axis=2)
    for seed in SEEDS:
        image, mask, _ = TrainAugmentation()(picture, MASK, "", seed)
        bright = image[..., 0] > (int(image.max()) + int(image.min())) / 2
        assert (bright != (mask == 1)).mean() < 0.02


@pytest.mark.parametrize(("hflip", "expected"), [(0.0, {"left"}), (1.0, {"right"})])
def test_hflip_is_a_probability(hflip: float, expected: set[str]) -> None:
    augment = TrainAugmentation(hflip=hflip)
    assert {augment(IMAGE, MASK, "left", seed)[2] for seed in SEEDS} == expected


def test_transforms_are_drawn_independently() -> None:
    """With one seed given to every transform, moved would always mean brightened too."""
    gray = np.full((64, 80, 3), 128, np.uint8)
    gray[20:30, 5:25] = 60
    moved, changed = [], []
    for seed in range(200):
        image, mask, _ = TrainAugmentation(hflip=0)(gray, MASK, "", seed)
        moved.append(not np.array_equal(mask, MASK))
        changed.append(image[32, 40, 0] != 128)
    agreement = np.corrcoef(moved, changed)[0, 1]
    assert abs(agreement) < 0.2


# Speed must change nothing


@pytest.mark.parametrize("channels", [1, 3])
def test_the_pixels_are_those_of_the_plain_pipeline_freshly_seeded(channels: int) -> None:
    """No draw comes from the generator that is not seeded, nor from a remembered caption."""
    plain, quick = TrainAugmentation(), TrainAugmentation()
    import albumentations as A  # as the product does: not before its environment is set

    pipeline = A.Compose(plain._pipeline.transforms)
    image = IMAGE[..., :channels]
    for seed in SEEDS:
        caption = ["left lung", "left hepatic vein", "no side"][seed % 3]
        draw = random.Random(seed)
        swapped = swap_sides(caption)
        mirror = draw.random() < 0.5 and swapped is not None
        step = -1 if mirror else 1
        pipeline.set_random_state(np.random.default_rng(seed), draw)
        expected = pipeline(
            image=np.ascontiguousarray(image[:, ::step]), mask=np.ascontiguousarray(MASK[:, ::step])
        )
        found_image, found_mask, text = quick(image, MASK, caption, seed)
        assert np.array_equal(found_image, expected["image"])
        assert np.array_equal(found_mask, expected["mask"])
        assert text == (swapped if mirror else caption)


def test_nothing_is_drawn_from_the_generator_that_is_not_seeded() -> None:
    augment = TrainAugmentation()
    for seed in SEEDS:
        augment(IMAGE, MASK, "left lung", seed)
    assert augment._undrawn.bit_generator.state == np.random.default_rng(0).bit_generator.state
