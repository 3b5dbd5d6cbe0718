from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.cache import pictures as cache_module
from datamodules.dataset import to_batch
from tests.datamodules.png_folder import (
    IMAGE_MODES,
    SIZE,
    SPLITS,
    dataset,
    folder_of,
    make,
    picture,
    same_sample,
)
from textseg.errors import UserError
from textseg.preprocess import examine_image

# --- the same pixels


@pytest.mark.parametrize("split", SPLITS)
def test_samples_from_the_cache_equal_samples_from_files_bit_for_bit(
    root: Path, split: str
) -> None:
    cached, plain = (dataset(make(root, cache=c), split) for c in (str(root / "c"), None))
    assert cached.cached is not None
    assert plain.cached is None
    assert len(cached) == len(plain) == 14
    for index in range(len(plain)):
        for epoch in range(4 if split == "train" else 1):
            same_sample(cached[epoch, index], plain[epoch, index])


def test_batches_from_the_cache_equal_batches_from_files(root: Path) -> None:
    for split in SPLITS:
        left, right = (
            getattr(make(root, cache=c), f"{split}_dataloader")() for c in (str(root / "c"), None)
        )
        for a, b in zip(map(to_batch, left), map(to_batch, right), strict=True):
            assert a["image"].is_contiguous()
            assert torch.equal(a["image"], b["image"])
            assert a["text"] == b["text"]
            if split != "predict":
                assert torch.equal(a["mask"], b["mask"])


def test_the_cache_holds_what_pillow_and_numpy_make_of_the_files(root: Path) -> None:
    datamodule = make(root)
    rows = datamodule.cached_rows("train")
    assert rows is not None
    for index, record in enumerate(datamodule.records("train")):
        with Image.open(record.image) as image:
            assert rows.original_size(index) == (image.height, image.width)
            if image.mode == "RGB":
                resized = np.asarray(image.resize((64, 32), Image.Resampling.BILINEAR))
                assert np.array_equal(np.broadcast_to(rows.image(index), (32, 64, 3)), resized)
        assert record.mask is not None
        with Image.open(record.mask) as opened:
            mask = np.asarray(opened.convert("L").resize((64, 32), Image.Resampling.NEAREST))
        assert np.array_equal(rows.mask(index), mask > 127)


def test_a_gray_picture_takes_one_byte_a_pixel_and_a_mask_one_bit(root: Path) -> None:
    make(root).setup()
    index = json.loads((folder_of(root) / "index.json").read_text())
    channels = {Path(path).name: count for path, _, count, *_ in index["images"]}
    assert len(channels) == 21
    for number, name in enumerate(sorted(channels)):
        assert channels[name] == (3 if IMAGE_MODES[number % 7] in ("RGB", "RGBA", "P") else 1)
    pixels = SIZE[0] * SIZE[1]
    expected = sum(channels.values()) * pixels + 42 * pixels // 8
    assert (folder_of(root) / "pixels.bin").stat().st_size == expected


def test_samples_are_read_without_opening_the_files(root: Path, request: Any) -> None:
    make(root).setup()
    request.getfixturevalue("no_decoding")
    datamodule = make(root)
    for split in ("train", "val", "predict"):
        assert len([dataset(datamodule, split)[i] for i in range(14)]) == 14
    with pytest.raises(AssertionError, match=r"mask0_14\.png was read"):
        dataset(datamodule, "test")[0]  # the truth, at its own resolution


def test_without_a_cache_nothing_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    datamodule = make(root, cache=None)
    datamodule.prepare_data()
    datamodule.setup()
    assert dataset(datamodule, "val")[0]["image"].shape == (3, *SIZE)
    assert [path.name for path in root.parent.iterdir()] == ["pictures"]


# --- when it is built


def test_every_way_in_builds_it_once_for_all_splits(root: Path, builds: list[Path]) -> None:
    for start in (
        lambda d: d.prepare_data(),
        lambda d: d.setup("fit"),
        lambda d: d.setup("test"),
        lambda d: d.records("predict"),
        lambda d: d.val_dataloader(),
    ):
        start(make(root))
    make(root, split="mirrored").setup()
    make(root, caption_mode="empty", augmentation="none", seed=7).setup()
    assert len(builds) == 1


def test_another_size_has_a_cache_of_its_own(root: Path, builds: list[Path]) -> None:
    for size in ([32, 64], 32, [64, 32], [32, 64]):
        make(root, image_size=size).setup()
    assert len(builds) == len(list((root.parent / "cache").iterdir())) == 3


def test_a_changed_file_is_read_anew(root: Path, builds: list[Path]) -> None:
    before = picture(dataset(make(root), "val")[0])
    path = make(root).records("val")[0].image
    with Image.open(path) as image:
        values = 255 - np.asarray(image)
    Image.fromarray(values).save(path)
    after = picture(dataset(make(root), "val")[0])
    assert not torch.equal(before, after)
    assert torch.equal(after, picture(dataset(make(root, cache=None), "val")[0]))
    assert len(builds) == 2
    assert len(list((root.parent / "cache").iterdir())) == 1, "rebuilt in place"


