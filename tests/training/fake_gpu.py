"""A CUDA device on a machine without one, and what makes a host wait for it.

Of torch's FakeTensors an operation yields shape, type and device, but no values, so that a training
step can be run as on a GPU. The autograd engine alone asks for the device itself: gradients are
made up here, and backward passes are looked at on the CPU.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torchmetrics.metric
import transformers.utils.import_utils
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda:0")
OURS = Path(__file__).parents[2]
PIN = torch.ops.aten._pin_memory.default

# The host needs a value, or a size that follows from values.
READS = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "_is_all_true"),
    *("_is_any_true", "nonzero", "nonzero_numpy", "argwhere", "masked_select", "_unique"),
    *("_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "bincount"),
    *("repeat_interleave", "histc", "linalg_cond"),
}
COPIES = {"_to_copy", "copy_", "copy"}


class NoWaiting(TorchDispatchMode):
    """Fails where the host would wait for a GPU: names the operation and the line of ours.

    It waits for what READS holds, for an index of True and False, whose result has a size to be
    counted first, and for a copy between host and device, unless that comes from pinned memory and
    is asked not to block. Tensors on the CPU stand for a GPU's, except that copies are then unseen.

    Attributes:
        watching: whether it looks; setting it to False spares what comes before and after a step.
        operations: how many it looked at.
    """

    def __init__(self, *, watching: bool = True) -> None:
        super().__init__()
        self.watching = watching
        self.operations = 0
        self._pinned: list[Tensor] = []  # kept, so that no other tensor takes the place of one

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.watching and func.namespace == "aten":  # not prim.device, a question about a tensor
            self.operations += 1
            if self._waits(func.__name__.split(".")[0], args, kwargs):
                raise AssertionError(f"{func} makes the host wait for the GPU at {_our_line()}")
        if func is PIN and isinstance(args[0], FakeTensor):  # which torch has not made up yet
            self._pinned.append(args[0].clone())
            return self._pinned[-1]
        return func(*args, **kwargs)

    def _waits(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if name in READS:
            return True
        if name in COPIES:
            return self._copy_waits(name, args, kwargs)
        if name.lstrip("_").startswith(("index", "unsafe_index")):
            places = [leaf for leaf in tree_leaves(args[1:2]) if isinstance(leaf, Tensor)]
            if any(place.dtype in (torch.bool, torch.uint8) for place in places):
                return True
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        # A single number goes along with the kernel; more of them are copied first.
        return len({tensor.device.type for tensor in tensors if tensor.ndim}) > 1

    def _copy_waits(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if name == "_to_copy":
            source = args[0]
            target = torch.device(kwargs.get("device") or source.device)
            non_blocking = kwargs.get("non_blocking", False)
        else:
            source, target = args[1], args[0].device
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        if source.device.type == target.type:
            return False
        return not (non_blocking and any(source is pinned for pinned in self._pinned))


def _our_line() -> str:
    """The innermost line of this repository, leaving out this file and an environment within."""
    frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(OURS)]
    others = (f for f in reversed(frames) if "site-packages" not in Path(f.filename).parts)
    frame = next(f for f in others if f.filename != __file__)
    return f"{Path(frame.filename).relative_to(OURS)}:{frame.lineno}: {frame.line}"


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    """In its block tensors may be on GPU; yields what moves a network or a batch there.

    The network's own parameters and buffers are replaced: it has no values any more.
    """
    # transformers spares FakeTensors what it asks of others, and a FakeTensor cannot be deepcopied.
    monkeypatch.setattr(transformers.utils.import_utils, "is_fake_tensor", lambda tensor: False)
    deepcopy = torchmetrics.metric.deepcopy
    monkeypatch.setattr(
        torchmetrics.metric,
        "deepcopy",
        lambda value: value.clone() if isinstance(value, Tensor) else deepcopy(value),
    )
    with FakeTensorMode():
        yield _to_fake_gpu


def _to_fake_gpu(what: Any) -> Any:
    if isinstance(what, dict):
        return {key: _to_fake_gpu(value) for key, value in what.items()}
    if isinstance(what, nn.Module):
        moved: dict[int, Tensor] = {}
        for module in what.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        if id(tensor) not in moved:  # two modules may share it
                            moved[id(tensor)] = _to_fake_gpu(tensor)
                        tensors[name] = moved[id(tensor)]
        return what
    if not isinstance(what, Tensor):
        return what
    fake = torch.empty_strided(what.shape, what.stride(), dtype=what.dtype, device=GPU)
    return nn.Parameter(fake, what.requires_grad) if isinstance(what, nn.Parameter) else fake


class FakeGPUStrategy(SingleDeviceStrategy):
    """Trains a network that `fake_gpu` moved; Lightning itself gets ready on the CPU."""

    def __init__(self) -> None:
        super().__init__(device=torch.device("cpu"), accelerator=CPUAccelerator())

    def model_to_device(self) -> None:
        pass

    def teardown(self) -> None:
        pass

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        assert closure_loss.device == GPU
        assert self.lightning_module is not None
        self.precision_plugin.pre_backward(closure_loss, self.lightning_module)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.empty_like(parameter)


class FinishedError(Exception):
    """The steps to be looked at are over; an epoch's end may read values."""


class WatchSteps(L.Callback):
    """Switches `waiting` on for the steps after the first, in which Lightning prepares its log.

    Args:
        waiting: looks at what is done.
        device: where the network is.
        steps: after so many the training is broken off.
    """

    def __init__(self, waiting: NoWaiting, *, device: torch.device, steps: int = 2) -> None:
        self.waiting, self.device, self.steps = waiting, device, steps

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.strategy._root_device = self.device
        pl_module._device = self.device

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.waiting.watching = batch_idx > 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *others: Any
    ) -> None:
        if trainer.global_step == self.steps:
            self.waiting.watching = False
            raise FinishedError
