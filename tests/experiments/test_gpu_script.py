"""experiments/gpu: what the one command starts, skips and writes; for real in the slow test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.experiments.test_experiments import EXPERIMENTS, class_named, load, network_of, parse
from tests.models.tiny import PUBLIC
from tests.tiny_run import load_script, shell
from textseg.metrics.scores import MAIN

SCRIPT = EXPERIMENTS / "gpu/qata.py"
OVERLAYS = sorted((EXPERIMENTS / "gpu").glob("*.yaml"))
CAPTIONS = ("true", "empty", "shuffled")

qata: Any = load_script(SCRIPT)
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
    for mode in CAPTIONS[:1] if network == "unet" else CAPTIONS:
        scores: dict[str, float | None] = dict.fromkeys(MAIN, dice)
        scores |= {f"{name}_ci_{end}": None for name in MAIN for end in ("low", "high")}
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
    assert config.trainer.benchmark is True
    assert config.data.init_args.image_size == 224
    assert config.data.init_args.split == "first80"
    assert "WandbLogger" not in str(config.trainer.logger)
    assert [one.class_path for one in config.trainer.callbacks] == [
        "textseg.training.CompiledTraining"
    ]
    with torch.device("meta"):  # no memory
        network = class_named(network_of(base))(**config.model.init_args.as_dict())
    assert sum(p.numel() for p in network.parameters()) < 30e6
    assert all(p.requires_grad for p in network.parameters())


def test_every_overlay_is_a_network_called_by_its_class_and_the_u_net_is_first() -> None:
    assert {path.stem for path in OVERLAYS} == set(qata.NETWORKS)
    called = list(qata.NETWORKS.values())
    assert called[0] == "U-Net"
    assert called[1:] == sorted(set(PUBLIC) - {"ImageBaseline"}, key=str.lower)


def test_the_overlays_train_every_network_on_equal_terms() -> None:
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
    (run / "test/true").mkdir(parents=True)
    called.unlink()
    qata.train(one)
    assert called.read_text().rstrip().endswith("--ckpt_path last")
    assert not (run / "test").exists()  # beside tests broken off, new ones would get a number


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


def test_a_training_over_its_time_is_told_to_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: MakeJob
) -> None:
    saved = tmp_path / "saved"
    wait = f"trap 'touch {saved}; exit 75' USR1\nfor i in {{1..600}}; do sleep 0.1; done"
    stand_in(tmp_path, monkeypatch, wait)
    one = job(networks=["unet"], limit=1.0)
    qata.train(one)
    assert saved.is_file()
    cause, remedy = one.failed["train unet"].args
    assert "train_unet took over its time" in cause
    assert "the same command goes on from there" in remedy


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> Any:
    """The script's exit status."""
    monkeypatch.setattr(qata.sys, "argv", ["qata.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        qata.main()
    return ended.value.code


def test_a_network_that_fails_is_left_and_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = 'case "$*" in *unet_qata*) echo CUDA out of memory; exit 1;; esac'
    called = stand_in(tmp_path, monkeypatch, script)
    parts = ["--part", "train", "--part", "benchmark", "--part", "summary"]
    chosen = ["--network", "unet", "--network", "lsms"]
    out = tmp_path / "out"
    status = run_main(monkeypatch, "--root", tmp_path, "--out", out, *parts, *chosen)
    assert status == 1
    started = [line.split()[2] for line in called.read_text().splitlines()]
    assert started == ["fit", "fit", "benchmark", "benchmark"]
    assert (out / "summary.md").is_file()
    errors = capsys.readouterr().err
    assert "error: train unet: train_unet ended with status 1:\nCUDA out of memory" in errors
    assert "error: benchmark unet" in errors
    assert "lsms" not in errors


def test_a_network_that_cannot_be_compiled_is_known_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: MakeJob
) -> None:
    """All are tried at once: the first to be started waits for the second."""
    there = tmp_path / "there"
    script = f"""case "$*" in
        *unet_qata*) for i in {{1..100}}; do [ -e {there} ] && exit 0; sleep 0.1; done; exit 9;;
        *lsms_qata*) touch {there}; echo no kernel; exit 1;;
    esac"""
    called = stand_in(tmp_path, monkeypatch, script)
    one = job()
    qata.trial(one, {"gpu": "H100", "torch": "2"})
    lines = called.read_text().splitlines()
    for name in ("unet", "lsms"):
        (line,) = [line for line in lines if f"{name}_qata" in line]
        assert f"{EXPERIMENTS / 'gpu' / name}.yaml" in line  # which has CompiledTraining
        assert "--trainer.accelerator gpu" in line
    assert list(one.failed) == ["check lsms"]
    assert "no kernel" in one.failed["check lsms"].args[0]
    assert json.loads((tmp_path / "trial/unet.json").read_text())["machine"]["gpu"] == "H100"
    called.unlink()
    qata.train(one)
    qata.benchmark(one)
    assert "lsms" not in called.read_text()
    called.unlink()
    qata.trial(one, {"gpu": "H100", "torch": "2"})
    assert "unet" not in called.read_text()  # which was tried on this machine


def test_a_trial_has_a_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: MakeJob
) -> None:
    stand_in(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(qata, "TRIAL_LIMIT", 0.5)
    one = job()
    start = time.monotonic()
    qata.trial(one, {})
    assert time.monotonic() - start < 20
    assert list(one.failed) == ["check unet", "check lsms"]


def test_results_of_other_data_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: list[str | Path] = ["--out", tmp_path / "out", "--part", "summary"]
    assert run_main(monkeypatch, "--root", tmp_path / "a", *settings) == 0
    assert run_main(monkeypatch, "--root", tmp_path / "a", *settings) == 0
    assert run_main(monkeypatch, "--root", tmp_path / "b", *settings) == 2
    assert run_main(monkeypatch, "--smoke", *settings) == 2
    error, remedy = capsys.readouterr().err.splitlines()[:2]
    assert f"{tmp_path / 'a'}" in error
    assert f"{tmp_path / 'b'}" in error
    assert remedy == "remedy: give another --out"


def test_workers_are_of_the_cores_that_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setitem(qata.PARTS, "summary", lambda job: seen.append(job.workers))
    monkeypatch.setattr(os, "cpu_count", lambda: 96)  # the machine's
    for usable in (1, 8, 96):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, n=usable: set(range(n)))
        run_main(monkeypatch, "--smoke", "--out", tmp_path, "--part", "summary")
    assert seen == [1, 6, 16]


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_command_dies_with_a_script_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL, on which a script can do nothing itself."""
    python, number = tmp_path / "python", tmp_path / "number"
    python.write_text(f"#!/usr/bin/env bash\necho $$ > {number}.part\n")
    with python.open("a") as file:
        file.write(f"mv {number}.part {number}\nexec sleep 60\n")
    python.chmod(0o755)
    code = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import qata\n"
    code += f"sys.executable = {str(python)!r}\n"
    code += f"sys.argv = ['qata', '--root', '.', '--out', {str(tmp_path)!r}, '--part', 'train']\n"
    script = subprocess.Popen([sys.executable, "-c", code + "qata.main()"])
    try:
        wait_until(number.is_file)
        child = int(number.read_text())
        assert alive(child)
    finally:
        script.kill()
        script.wait()
    wait_until(lambda: not alive(child))


def wait_until(happened: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"nothing happened in {seconds} s"
        time.sleep(0.05)


def alive(process: int) -> bool:
    """It runs; one that is dead and not yet buried does not."""
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


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
    assert job().training_seconds("lsms") == 150.0
    # A start that only tests, because training had ended, adds nothing.
    note.write_text(json.dumps({"seconds": 30.0, "since": 1100.0}))
    assert job().training_seconds("lsms") == 30.0


def test_cells_of_what_was_not_run_are_empty(tmp_path: Path, job: MakeJob) -> None:
    write_results(tmp_path, "lsms", 0.8471)
    qata.summary(job())
    rows = (tmp_path / "summary.md").read_text().splitlines()
    unet = [row for row in rows if row.startswith("| U-Net")]
    assert [set(row.split("|")[2:-1]) - {f" {m} " for m in CAPTIONS} for row in unet] == [
        {"  "}
    ] * 2, "speed, and the scores with true captions alone"
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
    for name, lines in (("U-Net", 2), ("LSMS", 4)):  # U-Net reads no captions and is tested once
        cells = [row.split("|")[2:-1] for row in rows if row.startswith(f"| {name} |")]
        assert len(cells) == lines
        assert all(cell.strip() for cell in cells[0] + cells[1])  # speed; true captions, minutes
    assert list((tmp_path / "out/compare").glob("*.md"))
    assert len(list((tmp_path / "out/trial").glob("*.json"))) == 2
    (gone,) = (tmp_path / "out/runs/lsms").glob("*/*/test/empty/metrics.json")
    gone.unlink()
    again = shell(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    started = [line.split()[1] for line in again.stdout.splitlines() if " textseg " in line]
    assert started == ["train_lsms:"]
    later = (tmp_path / "out/summary.md").read_text().splitlines()
    assert [row.count("|  |") for row in later] == [row.count("|  |") for row in rows]
