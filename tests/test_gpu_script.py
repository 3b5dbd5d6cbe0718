"""experiments/gpu: what the one command starts, skips and writes; for real in the slow test."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.test_experiments import EXPERIMENTS, class_named, load, network_of, parse
from tests.tiny_run import shell

SCRIPT = EXPERIMENTS / "gpu/qata.py"
OVERLAYS = sorted((EXPERIMENTS / "gpu").glob("*.yaml"))


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_qata", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


qata: Any = load_script()
MakeJob = Callable[..., Any]


@pytest.fixture
def job(tmp_path: Path) -> MakeJob:
    """A Job; of the settings only those named differ."""

    def made(**changes: Any) -> Any:
        settings: dict[str, Any] = {"root": tmp_path, "captions": None, "out": tmp_path}
        settings |= {"networks": ["unet", "lsms"], "workers": 3, "limit": 60.0, "smoke": False}
        return qata.Job(**settings | changes)

    return made


def write_results(out: Path, network: str, dice: float) -> Path:
    run = out / "runs" / network / f"{network}_qata" / "2026-01-01_00-00-00"
    for mode in qata.CAPTIONS:
        scores: dict[str, float | None] = dict.fromkeys(qata.SCORES, dice)
        scores |= {f"{name}_ci_{end}": None for name in qata.SCORES for end in ("low", "high")}
        file = run / "test" / mode / "metrics.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(scores))
    (run / "config.yaml").touch()
    return run


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """In place of Python, a shell script; returns the file that it writes its arguments to."""
    python, called = tmp_path / "python", tmp_path / "called"
    python.write_text(f'#!/usr/bin/env bash\necho "$@" >> {called}\n{script}\n')
    python.chmod(0o755)
    monkeypatch.setattr(qata.sys, "executable", str(python))
    return called


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_trains_from_scratch_without_hub_and_wandb(overlay: Path) -> None:
    base = EXPERIMENTS / f"{overlay.stem}_qata.yaml"
    config = parse(base, overlay)
    assert (config.trainer.precision, config.trainer.max_epochs) == ("bf16-mixed", 100)
    assert config.data.init_args.image_size == 224
    assert config.data.init_args.split == "first80"
    assert "WandbLogger" not in str(config.trainer.logger)
    assert [one.class_path for one in config.trainer.callbacks] == [
        "textseg.training.CompiledTraining"
    ]
    network = class_named(network_of(base))(**config.model.init_args.as_dict())
    assert sum(p.numel() for p in network.parameters()) < 30e6
    assert all(p.requires_grad for p in network.parameters())


def test_the_overlays_train_every_network_on_equal_terms() -> None:
    assert {path.stem for path in OVERLAYS} == set(qata.NETWORKS)
    terms = [
        (load(path)["trainer"], load(path)["data"], load(path)["model"]["init_args"]["lr"])
        for path in OVERLAYS
    ]
    assert all(term == terms[0] for term in terms)


def test_a_training_gets_the_data_and_goes_on_from_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: MakeJob
) -> None:
    called = stand_in(tmp_path, monkeypatch, "exit 0")
    one = job(networks=["lsms"], captions=tmp_path / "texts")
    qata.train(one)
    arguments = called.read_text()
    assert f"--data.root {tmp_path} --data.captions {tmp_path / 'texts'}" in arguments
    assert f"--config {EXPERIMENTS / 'gpu/lsms.yaml'}" in arguments
    assert "--ckpt_path" not in arguments
    run = tmp_path / "runs/lsms/lsms_qata/2026-01-01_00-00-00"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/last.ckpt").touch()
    (run / "config.yaml").touch()
    called.unlink()
    qata.train(one)
    assert called.read_text().rstrip().endswith("--ckpt_path last")


def test_what_is_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: MakeJob
) -> None:
    called = stand_in(tmp_path, monkeypatch, "exit 0")
    write_results(tmp_path, "unet", 0.5)
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark/unet.json").write_text("{}")
    for part in (qata.train, qata.benchmark):
        part(job())
    lines = called.read_text().splitlines()
    assert [line.split()[2] for line in lines] == ["fit", "benchmark"]
    assert all("lsms" in line and "unet" not in line for line in lines)


def test_a_training_over_its_time_is_told_to_save_and_ends_the_script(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: MakeJob,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = tmp_path / "saved"
    wait = f"trap 'touch {saved}; exit 75' USR1\nfor i in {{1..600}}; do sleep 0.1; done"
    stand_in(tmp_path, monkeypatch, wait)
    with pytest.raises(SystemExit):
        qata.train(job(limit=1.0))
    assert saved.is_file()
    message = capsys.readouterr().err
    assert "train_unet took over" in message
    assert "the same command goes on from there" in message


def test_a_failed_command_shows_the_end_of_its_log(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: MakeJob,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in(tmp_path, monkeypatch, "echo CUDA out of memory; exit 1")
    with pytest.raises(SystemExit):
        qata.benchmark(job())
    assert "CUDA out of memory" in capsys.readouterr().err


def test_minutes_are_those_up_to_the_last_checkpoint_of_every_start(
    tmp_path: Path, job: MakeJob
) -> None:
    run = write_results(tmp_path, "lsms", 0.5)
    last = run / "checkpoints/last.ckpt"
    last.parent.mkdir()
    last.touch()
    os.utime(last, (1000.0, 1000.0))
    note = tmp_path / "train_lsms.json"
    note.write_text(json.dumps({"seconds": 30.0, "since": 880.0}))
    assert qata.training_seconds(job(), "lsms") == 150.0
    # A start that only tests, because training had ended, adds nothing.
    note.write_text(json.dumps({"seconds": 30.0, "since": 1100.0}))
    assert qata.training_seconds(job(), "lsms") == 30.0


def test_cells_of_what_was_not_run_are_empty(tmp_path: Path, job: MakeJob) -> None:
    write_results(tmp_path, "lsms", 0.8471)
    qata.summary(job())
    rows = (tmp_path / "summary.md").read_text().splitlines()
    unet = [row for row in rows if row.startswith("| U-Net")]
    assert [set(row.split("|")[2:-1]) - {f" {m} " for m in qata.CAPTIONS} for row in unet] == [
        {"  "}
    ] * 4
    assert any(row.startswith("| LSMS | true | 0.8471 |") for row in rows)
    widths = {row.count("|") for row in rows if row.startswith("| LSMS | true")}
    assert widths == {row.count("|") for row in rows if row.startswith("| network | captions")}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_so_before_anything_is_started(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = shell(SCRIPT, "--root", tmp_path, "--out", out, cwd=tmp_path)
    assert done.returncode == 2
    assert "sees no CUDA GPU" in done.stderr
    assert "remedy: see the driver" in done.stderr
    assert not (out / "logs").exists()


@pytest.mark.slow
def test_every_part_runs_for_real_and_the_second_start_goes_on(tmp_path: Path) -> None:
    arguments = [SCRIPT, "--smoke", "--network", "unet", "--network", "lsms"]
    arguments += ["--workers", "1", "--out", tmp_path / "out"]
    done = shell(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "out/summary.md").read_text().splitlines()
    for name in ("U-Net", "LSMS"):
        cells = [row.split("|")[2:-1] for row in rows if row.startswith(f"| {name} |")]
        assert len(cells) == 4
        assert all(cell.strip() for cell in cells[0] + cells[1])  # speed; true captions, minutes
    assert list((tmp_path / "out/compare").glob("*.md"))
    (gone,) = (tmp_path / "out/runs/unet").glob("*/*/test/empty/metrics.json")
    gone.unlink()
    again = shell(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    started = [line.split()[1] for line in again.stdout.splitlines() if " textseg " in line]
    assert started == ["train_unet:"]
    assert (tmp_path / "out/summary.md").read_text().splitlines()[0] == rows[0]
