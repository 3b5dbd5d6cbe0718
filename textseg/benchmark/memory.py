"""The most memory that a training step holds."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

MIB = 2**20
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler complains where no GPU is


def allocated_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' memory, each piece counted once however many of them share it."""
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())


def growth(run: Callable[[], None], device: torch.device) -> int:
    """Bytes that a call allocates at its worst moment, above what was there before.

    On a GPU by torch.cuda's own count, on a CPU by the profiler's: torch's tensors, without what a
    library keeps for itself. A process's resident size would hold what earlier calls left behind.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]"]
    assert changes, "the profiler saw no allocation"
    return highest(amount for _, amount in sorted(changes, key=lambda change: change[0]))


def highest(changes: Iterable[int]) -> int:
    """The highest running sum of changes, 0 before the first."""
    now = peak = 0
    for change in changes:
        now += change
        peak = max(peak, now)
    return peak
