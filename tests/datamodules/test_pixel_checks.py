"""Files of a set that mean something else than is read: before training, and in an audit."""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import ManifestDataModule, QaTaCov19DataModule
from datamodules.audit import audit, format_audit
from datamodules.commands import prepare_dataset
from datamodules.files.pixel_checks import SAMPLE, sampled
from datamodules.records import Record
from tests.datamodules import trees
from tests.datamodules.contract import refused
from tests.datamodules.disc_set import SIDE, save, write_discs

CACHES = pytest.mark.parametrize("cache", [None, "cache"])
# Rows of the discs that have a mask in fit: 8 of train, 2 of val.
FIT, ALL = 10, 12


def make(root: Path, **settings: Any) -> ManifestDataModule:
    if settings.get("cache"):
        settings["cache"] = str(root.parent / settings["cache"])
    defaults = {"image_size": 32, "num_workers": 0, "cache": None, "augmentation": "none"}
    return ManifestDataModule(str(root), **{**defaults, **settings})


def set_up(datamodule: ManifestDataModule, stage: str = "fit") -> list[str]:
    """What a stage warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        datamodule.prepare_data()
        datamodule.setup(stage)
    return [str(warning.message) for warning in caught]


def kinds(root: Path, **settings: Any) -> Counter[tuple[str, str]]:
    found = audit(make(root, **settings)).findings
    return Counter((finding.severity, finding.kind) for finding in found)


def areas(datamodule: ManifestDataModule) -> set[float]:
    dataset: Any = datamodule.train_dataloader().dataset
    return {round(float(dataset[0, n]["mask"].float().mean()), 2) for n in range(len(dataset))}


def ones(mask: np.ndarray, path: Path) -> None:
    save(mask // 255, path)


def inverted(mask: np.ndarray, path: Path) -> None:
    save(255 - mask, path)


def nothing(mask: np.ndarray, path: Path) -> None:
    save(0 * mask, path)


def classes(mask: np.ndarray, path: Path) -> None:
    """The disc is 255; a square below is 128."""
    values = mask.copy()
    values[40:46, 20:28] = 128
    save(values, path)


def void(mask: np.ndarray, path: Path) -> None:
    """The disc is class 1; a square that nobody judged is 255."""
    values = mask // 255
    values[40:46, 20:28] = 255
    save(values, path)


# --- what is refused -----------------------------------------------------------------------------


@CACHES
@pytest.mark.parametrize(
    ("write", "kind", "value", "right"),
    [
        (ones, "mask erased by the threshold", "1", [1]),
        (inverted, "inverted mask", "all four corners", [0]),
        (classes, "class map", "128, 255", [255]),
    ],
)
def test_masks_that_are_misread_are_refused_by_every_stage_that_scores(
    tmp_path: Path, write: Any, kind: str, value: str, right: list[int], cache: str | None
) -> None:
    root = write_discs(tmp_path / "discs", mask=write)
    for stage, count in (("fit", "8 of 8"), ("validate", "2 of 2"), ("test", "2 of 2")):
        with refused(f"{count} masks of", value, "mask_values"):
            set_up(make(root, cache=cache), stage)
    assert set_up(make(root, cache=cache), "predict") == []
    assert kinds(root)["error", kind] == ALL
    datamodule = make(root, cache=cache, mask_values=right)
    assert set_up(datamodule) == []
    assert kinds(root, mask_values=right) == Counter()
    plain = write_discs(tmp_path / "plain")
    assert areas(datamodule) == areas(make(plain)) != {0.0}


@CACHES
def test_a_few_masks_that_are_misread_are_warned_of_once_with_their_number(
    tmp_path: Path, cache: str | None
) -> None:
    root = write_discs(tmp_path / "discs")
    for number in (1, 2, 4):  # two of train, one of val
        path = root / f"masks/p{number:02}.png"
        save(np.asarray(Image.open(path)) // 255, path)
    [warning] = set_up(make(root, cache=cache))
    assert "2 of 8 masks of train, 1 of 2 masks of val" in warning
    assert "p01.png: 1" in warning
    assert kinds(root)["error", "mask erased by the threshold"] == 3


@CACHES
def test_values_that_no_mask_holds_are_refused_with_those_it_holds(
    tmp_path: Path, cache: str | None
) -> None:
    root = write_discs(tmp_path / "discs", mask=void)
    with refused("8 of 8 masks of train", "[7]", "0, 1, 255"):
        set_up(make(root, cache=cache, mask_values=[7]))
    assert kinds(root, mask_values=[7])["error", "no foreground"] == 3


@pytest.mark.parametrize("mask_values", [[], [-1], [70000]])
def test_mask_values_that_no_pixel_has_are_refused(mask_values: list[int]) -> None:
    with refused("mask_values", str(mask_values)):
        make(Path(), mask_values=mask_values)


def float_values(picture: np.ndarray, path: Path) -> None:
    Image.fromarray((picture / 255).astype(np.float32)).save(path, format="TIFF")


def hounsfield(picture: np.ndarray, path: Path) -> None:
    Image.fromarray(picture.astype(np.int32) * 8 - 1000).save(path, format="TIFF")


def transparent(picture: np.ndarray, path: Path) -> None:
    image = Image.fromarray(picture)
    image.putalpha(Image.fromarray((picture > 80).astype(np.uint8) * 255))
    image.save(path)


def two_pages(picture: np.ndarray, path: Path) -> None:
    image = Image.fromarray(picture)
    image.save(path, format="TIFF", save_all=True, append_images=[image])


@CACHES
@pytest.mark.parametrize(
    ("write", "word", "remedy"),
    [
        (float_values, "mode F", "0..255"),
        (hounsfield, "16-bit gray", "window"),
        (transparent, "transparent", "without transparency"),
        (two_pages, "2 pictures", "a file of its own"),
    ],
)
def test_images_that_cannot_be_read_right_are_refused_with_their_own_remedy(
    tmp_path: Path, write: Any, word: str, remedy: str, cache: str | None
) -> None:
    root = write_discs(tmp_path / "discs", image=write)
    for stage in ("fit", "test", "predict"):
        with refused("rows of", "p0", word, remedy):
            set_up(make(root, cache=cache), stage)
    assert kinds(root)["error", "unreadable image"] == ALL


# --- what is warned of ---------------------------------------------------------------------------


def bits12(picture: np.ndarray, path: Path) -> None:
    save(picture.astype(np.uint16) * 16, path)


def bits14(picture: np.ndarray, path: Path) -> None:
    """As of a radiograph: 0 to 16383."""
    save(picture.astype(np.uint16) * 64, path)


def offset12(picture: np.ndarray, path: Path) -> None:
    """CT numbers as scanners' tools store them: 12 bits and an offset."""
    save(picture.astype(np.uint16) * 16 + 32768, path)


