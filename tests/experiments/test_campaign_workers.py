"""Several workers, SLURM jobs and the GPU form of experiments/campaign.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.fake_suite import (
    EXPERIMENTS,
    PYTHON,
    FakeSuite,
    campaign_of,
    wait_until,
    worker_of,
)

from campaign import check, cluster, locks, settings  # isort: skip
from campaign.processes import FailedError  # isort: skip


# --- several workers -----------------------------------------------------------------------------


def test_two_workers_do_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    fake.write("time.sleep(0.05)")
    monkeypatch.setattr("campaign.work.WAIT", 0.05)
    campaign = campaign_of(tmp_path, stages={"networks": ["unet", "lsms", "tmc"]})
    workers = [worker_of(campaign) for _ in range(2)]
    threads = [threading.Thread(target=one.work, args=[list(campaign.rows)]) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [one.failed for one in workers] == [{}, {}]
    assert not any(campaign.left(row) for row in campaign.rows)
    assert len(fake.calls("fit")) == 3
    assert len(fake.calls("test")) == 1 + 4 + 4
    assert not list((campaign.out / "locks").glob("[!t]*"))


def owned(folder: Path, **changes: Any) -> Path:
    """A row that a worker has, by default this process."""
    folder.mkdir(parents=True)
    locks._sign(folder)
    own = json.loads((folder / "owner.json").read_text())
    (folder / "owner.json").write_text(json.dumps(own | changes))
    return folder


def test_what_another_living_worker_has_is_not_taken(tmp_path: Path) -> None:
    for name, changes in (("here", {}), ("there", {"host": "elsewhere", "pid": 1})):
        folder = owned(tmp_path / name, **changes)
        with locks.claim(folder) as mine:
            assert not mine
        assert locks.owner(folder) is not None
        assert folder.is_dir()


@pytest.mark.parametrize("case", ["gone", "other", "silent", "unnamed"])
def test_what_a_dead_worker_had_is_taken_over(case: str, tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    changes = {
        "gone": {"pid": gone.pid},
        "other": {"born": "1"},  # its number is another process's now
        "silent": {"host": "elsewhere"},
        "unnamed": {},
    }[case]
    folder = owned(tmp_path / "row", **changes)
    old = time.time() - 2 * locks.SILENT
    if case == "unnamed":
        (folder / "owner.json").unlink()
    for path in (folder, *folder.iterdir()):
        os.utime(path, (old, old))
    assert locks.owner(folder) is None
    with locks.claim(folder) as mine:
        assert mine
        assert json.loads((folder / "owner.json").read_text())["pid"] == os.getpid()
    assert not folder.exists()


def test_a_row_of_another_worker_is_waited_for_and_then_done_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    monkeypatch.setattr("campaign.work.WAIT", 0.05)
    campaign = campaign_of(tmp_path)
    worker = worker_of(campaign, "train")
    held = owned(worker.lock(campaign.rows[0]), host="elsewhere")
    thread = threading.Thread(target=worker.work, args=[list(campaign.rows)])
    thread.start()
    wait_until(lambda: bool(fake.calls("fit")))
    time.sleep(0.3)
    assert [call[2] for call in fake.calls("fit")] == [str(EXPERIMENTS / "lsms_qata.yaml")]
    os.utime(held / "owner.json", (0, 0))  # it is silent
    thread.join(30)
    assert len(fake.calls("fit")) == 2


# --- SLURM ---------------------------------------------------------------------------------------


def test_a_training_is_one_slurm_job_which_workers_leave_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        f'#!/usr/bin/env bash\nprintf "%s\\n" "$TEXTSEG" "$RUNS" "$@" > {tmp_path}/sent\necho 17\n'
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    campaign = campaign_of(tmp_path, slurm=["--time=60"], stages={"networks": ["lsms"]})
    (row,) = campaign.rows
    cluster.make_jobs(worker_of(campaign), [row], submit=False)
    assert not (tmp_path / "sent").exists()
    cluster.make_jobs(worker_of(campaign), [row], submit=True)
    command, runs, *sent = (tmp_path / "sent").read_text().splitlines()
    assert command.split()[1:] == ["-m", "campaign.in_job", str(campaign.note_file(row))]
    assert runs == str(campaign.runs(row))
    at = sent.index(str(EXPERIMENTS / "slurm/train.sbatch"))
    assert "--time=60" in sent[:at]
    assert sent[at + 1 : at + 3] == ["--config", str(EXPERIMENTS / "lsms_qata.yaml")]
    (tmp_path / "sent").unlink()
    cluster.make_jobs(worker_of(campaign), [row], submit=True)
    assert not (tmp_path / "sent").exists()
    worker = worker_of(campaign)
    worker.work([row])
    assert fake.calls() == []
    assert "17" in worker.failed["train lsms"].args[0]


def test_a_job_notes_its_end_and_hands_on_signals_and_status(
    tmp_path: Path, fake: FakeSuite
) -> None:
    campaign = campaign_of(tmp_path, stages={"networks": ["lsms"]})
    (row,) = campaign.rows
    worker_of(campaign).epochs(row)
    there = tmp_path / "there"
    waits = "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))\n"
    waits += f"if '--ckpt_path' not in given:\n    Path({str(there)!r}).touch()\n    time.sleep(60)"
    fake.write(waits)
    code = f"import sys; sys.executable = {str(fake.python)!r}\n"
    code += "from campaign.in_job import main; main()"
    folder = campaign.runs(row) / "slurm-17/x/2026-01-01_00-00-00"
    (folder / "checkpoints").mkdir(parents=True)
    fit = ["fit", "--trainer.default_root_dir", str(folder.parents[1])]
    command = [PYTHON, "-c", code, str(campaign.note_file(row)), *fit]
    own = os.environ | {"PYTHONPATH": f"{EXPERIMENTS.parent}:{EXPERIMENTS}"}
    running = subprocess.Popen(command, env=own)
    wait_until(there.is_file)
    running.send_signal(signal.SIGUSR1)
    assert running.wait(20) == 75
    assert "train" in campaign.left(row)
    last = folder / "checkpoints/last.ckpt"
    done = subprocess.run([*command, "--ckpt_path", str(last)], env=own, check=False)
    assert done.returncode == 0
    assert campaign.left(row)[0] == "test true"
    assert len(campaign.note(row)["cost"]["train"]) == 2
    assert campaign.run_folder(row) == folder


# --- the GPU form --------------------------------------------------------------------------------


def test_a_network_that_cannot_be_compiled_is_known_before_any_training(
    tmp_path: Path, fake: FakeSuite
) -> None:
    """All are tried at once: the first to be started waits for the second."""
    there = tmp_path / "there"
    fake.write(f"""there = Path({str(there)!r})
