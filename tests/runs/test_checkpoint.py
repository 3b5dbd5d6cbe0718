"""Reading weights without running code, and finding run folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from textseg.checkpoint import load_plain, read_checkpoint
from textseg.errors import UserError


class Trap:
    """Pickled, it writes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.write_text, (self.marker, "executed")


def damaged(path: Path) -> dict[str, bytes]:
    torch.save({"state_dict": {"weight": torch.zeros(1000)}}, path)
    whole = path.read_bytes()
    return {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "head": whole[:100],
        "tail": whole[100:],
        "a note": b"hello, here are no weights\n" * 10,
        "a page": b"<!DOCTYPE html><html>sign in</html>",
        "a table": b"image,text\n1.png,lesion\n",
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        "zeros": bytes(512),
    }


def test_tensors_and_plain_values_come_back_as_they_were(tmp_path: Path) -> None:
    content = {"state_dict": {"weight": torch.arange(3.0)}, "epoch": 3, "name": ("a", None, [0.1])}
    torch.save(content, tmp_path / "a.ckpt")
    read = read_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(read["state_dict"]["weight"], torch.arange(3.0))
    assert (read["epoch"], read["name"]) == (3, ("a", None, [0.1]))


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"state_dict": {}, "extra": Trap(marker)}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "a.ckpt"))) as error:
        read_checkpoint(tmp_path / "a.ckpt")
    assert "weights_only" not in str(error.value)  # torch's advice is to run the code
    assert not marker.exists()


KINDS = ["empty", "half", "head", "tail", "a note", "a page", "a table", "a picture", "zeros"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_a_user_error_that_names_it(tmp_path: Path, kind: str) -> None:
    content = damaged(tmp_path / "whole.ckpt")[kind]
    (tmp_path / "bad.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "bad.ckpt"))):
        load_plain(tmp_path / "bad.ckpt", field="ckpt_path", wanted="another")


@pytest.mark.parametrize("name", ["missing.ckpt", "."])
def test_a_missing_file_or_a_folder_is_a_user_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_plain(tmp_path / name, field="ckpt_path", wanted="another")


@pytest.mark.parametrize(
    ("holds", "said"),
    [
        ("manifest.json", ("textseg export", "textseg segment")),
        ("textseg.json", ("textseg card", "textseg segment")),
        ("checkpoints/best.ckpt", ("of a run", "checkpoints/best.ckpt")),
        ("notes.txt", ("is a folder", "best.ckpt")),
    ],
)
def test_a_folder_is_named_for_what_it_is(
    tmp_path: Path, holds: str, said: tuple[str, str]
) -> None:
    folder = tmp_path / "given"
    (folder / holds).parent.mkdir(parents=True)
    (folder / holds).touch()
    with pytest.raises(UserError) as error:
        read_checkpoint(folder)
    assert str(folder) in str(error.value)
    assert all(words in str(error.value) for words in said)


@pytest.mark.parametrize("content", [[1, 2], {"weights": {}}, torch.zeros(2)])
def test_a_file_without_a_state_dict_is_no_checkpoint(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="state_dict"):
        read_checkpoint(tmp_path / "a.ckpt")
