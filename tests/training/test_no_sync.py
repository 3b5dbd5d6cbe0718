"""In a training step the host never waits for the GPU: real steps on the CPU, and on a fake GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

import textseg.models
from tests.encoders.tiny_text import scratch
from tests.models.stand_ins import CAPTIONS, make_batch
from tests.models.tiny import NETWORKS, TEXT_GUIDED
from tests.training.fake_gpu import (
    GPU,
    FakeGPUStrategy,
    FinishedError,
    NoWaiting,
    WatchSteps,
    fake_gpu,
)
from textseg.batch import Batch
from textseg.encoders import TextEncoder
from textseg.training import finite

pytestmark = pytest.mark.skipif(
    torch.__version__.startswith("2.6"), reason="torch 2.6 asks a driver for a stand-in of a GPU"
)

OTHERS = ["lesion in the left", "large lesion", "small lesion", ""]  # as many as are in a batch

EACH_NETWORK = pytest.mark.parametrize(
    ("name", "frozen"),
    [
        *(pytest.param(name, False, id=f"{name}, trained text") for name in NETWORKS),
        *(pytest.param(name, True, id=f"{name}, frozen text") for name in TEXT_GUIDED),
    ],
)


def made(name: str, *, frozen: bool = False) -> Any:
    torch.manual_seed(0)
    network: Any = getattr(textseg.models, name)(**NETWORKS[name])
    network.prepare_captions(CAPTIONS, training=True)
    if frozen and isinstance(network.text_encoder, TextEncoder):
        network.text_encoder.freeze()
    return network.train()


class Batches:
    """As a loader, without what a loader draws and reads when it starts."""

    def __init__(self, *batches: Batch) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def plain_trainer(**settings: Any) -> L.Trainer:
    """Of three steps with clipped gradients."""
    return L.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=3,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        **settings,
    )


def two_steps(
    network: Any, batch: Batch, device: torch.device, *callbacks: L.Callback, **settings: Any
) -> L.Trainer:
    """Trains, the second step under NoWaiting and with new captions."""
    waiting = NoWaiting(watching=False)
    watch = WatchSteps(waiting, device=device)
    trainer = plain_trainer(callbacks=[watch, *callbacks], **settings)
    with waiting, pytest.raises(FinishedError):
        trainer.fit(network, Batches(batch, {**batch, "text": OTHERS}, batch))
    assert trainer.global_step == 2
    assert waiting.operations > 100
    return trainer


@EACH_NETWORK
def test_no_value_is_read_in_a_step_of_training(name: str, frozen: bool) -> None:
    two_steps(made(name, frozen=frozen), make_batch(4), torch.device("cpu"), accelerator="cpu")


@EACH_NETWORK
def test_nothing_is_waited_for_in_a_forward_pass_and_its_loss_on_a_gpu(
    name: str, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, batch = made(name, frozen=frozen), make_batch(4)
    with fake_gpu(monkeypatch) as to_gpu:
        network, batch = to_gpu(network), to_gpu(batch)
        with NoWaiting():
            losses = network.compute_loss(network(batch["image"], batch["text"]), batch)
            network.on_train_batch_end(None, batch, 0)
    assert {loss.device for loss in losses.values()} == {GPU}


def test_nothing_is_waited_for_in_the_log_the_clipping_and_the_optimizer_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, batch = made("ImageBaseline"), make_batch(4)
    # Asked once, before the first step, of a network on the CPU.
    monkeypatch.setattr(network, "no_weight_decay", network.no_weight_decay().copy)
    with fake_gpu(monkeypatch) as to_gpu:
        trainer = two_steps(to_gpu(network), to_gpu(batch), GPU, strategy=FakeGPUStrategy())
    (optimizer,) = trainer.optimizers
    assert optimizer.defaults["fused"]
    assert {value.device for state in optimizer.state.values() for value in state.values()} == {GPU}


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_nothing_is_waited_for_to_keep_a_training_finite_on_a_gpu(
    on_nan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the flag of the step before, which CUDA's own events tell of."""
    found: list[Tensor] = []

    class Readback:
        here = False

        def __init__(self, flag: Tensor) -> None:
            found.append(flag)

        def value(self) -> bool:
            return False

    monkeypatch.setattr(finite, "_Readback", Readback)
    network, batch = made("ImageBaseline"), make_batch(4)
    monkeypatch.setattr(network, "no_weight_decay", network.no_weight_decay().copy)
    with fake_gpu(monkeypatch) as to_gpu:
        callback = finite.FiniteTraining(on_nan)
        two_steps(to_gpu(network), to_gpu(batch), GPU, callback, strategy=FakeGPUStrategy())
    assert [flag.device for flag in found] == [GPU, GPU]