if "unet_qata" in text:
    while not there.exists(): time.sleep(0.05)
if "lsms_qata" in text:
    there.touch()
    sys.exit("no kernel")""")
    campaign = campaign_of(tmp_path, device="gpu", overlay=["gpu"])
    worker = worker_of(campaign, "train")
    check.trial(worker, list(campaign.rows), {"gpu": "H100", "torch": "2"})
    for name in ("unet", "lsms"):
        (call,) = [call for call in fake.calls() if f"{name}_qata" in str(call)]
        assert str(EXPERIMENTS / "gpu" / f"{name}.yaml") in call  # which has CompiledTraining
        assert call[call.index("--trainer.accelerator") + 1] == "gpu"
    assert list(worker.failed) == ["check lsms"]
    assert "no kernel" in worker.failed["check lsms"].args[0]
    assert json.loads((campaign.out / "trial/unet.json").read_text())["machine"]["gpu"] == "H100"
    fake.forget()
    worker.work(list(campaign.rows))
    assert "lsms" not in str(fake.calls())
    fake.forget()
    check.trial(worker, list(campaign.rows), {"gpu": "H100", "torch": "2"})
    assert "unet" not in str(fake.calls())  # which was tried on this machine


def test_a_trial_has_a_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSuite
) -> None:
    fake.write("time.sleep(60)")
    monkeypatch.setattr(check, "TRIAL_LIMIT", 0.5)
    campaign = campaign_of(tmp_path)
    worker = worker_of(campaign)
    start = time.monotonic()
    check.trial(worker, list(campaign.rows), {})
    assert time.monotonic() - start < 20
    assert list(worker.failed) == ["check unet", "check lsms"]


@pytest.mark.slow  # torch is imported for real
def test_a_machine_without_a_gpu_is_told_so_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    campaign = campaign_of(tmp_path, device="gpu")
    with pytest.raises(FailedError) as error:
        check.check(worker_of(campaign), list(campaign.rows))
    assert "sees no CUDA GPU" in error.value.args[0]
    assert not (campaign.out / "logs").exists()


def test_workers_are_of_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 96)  # the machine's
    found = []
    for usable in (1, 8, 96):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, n=usable: set(range(n)))
        found.append(settings.workers())
    assert found == [1, 6, 16]
