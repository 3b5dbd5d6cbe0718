"""~ stands for the home folder wherever a file is named, also where no shell writes it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_cli import main
from tests.run_folder import write_run
from textseg.benchmark.measure import benchmark
from textseg.checkpoint import read_checkpoint
from textseg.cli.arguments import with_home
from textseg.errors import UserError
from textseg.report import report
from textseg.report.write_comparison import compare_runs
from textseg.runs import Run
from textseg.runs.folder import runs_dir
from textseg.segment.stored import read_stored


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("--ckpt_path=~/a.ckpt", "--ckpt_path={}/a.ckpt"),
        ("--ckpt_path ~/a.ckpt", "--ckpt_path {}/a.ckpt"),
        ("--ckpt_path=[~/a,b~/c,~/d]", "--ckpt_path=[{}/a,b~/c,{}/d]"),
        ("-c ~/a.yaml --config=~/b.yaml", "-c {}/a.yaml --config={}/b.yaml"),
        ("--output=~ --explain.word ~/x", "--output={} --explain.word ~/x"),
        ("--output a~/b", "--output a~/b"),
    ],
)
def test_home_is_written_out_in_the_options_of_files(words: str, written: str, home: Path) -> None:
    assert with_home(words.split()) == written.format(home, home).split()


def test_a_checkpoint_in_the_home_folder_is_read(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "run/checkpoints").mkdir(parents=True)
    torch.save({"state_dict": {}}, home / "run/checkpoints/best.ckpt")
    given = "~/run/checkpoints/best.ckpt"
    assert read_checkpoint(given) == read_stored(given) == {"state_dict": {}}
    assert Run.of_checkpoint(given).folder == home / "run"
    assert Run.of_checkpoint("~/run").folder == home / "run"
    with pytest.raises(UserError, match="is a folder, that of a run"):
        read_checkpoint("~/run")
    with pytest.raises(SystemExit):
        main(["test", f"--ckpt_path={given}"])
    assert f"{home}/run/config.yaml does not exist" in capsys.readouterr().err


def test_all_of_a_run_lies_in_one_place(home: Path) -> None:
    assert runs_dir("~/x", "tiny") == home / "x/tiny"


def test_results_are_written_into_the_home_folder(home: Path, tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / name, [0.4, 0.6])) for name in ("a", "b")]
    names = ["a", "b"]
    assert report(runs[:1], output="~/one.html") == home / "one.html"
    assert report(runs, output="~/two.html", names=names) == home / "two.html"
    text = compare_runs(runs, output="~/compared", names=names, resamples=100)
    assert f"written to {home}/compared" in text
    (home / "figures.json").touch()
    nothing: Any = None
    with pytest.raises(UserError, match=r"figures\.json' exists"):
        benchmark(nothing, nothing, output="~/figures.json")
    assert not (tmp_path / "~").exists()
