"""Callbacks to train faster or in less memory; they keep the names of weights.

Each is one line of YAML under trainer.callbacks; docs/training.md says when it pays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import lightning as L
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from textseg.batch import SegmentationOutput
from textseg.errors import UserError
from textseg.runs.outputs import callbacks_of


class CompiledTraining(L.Callback):
    """Runs the network's tensor part through torch.compile in training steps, in any precision.

    Validation, tests and explanations run as they would without it. The first step takes a minute
    or more, in which the network is compiled.

    Args:
        backend: torch.compile's: ``inductor`` generates code and needs a C++ compiler (on GPUs
            Triton); ``aot_eager`` only traces, to see whether a network of one's own compiles.
    """

    def __init__(self, backend: Literal["inductor", "aot_eager"] = "inductor") -> None:
        self.backend = backend
        self._compiled: Callable[..., SegmentationOutput] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that the blocks are not to be recomputed as well.

        Raises:
            UserError: they are.
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
        """Switch to the compiled tensor part."""
        if self._compiled is None:
            plain: Any = pl_module.forward_features
            self._compiled = torch.compile(plain, backend=self.backend)
        pl_module.forward_features = self._compiled  # type: ignore[assignment]

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Switch back, so that a validation runs as it would without the callback."""
        del pl_module.forward_features  # the class's own again

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Drop the compiled part."""
        self._compiled = None


class GradientCheckpointing(L.Callback):
    """Keeps only the input of each block for the backward pass, and computes the rest again there.

    Less memory, for the time of a second forward pass; the weights are those of a training without
    it. A part of a network names its blocks by an attribute ``blocks``, a list, Sequential or
    ModuleList of modules; stages of timm and decoders of segmentation-models-pytorch have it.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Switch the blocks to recomputation.

        Raises:
            UserError: the network has no blocks.
        """
        blocks = list(blocks_of(pl_module))
        if not blocks:
            raise UserError(
                f"GradientCheckpointing finds no block in {type(pl_module).__name__}",
                "leave it out, and lower data.batch_size with trainer.accumulate_grad_batches; "
                "or give a part of the network an attribute `blocks`",
            )
        for block in blocks:
            block.forward = _recomputed(block)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the blocks their own forward back."""
        for block in blocks_of(pl_module):
            del block.forward  # the class's own again


def blocks_of(network: nn.Module) -> Iterator[nn.Module]:
    """The modules that parts of a network list in an attribute ``blocks``, none inside another."""
    covered: set[int] = set()
    for part in network.modules():  # outer parts before inner ones
        listed = getattr(part, "blocks", None)
        if id(part) in covered or not isinstance(listed, nn.Sequential | nn.ModuleList | list):
            continue
        for block in listed:
            if id(block) not in covered:
                covered |= {id(inner) for inner in block.modules()}
                yield block


def _recomputed(block: nn.Module) -> Callable[..., Any]:
    """The block's forward, recomputed in the backward pass where gradients are wanted."""
    plain = block.forward

    # segmentation-models-pytorch's decoders call their blocks with keywords.
    def forward(*args: Any, **named: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return plain(*args, **named)
        # Of the first pass, and of the recomputation.
        contexts = lambda: (nullcontext(), _frozen_statistics(block))  # noqa: E731
        return checkpoint(plain, *args, use_reentrant=False, context_fn=contexts, **named)

    return forward


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms, which have seen this batch already."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