def shares(picture: np.ndarray, path: Path) -> None:
    """Numbers from 0 to 10 that were stored as bytes."""
    save((picture / 255 * 10).round().astype(np.uint8), path)


@CACHES
@pytest.mark.parametrize("write", [bits12, bits14, offset12, shares])
def test_pictures_of_another_range_are_an_error_of_an_audit_and_warned_of_in_every_stage(
    tmp_path: Path, write: Any, cache: str | None
) -> None:
    root = write_discs(tmp_path / "discs", image=write)
    for stage, count in (("fit", "8 of 8"), ("test", "2 of 2"), ("predict", "2 of 2")):
        [warning] = set_up(make(root, cache=cache), stage)
        assert f"{count} images of" in warning
        assert ("0..255" if write is shares else "0..65535") in warning
    assert kinds(root) == Counter({("error", "narrow range"): ALL})


@CACHES
def test_dark_pictures_among_others_and_16_bits_well_used_are_nothing(
    tmp_path: Path, cache: str | None
) -> None:
    def mixed(picture: np.ndarray, path: Path) -> None:
        deep = picture.astype(np.uint16) * 257
        save(deep // 20 if path.stem == "p01" else deep, path)

    root = write_discs(tmp_path / "discs", image=mixed)
    assert set_up(make(root, cache=cache)) == []
    assert kinds(root) == Counter()


def test_12_bits_beside_8_bits_are_told_apart(tmp_path: Path) -> None:
    def mixed(picture: np.ndarray, path: Path) -> None:
        (bits12 if path.stem < "p03" else save)(picture, path)

    root = write_discs(tmp_path / "discs", image=mixed)
    [warning] = set_up(make(root))
    assert "3 of 8 images of train" in warning
    assert kinds(root)["error", "narrow range"] == 3


def turned(picture: np.ndarray, path: Path) -> None:
    """Upside down, with EXIF's word that it is."""
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.ascontiguousarray(picture[::-1, ::-1])).save(path, exif=exif)


