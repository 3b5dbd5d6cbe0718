"""Ways to train faster or in less memory, as callbacks: they change no weight's name.

Each is one line of YAML under trainer.callbacks; docs/training.md says when it pays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from textseg.batch import SegmentationOutput
from textseg.errors import UserError
from textseg.training.attached import callbacks_of


class CompiledTraining(L.Callback):
    """Training steps run the network's tensor part through torch.compile, in any precision.

    Validation, tests and explanations run as they would without it. The first step takes a minute
    or more, in which the network is compiled.
    """

    def __init__(self) -> None:
        self._compiled: Callable[..., SegmentationOutput] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Raises:
        UserError: the blocks are to be computed again as well.
        """
        if callbacks_of(trainer, GradientCheckpointing):
            raise UserError(
                "CompiledTraining and GradientCheckpointing exclude each other",
                "leave GradientCheckpointing out: the compiler itself keeps less for the backward "
                "pass; or leave CompiledTraining out",
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._compiled is None:
            plain: Any = pl_module.forward_features
            self._compiled = torch.compile(plain)
        pl_module.forward_features = self._compiled  # type: ignore[assignment]

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        del pl_module.forward_features  # the class's own again

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._compiled = None


class GradientCheckpointing(L.Callback):
    """Blocks keep their input alone for the backward pass, and are computed again there.

    Less memory, for the time of a second forward pass; the weights are those of a training without
    it. A block is a module whose class is called ...Block, such as timm's ConvNeXtBlock; of nested
    ones the outermost.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises:
        UserError: the network has no such block.
        """
        blocks = list(outermost_blocks(pl_module))
        if not blocks:
            raise UserError(
                f"GradientCheckpointing finds no block in {type(pl_module).__name__}",
                "leave it out, and lower data.batch_size with trainer.accumulate_grad_batches",
            )
        for block in blocks:
            block.forward = _recomputed(block)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for block in outermost_blocks(pl_module):
            del block.forward  # the class's own again


def outermost_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Modules below `module` whose class is called ...Block and that lie in no other such."""
    for child in module.children():
        if type(child).__name__.endswith("Block"):
            yield child
        else:
            yield from outermost_blocks(child)


def _recomputed(block: nn.Module) -> Callable[..., Any]:
    """The block's forward, computed again in the backward pass where gradients are wanted."""
    plain = block.forward

    # Whatever the block is called with is handed on: segmentation-models-pytorch's decoders call
    # theirs with keywords.
    def forward(*args: Any, **named: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return plain(*args, **named)
        both = partial(_contexts, block)
        return checkpoint(plain, *args, use_reentrant=False, context_fn=both, **named)

    return forward


Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]


def _contexts(block: nn.Module) -> Contexts:
    """Of the first pass, and of the second."""
    return nullcontext(), _still_statistics(block)


@contextmanager
def _still_statistics(block: nn.Module) -> Iterator[None]:
    """Batch norms count a batch once, although it comes by twice."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
