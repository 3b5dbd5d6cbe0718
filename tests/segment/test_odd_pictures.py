"""`segment` and `textseg.load` on pictures that are turned, of another range, or no pictures."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import textseg
from datamodules.files.pixel_checks import check_pixels, look_at_files
from datamodules.records import Record
from textseg.errors import UserError
from textseg.segment import segment

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 64), dtype=np.uint8)
PICTURE[:, :32] //= 3


def turned(path: Path, number: int = 6) -> Path:
    """PICTURE as viewers show it, stored a quarter turned."""
    exif = Image.Exif()
    exif[0x0112] = number
    Image.fromarray(np.ascontiguousarray(PICTURE.T[::-1])).save(path, exif=exif)
    return path


def test_a_turned_picture_is_segmented_as_viewers_show_it(image_only: str, tmp_path: Path) -> None:
    net = textseg.load(image_only)
    wanted = net.segment(PICTURE)
    path = turned(tmp_path / "a.png")
    for image in (path, Image.open(path)):
        found = net.segment(image)
        assert found.mask.shape == (40, 64)
        assert np.array_equal(found.probs, wanted.probs)
    out = segment(str(path), ckpt_path=image_only, output=str(tmp_path / "out"))
    assert Image.open(out / "masks/a__0.png").size == (64, 40)


def write(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("bits", [10, 12, 14, 1])
def test_pictures_of_another_range_are_warned_of_in_the_words_of_training(
    image_only: str, tmp_path: Path, bits: int
) -> None:
    """10, 12 and 14 bits are stored as 16, numbers from 0 to 1 as 8."""
    dark = PICTURE // 200 if bits == 1 else PICTURE.astype(np.uint16) * 2 ** (bits - 8)
    paths = [write(tmp_path / f"{n}.png", dark[::-1] if n else dark) for n in range(3)]
    net = textseg.load(image_only)
    with pytest.warns(UserWarning, match="3 of 3 images") as warned:
        list(net.segment_all(paths, [""] * 3, batch_size=2))
    assert len(warned) == 1
    look = look_at_files(set(paths), None)
    rows = [Record(path, None, "", path.stem, "", 0) for path in paths]
    (of_training,) = check_pixels(rows, scored=False, what="train", look=look, mask_values=None)
    assert str(warned[0].message) == f"3 of 3 images {of_training.text}"
    for image in (paths[0], Image.open(paths[0])):
        with pytest.warns(UserWarning, match="1 of 1 images"):
            net.segment(image)
    bright = PICTURE if bits == 1 else PICTURE.astype(np.uint16) * 257
    paths.append(write(tmp_path / "bright.png", bright))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.segment(PICTURE * 0)
        if bits == 1:  # dark ones among others
            list(net.segment_all(paths, [""] * 4))
    if bits > 1:  # two kinds of scanners
        with pytest.warns(UserWarning, match=r"3 of 4 images .*beside others that do"):
            list(net.segment_all(paths, [""] * 4))


@pytest.mark.parametrize("values", [PICTURE / np.float32(255), PICTURE.astype(np.int32) - 1024])
def test_floats_and_hounsfield_units_are_refused_by_path_and_by_picture(
    image_only: str, tmp_path: Path, values: np.ndarray
) -> None:
    path = write(tmp_path / "a.tif", values)
    net = textseg.load(image_only)
    for image in (path, Image.open(path)):
        with pytest.raises(UserError, match=r"mode F|-1024") as error:
            net.segment(image)
        assert "0..255" in str(error.value).splitlines()[1]
    with pytest.raises(UserError, match=r"a\.tif"):
        segment(str(path), ckpt_path=image_only, output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_a_folder_holds_beside_images_is_named_and_hidden_files_are_not(
    image_only: str, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "b.PNG"):
        write(folder / name, PICTURE)
        (folder / f"._{name}").write_bytes(b"Mac OS X")
    for name in ("c.xyz", "notes.txt", ".DS_Store"):
        (folder / name).write_text("no picture")
    with pytest.warns(UserWarning, match="left out") as warned:
        out = segment(str(folder), ckpt_path=image_only, output=str(tmp_path / "out"))
    (message,) = {str(warning.message) for warning in warned}
    assert "3 of 5" in message
    assert all(name in message for name in ("c.xyz", "notes.txt", "more/"))
    assert "._" not in message
    assert ".DS_Store" not in message
    assert len(list((out / "masks").iterdir())) == 2


def test_masks_beside_their_images_are_left_out_with_their_names_and_number(
    image_only: str, tmp_path: Path
) -> None:
    """BUSI's names among them; a picture that is only called a mask is none without its image."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    masks = ["benign (1)_mask.png", "benign (1)_mask_1.png", "mask_b.png", "c-Seg.tif"]
    images = ["benign (1).png", "b.jpg", "C.png", "skin_mask.png"]
    for name in masks + images:
        write(folder / name, PICTURE)
    with pytest.warns(UserWarning, match="4 of 8 images") as warned:
        out = segment(str(folder), ckpt_path=image_only, output=str(tmp_path / "out"))
    (message,) = {str(warning.message) for warning in warned}
    assert all(name in message for name in masks)
    assert not any(name in message.replace("benign (1)_", "") for name in images)
    assert len(list((out / "masks").iterdir())) == len(images)
    again = segment(str(folder / masks[0]), ckpt_path=image_only, output=str(tmp_path / "one"))
    assert len(list((again / "masks").iterdir())) == 1, "it was given itself"


def test_a_folder_without_any_image_names_what_it_holds(image_only: str, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none/c.xyz").write_text("no picture")
    (tmp_path / "none/._a.png").write_bytes(b"Mac OS X")
    with pytest.raises(UserError, match=r"c\.xyz"):
        segment(str(tmp_path / "none"), ckpt_path=image_only, output=str(tmp_path / "out"))
