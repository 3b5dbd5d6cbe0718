"""By what a row was made: commit, processor, GPU and versions, which may change between starts."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from campaign.processes import write
from campaign.settings import EXPERIMENTS

VERSIONS = ("torch", "lightning", "timm")


def keep_maker(file: Path, note: dict[str, Any], task: str, device: str) -> None:
    """Note in a row's file by what a task of it is made now, beside what made it before a break."""
    makers = note.setdefault("made", {}).setdefault(task, [])
    now = here(device)
    if now not in makers:
        makers.append(now)
    write(file, note)


def here(device: str) -> dict[str, str]:
    """This machine, the installed versions and the checked out commit; what is unknown is left out.

    Args:
        device: "gpu" or "cpu", by what a network is trained.
    """
    found = {"gpu": gpu_name(), "driver": driver()} if device == "gpu" else {}
    found |= {"cpu": cpu_name(), **{name: metadata.version(name) for name in VERSIONS}}
    return {name: text for name, text in (found | {"commit": commit()}).items() if text}


def driver() -> str:
    """The GPU's driver version; empty where nvidia-smi is missing, as in some containers."""
    return nvidia("driver_version")


def gpu_name() -> str:
    """The first GPU's name; empty where nvidia-smi is missing."""
    return nvidia("name").partition("\n")[0]


def nvidia(query: str) -> str:
    """What nvidia-smi knows of the GPUs, a line each."""
    tool = shutil.which("nvidia-smi")
    return output_of(tool, f"--query-gpu={query}", "--format=csv,noheader") if tool else ""


def commit() -> str:
    """The repository's commit, "-dirty" behind it where files were changed; empty without one."""
    git = shutil.which("git")
    given = ["describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    return output_of(git, "-C", str(EXPERIMENTS), *given) if git else ""


def cpu_name() -> str:
    """What Linux calls the processor; elsewhere Python's word for it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def output_of(*command: str) -> str:
    """What a command prints; empty where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
