"""The training loader knows its place and disturbs nobody's random numbers; bytes to numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from datamodules import RefHLSegDataModule
from datamodules.dataset import Sample, collate, to_batch
from tests import tiny_run
from tests.expressions import with_expressions
from tests.tiny_run import write_refhl
from textseg.batch import Batch

EPOCH = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_run.ROWS, "train", 11)
        return with_expressions(write_refhl(tmp_path_factory.mktemp("refhl")))


VARIED: dict[str, Any] = {
    "augmentation": [
        {"class_path": "albumentations.Affine", "init_args": {"rotate": [-20, 20]}},
        {"class_path": "albumentations.GaussNoise", "init_args": {"p": 0.8}},
    ],
    "hflip": 0.3,
    "paraphrase": 0.5,
    "caption_dropout": 0.3,
    "resize": "pad",
}


def data(
    root: Path, workers: int = 0, epoch: int | None = None, **settings: Any
) -> RefHLSegDataModule:
    """A data module, in a fit that has come to `epoch` if one is given."""
    module = RefHLSegDataModule(
        str(root), image_size=32, batch_size=2, num_workers=workers, cache=None, **settings
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


@pytest.mark.parametrize(("workers", "settings"), [(0, {}), (2, {}), (2, VARIED)])
def test_a_loader_goes_on_with_the_rest_of_its_epoch_and_with_the_next(
    root: Path, tmp_path: Path, workers: int, settings: dict[str, Any]
) -> None:
    whole = data(root, **settings).train_dataloader()
    epochs = []
    for epoch in (EPOCH, EPOCH + 1):
        whole.sampler.set_epoch(epoch)
        epochs.append(seen(whole))
    assert len(epochs[0]) == 5, "the odd row is dropped"

    cut = data(root, workers, EPOCH, **settings).train_dataloader()
    batches = iter(cut)
    assert seen([next(batches), next(batches)]) == epochs[0][:2]
    torch.save(cut.state_dict(), tmp_path / "state")

    resumed = data(root, workers, EPOCH, **settings).train_dataloader()
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


# --- bytes to numbers


def sample(image: Tensor) -> Sample:
    """A row for prediction, of which only the picture [1 or 3, H, W] matters."""
    return Sample(
        image=image,
        text="",
        caption_id=0,
        image_id=0,
        index=0,
        case="",
        case_id="",
        original_size=(16, 16),
        spacing=(1.0, 1.0),
    )


def picture(channels: int, seed: int) -> Tensor:
    """Every byte once in each channel."""
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(256, generator=draw).reshape(16, 16) for _ in range(channels)]
    return torch.stack(rows).byte()


@pytest.mark.parametrize("channels", [(1, 1), (3, 3), (1, 3), (3, 1)])
def test_gray_pictures_travel_as_one_channel_unless_color_is_among_them(
    channels: tuple[int, int],
) -> None:
    pictures = [picture(count, seed) for seed, count in enumerate(channels)]
    loaded = collate([sample(image) for image in pictures])
    assert loaded["image"].shape == (2, max(channels), 16, 16)
    assert loaded["image"].dtype == torch.uint8
    ready = to_batch(loaded)["image"]
    assert ready.is_contiguous()
    for row, image in enumerate(pictures):
        expected = np.broadcast_to(image.numpy(), (3, 16, 16)).astype(np.float32) / np.float32(255)
        assert np.array_equal(ready[row].numpy(), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_the_same_numbers() -> None:
    loaded = collate([sample(picture(1, 0))])
    expected = to_batch(loaded)["image"]
    loaded["image"] = loaded["image"].cuda()
    assert torch.equal(to_batch(loaded)["image"].cpu(), expected)


def test_a_loader_of_ones_own_may_yield_numbers() -> None:
    batch = to_batch(collate([sample(picture(3, 0))]))
    assert torch.equal(to_batch(batch)["image"], batch["image"])


class Listener(LightningModule):
    """Notes what its steps get."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.heard: dict[str, Batch] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.heard["train"] = batch
        return self.weight * batch["image"].mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.heard["sanity" if self.trainer.sanity_checking else "val"] = batch

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.heard["test"] = batch

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        self.heard["predict"] = batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("32-true", torch.float32), ("bf16-true", torch.bfloat16), ("64-true", torch.float64)],
)
def test_steps_of_every_stage_get_numbers_of_the_precision_asked_for(
    root: Path, tmp_path: Path, precision: Any, dtype: torch.dtype
) -> None:
    module, listener = data(root), Listener()
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        max_epochs=1,
        limit_train_batches=1,
        limit_val_batches=1,
        num_sanity_val_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(listener, datamodule=module)
    trainer.test(listener, datamodule=module, verbose=False)
    trainer.predict(listener, datamodule=module)
    assert set(listener.heard) == {"sanity", "train", "val", "test", "predict"}
    for stage, batch in listener.heard.items():
        assert batch["image"].dtype == dtype
        assert batch["image"].shape[1:] == (3, 32, 32)
        assert 0.1 < batch["image"].max() <= 1
        if stage != "predict":
            assert batch["mask"].dtype == dtype
            assert set(batch["mask"].unique().tolist()) <= {0, 1}
