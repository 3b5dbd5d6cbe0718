"""The wheel holds three names and works from any folder; the sdist holds what it is made of."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.tiny_run import ROOT, only, shell, train_arguments, write_experiment, write_refhl

pytestmark = pytest.mark.slow

IGNORED = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
WRITTEN = {"runs", "data", "wandb"}  # what commands leave in the checkout


def ignored(folder: str, names: list[str]) -> set[str]:
    """What no wheel is built from; textseg/runs is a package."""
    return IGNORED(folder, names) | (WRITTEN if Path(folder) == ROOT else set())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with the sdist, and from that, from a copy, so that the tree stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = shutil.copytree(ROOT, folder / "tree", ignore=ignored)
    build = ["-m", "build", "--no-isolation", "--outdir", folder / "dist"]
    done = shell(*build, cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    return only(folder / "dist", "*.whl")


@pytest.fixture(scope="module")
def unzipped(wheel: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "site")
    return wheel.parent / "site"


def test_the_wheel_has_exactly_three_top_level_names(unzipped: Path) -> None:
    names = {path.name for path in unzipped.iterdir() if path.suffix != ".dist-info"}
    assert names == {"lightning_cli.py", "textseg", "datamodules"}


def test_the_wheel_holds_every_module_of_the_tree(unzipped: Path) -> None:
    for package in ("textseg", "datamodules"):
        for kind in ("*.py", "*.html", "*.css"):
            ours = {p.relative_to(ROOT) for p in (ROOT / package).rglob(kind)}
            assert {p.relative_to(unzipped) for p in (unzipped / package).rglob(kind)} == ours


def test_the_wheel_holds_no_data_and_is_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {
            f.filename: f.file_size for f in archive.infolist() if ".dist-info" not in f.filename
        }
    assert {Path(name).suffix for name in files} <= {".py", ".typed", ".html", ".css"}
    assert max(files.values()) < 32_000, "a file of code of the usual length"
    assert wheel.stat().st_size < 1_000_000


def test_the_sdist_holds_all_that_the_tests_read(wheel: Path) -> None:
    with tarfile.open(only(wheel.parent, "*.tar.gz")) as archive:
        files = {Path(*Path(one.name).parts[1:]) for one in archive if one.isfile()}
    for folder in ("textseg", "datamodules", "tests", "experiments", "docs"):
        for kind in ("*.py", "*.yaml", "*.txt", "*.md"):
            ours = {path.relative_to(ROOT) for path in (ROOT / folder).rglob(kind)}
            assert ours <= files, folder
    assert {Path(name) for name in ("README.md", "CHANGELOG.md", "CITATION.cff")} <= files
    assert not any(path.suffix == ".pyc" or path.parts[0] in WRITTEN for path in files)


def test_the_wheel_names_the_command_and_the_license(unzipped: Path) -> None:
    info = only(unzipped, "*.dist-info")
    assert "textseg = lightning_cli:main" in (info / "entry_points.txt").read_text()
    assert "License-Expression: Apache-2.0" in (info / "METADATA").read_text()
    assert (info / "licenses/LICENSE").is_file()


def test_the_wheel_shows_its_help_from_another_folder(unzipped: Path, tmp_path: Path) -> None:
    done = shell("-m", "lightning_cli", "fit", "--help", cwd=tmp_path, python_path=unzipped)
    assert done.returncode == 0, done.stderr
    assert "--test_after_fit" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_trains_from_another_folder(unzipped: Path, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    arguments = train_arguments(experiment, write_refhl(tmp_path / "refhl"))
    code = "import runpy, sys, textseg; print(textseg.__file__); sys.argv[0] = 'textseg'; "
    code += "runpy.run_module('lightning_cli', run_name='__main__')"
    done = shell("-c", code, *arguments, cwd=tmp_path, python_path=unzipped)
    assert done.returncode == 0, done.stderr
    assert str(unzipped) in done.stdout, "the installed package was used, not the tree"
    assert only(tmp_path / "runs/tiny", "*/checkpoints/best.ckpt").is_file()
