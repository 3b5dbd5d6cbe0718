"""The most GPU memory that a training step holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

MIB = 2**20


def allocated_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' memory, each storage counted once however many of them share it."""
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())


def peak_allocation(run: Callable[[], None], device: torch.device) -> int:
    """Bytes that a call allocates on a GPU at its worst moment, above what was there before."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
