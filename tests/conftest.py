"""Fixtures for every test: no network, and real data by name."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # threads of several workers would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# A file runs in one process: the longest ones come first, so that none is left alone at the end.
LONGEST = (
    *("export/test_export.py", "training/test_resume.py", "experiments/test_campaign.py"),
    *("crossval/test_killed.py", "models/test_compile.py", "models/test_tmca_phantoms.py"),
    *("training/test_ddp_equality.py", "metrics/test_bootstrap_coverage.py"),
    *("training/test_ddp.py", "cli/test_wheel.py", "callbacks/test_wandb.py"),
    *("cli/test_own_classes.py", "cli/test_cli.py", "callbacks/test_loggers_run.py"),
    *("docs/test_docs_your_own_data.py", "docs/test_docs_your_own_network.py"),
    *("segment/test_segment.py", "training/test_training_options.py"),
    *("models/test_lsms.py", "models/test_baseline.py", "models/test_tmc.py"),
)


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist's own order, by the number of tests


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One process more than cores for the slow tests, which often wait for other programs."""
    return (os.cpu_count() or 1) + 1 if config.option.markexpr == "slow" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    ranks = {tests / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection beyond this machine fails the test; loopback and sockets by path pass."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1", "0.0.0.0"):
            raise AssertionError(f"a test tried to reach {host}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session", autouse=True)
def _working_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What goes to the working folder by default (data/cache, runs) stays out of the repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("working_folder"))
        yield


@pytest.fixture(scope="session")
def real_data(pytestconfig: pytest.Config) -> Path:
    """The folder of real samples (qata_images_sample/, qata_text/, ...)."""
    folder = os.environ.get("TEXTSEG_REAL_DATA")
    if not folder:
        pytest.skip("TEXTSEG_REAL_DATA is unset: no real samples on this machine")
    return pytestconfig.invocation_params.dir / folder