def test_another_version_of_the_preprocessing_is_built_anew(
    root: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(root).setup()
    monkeypatch.setattr(cache_module, "PIXELS_VERSION", -1)
    make(root).setup()
    assert len(builds) == 2


def test_missing_files_are_told_before_anything_is_cached(root: Path, builds: list[Path]) -> None:
    (root / "image_03.png").unlink()
    datamodule = make(root)
    datamodule.prepare_data()
    with pytest.raises(UserError, match="2 captions without their image"):
        datamodule.setup("fit")
    assert builds == []
    with pytest.warns(UserWarning, match="2 captions without their image"):
        make(root, on_missing="skip").setup("fit")
    assert len(builds) == 1


def test_a_file_that_comes_later_is_cached_then(root: Path, builds: list[Path]) -> None:
    stored = (root / "image_03.png").read_bytes()
    (root / "image_03.png").unlink()
    with pytest.warns(UserWarning, match="2 captions"):
        make(root, on_missing="skip").setup()
    (root / "image_03.png").write_bytes(stored)
    assert len(dataset(make(root), "train")) == 14
    assert len(builds) == 2


def test_a_folder_rebuilt_while_in_use_is_noticed_by_who_opens_it_late(root: Path) -> None:
    early, late = dataset(make(root), "val"), dataset(make(root), "val")
    before = early[0]["image"]
    (root / "image_00.png").touch()
    make(root).setup()
    assert torch.equal(early[0]["image"], before), "opened before: goes on with the old pixels"
    with pytest.raises(UserError, match=r"PngFolder-\w+ was rebuilt or removed while"):
        late[0]
    removed = dataset(make(root), "val")
    shutil.rmtree(root.parent / "cache")
    with pytest.raises(UserError, match=r"PngFolder-\w+ was rebuilt or removed while"):
        removed[0]


# --- bad files


def test_bad_files_are_named_as_without_a_cache(root: Path, builds: list[Path]) -> None:
    first, second = root / "image_00.png", root / "mask1_01.png"
    first.write_bytes(first.read_bytes()[:300])
    second.write_bytes(b"no picture")
    Image.new("L", (40, 48)).save(root / "mask0_02.png")
    causes = []
    for cache in (None, "cache", "cache"):  # built, then found
        with pytest.raises(UserError) as error:
            make(root, cache=None if cache is None else str(root / cache)).setup("fit")
        assert len(str(error.value).splitlines()) == 2
        causes.append(re.sub(r"\([^()]*\)", "()", str(error.value)))  # Pillow's own words
    assert causes[0] == causes[1] == causes[2]
    assert "4 of 14 rows of train cannot be used" in causes[0]
    assert f"{first} cannot be read as an image" in causes[0]
    assert f"{second} cannot be read as an image" in causes[0]
    assert f"image_02.png is 40x70 but {root / 'mask0_02.png'} is 48x40" in causes[0]
    assert len(builds) == 1


def test_bad_files_of_other_splits_are_no_hindrance(root: Path) -> None:
    (root / "image_20.png").write_bytes(b"no picture")
    (root / "mask0_20.png").write_bytes(b"no mask")
    make(root).setup("fit")
    with pytest.raises(UserError, match=r"2 of 14 rows of test cannot be used: .*image_20\.png"):
        make(root).setup("test")


@pytest.mark.parametrize("cut", [6, 12, 40, 1000])
@pytest.mark.parametrize("name", ["image_00.png", "mask0_00.png"])
def test_a_png_cut_short_anywhere_is_named(root: Path, name: str, cut: int) -> None:
    path = root / name
    path.write_bytes(path.read_bytes()[:-cut])
    for cache in (None, str(root / "cache")):
        with pytest.raises(UserError, match=rf"{name} cannot be read as an image \(.+\)"):
            make(root, cache=cache).setup("fit")


def test_a_header_that_claims_a_gigantic_picture_is_named(root: Path) -> None:
    path = root / "image_00.png"
    Image.new("L", (8, 8)).save(path, format="BMP")
    content = bytearray(path.read_bytes())
    content[18:26] = (90_000).to_bytes(4, "little") * 2  # width and height
    path.write_bytes(content)
    for cache in (None, str(root / "cache")):
        with pytest.raises(UserError, match=r"image_00\.png has 8,100,000,000 pixels"):
            make(root, cache=cache).setup("fit")


def test_a_jpeg_cut_short_is_found_although_it_has_no_checksum(root: Path) -> None:
    path = root / "image_00.png"
    with Image.open(root / "image_01.png") as image:
        image.save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserError, match=r"image_00\.png cannot be read as an image .*truncated"):
        make(root).setup("fit")


def test_a_file_that_can_be_read_again_is_noticed_though_it_looks_unchanged(
    root: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a change of permissions, which root could not test, size and mtime are the same."""

    def denied(path: Path) -> Any:
        if path.name == "image_00.png":
            raise UserError(f"{path} cannot be read as an image (Permission denied)")
        return examine_image(path)

    monkeypatch.setattr(cache_module, "examine_image", denied)
    for _ in range(2):
        with pytest.raises(UserError, match=r"image_00\.png .*Permission denied"):
            make(root).setup("fit")
    assert len(builds) == 1
    monkeypatch.setattr(cache_module, "examine_image", examine_image)
    make(root).setup("fit")
    assert len(builds) == 2
