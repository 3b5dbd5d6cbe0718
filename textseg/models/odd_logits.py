"""Logits that are not finite: an error in a test, and a word in a validation.

NaN is not above any threshold, so that masks of such logits are empty and have scores like others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from textseg.errors import NotFiniteError

_NAMED = 8  # cases in a message


def named_cases(cases: Sequence[str]) -> str:
    """The first cases by name, and how many more there are."""
    more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
    return ", ".join(cases[:_NAMED]) + more


def check_logits(logits: Iterable[Tensor], cases: Sequence[str]) -> None:
    """Check that the logits of B cases, of any shapes, hold no NaN and no infinity.

    Raises:
        NotFiniteError: they do.
    """
    finite = torch.stack([one.isfinite().all() for one in logits]).tolist()
    odd = [case for case, sound in zip(cases, finite, strict=True) if not sound]
    if odd:
        raise NotFiniteError(
            f"the network's logits are not finite for {named_cases(odd)}",
            "its weights are: where trainer.precision is 16-mixed or 16-true give 32-true or "
            "bf16-mixed; else look at these pictures",
        )


class OddCases:
    """The cases of a validation whose logits or loss are not finite; read at its end alone."""

    def __init__(self) -> None:
        self._seen: list[tuple[Tensor, list[str]]] = []

    def update(self, logits: Tensor, loss: Tensor, cases: list[str]) -> None:
        """Look at a batch: logits [B, 1, H, W], its loss, and the names of its cases."""
        finite = logits.detach().isfinite().flatten(1).all(dim=1) & loss.detach().isfinite()
        self._seen.append((~finite, cases))

    def report(self, trainer: L.Trainer) -> int:
        """Say which they are; returns how many of all processes there are, and forgets them."""
        seen, self._seen = self._seen, []
        odd = [
            case
            for flags, cases in seen
            for case, wrong in zip(cases, flags.tolist(), strict=True)
            if wrong
        ]
        number = torch.tensor(float(len(odd)), device=trainer.strategy.root_device)
        total = int(trainer.strategy.reduce(number, reduce_op="sum"))
        if total:
            names = f": {named_cases(odd)}" if odd else ""
            rank_zero_warn(
                f"validation of epoch {trainer.current_epoch}: logits or loss of {total} cases are "
                f"not finite{names}; this validation has no scores (nan)"
            )
        return total
