"""Threads that read before the network and write after it: order, bounds, errors, ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import textseg
from tests.segment.test_left_out import write_picture
from tests.tiny_run import fingerprints
from textseg.errors import UserError
from textseg.preprocess import read_image
from textseg.segment import pipeline, segment
from textseg.segment.pipeline import ReadAhead, Writers


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def reading(count: int, *, most: int = 4, threads: int = 3, weight: int = 1) -> ReadAhead[int]:
    """The squares of numbers; even ones take longer."""

    def read(number: int) -> int:
        time.sleep(0.002 * (1 - number % 2))
        return number * number

    return ReadAhead(read, count, weigh=lambda _: weight, most=most, threads=threads)


# --- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 50])
def test_results_keep_the_order_of_what_they_are_of(step: int) -> None:
    ahead = reading(20)
    taken = [ahead.take(step) for _ in range(0, 20, step)]
    assert [one for part in taken for one in part] == [n * n for n in range(20)]
    assert ahead.take(1) == []


def test_no_more_is_begun_than_may_wait() -> None:
    begun: list[int] = []

    def read(number: int) -> int:
        begun.append(number)
        return number

    ahead = ReadAhead(read, 100, weigh=lambda _: 1, most=5, threads=3)
    wait_for(lambda: len(begun) == 5)
    time.sleep(0.02)
    assert len(begun) == 5
    ahead.take(2)
    wait_for(lambda: len(begun) == 7)
    time.sleep(0.02)
    assert len(begun) == 7
    ahead.close()


def test_large_results_wait_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MOST_BYTES", 10)
    ahead = reading(50, most=40, threads=2, weight=6)
    time.sleep(0.05)
    assert ahead._begun <= 2 + 2  # the two that fill it, and one of each thread
    assert ahead.take(50) == [n * n for n in range(50)]


def test_an_error_is_raised_in_its_place() -> None:
    def read(number: int) -> int:
        if number == 2:
            raise UserError("number two", "leave it out")
        return number

    ahead = ReadAhead(read, 4, weigh=lambda _: 1, most=4)
    assert ahead.take(2) == [0, 1]
    with pytest.raises(UserError, match="number two"):
        ahead.take(1)
    assert ahead.take(1) == [3]


def test_a_result_may_be_an_error() -> None:
    made = UserError("a picture", "replace it")
    ahead = ReadAhead(lambda number: made if number else None, 2, weigh=lambda _: 1, most=2)
    assert ahead.take(2) == [None, made]


def test_threads_end_with_the_last_result_and_when_they_are_closed() -> None:
    before = threading.active_count()
    ahead = reading(6)
    ahead.take(6)
    wait_for(lambda: threading.active_count() == before)
    reading(100).close()
    wait_for(lambda: threading.active_count() == before)


def test_an_iteration_that_is_given_up_ends_its_threads(image_only: str, tmp_path: Path) -> None:
    for number in range(40):
        write_picture(tmp_path / f"{number}.png", 40, 40)
    net = textseg.load(image_only, device="cpu")
    before = threading.active_count()
    results = net.segment_all(sorted(tmp_path.iterdir()), [None] * 40, batch_size=2)
    next(results)
    assert threading.active_count() > before
    results.close()
    wait_for(lambda: threading.active_count() == before)


def test_pictures_read_in_threads_leave_pillows_own_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(tmp_path / "a.png", 40, 40)
    usual, opened = Image.MAX_IMAGE_PIXELS, Image.open

    def slowly(*given: object, **named: object) -> Image.Image:
        time.sleep(0.002)
        return opened(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", slowly)
    readers = [threading.Thread(target=read_image, args=(tmp_path / "a.png",)) for _ in range(8)]
    for reader in readers:
        reader.start()
        time.sleep(0.0005)
    for reader in readers:
        reader.join()
    assert usual == Image.MAX_IMAGE_PIXELS is not None


# --- writing ----------------------------------------------------------------------------------


def test_all_is_written_at_the_end() -> None:
    written: list[int] = []
    with Writers(threads=3, most=5) as writers:
        for number in range(50):
            writers.write(1, written.append, number)
    assert sorted(written) == [*range(50)]


@pytest.mark.parametrize(("most", "weight", "held"), [(4, 1, 4), (40, 6, 1)])
def test_what_waits_to_be_written_is_bounded_by_number_and_bytes(
    monkeypatch: pytest.MonkeyPatch, most: int, weight: int, held: int
) -> None:
    monkeypatch.setattr(pipeline, "MOST_BYTES", 10)
    may_end, handed = threading.Event(), []

    def hand_over() -> None:
        with Writers(threads=2, most=most) as writers:
            for number in range(20):
                writers.write(weight, may_end.wait)  # type: ignore[arg-type]
                handed.append(number)

    thread = threading.Thread(target=hand_over)
    thread.start()
    wait_for(lambda: len(handed) == held)
    time.sleep(0.02)
    assert len(handed) == held
    may_end.set()
    thread.join()
    assert len(handed) == 20


def test_what_cannot_be_written_ends_the_block_and_nothing_new_is_begun() -> None:
    written: list[int] = []

    def write(number: int) -> None:
        if number == 3:
            raise UserError("the disk is full", "make room")
        time.sleep(0.001)
        written.append(number)

    def all_of_them() -> None:
        with Writers(threads=2, most=4) as writers:
            for number in range(1000):
                writers.write(1, write, number)

    with pytest.raises(UserError, match="the disk is full"):
        all_of_them()
    count = len(written)
    assert count < 20
    time.sleep(0.01)
    assert len(written) == count


def test_the_last_error_is_not_lost() -> None:
    def fail() -> None:
        time.sleep(0.01)
        raise UserError("the disk is full", "make room")

    with pytest.raises(UserError, match="the disk is full"), Writers() as writers:
        writers.write(1, fail)


# --- the command -----------------------------------------------------------------------------


def test_without_overlays_the_masks_are_the_same_and_there_is_no_folder_of_them(
    image_only: str, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, side in enumerate((40, 64, 33)):
        write_picture(images / f"{number}.png", side, side + 3)
    given = {"ckpt_path": image_only, "device": "cpu", "probabilities": True}
    with_them = segment(str(images), output=str(tmp_path / "a"), **given)  # type: ignore[arg-type]
    without = segment(str(images), output=str(tmp_path / "b"), overlays=False, **given)  # type: ignore[arg-type]
    assert len([*(with_them / "overlays").iterdir()]) == 3
    assert not (without / "overlays").exists()
    wanted = {k: v for k, v in fingerprints(with_them).items() if not k.startswith("overlays")}
    assert fingerprints(without) == wanted


def test_volumes_take_the_setting_too(image_only: str, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    from datamodules.volumes.opened import Volumes

    values = np.random.default_rng(0).integers(0, 200, (40, 40, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii.gz")
    found = [
        segment(
            str(tmp_path / "v.nii.gz"),
            ckpt_path=image_only,
            device="cpu",
            output=str(tmp_path / name),
            overlays=overlays,
            window="abdomen",
            open_volumes=Volumes,
        )
        for name, overlays in (("a", True), ("b", False))
    ]
    assert len([*(found[0] / "overlays").iterdir()]) == 3
    assert not (found[1] / "overlays").exists()
    masks = [np.asarray(nibabel.load(next((one / "volumes").iterdir())).dataobj) for one in found]
    assert np.array_equal(*masks)
