"""Where a benchmark ran: device, versions, memory, and the peak of its matrix products."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from textseg.errors import UserError

DeviceName = Literal["cpu", "cuda"]
_SIDES = {"cpu": 1024, "cuda": 8192}  # of the measured product's square matrices
_PRODUCTS = 5


def checked_device(name: DeviceName) -> torch.device:
    """The torch device of a name.

    Raises:
        UserError: there is no such device here.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device=cuda: torch sees no CUDA GPU here",
            "leave device out for the CPU, or run on a machine with a GPU",
        )
    return torch.device(name)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all its work; a CPU is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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


def environment(device: torch.device) -> dict[str, Any]:
    """Device, versions, seed, and the machine's load average when it was asked."""
    seed = os.environ.get("PL_GLOBAL_SEED")  # set by seed_everything
    return {
        "device": device.type,
        "device_name": device_name(device),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "lightning": L.__version__,
        "python": platform.python_version(),
        "seed": None if seed is None else int(seed),
    }


def device_name(device: torch.device) -> str:
    """The model name of the GPU or processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def matrix_product_peak(
    device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter
) -> float:
    """GFLOPs a second of the fastest of five large square matrix products.

    In fp32 as torch is set: without TF32 unless ``torch.set_float32_matmul_precision`` allows it.
    The matrices are random, as a network's are: with constant ones a GPU draws less power and runs
    faster.
    """
    side = _SIDES[device.type]
    random = torch.Generator(device).manual_seed(0)
    left = torch.randn(side, side, device=device, dtype=dtype, generator=random)
    seconds = []
    for _ in range(1 + _PRODUCTS):
        synchronize(device)
        start = clock()
        left @ left
        synchronize(device)
        seconds.append(clock() - start)
    return 2 * side**3 / 1e9 / min(seconds[1:])  # the first one warms up
