"""A start of qata.py: which networks, with what settings, and where its files are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from commands import FailedError, read

EXPERIMENTS = Path(__file__).resolve().parents[1]
CAPTIONS = ("true", "empty", "shuffled")
IMAGE_ONLY = ("unet",)  # which a fit tests with true captions alone
# In place of the data, as small as it can be.
SMOKE_DATA = ["--data.synthesize", "40", "--data.image_size", "96", "--data.batch_size", "8"]


def networks() -> dict[str, str]:
    """What tables call each network that has an overlay beside this file; the U-Net is first."""
    called = {"unet": "U-Net"}
    for overlay in sorted(Path(__file__).parent.glob("*.yaml")):
        text = (EXPERIMENTS / f"{overlay.stem}_qata.yaml").read_text(encoding="utf-8")
        called.setdefault(overlay.stem, yaml.safe_load(text)["model"]["class_path"])
    return called


NETWORKS = networks()


def captions_of(network: str) -> tuple[str, ...]:
    """The kinds of captions that a network is tested with."""
    return CAPTIONS[:1] if network in IMAGE_ONLY else CAPTIONS


@dataclass(frozen=True)
class Job:
    """The settings of a start, and where its files are."""

    root: Path | None
    captions: Path | None
    out: Path
    networks: list[str]
    workers: int
    limit: float  # seconds a command may take
    smoke: bool
    failed: dict[str, FailedError] = field(default_factory=dict)  # by part and network

    def experiment(self, network: str) -> list[str]:
        """The --config arguments of a network."""
        overlays = ["gpu", "cpu"] if self.smoke else ["gpu"]
        files = [f"{network}_qata.yaml", *(f"{folder}/{network}.yaml" for folder in overlays)]
        return [part for file in files for part in ("--config", str(EXPERIMENTS / file))]

    def data(self) -> list[str]:
        """The --data arguments."""
        given = ["--data.cache", str(self.out / "cache"), "--data.num_workers", str(self.workers)]
        if self.smoke:
            return [*given, *SMOKE_DATA]
        given += ["--data.root", str(self.root)]
        return given + (["--data.captions", str(self.captions)] if self.captions else [])

    def log(self, name: str) -> Path:
        """The file of a command's output."""
        return self.out / "logs" / f"{name}.log"

    def run_folder(self, network: str) -> Path | None:
        """The folder of a network's run; None before it has begun."""
        found = sorted((self.out / "runs" / network).glob("*/*/config.yaml"))
        return found[-1].parent if found else None

    def results(self, network: str, captions: str) -> dict[str, Any] | None:
        """A test's metrics.json; None before it has been written."""
        run = self.run_folder(network)
        return read(run / "test" / captions / "metrics.json") if run else None

    def tested(self, network: str) -> bool:
        """Whether the test is done with all its kinds of captions."""
        return all(self.results(network, mode) for mode in captions_of(network))

    def training_seconds(self, network: str) -> float:
        """Seconds up to the last checkpoint, over all starts, without steps that a break lost."""
        note, run = read(self.out / f"train_{network}.json"), self.run_folder(network)
        if note is None or run is None:
            return 0.0
        last = run / "checkpoints/last.ckpt"
        if note["since"] is None or not last.is_file():
            return float(note["seconds"])
        return float(note["seconds"] + max(0.0, last.stat().st_mtime - note["since"]))
