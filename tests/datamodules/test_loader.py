"""The training loader knows its place, and starting a loader disturbs nobody's random numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules import RefHLSegDataModule
from tests import tiny_run
from tests.tiny_run import write_refhl

EPOCH = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_run.ROWS, "train", 11)
        return write_refhl(tmp_path_factory.mktemp("refhl"))


def data(root: Path, workers: int = 0, epoch: int | None = None) -> RefHLSegDataModule:
    """A data module, in a fit that has come to `epoch` if one is given."""
    module = RefHLSegDataModule(
        str(root), image_size=32, batch_size=2, num_workers=workers, cache=None
    )
    module.setup("fit")
    if epoch is not None:
        progress = SimpleNamespace(current=SimpleNamespace(processed=epoch))
        trainer: Any = SimpleNamespace(fit_loop=SimpleNamespace(epoch_progress=progress))
        module.trainer = trainer
    return module


def seen(batches: Any) -> list[tuple[list[int], list[str], float]]:
    """Rows, words and a number that changes with the smallest change of the pictures."""
    return [(b["index"].tolist(), b["text"], float(b["image"].double().sum())) for b in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_with_the_rest_of_its_epoch_and_with_the_next(
    root: Path, tmp_path: Path, workers: int
) -> None:
    whole = data(root).train_dataloader()
    epochs = []
    for epoch in (EPOCH, EPOCH + 1):
        whole.sampler.set_epoch(epoch)
        epochs.append(seen(whole))
    assert len(epochs[0]) == 5, "the odd row is dropped"

    cut = data(root, workers, EPOCH).train_dataloader()
    batches = iter(cut)
    assert seen([next(batches), next(batches)]) == epochs[0][:2]
    torch.save(cut.state_dict(), tmp_path / "state")

    resumed = data(root, workers, EPOCH).train_dataloader()
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert seen(resumed) == epochs[0][2:]
    resumed.sampler.set_epoch(EPOCH + 1)
    assert seen(resumed) == epochs[1]


def test_epochs_differ_in_order_and_in_pictures(root: Path) -> None:
    """Otherwise a loader that forgot its epoch would pass here."""
    orders = [seen(data(root, epoch=epoch).train_dataloader()) for epoch in (0, EPOCH)]
    assert [rows for rows, _, _ in orders[0]] != [rows for rows, _, _ in orders[1]]
    pictures = [{rows[0]: total for rows, _, total in order} for order in orders]
    shared = pictures[0].keys() & pictures[1].keys()
    assert any(pictures[0][row] != pictures[1][row] for row in shared)


@pytest.mark.parametrize("workers", [0, 1])
def test_starting_a_loader_draws_nothing_from_the_random_numbers_of_the_network(
    root: Path, workers: int
) -> None:
    module = data(root, workers)
    before = torch.get_rng_state()
    for loader in (module.train_dataloader(), module.val_dataloader()):
        next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)
