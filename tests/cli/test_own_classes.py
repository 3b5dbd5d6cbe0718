"""A network, a DataModule and a callback of a user's, in a module of the working folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.tiny_run import EXPERIMENT, call, masks_in, merged, only, shell, write_refhl
from tests.tiny_run import write_experiment as write

MODULE = """
import lightning as L
from datamodules import RefHLSegDataModule
from textseg.models import LSMS

class StrangerNet(LSMS):
    pass

class StrangerData(RefHLSegDataModule):
    pass

class StrangerCallback(L.Callback):
    pass
"""


@dataclass(frozen=True)
class Home:
    """The working folder of a user, and a run that was trained there."""

    folder: Path
    checkpoint: Path

    @property
    def image(self) -> Path:
        return next((self.folder / "refhl/images").glob("test*.png"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    (folder / "stranger.py").write_text(MODULE)
    write_refhl(folder / "refhl")
    changes = {
        "model": {"class_path": "stranger.StrangerNet"},
        "data": {"class_path": "stranger.StrangerData", "init_args": {"root": "refhl"}},
        "trainer": {"callbacks": [{"class_path": "stranger.StrangerCallback"}]},
    }
    experiment = write(folder, **merged(EXPERIMENT, changes))
    outcome = call("fit", "--config", experiment, cwd=folder)
    assert outcome.status == 0, outcome.err
    return Home(folder, only(folder / "runs/tiny") / "checkpoints/best.ckpt")


@pytest.mark.parametrize(
    "command",
    [
        ["validate", "--ckpt_path", "{checkpoint}"],
        ["test", "--ckpt_path", "{checkpoint}"],
        ["predict", "--ckpt_path", "{checkpoint}"],
        ["probe", "{run}", "--pictures", "0"],
        ["benchmark", "--config", "tiny.yaml", "--rounds", "1", "--batch_size", "2"],
        ["data", "audit", "refhl"],
        ["data", "prepare", "--config", "tiny.yaml", "--data.cache", "cache"],
        ["data", "prepare", "--data", "stranger.StrangerData", "--data.root", "refhl"],
    ],
    ids=lambda command: "-".join(command[:2]),
)
def test_a_command_takes_the_users_classes(home: Home, command: list[str]) -> None:
    names = {"checkpoint": home.checkpoint, "run": home.checkpoint.parents[1]}
    outcome = call(*(word.format(**names) for word in command), cwd=home.folder)
    assert outcome.status == 0, outcome.err


def segment(home: Home, checkpoint: Path, cwd: Path) -> CompletedProcess[str]:
    """In a process of its own, which has imported nothing, as the installed script runs."""
    script = home.folder.parent / "scripts" / "command.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text("from lightning_cli import main\nmain()\n")
    words = ["segment", home.image, "the lesion", "--ckpt_path", checkpoint, "--image_size", "32"]
    return shell(script, *words, cwd=cwd)


def test_segment_follows_the_config_beside_the_checkpoint(home: Home) -> None:
    done = segment(home, home.checkpoint, home.folder)
    assert done.returncode == 0, done.stderr
    assert len(masks_in(home.folder / "segmented/masks")) == 1


def test_a_checkpoint_alone_imports_nothing(home: Home, tmp_path: Path) -> None:
    alone = shutil.copy(home.checkpoint, tmp_path / "alone.ckpt")
    done = segment(home, Path(alone), home.folder)
    cause, remedy = done.stderr.splitlines()[-2:]
    assert done.returncode == 2
    assert "alone.ckpt is of stranger.StrangerNet" in cause
    assert "config.yaml" in remedy


def test_a_class_whose_module_is_elsewhere_is_named_with_its_config(
    home: Home, tmp_path: Path
) -> None:
    done = segment(home, home.checkpoint, tmp_path)
    cause, _ = done.stderr.splitlines()[-2:]
    assert done.returncode == 2
    assert "config.yaml" in cause
    assert "stranger.StrangerNet" in cause
