"""The job scripts: what they start, when they go back into the queue, and from which checkpoint.

The cluster is a folder of stand-ins for srun, scontrol and torchrun that note how they were called.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import lightning_cli
from tests.experiments.test_experiments import parse_command
from tests.tiny_run import write_experiment
from textseg.training.checkpoint_files import LAST
from textseg.training.resume import RESUME_ME

ROOT = Path(lightning_cli.__file__).parent
SLURM = ROOT / "experiments/slurm"
TRAIN = SLURM / "train.sbatch"
SCRIPTS = sorted(path for path in SLURM.iterdir() if path.suffix in (".sh", ".sbatch"))
PAGE = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
SHELL_BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
HEADER = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", TRAIN.read_text(), re.MULTILINE))

# What a run does: its arguments are kept, and it ends as the test wants.
RUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$HOME/called_$(basename "$0")"
eval "${TRAINING:-exit 0}"
"""
NOTE = '#!/usr/bin/env bash\necho "$@" >> "$HOME/called_$(basename "$0")"\n'
SAVE = 'mkdir -p "$(dirname "$SAVED")" && touch "$SAVED"; '


@dataclass
class Cluster:
    """A machine whose job is number 17, with two nodes of three tasks."""

    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.home / "bin").mkdir()
        for name, text in (("srun", RUN), ("torchrun", RUN), ("scontrol", NOTE)):
            (self.home / "bin" / name).write_text(text)
            (self.home / "bin" / name).chmod(0o755)
        self.variables = {
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "SLURM_JOB_ID": "17",
            "SLURM_NNODES": "2",
            "SLURM_NTASKS_PER_NODE": "3",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SAVED": str(self.checkpoint("now")),
        }

    def checkpoint(self, run: str) -> Path:
        return self.home / "runs/slurm-17/tiny" / run / LAST

    def saved(self, run: str, *, seconds_ago: float) -> Path:
        """A last.ckpt of this job's earlier days."""
        file = self.checkpoint(run)
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (time.time() - seconds_ago,) * 2)
        return file.relative_to(self.home)

    def elsewhere(self, *, seconds_ago: float) -> Path:
        """The last.ckpt of a run that is not of this job."""
        file = self.home / "my runs/slurm-3/tiny/a" / LAST
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (time.time() - seconds_ago,) * 2)
        return file

    def start(self, script: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(script), *arguments],
            cwd=self.home,
            env=self.variables | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, script: Path, *arguments: str, **variables: str) -> tuple[int, str]:
        """Exit status and what was printed."""
        job = self.start(script, *arguments, **variables)
        said, _ = job.communicate(timeout=30)
        return job.returncode, said

    def called(self, name: str) -> list[str]:
        """The lines that a stand-in wrote; none if it was not called."""
        file = self.home / f"called_{name}"
        return file.read_text().splitlines() if file.exists() else []

    def fit_arguments(self, name: str) -> list[str]:
        words = self.called(name)
        return words[words.index("fit") :]

    def command(self) -> list[str]:
        """What srun was asked to start, up to `fit`."""
        words = self.called("srun")
        own = [word for word in words[: words.index("fit")] if not word.startswith("--")]
        return words[words.index(own[0]) : words.index("fit")]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_bash_and_ends_at_the_first_error(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert "\nset -euo pipefail\n" in script.read_text()


def test_the_pages_commands_are_valid_bash_and_name_files_that_exist() -> None:
    assert len(SHELL_BLOCKS) >= 4
    for block in SHELL_BLOCKS:
        assert subprocess.run(["bash", "-n"], input=block, text=True, check=False).returncode == 0
        for name in re.findall(r"experiments/[\w./]+", block):
            assert (ROOT / name).exists(), name


# --- what is started ----------------------------------------------------------------------------


def test_the_job_script_starts_a_fit_that_the_command_line_accepts(cluster: Cluster) -> None:
    experiment = write_experiment(cluster.home)
    status, said = cluster.run(TRAIN, "--config", str(experiment), "--data.root", "my data")
    assert status == 0, said
    settings = parse_command(cluster.fit_arguments("srun"))
    trainer = settings.trainer
    assert (trainer.num_nodes, trainer.devices, trainer.strategy) == (2, "3", "ddp")
    assert trainer.default_root_dir == "runs/slurm-17"
    assert settings.data.init_args.root == "my data"
    assert cluster.command() == ["textseg"]


def test_the_command_may_be_several_words_and_the_runs_elsewhere(cluster: Cluster) -> None:
    command = "apptainer exec --nv textseg.sif textseg"
    cluster.run(TRAIN, "--config", "a.yaml", TEXTSEG=command, RUNS="my disk/runs")
    assert cluster.command() == shlex.split(command)
    words = cluster.fit_arguments("srun")
    assert words[words.index("--trainer.default_root_dir") + 1] == "my disk/runs/slurm-17"


def test_the_signal_goes_to_the_script_and_leaves_time_to_save() -> None:
    target, name, lead = re.fullmatch(r"(\w):(\w+)@(\d+)", HEADER["signal"]).groups()  # type: ignore[union-attr]
    (grace,) = re.findall(r"\$\{GRACE:-(\d+)\}", TRAIN.read_text())
    assert (target, name) == ("B", "USR1")
    assert int(grace) < int(lead) - 20
    assert {"requeue", "open-mode"} <= set(HEADER)
    assert f"resume_me={RESUME_ME} " in TRAIN.read_text()


@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun_starts_a_fit_that_the_command_line_accepts(cluster: Cluster, nodes: int) -> None:
    experiment = write_experiment(cluster.home)
    several = {"NODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "first"} if nodes > 1 else {}
    arguments = ["--config", str(experiment), "--trainer.accelerator", "cpu"]
    status, said = cluster.run(SLURM / "torchrun.sh", *arguments, DEVICES="3", **several)
    assert status == 0, said
    trainer = parse_command(cluster.fit_arguments("torchrun")).trainer
    assert (trainer.num_nodes, trainer.devices, trainer.strategy) == (nodes, "3", "ddp")
    words = " ".join(cluster.called("torchrun"))
    assert f"--nnodes {nodes} --nproc-per-node 3" in words
    meeting = "--node-rank 1 --master-addr first --master-port 29500" if several else "--standalone"
    assert f"{meeting} -m lightning_cli fit" in words


def test_torchrun_on_a_machine_without_gpus_asks_for_a_number(cluster: Cluster) -> None:
    (cluster.home / "bin/nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (cluster.home / "bin/nvidia-smi").chmod(0o755)
    status, said = cluster.run(SLURM / "torchrun.sh", "--config", "a.yaml")
    assert status == 2
    assert "remedy: DEVICES=2" in said
    assert not cluster.called("torchrun")


def test_torchrun_on_several_machines_needs_the_place_of_each(cluster: Cluster) -> None:
    status, said = cluster.run(SLURM / "torchrun.sh", DEVICES="3", NODES="2", MASTER_ADDR="first")
    assert status != 0
    assert "NODE_RANK" in said
    assert not cluster.called("torchrun")


# --- from where it goes on ----------------------------------------------------------------------


def test_a_job_that_was_not_requeued_begins_anew_though_its_number_is_old(cluster: Cluster) -> None:
    cluster.saved("older", seconds_ago=90)
    assert cluster.run(TRAIN)[0] == 0
    assert "--ckpt_path" not in cluster.called("srun")


def test_a_requeued_job_goes_on_from_its_newest_checkpoint(cluster: Cluster) -> None:
    newest = cluster.saved("a newest", seconds_ago=30)
    cluster.saved("older", seconds_ago=90)
    assert cluster.run(TRAIN, SLURM_RESTART_COUNT="1")[0] == 0
    words = cluster.called("srun")
    assert words[words.index("--ckpt_path") + 1] == str(newest)


def test_a_job_requeued_before_its_first_checkpoint_begins_anew(cluster: Cluster) -> None:
    assert cluster.run(TRAIN, SLURM_RESTART_COUNT="1")[0] == 0
    assert "--ckpt_path" not in cluster.called("srun")


# --- when it goes back into the queue -----------------------------------------------------------


def test_training_that_saved_and_asks_to_be_resumed_is_requeued(cluster: Cluster) -> None:
    status, said = cluster.run(TRAIN, TRAINING=f"{SAVE} exit {RESUME_ME}")
    assert status == 0, said
    assert cluster.called("scontrol") == ["requeue 17"]


@pytest.mark.parametrize("joined", [True, False])
def test_training_that_goes_on_in_another_folder_is_requeued_and_goes_on_there(
    cluster: Cluster, joined: bool
) -> None:
    saved = cluster.elsewhere(seconds_ago=90)
    words = [f"--ckpt_path={saved}"] if joined else ["--ckpt_path", str(saved)]
    training = {"TRAINING": f"{SAVE} exit {RESUME_ME}", "SAVED": str(saved)}
    status, said = cluster.run(TRAIN, *words, **training)
    assert status == 0, said
    assert cluster.called("scontrol") == ["requeue 17"]
    status, said = cluster.run(TRAIN, *words, SLURM_RESTART_COUNT="1")
    assert status == 0, said
    assert f"from {saved}" in said


def test_training_that_saved_nothing_in_the_other_folder_is_not_requeued_for_ever(
    cluster: Cluster,
) -> None:
    saved = cluster.elsewhere(seconds_ago=90)
    status, _ = cluster.run(TRAIN, "--ckpt_path", str(saved), TRAINING=f"exit {RESUME_ME}")
    assert status == 1
    assert not cluster.called("scontrol")


def test_a_job_that_saved_nothing_since_it_started_is_not_requeued_for_ever(
    cluster: Cluster,
) -> None:
    cluster.saved("older", seconds_ago=90)
    asking = f"exit {RESUME_ME}"
    status, said = cluster.run(TRAIN, SLURM_RESTART_COUNT="1", TRAINING=asking)
    assert status == 1
    assert "give it more --time" in said
    assert not cluster.called("scontrol")


@pytest.mark.parametrize("end", [0, 1, 2, 137])
def test_training_that_ended_or_failed_is_not_requeued(cluster: Cluster, end: int) -> None:
    assert cluster.run(TRAIN, TRAINING=f"{SAVE} exit {end}")[0] == end
    assert not cluster.called("scontrol")


@pytest.mark.parametrize("answers", [True, False])
def test_when_time_is_up_training_is_told_and_the_job_requeued(
    cluster: Cluster, answers: bool
) -> None:
    """Where training is too busy to answer, with the checkpoint that it last wrote."""
    answer = (
        f"trap 'touch \"$HOME/told\"; exit {RESUME_ME}' USR1; " if answers else "trap '' USR1; "
    )
    training = f'{SAVE}{answer} touch "$HOME/training"; for i in {{1..20}}; do sleep 0.1; done'
    job = cluster.start(TRAIN, TRAINING=training, GRACE="60" if answers else "1")
    deadline = time.monotonic() + 20
    while not (cluster.home / "training").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    while job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert job.returncode == 0
    assert cluster.called("scontrol") == ["requeue 17"]
    assert (cluster.home / "told").exists() == answers
    job.communicate(timeout=20)
