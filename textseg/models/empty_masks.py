"""A training whose masks stay empty: said while it runs, because its losses may look well."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_warn

from textseg.metrics.scores import CaseTableRows

_SAID_AT = 3  # validations in a row; the first ones of a sound training may be empty


class EmptyMasks:
    """Counts the validations in a row in which nothing was outlined though lesions are there."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def update(self, rows: CaseTableRows, epoch: int) -> None:
        """Look at a validation's cases; warn at the third that is empty in a row."""
        lesions = int((rows.true > 0).sum())
        empty = lesions > 0 and not rows.predicted.any()
        self._in_a_row = self._in_a_row + 1 if empty else 0
        if self._in_a_row == _SAID_AT:
            rank_zero_warn(
                f"validation of epoch {epoch}: for the {_SAID_AT}rd time in a row nothing is "
                f"outlined in any of {len(rows.true)} images, {lesions} of which have a lesion. "
                "No probability is above 0.5; if val/loss falls no further, train anew with "
                "another --seed_everything, a lower model.lr or more weight on dice in "
                "model.segmentation_loss"
            )
