"""Files and folders of results are whole, or say that they are not, whenever their writer dies."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.faults.kill_at import in_child
from textseg.errors import UserError
from textseg.output import (
    INCOMPLETE,
    OutputFolder,
    claim_folder,
    clear_leftovers,
    is_incomplete,
    output_folder,
    whole_file,
    write_bytes,
    write_new,
    write_picture,
    write_text,
)

PARTS = ".part-*"


def kinds_of_files() -> dict[str, Callable[[Path], None]]:
    return {
        "text": lambda path: write_text(path, "new\n" * 9000),
        "bytes": lambda path: write_bytes(path, b"new\n" * 9000),
        "picture": lambda path: write_picture(path, np.full((90, 90), 7, np.uint8)),
    }


@pytest.mark.parametrize("kind", kinds_of_files())
def test_a_file_is_the_old_or_the_new_one_wherever_its_writer_is_killed(
    tmp_path: Path, kind: str
) -> None:
    file, write = tmp_path / "file.png", kinds_of_files()[kind]
    write(file)
    new = file.read_bytes()
    kills = 0
    while True:
        file.write_bytes(b"old")
        killed, _ = in_child(lambda: write(file), kills, tmp_path)
        assert file.read_bytes() == (b"old" if killed else new)
        if not killed:
            break
        kills += 1
    assert kills >= 2, "before it is opened, and before it is renamed"


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    write_text(file, "old")

    def fail() -> None:
        with whole_file(file) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert file.read_text() == "old"
    assert [*tmp_path.iterdir()] == [file]


def test_what_killed_writers_left_is_removed_once_nobody_can_be_at_it(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    for _ in range(2):
        killed, _ = in_child(lambda: write_text(file, "new"), 1, tmp_path)  # before it is renamed
        assert killed
    old, young = tmp_path.glob(PARTS)
    os.utime(old, (time.time() - 3600,) * 2)
    other = tmp_path / ".part-of-mine"
    other.touch()
    os.utime(other, (0, 0))
    clear_leftovers(tmp_path)
    assert {*tmp_path.iterdir()} == {young, other}


def test_a_folder_is_claimed_and_what_was_cut_beside_it_is_gone(tmp_path: Path) -> None:
    cut = tmp_path / ".part-0123abcd-report.html"
    cut.write_text("half")
    os.utime(cut, (time.time() - 3600,) * 2)
    with output_folder(tmp_path / "out", "work"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_library_is_given_to_write_to_has_the_suffixes_of_the_file(tmp_path: Path) -> None:
    with whole_file(tmp_path / "volume.nii.gz") as part:
        assert part.name.endswith("volume.nii.gz")
        part.touch()


@pytest.mark.parametrize("bytes_of_name", [255, 250, 100])
def test_a_name_of_any_length_that_a_disk_takes_can_be_written(
    tmp_path: Path, bytes_of_name: int
) -> None:
    file = tmp_path / f"{'n' * (bytes_of_name - 4)}.png"
    write_picture(file, np.zeros((4, 4), np.uint8))
    with Image.open(file) as image:
        assert image.size == (4, 4)


def test_a_new_file_is_never_written_over_another(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "page.html", b"theirs")

    def too_late() -> None:
        with whole_file(tmp_path / "b.html", new=True) as part:
            part.write_text("late")
            (tmp_path / "b.html").write_text("mine")  # another process was faster

    with pytest.raises(FileExistsError):
        too_late()
    assert {file.read_text() for file in tmp_path.iterdir()} == {"mine"}


# --- folders -----------------------------------------------------------------------------------


def write_folder(folder: Path, *, goes_on: bool = False) -> Path:
    """A folder of two files and one below it, as a command writes it."""
    with output_folder(folder, "work", goes_on=goes_on) as claimed:
        (claimed.path / "masks").mkdir(exist_ok=True)
        for name in ("a.txt", "b.txt", "masks/c.txt"):
            write_text(claimed.path / name, name)
    return claimed.path


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


WHOLE = {name: name for name in ("a.txt", "b.txt", "masks/c.txt")}


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_folder_is_absent_marked_or_whole_wherever_its_writer_is_killed(
    tmp_path: Path, goes_on: bool
) -> None:
    folder, kills = tmp_path / "test" / "true", 0
    while True:
        killed, _ = in_child(lambda: write_folder(folder, goes_on=goes_on), kills, tmp_path)
        assert not folder.exists() or is_incomplete(folder) or content(folder) == WHOLE
        if not killed:
            break
        kills += 1
        if folder.exists() and not is_incomplete(folder):  # killed after its end
            continue
        assert write_folder(folder, goes_on=goes_on) == folder, "it is taken up"
        assert content(folder) == WHOLE
        assert [path.name for path in folder.parent.iterdir()] == ["true"], "and nothing is left"
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
    assert kills > 8


def unfinished(folder: Path, work: str = "work") -> Path:
    """A folder as a killed process leaves it."""
    claimed = claim_folder(folder, work)
    write_text(claimed.path / "half.txt", "half")
    claimed.release()
    return claimed.path


def test_what_is_begun_anew_holds_nothing_of_the_ended_command(tmp_path: Path) -> None:
    unfinished(tmp_path / "out")
    write_folder(tmp_path / "out")
    assert content(tmp_path / "out") == WHOLE


def test_what_is_gone_on_with_keeps_what_is_whole_and_drops_what_is_not(tmp_path: Path) -> None:
    unfinished(tmp_path / "out")
    (tmp_path / "out/.part-12345678-b.txt").write_text("hal")
    write_folder(tmp_path / "out", goes_on=True)
    assert content(tmp_path / "out") == WHOLE | {"half.txt": "half"}


def test_other_work_and_complete_results_are_left_as_they_are(tmp_path: Path) -> None:
    unfinished(tmp_path / "out", "other work")
    assert write_folder(tmp_path / "out").name == "out_2"
    assert write_folder(tmp_path / "out").name == "out_3", "out_2 is complete"
    assert content(tmp_path / "out").keys() == {INCOMPLETE, "half.txt"}


def test_a_folder_that_a_living_process_is_at_is_not_taken_up(tmp_path: Path) -> None:
    claimed = claim_folder(tmp_path / "out", "work")
    assert in_child(lambda: write_folder(tmp_path / "out"), -1, tmp_path)[0] is False
    assert content(tmp_path / "out_2") == WHOLE
    assert write_folder(tmp_path / "out").name == "out_3", "nor by the same process"
    claimed.finish()
    assert not any((tmp_path / "out").iterdir())


def test_the_lock_goes_with_its_process_even_where_a_child_of_it_lives_on(tmp_path: Path) -> None:
    """As a loader's workers do for some seconds."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        claim_folder(tmp_path / "out", "work")
        if not os.fork():
            os.close(writer)
            os.read(reader, 1)  # until the test ends
        os._exit(0)
    os.waitpid(child, 0)
    assert write_folder(tmp_path / "out").name == "out"
    os.write(writer, b"x")


def test_another_process_of_a_run_neither_finishes_nor_releases_anything(tmp_path: Path) -> None:
    claimed = claim_folder(tmp_path / "out", "work")
    assert in_child(OutputFolder(claimed.path).finish, -1, tmp_path) == (False, 0)
    assert is_incomplete(claimed.path)
    claimed.finish()


def test_the_working_folder_itself_is_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("", ".", str(tmp_path), "new/.."):
        with pytest.raises(UserError, match="working folder"):
            claim_folder(Path(name), "work")
    assert [*tmp_path.parent.glob(f"{tmp_path.name}_2")] == []
    assert [*tmp_path.iterdir()] == []
