"""Runs a network with every change of every caption over a test set, and measures its masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import lightning as L
import numpy as np
from numpy.typing import NDArray

from textseg.batch import ABSENT_LESION, Batch
from textseg.metrics.case_table import without_border
from textseg.models.base import SegmentationModule
from textseg.preprocess import Bytes
from textseg.runs.outputs import (
    PackedMask,
    evenly_spaced,
    gather_by_index,
    mask_bytes,
    original_picture,
    pack_mask,
    rows_in,
)

# By name, for each row of the test set its text, None where the row has no such change.
Variants = Mapping[str, Sequence[str | None]]
TRUE = "true"


@dataclass(frozen=True)
class Measured:
    """One mask, in pixels at the truth's own resolution.

    `overlap` is shared with the truth, `kept` with the mask under true words; `left` of `predicted`
    lie in the picture's left half (of a middle column, half).
    """

    predicted: int
    overlap: int
    kept: int
    left: float


@dataclass(frozen=True)
class ProbedCase:
    """One row of the test set: its masks measured by variant.

    `masks` holds the mask of true words, and where the case is drawn, which its file's `image`
    [H0, W0, 3] shows, those of all variants.
    """

    case: str
    case_id: str
    image_id: int
    true: int  # pixels of the truth
    truth: PackedMask
    masks: dict[str, PackedMask]
    measured: dict[str, Measured]
    image: Bytes | None

    @property
    def pixels(self) -> int:
        """Of the whole picture."""
        height, width = self.truth.shape
        return height * width


class Probe(L.LightningModule):
    """Runs a network on every variant of a batch's captions; `trainer.test` drives it.

    An image is read once. Every variant runs on the whole batch, with true words in the rows that
    lack it: a batch of another size may take other kernels, whose rounding would move masks.

    Args:
        model: the network, with its weights.
        variants: the texts by name, in the order of the test set's index; `TRUE` is among them.
        pictures: cases whose masks are kept to be drawn, evenly spaced.

    Attributes:
        cases: by index, all cases of all processes, each once; filled by the test.
    """

    def __init__(self, model: SegmentationModule, variants: Variants, pictures: int) -> None:
        super().__init__()
        self.model = model
        self.variants = variants
        self.pictures = pictures
        self.cases: dict[int, ProbedCase] = {}
        self._drawn: set[int] = set()

    def setup(self, stage: str) -> None:
        """Let the text encoder warn of captions it must cut; it learns no word of them."""
        self.model.prepare_captions(distinct_texts(self.variants), training=False)

    def on_test_epoch_start(self) -> None:
        """Choose the cases to draw."""
        self.cases = {}
        self._drawn = evenly_spaced(self.pictures, rows_in(self.trainer.test_dataloaders))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the masks of a batch under every variant of its captions."""
        rows = batch["index"].tolist()
        own = [self.variants[TRUE][row] for row in rows]
        assert own == batch["text"], "the variants are not of this test set's captions"
        truths = [mask_bytes(truth > 0).astype(bool) for truth in batch["truth"]]
        given = {name: self._texts(name, rows, truths) for name in self.variants}
        by_variant = {TRUE: self._masks(batch, own, own)}
        for name, texts in given.items():
            if name != TRUE and any(text is not None for text in texts):
                by_variant[name] = self._masks(batch, texts, own)
        for position, row in enumerate(rows):
            having = [name for name in by_variant if given[name][position] is not None]
            masks = {name: by_variant[name][position] for name in having}
            drawn = row in self._drawn
            picture = original_picture(self.trainer, batch, position) if drawn else None
            self.cases[row] = _probed(batch, position, truths[position], masks, picture)

    def on_test_epoch_end(self) -> None:
        """Gather the cases of all processes, in the order of the test set.

        An image of which any row has a lesion is asked for none: it may be that one.
        """
        self.cases = dict(sorted(gather_by_index(self.cases).items()))
        with_lesion = {case.image_id for case in self.cases.values() if case.true}
        for case in self.cases.values():
            if case.image_id in with_lesion:
                case.measured.pop(ABSENT_LESION, None)
                case.masks.pop(ABSENT_LESION, None)

    def _texts(
        self, name: str, rows: Sequence[int], truths: Sequence[NDArray[np.bool_]]
    ) -> list[str | None]:
        """The variant's texts of some rows; a lesion is asked for where the truth is empty."""
        pairs = zip(rows, truths, strict=True)
        return [
            None if name == ABSENT_LESION and truth.any() else self.variants[name][row]
            for row, truth in pairs
        ]

    def _masks(
        self, batch: Batch, texts: Sequence[str | None], own: Sequence[str | None]
    ) -> list[NDArray[np.bool_]]:
        """B masks [H0, W0] at each truth's own resolution."""
        full = [mine if text is None else text for text, mine in zip(texts, own, strict=True)]
        logits = without_border(self.model(batch["image"], full).logits, batch.get("frame"))
        sizes, cut = batch["original_size"], self.model.cut_logit
        masks = self.model.resize_and_threshold(logits, sizes, cut)
        return [mask_bytes(mask).astype(bool) for mask in masks]


def distinct_texts(variants: Variants) -> list[str]:
    """Every text of the variants, once."""
    return sorted({text for column in variants.values() for text in column if text is not None})


def _probed(
    batch: Batch,
    position: int,
    truth: NDArray[np.bool_],
    masks: Mapping[str, NDArray[np.bool_]],
    picture: Bytes | None,
) -> ProbedCase:
    own = masks[TRUE]
    assert own.shape == truth.shape, (own.shape, truth.shape)
    return ProbedCase(
        case=batch["case"][position],
        case_id=batch["case_id"][position],
        image_id=int(batch["image_id"][position]),
        true=int(truth.sum()),
        truth=pack_mask(truth),
        masks={
            name: pack_mask(mask)
            for name, mask in masks.items()
            if picture is not None or name == TRUE
        },
        measured={name: _measured(mask, own, truth) for name, mask in masks.items()},
        image=picture,
    )


def _measured(
    mask: NDArray[np.bool_], own: NDArray[np.bool_], truth: NDArray[np.bool_]
) -> Measured:
    columns = mask.sum(axis=0)
    width = len(columns)
    middle = columns[width // 2] / 2 if width % 2 else 0
    return Measured(
        predicted=int(mask.sum()),
        overlap=int((mask & truth).sum()),
        kept=int((mask & own).sum()),
        left=float(columns[: width // 2].sum() + middle),
    )
