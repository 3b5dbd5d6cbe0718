"""Which transforms are allowed: those that cannot make a caption false."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from datamodules import RefHLSegDataModule
from datamodules.transforms import Bytes, TrainAugmentation
from tests.datamodules.contract import refused
from textseg.errors import UserError

SIDE = 96
MIDDLES = (SIDE // 4, 3 * SIDE // 4)


def listed(name: str, **settings: Any) -> list[dict[str, Any]]:
    return [{"class_path": f"albumentations.{name}", "init_args": {"p": 1.0, **settings}}]


def spot(row: int, column: int) -> Bytes:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[row - 3 : row + 3, column - 3 : column + 3] = 1
    return mask


AT_THE_BOUNDS: list[tuple[str, dict[str, Any]]] = [
    ("Affine", {"rotate": [-30, 30], "translate_percent": [-0.09, 0.09]}),
    ("Affine", {"rotate": [-20, 20], "translate_percent": [-0.1, 0.1], "scale": [0.8, 1.2]}),
    ("Affine", {"rotate": [-10, 10], "shear": [-10, 10], "scale": [0.75, 1.25]}),
    ("ShiftScaleRotate", {"rotate_limit": 25, "shift_limit": 0.08, "scale_limit": 0.2}),
    ("Rotate", {"limit": 30}),
    ("SafeRotate", {"limit": 30}),
    ("ElasticTransform", {"alpha": 80, "sigma": 4}),
    ("ElasticTransform", {"alpha": 200, "sigma": 50}),
    ("GridDistortion", {"distort_limit": 0.3}),
    ("OpticalDistortion", {"distort_limit": 0.3, "mode": "fisheye"}),
]


@pytest.mark.parametrize(("name", "settings"), AT_THE_BOUNDS)
def test_at_its_bounds_a_transform_leaves_a_spot_in_its_quarter(
    name: str, settings: dict[str, Any]
) -> None:
    augment = TrainAugmentation(listed(name, **settings), hflip=0)
    image = np.zeros((SIDE, SIDE, 1), np.uint8)
    moved = 0.0
    for seed in range(12):
        for row in MIDDLES:
            for column in MIDDLES:
                _, mask, _ = augment(image, spot(row, column), "", seed)
                found = np.argwhere(mask).mean(0) + 0.5
                assert (found < SIDE / 2).tolist() == [row < SIDE / 2, column < SIDE / 2]
                moved = max(moved, float(np.abs(found - (row, column)).max()))
    assert moved > 1, "a transform that does nothing would pass"


BEYOND: list[tuple[str, dict[str, Any], str]] = [
    ("Rotate", {"limit": 45}, "45"),
    ("SafeRotate", {"limit": [-31, 0]}, "31"),
    ("Affine", {"rotate": 90}, "90"),
    ("Affine", {"rotate": 30, "translate_percent": 0.1}, "0.1"),
    ("Affine", {"translate_percent": {"x": [0, 0.3]}}, "0.3"),
    ("Affine", {"scale": [1, 2.5]}, "2.5"),
    ("Affine", {"scale": {"x": 0.0001, "y": 1}, "translate_percent": 0.01}, "0.0001"),
    ("Affine", {"shear": [-60, 60]}, "60"),
    ("Affine", {"shear": [-90, 90]}, "90"),
    ("Affine", {"translate_px": 5}, "translate_px"),
    ("Affine", {"fit_output": True}, "fit_output"),
    ("Affine", {"border_mode": 4}, "border_mode=4"),
    ("Affine", {"fill_mask": 1}, "fill_mask=1"),
    ("Rotate", {"limit": 10, "crop_border": True}, "crop_border"),
    ("ShiftScaleRotate", {}, "45"),
    ("ElasticTransform", {"alpha": 500, "sigma": 4}, "alpha=500"),
    ("ElasticTransform", {"alpha": 201, "sigma": 50}, "alpha=201"),
    ("ElasticTransform", {"noise_distribution": "uniform"}, "uniform"),
    ("GridDistortion", {"distort_limit": 0.5}, "0.5"),
    ("GridDistortion", {"normalized": False}, "normalized"),
    ("OpticalDistortion", {"distort_limit": 0.6}, "0.6"),
]


@pytest.mark.parametrize(("name", "settings", "value"), BEYOND)
def test_beyond_its_bounds_it_is_refused(name: str, settings: dict[str, Any], value: str) -> None:
    with refused("augmentation", name, value):
        TrainAugmentation(listed(name, **settings))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("HorizontalFlip", "hflip"),
        ("VerticalFlip", "Affine"),
        ("Transpose", "Affine"),
        ("D4", "Affine"),
        ("SquareSymmetry", "Affine"),
        ("RandomRotate90", "Affine"),
        ("RandomResizedCrop", "scale"),
        ("CenterCrop", "scale"),
        ("CoarseDropout", "leave it out"),
        ("InvertImg", "RandomGamma"),
        ("Perspective", "Affine"),
        ("Resize", "Affine"),
        ("Mosaic", "Affine"),
        ("Lambda", "Affine"),
    ],
)
def test_what_would_falsify_words_is_refused_with_what_to_write_instead(
    name: str, remedy: str
) -> None:
    with refused("augmentation", name, remedy):
        TrainAugmentation(listed(name))


@pytest.mark.filterwarnings("ignore:The image is already an RGB")
def test_only_pixel_transforms_and_those_of_the_table_are_ever_built() -> None:
    """Whatever albumentations has: an allowed one moves no mask unless the table says so."""
    import albumentations as A

    names = [name for name in dir(A) if isinstance(getattr(A, name), type)]
    spatial = {name for name, _ in AT_THE_BOUNDS}
    mask, built = spot(24, 24), 0
    for name in names:
        if name in spatial or not issubclass(getattr(A, name), A.BasicTransform):
            continue
        try:
            augment = TrainAugmentation(listed(name), hflip=0)
        except UserError:
            continue
        built += 1
        image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        varied, kept, _ = augment(image, mask, "", 1)
        assert np.array_equal(kept, mask), name
        assert (varied.shape, varied.dtype) == (image.shape, np.uint8), name
    assert built > 30


@pytest.mark.parametrize(
    ("entry", "values"),
    [
        ({"class_path": "albumentations.RandomGama"}, ["RandomGama", "RandomGamma"]),
        ({"class_path": "torchvision.Blur"}, ["torchvision.Blur"]),
        ({"class_path": "albumentations.OneOf"}, ["OneOf"]),
        ({"class_path": "albumentations.Compose"}, ["Compose"]),
        ({"class_path": "albumentations.ImageOnlyTransform"}, ["ImageOnlyTransform"]),
        ({"init_args": {}}, ["init_args"]),
        ({"class_path": "Blur", "p": 0.5}, ["'p'", "init_args"]),
        ({"class_path": 3}, ["3"]),
        ("Blur", ["Blur", "class_path"]),
        ({"class_path": "RandomGamma", "init_args": {"gama_limit": 3}}, ["gama_", "gamma_limit"]),
        ({"class_path": "RandomGamma", "init_args": {"gamma_limit": "x"}}, ["RandomGamma", "'x'"]),
        ({"class_path": "RandomGamma", "init_args": {"p": 2}}, ["RandomGamma", "2"]),
        ({"class_path": "Normalize"}, ["Normalize", "float"]),
        ({"class_path": "ToFloat"}, ["ToFloat", "float"]),
        ({"class_path": "FDA"}, ["FDA"]),
    ],
)
def test_a_wrong_entry_is_named(entry: Any, values: list[str]) -> None:
    with refused("augmentation", *values):
        TrainAugmentation([entry])


def test_two_that_move_or_bend_are_refused_as_they_add_up() -> None:
    with refused("Affine and Rotate"):
        TrainAugmentation([*listed("Affine", rotate=20), *listed("Rotate", limit=20)])
    with refused("ElasticTransform and GridDistortion"):
        TrainAugmentation([*listed("ElasticTransform"), *listed("GridDistortion")])
    TrainAugmentation([*listed("Affine", rotate=20), *listed("ElasticTransform")])


def test_a_transform_that_does_not_follow_its_seeds_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import albumentations as A

    class Restless(A.ImageOnlyTransform):  # type: ignore[misc]
        def apply(self, img: Bytes, **params: Any) -> Bytes:
            return img ^ np.uint8(random.randrange(1, 256))

    monkeypatch.setattr(A, "Restless", Restless, raising=False)
    with refused("Restless", "seed"):
        TrainAugmentation(listed("Restless"))


def test_a_datamodule_refuses_before_anything_is_read_or_written() -> None:
    with refused("HorizontalFlip", "hflip"):
        RefHLSegDataModule("nowhere", augmentation=listed("HorizontalFlip"))
    with refused("augmentation='strongest'", "light", "strong", "none"):
        RefHLSegDataModule("nowhere", augmentation="strongest")
    with refused("augmentation=None", "none"):
        RefHLSegDataModule("nowhere", augmentation=None)  # type: ignore[arg-type]
    with refused("augmentation=[]", "none"):
        RefHLSegDataModule("nowhere", augmentation=[])
    with refused("hflip=2"):
        RefHLSegDataModule("nowhere", hflip=2)
