"""The command line in a test: a tiny experiment, a tiny dataset, and `call`, which runs main."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import lightning_cli

ROOT = Path(lightning_cli.__file__).parent
SIZES = [(70, 90), (96, 64), (64, 64), (50, 120)]  # height, width; no two images alike
ROWS = {"train": 4, "val": 3, "test": 5}

EXPERIMENT: dict[str, Any] = {
    "seed_everything": 1,
    "trainer": {
        "max_epochs": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "model": {
        "class_path": "LSMS",
        "init_args": {
            "image_encoder": "mscan_tiny",
            "text_encoder": "scratch",
            "drop_path": 0.0,
            "decoder_dim": 32,
        },
    },
    "data": {
        "class_path": "RefHLSegDataModule",
        "init_args": {"image_size": 32, "batch_size": 2, "num_workers": 0, "cache": None},
    },
}


# A third of EXPERIMENT's weights and half of its time, where any network will do.
SMALL: dict[str, Any] = {
    "class_path": "TMCA",
    "init_args": {
        "image_encoder": "test_convnext",
        "text_encoder": "scratch",
        "pretrained": False,
        "alignment_dim": 16,
    },
}
NO_PICTURES = {"overlays": 0, "ranked": 0}  # of the results writer, where nobody looks at them


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit status, the value of main, and its two streams."""

    status: Any
    returned: Any
    out: str
    err: str

    def message(self) -> list[str]:
        """The two lines of a user error."""
        return [line for line in self.err.splitlines() if line.startswith(("error: ", "remedy: "))]


def refuse_connections(patch: pytest.MonkeyPatch) -> None:
    """As conftest's guard, for fixtures that run before it."""

    def refused(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        assert host in ("localhost", "127.0.0.1", "::1"), f"a test tried to reach {host}"
        return connect(self, address)

    connect = socket.socket.connect
    patch.setattr(socket.socket, "connect", refused)


@contextlib.contextmanager
def lightning_log(stream: io.StringIO) -> Iterator[None]:
    """Lightning's messages, whose own handler holds the stderr of its import, go to `stream`."""
    handler, logger = logging.StreamHandler(stream), logging.getLogger("lightning.pytorch")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def call(*arguments: str | Path, cwd: Path) -> Outcome:
    """Run main in this process, in the folder `cwd`."""
    out, err = io.StringIO(), io.StringIO()
    status: Any = 0
    returned: Any = None
    with pytest.MonkeyPatch.context() as patch, lightning_log(err):
        patch.chdir(cwd)
        refuse_connections(patch)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                returned = lightning_cli.main([str(argument) for argument in arguments])
            except SystemExit as end:
                status = end.code
    return Outcome(status, returned, out.getvalue(), err.getvalue())


def shell(
    *command: str | Path, cwd: Path, python_path: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command of Python's in a process of its own, with one thread and nothing to ask."""
    environment = os.environ | {"PYTHONPATH": str(python_path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )


def load_script(path: Path) -> Any:
    """The module of a script that is not packaged; what lies beside it can be imported by it."""
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def write_experiment(folder: Path, name: str = "tiny", **changes: Any) -> Path:
    """EXPERIMENT as a file; `changes` are added to it key by key."""
    file = folder / f"{name}.yaml"
    file.write_text("# A tiny run.\n" + yaml.safe_dump(merged(EXPERIMENT, changes)))
    return file


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `changes`; another class comes with its own settings alone."""
    if changes.get("class_path", base.get("class_path")) != base.get("class_path"):
        return changes
    result = dict(base)
    for key, value in changes.items():
        deep = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if deep else value
    return result


def write_refhl(root: Path) -> Path:
    """A manifest of images of unlike sizes; two rows share an image, one truth is empty."""
    generator = np.random.default_rng(0)
    rows = []
    for split, count in ROWS.items():
        for number in range(count):
            height, width = SIZES[number % len(SIZES)]
            shared = split == "test" and number == count - 1
            stem = f"{split}{0 if shared else number}"
            image, mask = f"images/{stem}.png", f"masks/{split}{number}.png"
            truth = np.zeros((height, width), np.uint8)
            if number != 1:
                truth[5:30, 7 + number : 33] = 255
            for path in (root / image, root / mask):
                path.parent.mkdir(parents=True, exist_ok=True)
            if not shared:
                noise = generator.integers(0, 80, (height, width), dtype=np.uint8)
                Image.fromarray(noise + truth // 2).save(root / image)
            Image.fromarray(truth).save(root / mask)
            text = f"the {'small' if number % 2 else 'large'} lesion on the left, number {number}"
            case = {"case_id": f"{split}-p{number // 2}", "split": split}
            rows.append({"image": image, "mask": mask, "text": text, **case})
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def only(folder: Path, pattern: str = "*") -> Path:
    """The one entry of a folder."""
    (entry,) = folder.glob(pattern)
    return entry


def fingerprints(folder: Path) -> dict[str, str]:
    """Every file below a folder, by path, with a digest of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def masks_in(folder: Path) -> dict[str, Any]:
    """The PNGs of a folder by name, as arrays."""
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def train_arguments(experiment: Path, root: Path, *more: str) -> Sequence[str]:
    return ["fit", "--config", str(experiment), "--data.root", str(root), *more]
