"""ScoringSteps: a network's masks and scores in validation, test and prediction."""

from __future__ import annotations

import math
from abc import abstractmethod
from itertools import repeat

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from textseg.batch import Batch, SegmentationOutput
from textseg.errors import UserError, check_choice
from textseg.metrics.case_table import (
    CaseTable,
    lvit_pair,
    resize_logits,
    threshold_logits,
    without_border,
)
from textseg.metrics.pixel_table import PixelTable
from textseg.metrics.scores import TOLERANCE, Protocol
from textseg.metrics.summary import mean_scores
from textseg.models.empty_masks import EmptyMasks
from textseg.models.odd_logits import OddCases, check_logits
from textseg.models.tiles import Tiles


class ScoringSteps(L.LightningModule):
    """Validation, test and prediction steps that all networks share; they know nothing of training.

    Args:
        protocol: how test masks are scored; "lvit" reproduces LViT's test and nothing else.
        nsd_tolerance: distance up to which boundaries agree in nsd, in millimetres, or in pixels
            where the spacing is unknown.

    Attributes:
        tta, ensemble, tiles: what logits are averaged over in a test: "none" or "flip", the names
            of several networks, and tiles of large pictures; see `textseg.models.ensemble`.
        mask_threshold: probability above which a pixel is outlined in a test or prediction.
        mask_temperature: what logits are divided by there before they become probabilities.

    Raises:
        UserError: the protocol is unknown, or the tolerance is no distance.
    """

    tta: str = "none"
    ensemble: tuple[str, ...] = ()
    mask_threshold: float = 0.5
    mask_temperature: float = 1.0
    tiles: Tiles | None = None

    def __init__(self, *, protocol: Protocol, nsd_tolerance: float = TOLERANCE) -> None:
        super().__init__()
        check_choice("protocol", protocol, Protocol)
        if not 0 <= nsd_tolerance < float("inf"):
            raise UserError(
                f"nsd_tolerance={nsd_tolerance} is no distance",
                "give millimetres, or pixels where the spacing is unknown; 2.0 is the default",
            )
        self.protocol, self.nsd_tolerance = protocol, nsd_tolerance
        self.val_cases = CaseTable()
        self._odd_cases, self._empty_masks = OddCases(), EmptyMasks()
        self.test_cases = CaseTable(surface=protocol == "standard", tolerance=nsd_tolerance)
        self.test_pixels = PixelTable()

    @property
    def cut_logit(self) -> float:
        """The logit above which a pixel is outlined, by `mask_threshold` and `mask_temperature`."""
        return self.mask_temperature * math.log(self.mask_threshold / (1 - self.mask_threshold))

    @abstractmethod
    def _step(self, batch: Batch, stage: str) -> tuple[SegmentationOutput, Tensor]:
        """Run a batch and log its losses under `stage`/; return the output and the total loss."""

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor | list[Tensor]]:
        """Score at the network's resolution; return the B masks [H, W] for callbacks."""
        output, loss = self._step(batch, "val")
        self._odd_cases.update(output.logits, loss, batch["case"])
        masks = threshold_logits(output.logits, self.cut_logit)[:, 0], batch["mask"][:, 0] > 0.5
        preds, truths = (without_border(mask, batch.get("frame")) for mask in masks)
        self.val_cases.update(preds, truths, batch["index"], batch["spacing"])
        return {"pred": preds}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Tensor]]:
        """Score at each truth's own resolution; return the masks for callbacks."""
        output, _ = self._step(batch, self._test_prefix)
        logits = self.picture_logits(output.logits, batch)
        planes = self.resized(logits, batch["original_size"])
        check_logits(planes, batch["case"])
        preds = [threshold_logits(plane, self.cut_logit) for plane in planes]
        scored, truths = preds, [truth > 0 for truth in batch["truth"]]
        if self.protocol == "lvit":
            pairs = map(lvit_pair, logits, batch["truth"], repeat(self.cut_logit))
            scored, truths = map(list, zip(*pairs, strict=True))
        else:
            self.test_pixels.update(planes, truths, batch["index"])
        self.test_cases.update(scored, truths, batch["index"], batch["spacing"])
        return {"pred": preds}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Tensor]]:
        """Return masks at each image's original size: a list of B [H0, W0] bool."""
        logits = self.picture_logits(self(batch["image"], batch["text"]).logits, batch)
        check_logits(logits, batch["case"])
        return {"pred": self.resize_and_threshold(logits, batch["original_size"], self.cut_logit)}

    def picture_logits(self, logits: Tensor, batch: Batch) -> Tensor | list[Tensor]:
        """B logits [1, h, w] of pictures without borders, of logits [B, 1, H, W] of the input."""
        return without_border(logits, batch.get("frame"))

    @staticmethod
    def resized(logits: Tensor | list[Tensor], sizes: Tensor) -> list[Tensor]:
        """B logits [1, H, W] to B of [H0, W0], the rows of `sizes` [B, 2]."""
        return [
            resize_logits(one, (int(height), int(width)))[0]
            for one, (height, width) in zip(logits, sizes.tolist(), strict=True)
        ]

    @classmethod
    def resize_and_threshold(
        cls, logits: Tensor | list[Tensor], sizes: Tensor, above: float = 0.0
    ) -> list[Tensor]:
        """B logits [1, H, W], resized to each of `sizes` [B, 2] and cut at the logit `above`."""
        return [threshold_logits(plane, above) for plane in cls.resized(logits, sizes)]

    def on_validation_epoch_start(self) -> None:
        """Empty the table of validation cases."""
        self._odd_cases = OddCases()
        self.val_cases.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's mean scores; nan where logits were not finite, so never the best."""
        rows = self.val_cases.compute()
        scores = mean_scores(rows)
        if self._odd_cases.report(self.trainer):
            scores = dict.fromkeys(scores, math.nan)
        elif self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._empty_masks.update(rows, self.current_epoch)
        self.log_dict({f"val/{name}": value for name, value in scores.items()})
        self.log("val_dice", scores["dice"], prog_bar=True, logger=False)

    def on_test_epoch_start(self) -> None:
        """Empty the tables of test cases and pixels."""
        self.test_cases.reset()
        self.test_pixels.reset()

    def on_test_epoch_end(self) -> None:
        """Log the test's mean scores."""
        scores = mean_scores(self.test_cases.compute(), protocol=self.protocol)
        self.log_dict({f"{self._test_prefix}/{name}": value for name, value in scores.items()})

    @property
    def _test_prefix(self) -> str:
        return test_prefix(caption_mode_of(self.trainer))


def test_prefix(mode: str) -> str:
    """The prefix of a test's logged scores: "test", or "test_empty" for changed captions."""
    return "test" if mode == "true" else f"test_{mode}"


def caption_mode_of(trainer: L.Trainer) -> str:
    """The caption mode of the DataModule in use, such as "empty"; "true" if it has none."""
    return getattr(getattr(trainer, "datamodule", None), "caption_mode", "true")
