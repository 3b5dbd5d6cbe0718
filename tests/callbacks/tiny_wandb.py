"""Reads a W&B offline run back from its file, as `wandb sync` would send it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER, FILE_HEADER = 32768, 7, 7
WHOLE, LAST = 1, 4  # kinds of chunk; a record that crosses blocks is first, middle, ..., last


def records(path: Path) -> Iterator[Any]:
    """Every record of a .wandb file: LevelDB's log format, chunks in blocks of 32 KiB."""
    data = path.read_bytes()
    assert data.startswith(b":W&B")
    position, parts = FILE_HEADER, []
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        size = int.from_bytes(data[position + 4 : position + 6], "little")
        if position + HEADER + size > len(data):
            return  # it is still being written
        parts.append(data[position + HEADER : position + HEADER + size])
        if data[position + 6] in (WHOLE, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record
        position += HEADER + size


class OfflineRun:
    """A run's keys, config, history, summary and tables.

    Args:
        folder: offline-run-... of a run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (file,) = folder.glob("*.wandb")
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.history: dict[str, list[Any]] = {}
        self.metrics: dict[str, Any] = {}
        self.kinds: set[str] = set()
        self.staged: dict[str, Path] = {}  # files of tables, which wait for the next sync
        for record in _finished(file):
            kind = record.WhichOneof("record_type")
            self.kinds.add(kind)
            if kind == "run":
                self.run = record.run
                self.config |= _items(record.run.config.update)
            elif kind == "config":
                self.config |= _items(record.config.update)
            elif kind == "summary":
                self.summary |= _items(record.summary.update)
            elif kind == "metric":
                self.metrics[record.metric.name or record.metric.glob_name] = record.metric
            elif kind == "artifact":
                for entry in record.artifact.manifest.contents:
                    self.staged[entry.path] = Path(entry.local_path)
            elif kind == "history":
                for key, value in _items(record.history.item).items():
                    self.history.setdefault(key, []).append(value)

    def table(self, key: str) -> dict[str, Any]:
        """Columns and data of the last table logged under a key; pictures by their files."""
        return json.loads(self.staged[f"{key}.table.json"].read_text())

    def text(self) -> bytes:
        """Everything that would be sent, and the names of its files."""
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        files += self.staged.values()
        names = " ".join([*map(str, files), *self.staged]).encode()
        return b"".join([names, *(path.read_bytes() for path in files)])


def _finished(file: Path) -> list[Any]:
    """The records of a finished run, whose last ones W&B's service writes a moment after finish."""
    end = time.monotonic() + 60
    while True:
        found = list(records(file))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        assert time.monotonic() < end, f"{file} holds no end of its run"
        time.sleep(0.1)


def _items(updates: Any) -> dict[str, Any]:
    return {u.key or ".".join(u.nested_key): json.loads(u.value_json) for u in updates}