@pytest.mark.parametrize("frozen", [False, True])
def test_captions_reach_a_gpu_without_waiting_the_first_time_and_again(
    frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = scratch()
    if frozen:
        encoder.freeze()
    with fake_gpu(monkeypatch) as to_gpu:
        encoder = to_gpu(encoder)
        with NoWaiting():
            for captions in (CAPTIONS, CAPTIONS[::-1], OTHERS):
                features = encoder(captions)
                assert {feature.device for feature in features} == {GPU}


class Strict(L.Callback):
    """CUDA raises an error where the host waits in a step after the first."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.cuda.set_sync_debug_mode("error" if batch_idx > 0 else "default")

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@EACH_NETWORK
def test_cuda_itself_tells_of_no_waiting_in_a_step(name: str, frozen: bool) -> None:
    """What kernels wait for inside is seen here alone."""
    batch = make_batch(4)
    trainer = plain_trainer(accelerator="gpu", devices=1, callbacks=[Strict()])
    try:
        trainer.fit(made(name, frozen=frozen), Batches(batch, {**batch, "text": OTHERS}, batch))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.global_step == 3


# --- what would be waited for is seen


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: values.sum().item(),
        lambda values: bool(values.all()),
        lambda values: values.nonzero(),
        lambda values: torch.where(values > 0),
        lambda values: values[values > 0],
        lambda values: values.masked_select(values > 0),
        lambda values: values.unique(),
        lambda values: torch.equal(values, values),
        lambda values: torch.allclose(values, values),
    ],
    ids=[
        *("item", "bool", "nonzero", "where", "mask as index", "masked_select"),
        *("unique", "equal", "allclose"),
    ],
)
def test_a_value_that_is_read_is_seen_on_either_device(
    wait: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = r"wait for the GPU at tests/training/test_no_sync.py:\d+: lambda"
    with pytest.raises(AssertionError, match=line), NoWaiting():
        wait(torch.ones(3))
    with fake_gpu(monkeypatch), pytest.raises(AssertionError, match=line), NoWaiting():
        wait(torch.ones(3, device=GPU))


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: values.cpu(),
        lambda values: values.tolist(),  # of which a tensor on the CPU tells nobody
        lambda values: torch.tensor([1.0, 2.0], device=GPU),
        lambda values: torch.ones(3).to(GPU, non_blocking=True),
        lambda values: torch.ones(3).pin_memory().to(GPU),
        lambda values: values.copy_(torch.ones(3)),
        lambda values: values[torch.tensor([0, 2])],
    ],
    ids=[
        "to the host",
        "tolist",
        "of a list",
        "not pinned",
        "blocking",
        "copy_",
        "index on the host",
    ],
)
def test_a_copy_that_blocks_is_seen_on_a_gpu(
    wait: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_gpu(monkeypatch):
        values = torch.ones(3, device=GPU)
        with pytest.raises(AssertionError, match="wait for the GPU"), NoWaiting():
            wait(values)


def test_a_copy_from_pinned_memory_and_a_number_block_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with fake_gpu(monkeypatch), NoWaiting() as waiting:
        copied = torch.ones(3).pin_memory().to(GPU, non_blocking=True)
        copied = copied[torch.arange(2, device=GPU)] * 2 + torch.tensor(1.0)
    assert copied.device == GPU
    assert waiting.operations > 3
