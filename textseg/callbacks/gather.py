"""Results of all processes of a distributed run."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed

T = TypeVar("T")


def rows_in(loader: Any) -> int:
    """Rows of a loader's whole dataset, not of this process's part."""
    return len(loader.dataset)


def gather_by_index(cases: dict[int, T]) -> dict[int, T]:
    """The results of all processes by index; they meet here."""
    if not torch.distributed.is_initialized():
        return cases
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, cases)
    return {index: case for part in parts for index, case in part.items()}
