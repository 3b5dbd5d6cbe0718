from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.captions.modes import swap_sides
from datamodules.transforms import PRESETS, Bytes, TrainAugmentation, mirror_probability
from textseg.errors import UserError

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


# --- presets


def literal_pipeline() -> Any:
    """The standard preset as it is documented, written out."""
    import albumentations as A

    return A.Compose(
        [
            A.Affine(
                translate_percent=(-0.05, 0.05),
                scale=(0.9, 1.1),
                rotate=(-10, 10),
                keep_ratio=True,
                interpolation=1,
                mask_interpolation=0,
                p=0.7,
            ),
            A.RandomBrightnessContrast(brightness_limit=0.15, contrast_limit=0.15, p=0.5),
            A.RandomGamma(gamma_limit=(80, 120), p=0.5),
        ]
    )


def test_standard_is_bit_for_bit_what_its_table_says() -> None:
    augment, pipeline = TrainAugmentation(hflip=0), literal_pipeline()
    for seed in SEEDS:
        draw = random.Random(seed)
        draw.random()  # the mirror's
        pipeline.set_random_state(np.random.default_rng(0), draw)
        expected = pipeline(image=IMAGE, mask=MASK)
        image, mask, _ = augment(IMAGE, MASK, "", seed)
        assert np.array_equal(image, expected["image"])
        assert np.array_equal(mask, expected["mask"])


def test_strength_orders_how_far_pictures_move_and_how_much_they_brighten() -> None:
    gray, moves, changes = np.full((64, 80, 3), 128, np.uint8), [], []
    start = np.argwhere(MASK).mean(0)
    for preset in ("light", "standard", "strong"):
        augment = TrainAugmentation(preset, hflip=0)
        results = [augment(gray, MASK, "", seed)[:2] for seed in SEEDS]
        moves.append(np.mean([np.linalg.norm(np.argwhere(m).mean(0) - start) for _, m in results]))
        changes.append(np.mean([abs(int(image[32, 40, 0]) - 128) for image, _ in results]))
    for values in (moves, changes):
        assert 1.7 * values[0] < values[1] < values[2] / 1.7


@pytest.mark.parametrize("preset", ["light", "strong"])
def test_every_preset_keeps_side_and_height(preset: str) -> None:
    augment = TrainAugmentation(preset)
    for seed in SEEDS:
        _, mask, text = augment(IMAGE, MASK, "left lung", seed)
        row, column = np.argwhere(mask).mean(0)
        assert text == ("left lung" if column < 40 else "right lung")
        assert row < 32


def test_none_varies_nothing_and_mirrors_only_if_asked() -> None:
    for seed in SEEDS:
        image, mask, text = TrainAugmentation("none", hflip=0)(IMAGE, MASK, "left", seed)
        assert (np.array_equal(image, IMAGE), np.array_equal(mask, MASK)) == (True, True)
        image, mask, text = TrainAugmentation("none", hflip=1)(IMAGE, MASK, "left", seed)
        assert np.array_equal(image, IMAGE[:, ::-1])
        assert np.array_equal(mask, MASK[:, ::-1])
        assert text == "right"


def test_the_mirror_follows_none_unless_it_is_given() -> None:
    assert [mirror_probability(preset, None) for preset in PRESETS] == [0.0, 0.5, 0.5, 0.5]
    assert mirror_probability([{"class_path": "Blur"}], None) == 0.5
    assert [mirror_probability("none", 0.3), mirror_probability("strong", 0.0)] == [0.3, 0.0]
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match=f"hflip={wrong}"):
            mirror_probability("standard", wrong)


# --- lists of one's own

LISTED: list[dict[str, Any]] = [
    {"class_path": "albumentations.Affine", "init_args": {"rotate": [-20, 20], "p": 0.5}},
    {"class_path": "albumentations.ElasticTransform", "init_args": {"alpha": 40, "sigma": 4}},
    {"class_path": "albumentations.GaussNoise", "init_args": {"std_range": [0.05, 0.2], "p": 0.5}},
    {"class_path": "RandomGamma", "init_args": {"gamma_limit": [80, 120]}},
]


class _Listed(_Augmented):
    def __init__(self) -> None:
        self.augment = TrainAugmentation(LISTED)


def test_a_list_draws_from_both_generators_and_from_its_seed_alone() -> None:
    used = TrainAugmentation(LISTED)
    for seed in SEEDS:
        np.random.seed(seed)
        random.seed(seed)
        used(IMAGE, MASK, "left lung", seed)  # an earlier call
        image, mask, text = used(IMAGE, MASK, "left lung", 7)
        fresh = TrainAugmentation(LISTED)(IMAGE, MASK, "left lung", 7)
        assert np.array_equal(image, fresh[0])
        assert np.array_equal(mask, fresh[1])
        assert text == fresh[2]
    pictures = {used(IMAGE, MASK, "", seed)[0].tobytes() for seed in SEEDS}
    assert len(pictures) > len(SEEDS) / 2


def test_a_worker_draws_from_a_list_what_the_main_process_draws() -> None:
    alone = list(DataLoader(_Listed(), batch_size=4, num_workers=0))
    helped = list(DataLoader(_Listed(), batch_size=4, num_workers=2))
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_a_list_sees_a_gray_picture_alike_with_one_channel_and_with_three() -> None:
    augment, gray = TrainAugmentation(LISTED), IMAGE[..., :1]
    for seed in SEEDS:
        one = augment(gray, MASK, "left", seed)[0]
        three = augment(np.repeat(gray, 3, axis=2), MASK, "left", seed)[0]
        assert np.array_equal(one, three)


def test_a_list_gives_what_albumentations_gives_with_the_same_seeds() -> None:
    import albumentations as A

    pipeline = A.Compose(
        [
            A.Affine(rotate=(-20, 20), p=0.5),
            A.ElasticTransform(alpha=40, sigma=4),
            A.GaussNoise(std_range=(0.05, 0.2), p=0.5),
            A.RandomGamma(gamma_limit=(80, 120)),
        ]
    )
    augment = TrainAugmentation(LISTED, hflip=0)
    for seed in SEEDS:
        draw = random.Random(seed)
        draw.random()
        pipeline.set_random_state(np.random.default_rng(seed), draw)
        expected = pipeline(image=IMAGE, mask=MASK)
        image, mask, _ = augment(IMAGE, MASK, "", seed)
        assert np.array_equal(image, expected["image"])
        assert np.array_equal(mask, expected["mask"])
