"""Processes that start fast: forked from one that has imported the suite, once a session.

That one was started by itself, so that a process shares neither modules nor hashes with pytest's.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

import lightning_cli
from tests.tiny_run import ROOT


def start(
    target: Callable[..., object], *arguments: Any, daemon: bool | None = None
) -> BaseProcess:
    """Start a process that calls a function of a module that can be imported."""
    context = multiprocessing.get_context("forkserver")
    # What the first one that is started asks for all others find imported.
    context.set_forkserver_preload(["tests.preloaded"])
    process = context.Process(target=target, args=arguments, daemon=daemon)
    with pytest.MonkeyPatch.context() as patch:
        # Before Python 3.13 what is preloaded is found by this alone, and left out if it is not.
        patch.setenv("PYTHONPATH", str(ROOT))
        process.start()
    return process


def forked(target: Callable[..., object], *arguments: Any, cwd: Path) -> CompletedProcess[str]:
    """Call a function in a process of its own in the folder `cwd`, and wait for it.

    Returns:
        The exit status, minus the signal's number where a signal ended it, and both streams.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("out", "err")]
        process = start(_run, cwd, files, target, arguments)
        process.join(300)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"a process hangs: {files[1].read_text()}")
        return CompletedProcess(arguments, process.exitcode, *(f.read_text() for f in files))


def command(*arguments: str | Path, cwd: Path) -> CompletedProcess[str]:
    """Run main in a process of its own, as `tests.tiny_run.call` does in this one."""
    return forked(lightning_cli.main, [str(argument) for argument in arguments], cwd=cwd)


def _run(
    cwd: Path, files: Sequence[Path], target: Callable[..., object], arguments: Sequence[Any]
) -> None:
    import torch

    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(cwd)
    torch.set_num_threads(1)
    # A loader's workers are to be this process's own children, as in a run from the shell.
    multiprocessing.set_start_method("fork", force=True)
    target(*arguments)