@CACHES
def test_a_turned_picture_lies_on_its_mask_and_is_warned_of(
    tmp_path: Path, cache: str | None
) -> None:
    root = write_discs(tmp_path / "discs", image=turned)
    datamodule = make(root, cache=cache)
    [warning] = set_up(datamodule)
    assert "8 of 8 images of train, 2 of 2 images of val" in warning
    assert "EXIF" in warning
    sample: Any = datamodule.train_dataloader().dataset[0, 0]  # type: ignore[index]
    assert sample["image"][0][sample["mask"][0] > 0].float().mean() > 175
    assert kinds(root) == Counter({("warning", "turned picture"): ALL})
    both = write_discs(tmp_path / "both", image=turned, mask=turned)
    assert set_up(make(both, cache=cache)) == []
    assert kinds(both) == Counter()


def test_a_picture_turned_by_a_quarter_is_refused_with_the_reason(tmp_path: Path) -> None:
    def quarter(picture: np.ndarray, path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(picture[:30]).save(path, exif=exif)

    def upright(mask: np.ndarray, path: Path) -> None:
        save(mask[:30], path)

    root = write_discs(tmp_path / "discs", image=quarter, mask=upright)
    with refused("48x30", "30x48", "EXIF"):
        set_up(make(root))
    found = audit(make(root)).findings
    assert {finding.kind for finding in found} >= {"size mismatch"}
    assert all("EXIF" in f.detail for f in found if f.kind == "size mismatch")


@CACHES
@pytest.mark.parametrize(
    ("write", "kind", "words"),
    [
        (nothing, "no foreground", "8 of 8 masks of train"),
        (void, "faint areas", "8 of 8 masks of train"),
    ],
)
def test_masks_in_doubt_are_warned_of(
    tmp_path: Path, write: Any, kind: str, words: str, cache: str | None
) -> None:
    root = write_discs(tmp_path / "discs", mask=write)
    [warning] = set_up(make(root, cache=cache))
    assert words in warning
    assert kinds(root)["warning", kind] in (3, ALL)


def test_spacings_that_differ_by_more_than_three_are_warned_of(tmp_path: Path) -> None:
    for spacing, expected in (("0.5 1.5", 0), ("0.5 1.6", ALL), ("5 0.5", ALL), ("4", 0)):
        root = write_discs(tmp_path / spacing, spacing=spacing)
        found = set_up(make(root))
        assert len(found) == bool(expected)
        assert all("8 of 8 rows of train, 2 of 2 rows of val" in warning for warning in found)
        assert kinds(root)["warning", "unequal spacing"] == expected


def test_12_bits_beside_16_are_told_apart(tmp_path: Path) -> None:
    def mixed(picture: np.ndarray, path: Path) -> None:
        deep = picture.astype(np.uint16)
        save(deep * 16 if int(path.stem[1:]) % 2 else deep * 257, path)

    root = write_discs(tmp_path / "discs", image=mixed)
    [warning] = set_up(make(root))
    assert "4 of 8 images of train" in warning
    assert "beside others that do" in warning
    assert kinds(root)["error", "narrow range"] == ALL // 2


def test_spacings_that_no_picture_has_are_warned_of(tmp_path: Path) -> None:
    for spacing, expected in (("0.0007", ALL), ("1500", ALL), ("0.02", 0), ("40", 0)):
        root = write_discs(tmp_path / spacing, spacing=spacing)
        found = set_up(make(root))
        assert len(found) == bool(expected)
        assert all("millimeters a pixel" in warning for warning in found)
        assert kinds(root)["warning", "unlikely spacing"] == expected


# --- copies, patients ----------------------------------------------------------------------------


@CACHES
def test_one_picture_under_two_names_in_two_splits_is_warned_of(
    tmp_path: Path, cache: str | None
) -> None:
    root = write_discs(tmp_path / "discs")
    shutil.copy(root / "images/p00.png", root / "images/p04.png")  # train and val
    shutil.copy(root / "images/p01.png", root / "images/p02.png")  # both train
    [warning] = set_up(make(root, cache=cache))
    assert "1 pictures" in warning
    assert "p04.png = p00.png" in warning
    assert kinds(root)["error", "duplicate image across splits"] == 1


@CACHES
def test_black_pictures_are_not_each_others_copies(tmp_path: Path, cache: str | None) -> None:
    root = write_discs(tmp_path / "discs")
    for number in (0, 4):
        save(np.zeros((SIDE, SIDE), np.uint8), root / f"images/p{number:02}.png")
    assert set_up(make(root, cache=cache)) == []


def test_a_patient_in_train_and_test_is_warned_of_in_training(tmp_path: Path) -> None:
    root = trees.kaggle(tmp_path)
    rows = [row[0] for row in trees.rows_of(trees.TEST)]
    train = tmp_path / "QaTa-COV19/QaTa-COV19-v2/Train Set"
    name = rows[0].replace("_ses-E2", "_ses-E9").removeprefix("mask_")
    trees.write_pair(train / "Images" / name, train / f"Ground-truths/mask_{name}", seed=99)
    with (root / "train.csv").open("a", encoding="utf-8") as lines:
        lines.write(f'mask_{name},"{trees.text_of(trees.TEST[0])}"\n')
    datamodule = QaTaCov19DataModule(str(root), image_size=32, num_workers=0, cache=None)
    with pytest.warns(UserWarning, match=r"1 patients .*sub-S00100"):
        datamodule.setup("fit")


# --- how it is found out -------------------------------------------------------------------------


def test_without_a_cache_a_bounded_number_of_rows_is_looked_at() -> None:
    rows = [Record(Path(f"i{n}"), Path(f"m{n}"), "", "", "", n) for n in range(10 * SAMPLE + 7)]
    for count in (1, SAMPLE, SAMPLE + 1, len(rows)):
        files = sampled(rows[:count])
        assert {Path("i0"), Path("m0")} <= files
        assert min(count, SAMPLE // 2) <= len(files) / 2 <= SAMPLE


def test_every_file_is_read_once_for_a_cache_and_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_discs(tmp_path / "discs", mask=ones)
    read: Counter[Path] = Counter()
    read_bytes = Path.read_bytes

    def reading(self: Path) -> bytes:
        read[self] += self.suffix == ".png"
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", reading)
    for _ in range(2):
        with refused("8 of 8 masks of train"):
            set_up(make(root, cache="cache"))
    assert +read == Counter(root.glob("*/*.png"))


def test_a_cache_is_prepared_of_no_masks_that_are_misread(tmp_path: Path) -> None:
    root = write_discs(tmp_path / "discs", mask=ones)
    with refused("8 of 8 masks of train", "mask_values=[1]"):
        prepare_dataset(make(root, cache="cache"))
    prepare_dataset(make(root, cache="cache", mask_values=[1]))
    assert len(list((tmp_path / "cache").iterdir())) == 2, "another reading, another cache"


# --- what an audit shows -------------------------------------------------------------------------


def test_each_kind_is_printed_with_one_remedy(tmp_path: Path) -> None:
    root = write_discs(tmp_path / "discs")
    table = (root / "manifest.csv").read_text().splitlines()
    (root / "manifest.csv").write_text("".join(f"{t.rpartition(',')[0]}\n" for t in table))
    shown = format_audit(audit(make(root))).splitlines()
    [place] = [n for n, line in enumerate(shown) if line.startswith("error")]
    assert "split" in shown[place]
    assert "split=random" in shown[place + 1]


def test_pictures_are_odd_only_where_most_have_one_form(tmp_path: Path) -> None:
    def sized(common: int) -> Any:
        def write(picture: np.ndarray, path: Path) -> None:
            number = int(path.stem[1:])
            side = SIDE if number < common else SIDE - number
            save(picture[:side, :side], path)

        return write

    for name, common, odd in (("no two alike", 0, 0), ("half", 6, 0), ("most", 11, 1)):
        root = write_discs(tmp_path / name, image=sized(common), mask=sized(common))
        assert kinds(root)["note", "odd picture"] == odd
