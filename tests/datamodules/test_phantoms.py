"""What every writer of phantoms promises: the same bytes, whole folders, possible numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from datamodules.duke_breast_mri.phantoms import write_duke_mamamia
from datamodules.medclipseg.phantoms import write_medclipseg
from datamodules.mosmed.phantoms import write_mosmed
from datamodules.qata_cov19.phantoms import write_qata
from datamodules.refhl_seg.phantoms import write_refhl
from tests.datamodules.reading import rows_of, table
from textseg.errors import UserError


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.name.endswith(PICTURES) and not _is_empty_mask(path)
    }


def _is_empty_mask(path: Path) -> bool:
    """Equal for all seeds."""
    if path.suffix != ".png":
        return False
    with Image.open(path) as image:
        return image.getextrema() == (0, 0)


def small_refhl(folder: Path, train: int = 5, seed: int = 0) -> None:
    write_refhl(folder, train=train, val=2, test=2, image_size=64, seed=seed)


def small_qata(folder: Path, train: int = 5, seed: int = 0) -> None:
    write_qata(folder, train=train, test=2, image_size=64, seed=seed)


def small_mosmed(folder: Path, train: int = 5, seed: int = 0) -> None:
    write_mosmed(folder, train=train, val=2, test=2, image_size=64, seed=seed)


def small_medclipseg(folder: Path, train: int = 5, seed: int = 0) -> None:
    write_medclipseg(folder, train=train, val=2, test=2, image_size=64, seed=seed)


def small_duke(folder: Path, train: int = 3, seed: int = 0) -> None:
    write_duke_mamamia(folder, cases=train, image_size=32, slices=8, seed=seed)


PICTURES = (".png", ".nii.gz")
WRITERS = [
    pytest.param(small_refhl, id="refhl"),
    pytest.param(small_qata, id="qata"),
    pytest.param(small_mosmed, id="mosmed"),
    pytest.param(small_medclipseg, id="medclipseg"),
    pytest.param(small_duke, id="duke"),
]


@pytest.mark.parametrize("write", WRITERS)
class TestEveryWriter:
    def test_one_seed_writes_the_same_bytes_and_another_does_not(
        self, write: Callable[..., None], tmp_path: Path
    ) -> None:
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            write(tmp_path / name, seed=seed)
        a, b, c = (digests(tmp_path / name) for name in "abc")
        assert a == b
        assert set(a.values()).isdisjoint(c.values())

    def test_a_picture_does_not_depend_on_how_many_are_written(
        self, write: Callable[..., None], tmp_path: Path
    ) -> None:
        write(tmp_path / "few", train=3)
        write(tmp_path / "many", train=9)
        few, many = digests(tmp_path / "few"), digests(tmp_path / "many")
        assert len(few) > 6
        assert few.items() < many.items()

    def test_a_folder_with_something_in_it_is_refused_and_left_alone(
        self, write: Callable[..., None], tmp_path: Path
    ) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(UserError, match=str(tmp_path)):
            write(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_a_file_in_the_folders_place_is_refused(
        self, write: Callable[..., None], tmp_path: Path
    ) -> None:
        (tmp_path / "data").write_text("a file")
        with pytest.raises(UserError, match=str(tmp_path / "data")):
            write(tmp_path / "data")

    @pytest.mark.parametrize("train", [0, -1])
    def test_no_training_image_is_refused_before_anything_is_written(
        self, write: Callable[..., None], train: int, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError, match=f"(train|cases)={train}"):
            write(tmp_path / "new", train=train)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("name", "value"), [("val", -1), ("image_size", 16), ("seed", -1)])
def test_an_impossible_number_is_named(name: str, value: int, tmp_path: Path) -> None:
    for write in (write_refhl, write_mosmed, write_medclipseg):
        with pytest.raises(UserError, match=f"{name}={value}"):
            write(tmp_path, **{"train": 1, "val": 0, "test": 0, name: value})


def test_a_volume_needs_slices_enough(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="slices=5"):
        write_duke_mamamia(tmp_path, cases=1, slices=5)


def test_val_and_test_may_be_absent(tmp_path: Path) -> None:
    write_refhl(tmp_path / "refhl", train=1, val=0, test=0, image_size=32)
    write_qata(tmp_path / "qata", train=1, test=0, image_size=32)
    assert {row["split"] for row in rows_of(tmp_path / "refhl")} == {"train"}
    assert table(tmp_path / "qata" / "test.csv") == []
