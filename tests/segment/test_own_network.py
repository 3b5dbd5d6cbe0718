"""`textseg segment` with a checkpoint of a network that is none of the suite's."""

from __future__ import annotations

import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
import yaml

from tests.forked import command
from tests.tiny_run import masks_in, write_refhl

OWN = "from textseg.models import ImageBaseline\n\nclass OwnNet(ImageBaseline):\n    pass\n"


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


def segment(home: Path, checkpoint: Path, cwd: Path) -> CompletedProcess[str]:
    """In a process of its own, whose first entry of sys.path is not the working folder."""
    image = home / "refhl/images/test0.png"
    return command("segment", image, "--ckpt", checkpoint, "--image_size", "32", cwd=cwd)


def test_the_config_beside_the_checkpoint_is_followed(home: Path) -> None:
    done = segment(home, home / "run/checkpoints/best.ckpt", home)
    assert done.returncode == 0, done.stderr
    assert len(masks_in(home / "segmented/masks")) == 1


@pytest.mark.parametrize("config", ["", "own.OwnNet", "own.OtherNet"])
def test_a_class_that_cannot_be_found_is_named_in_two_lines(
    home: Path, tmp_path: Path, config: str
) -> None:
    """Without a config, from a folder without own.py, and with the config of another network."""
    checkpoint = Path(shutil.copy(home / "run/checkpoints/best.ckpt", tmp_path))
    if config:
        settings = {"model": {"class_path": config}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    done = segment(home, checkpoint, tmp_path if config == "own.OwnNet" else home)
    assert done.returncode == 2
    cause, remedy = done.stderr.splitlines()
    assert "own.OwnNet" in cause
    assert ("config.yaml" in cause) == (config == "own.OwnNet")
    assert "module" in remedy
