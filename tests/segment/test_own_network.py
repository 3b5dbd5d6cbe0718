"""`textseg segment` with a checkpoint of a network that is none of the suite's."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
import yaml

from tests.forked import command
from tests.tiny_run import masks_in, write_refhl

OWN = """
from pathlib import Path

from textseg.models import ImageBaseline

Path("imported").touch()


class OwnNet(ImageBaseline):
    pass
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with own.py, an image, and a run: config.yaml and a checkpoint."""
    from textseg.models import ImageBaseline

    home = tmp_path_factory.mktemp("home")
    (home / "own.py").write_text(OWN)
    write_refhl(home / "refhl")
    model = ImageBaseline(
        image_encoder="tu-test_convnext",
        pretrained=False,
        decoder_options={"decoder_channels": [16, 8, 8, 8, 8]},
    )
    hyper = {**model.hparams, "_class_path": "own.OwnNet"}
    (home / "run/checkpoints").mkdir(parents=True)
    stored = {"state_dict": model.state_dict(), "hyper_parameters": hyper}
    torch.save(stored, home / "run/checkpoints/best.ckpt")
    settings = {
        "model": {"class_path": "own.OwnNet"},
        "data": {"init_args": {"image_size": 32}},
    }
    (home / "run/config.yaml").write_text(yaml.safe_dump(settings))
    return home


def segment(home: Path, cwd: Path, *named: str) -> CompletedProcess[str]:
    """In a process of its own, whose first entry of sys.path is not the working folder."""
    image, checkpoint = home / "refhl/images/test0.png", home / "run/checkpoints/best.ckpt"
    words = ("segment", image, "--ckpt", checkpoint, "--image_size", "32", *named)
    return command(*words, cwd=cwd)


def test_the_class_that_the_command_line_names_is_imported(home: Path) -> None:
    done = segment(home, home, "--model", "own.OwnNet")
    assert done.returncode == 0, done.stderr
    assert len(masks_in(home / "segmented/masks")) == 1
    assert (home / "imported").exists()


@pytest.mark.parametrize("named", [(), ("--model", "own.OtherNet"), ("--model", "own.OwnNet")])
def test_a_class_that_cannot_be_found_is_named_in_two_lines(
    home: Path, tmp_path: Path, named: tuple[str, ...]
) -> None:
    """Not named, named wrongly, and named in a folder without own.py."""
    (home / "imported").unlink(missing_ok=True)
    done = segment(home, tmp_path if named[-1:] == ("own.OwnNet",) else home, *named)
    assert done.returncode == 2
    cause, remedy = done.stderr.splitlines()
    assert (named[-1] if named else "own.OwnNet") in cause
    assert remedy
    assert named or not (home / "imported").exists()  # the config beside the checkpoint names it
