from __future__ import annotations

import errno
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from datamodules.cache.build_once import build_once, forget, sources_identity
from textseg.errors import UserError

FORK = multiprocessing.get_context("fork")  # a fresh interpreter takes seconds to import torch


def writer(text: str, counted: list[str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        assert list(folder.iterdir()) == []
        counted.append(text)
        (folder / "content").write_text(text)

    return write


def synchronize(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.01)


# --- once, and again where something changed


def test_a_whole_folder_is_not_built_again(tmp_path: Path) -> None:
    built: list[str] = []
    folder = tmp_path / "a/b/result"
    for text in ("first", "second"):
        assert build_once(folder, writer(text, built), identity="1", what="a test") == folder
    assert built == ["first"]
    assert (folder / "content").read_text() == "first"
    assert [path.name for path in folder.parent.iterdir()] == ["result"], "no lock, nothing aside"


def test_another_identity_replaces_the_whole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "result"
    build_once(folder, writer("old", []), identity="1", what="a test")
    (folder / "of the old one").write_text("")
    build_once(folder, writer("new", []), identity="2", what="a test")
    assert (folder / "content").read_text() == "new"
    assert not (folder / "of the old one").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_folder_that_was_not_built_to_its_end_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "content").write_text("half")
    build_once(folder, writer("whole", []), identity="1", what="a test")
    assert (folder / "content").read_text() == "whole"


def test_a_forgotten_folder_is_built_anew(tmp_path: Path) -> None:
    built: list[str] = []
    build_once(tmp_path / "result", writer("a", built), identity="1", what="a test")
    forget(tmp_path / "result")
    build_once(tmp_path / "result", writer("b", built), identity="1", what="a test")
    assert built == ["a", "b"]


def test_a_relative_folder_comes_back_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = build_once(Path("result"), writer("a", []), identity="1", what="a test")
    assert found == tmp_path / "result"


# --- what interrupts


@pytest.mark.parametrize("mishap", [KeyboardInterrupt, UserError("x", "y"), RuntimeError("z")])
def test_a_failing_build_leaves_nothing_and_spoils_nothing(
    tmp_path: Path, mishap: BaseException | type[BaseException]
) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise mishap

    folder = tmp_path / "result"
    with pytest.raises(mishap if isinstance(mishap, type) else type(mishap)):
        build_once(folder, fail, identity="1", what="a test")
    assert list(tmp_path.iterdir()) == []
    build_once(folder, writer("old", []), identity="1", what="a test")
    with pytest.raises(mishap if isinstance(mishap, type) else type(mishap)):
        build_once(folder, fail, identity="2", what="a test")
    assert (folder / "content").read_text() == "old", "until the new one is whole"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_user_error_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_text("")
        raise OSError(number, os.strerror(number))

    with pytest.raises(UserError) as error:
        build_once(tmp_path / "x/result", fill, identity="1", what="a test", elsewhere="go away")
    cause, remedy = str(error.value).splitlines()
    assert "a test" in cause
    assert str(tmp_path / "x/result") in cause
    assert "go away" in remedy
    assert list((tmp_path / "x").iterdir()) == []


def test_another_error_of_the_writer_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise FileNotFoundError("a source")

    with pytest.raises(FileNotFoundError, match="a source"):
        build_once(tmp_path / "result", fail, identity="1", what="a test")
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"a test cannot be written into .*file.*\nmove it"):
        build_once(
            tmp_path / "file/x/result",
            writer("", []),
            identity="1",
            what="a test",
            elsewhere="move it",
        )


def build_until_killed(folder: Path, started: Path) -> None:
    def write(aside: Path) -> None:
        (aside / "content").write_text("half")
        started.write_text("")
        time.sleep(600)

    build_once(folder, write, identity="1", what="a test")


def test_a_killed_build_is_not_taken_for_a_whole_one_and_its_remains_are_removed(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "place/result"
    (tmp_path / "place/.result.old").mkdir(parents=True)  # not of ours
    process = FORK.Process(target=build_until_killed, args=(folder, tmp_path / "started"))
    process.start()
    synchronize(tmp_path / "started")
    process.kill()
    process.join()
    assert not folder.exists()
    assert len(list(folder.parent.iterdir())) == 3, "the half-built folder and the lock remain"
    built: list[str] = []
    build_once(folder, writer("whole", built), identity="1", what="a test")
    assert built == ["whole"]
    assert sorted(path.name for path in folder.parent.iterdir()) == [".result.old", "result"]


# --- who competes


def compete(folder: Path, name: str, builds: Path, start: Barrier) -> None:
    def write(aside: Path) -> None:
        with builds.open("a") as file:
            file.write(f"{name}\n")
        time.sleep(0.3)
        (aside / "content").write_text(name)

    start.wait(60)
    build_once(folder, write, identity="1", what="a test")
    (builds.parent / name).write_text((folder / "content").read_text())


def test_processes_that_start_at_once_build_once_and_see_the_same(tmp_path: Path) -> None:
    names, folder, builds = ("one", "two", "three"), tmp_path / "data/result", tmp_path / "builds"
    start = FORK.Barrier(len(names))
    running = [FORK.Process(target=compete, args=(folder, n, builds, start)) for n in names]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
        assert process.exitcode == 0
    builder = builds.read_text().split()
    assert len(builder) == 1
    assert [(tmp_path / name).read_text() for name in names] == builder * 3
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["result"]


# --- identities


def test_an_identity_changes_with_each_file_and_setting_but_not_with_their_order(
    tmp_path: Path,
) -> None:
    a, b, absent = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    a.write_text("aa")
    b.write_text("bb")
    before = sources_identity([a, b, absent], 224)
    assert sources_identity([absent, b, a, a], 224) == before
    found = {before, sources_identity([a, b], 224), sources_identity([a, b, absent], "224")}
    a.write_text("aaa")
    found.add(sources_identity([a, b, absent], 224))
    os.utime(a, ns=(0, 0))
    found.add(sources_identity([a, b, absent], 224))
    absent.write_text("")
    found.add(sources_identity([a, b, absent], 224))
    a.rename(tmp_path / "d")
    found.add(sources_identity([tmp_path / "d", b, absent], 224))
    assert len(found) == 7
