"""What visitors send is read, or refused in two lines that name no path, and deleted."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from datamodules.refhl_seg.phantoms import draw_phantom, write_refhl
from datamodules.volumes.windows import parse_window
from tests.datamodules.scan_files import SHAPE, SPACING, scan_values, write_nifti, write_series
from tests.datamodules.test_scans import hung
from textseg.demo.opening import WINDOWS, Opener
from textseg.errors import UserError
from textseg.limits import PIXELS, VOXELS

PIXELS_OF_PICTURE = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def sent(opener: Opener, file: Path) -> Path:
    """A file where a visitor's is: in a folder of its own among the uploads."""
    home = opener.folder / f"{len(list(opener.folder.iterdir()))}"
    home.mkdir()
    return file.rename(home / file.name)


def left_of(opener: Opener) -> list[Path]:
    return [path for path in opener.folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_a_picture_is_read_as_the_suite_reads_it_and_deleted(
    suffix: str, opener: Opener, tmp_path: Path
) -> None:
    Image.fromarray(PIXELS_OF_PICTURE).save(tmp_path / f"x{suffix}")
    source = opener.files([sent(opener, tmp_path / f"x{suffix}")])
    np.testing.assert_array_equal(source.picture(0), PIXELS_OF_PICTURE)
    assert (source.name, source.slices, source.spacing) == (f"x{suffix}", 1, None)
    assert source.center_width is None
    assert source.under("abdomen") is source
    assert left_of(opener) == []


def test_a_nifti_volume_without_a_window_is_shown_by_its_percentiles_and_that_is_said(
    opener: Opener, tmp_path: Path
) -> None:
    source = opener.files([sent(opener, write_nifti(tmp_path / "p1.nii.gz", scan_values(), "LPS"))])
    assert (source.name, source.slices) == ("p1.nii.gz", SHAPE[2])
    assert source.spacing == pytest.approx((SPACING[1], SPACING[0]))
    said = " ".join(source.notes)
    assert "percentile" in said
    assert "left" in said
    assert str(tmp_path) not in said
    assert left_of(opener) == []
    for z in (0, 4):
        values = hung(scan_values(), z)
        wanted = np.rint(np.clip((values + 160) / 400, 0, 1) * 255)
        shown = source.under("abdomen").picture(z)
        np.testing.assert_array_equal(shown, np.repeat(wanted[..., None], 3, axis=2))
        np.testing.assert_array_equal(source.under("40,400").picture(z), shown)
    assert source.under("30, 200").center_width == (30, 200)


def test_all_files_of_a_dicom_series_are_one_volume_under_its_own_window(
    opener: Opener, tmp_path: Path
) -> None:
    window = {"WindowCenter": 30, "WindowWidth": 300}
    series = write_series(tmp_path / "ct", scan_values(), **window)
    source = opener.files([sent(opener, file) for file in sorted(series.iterdir())])
    assert source.slices == SHAPE[2]
    assert source.center_width == (30, 300)
    assert f"{SHAPE[2] - 1} more" in source.name
    assert left_of(opener) == []


def test_files_of_one_name_are_told_apart(opener: Opener, tmp_path: Path) -> None:
    files = []
    for number, file in enumerate(sorted(write_series(tmp_path / "ct", scan_values()).iterdir())):
        (tmp_path / str(number)).mkdir()
        files.append(file.rename(tmp_path / str(number) / "IM"))
    assert opener.files(files).slices == SHAPE[2]


def test_a_channel_of_a_file_of_several_volumes_is_taken(opener: Opener, tmp_path: Path) -> None:
    both = np.stack([scan_values(0), scan_values(1)], axis=-1)
    for name in ("a.nii", "b.nii"):
        nibabel.save(nibabel.Nifti1Image(both, np.diag([1.0, 1, 1, 1])), tmp_path / name)
    refused(opener, [sent(opener, tmp_path / "a.nii")], "a.nii")
    source = opener.files([sent(opener, tmp_path / "b.nii")], channel=1).under("abdomen")
    values = np.rint(np.clip((hung(scan_values(1), 2) + 160) / 400, 0, 1) * 255)
    np.testing.assert_array_equal(source.picture(2)[..., 0], values)


def refused(opener: Opener, files: list[Path], *named: str) -> None:
    with pytest.raises(UserError) as caught:
        opener.files(files)
    cause, remedy = str(caught.value).split("\n")
    assert remedy
    for name in named:
        assert name in cause
    assert "/" not in cause.replace("255/65535", "")
    assert left_of(opener) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.png", b"no picture"), ("x.nii.gz", b"no volume"), ("x.dcm", b"no slice"), ("x.txt", b"")],
)
def test_a_broken_file_is_refused_by_its_name(
    name: str, content: bytes, opener: Opener, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    refused(opener, [sent(opener, tmp_path / name)], name)


def test_what_is_too_large_is_refused_by_its_header(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PIXELS.variable, "40")
    monkeypatch.setenv(VOXELS.variable, "100")
    Image.fromarray(PIXELS_OF_PICTURE).save(tmp_path / "x.png")
    refused(opener, [sent(opener, tmp_path / "x.png")], "x.png", "48", "40")
    volume = write_nifti(tmp_path / "p1.nii", scan_values())
    refused(opener, [sent(opener, volume)], "p1.nii", "100")


def test_what_is_not_one_picture_or_volume_is_refused(opener: Opener, tmp_path: Path) -> None:
    refused(opener, [], "no file")
    for name in ("a.png", "b.png"):
        Image.fromarray(PIXELS_OF_PICTURE).save(tmp_path / name)
    refused(opener, [sent(opener, tmp_path / name) for name in ("a.png", "b.png")], "a.png")
    both = [write_nifti(tmp_path / name, scan_values()) for name in ("c.nii", "d.nii")]
    refused(opener, [sent(opener, file) for file in both], "c.nii", "2 volumes")


@pytest.mark.parametrize("window", WINDOWS)
def test_the_windows_of_the_page_are_those_of_volumes(window: str) -> None:
    parse_window(window)


def test_a_phantom_is_the_slice_that_the_suite_writes(opener: Opener, tmp_path: Path) -> None:
    write_refhl(tmp_path / "set", train=1, val=0, test=3)
    pictures = sorted((tmp_path / "set/images").glob("test*"))
    for number, file in enumerate(pictures):
        source = opener.phantom(number)
        np.testing.assert_array_equal(source.picture(0)[..., 0], np.asarray(Image.open(file)))
        assert len(source.expressions) >= 2
        masks = sorted((tmp_path / "set/masks").glob(f"{file.stem}_*"))
        assert len(masks) == len(source.expressions) == len(draw_phantom(number).lesions)
    with pytest.raises(UserError, match="-1"):
        opener.phantom(-1)
