"""The table of cases in two processes against one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import forked
from tests.metrics.pairs import assert_same_rows, fill, pairs_with_empty_ones, tabulate
from textseg.metrics.case_table import CaseTable
from textseg.metrics.scores import CaseTableRows


def scenarios() -> dict[str, tuple[list[int], list[int]]]:
    """Cases of rank 0 and of rank 1; repeats are what a sampler pads with."""
    return {
        "no rows on rank 1": ([2, 0, 1], []),
        "uneven and padded": ([0, 2, 4, 6, 8], [1, 3, 5, 7, 0, 2, 3]),
        "no rows at all": ([], []),
    }


def one_rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    try:
        pairs = pairs_with_empty_ones(9)
        for name, ranks in scenarios().items():
            table = CaseTable()
            fill(table, [pairs[i] for i in ranks[rank]], ranks[rank])
            np.savez(folder / f"{name}-{rank}.npz", **table.compute()._asdict())
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This process is rank 0."""
    folder = tmp_path_factory.mktemp("ranks")
    other = forked.start(one_rank, 1, folder)
    try:
        one_rank(0, folder)
    finally:
        other.join(timeout=60)
        other.kill()
    assert other.exitcode == 0
    return folder


@pytest.mark.ddp
@pytest.mark.parametrize("name", list(scenarios()))
def test_two_processes_give_exactly_the_rows_of_one(name: str, two_processes: Path) -> None:
    cases = sorted({case for rank in scenarios()[name] for case in rank})
    pairs = pairs_with_empty_ones(9)
    expected = tabulate([pairs[i] for i in cases], cases)
    for rank in (0, 1):
        saved = np.load(two_processes / f"{name}-{rank}.npz")
        assert_same_rows(CaseTableRows(**saved), expected)
