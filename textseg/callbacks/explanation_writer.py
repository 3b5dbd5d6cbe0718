"""Pictures of a network's attention and saliency maps as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from textseg.batch import Batch
from textseg.callbacks.score_log import report_of
from textseg.errors import UserError, check_at_least
from textseg.explain import normalize_map
from textseg.metrics.case_table import without_border
from textseg.models.base import SegmentationModule
from textseg.output import OutputFolder, write_picture, writing
from textseg.preprocess import Bytes
from textseg.runs.outputs import (
    evenly_spaced,
    frame_in,
    gather_by_index,
    mask_bytes,
    new_output_dir,
    new_test_dir,
    original_picture,
    rows_in,
)
from textseg.visualize.explanation import explanation


class ExplanationWriter(L.Callback):
    """Writes explain/<case>.png: attention and saliency maps; docs/explanations.md explains them.

    A test writes into its own folder test/<caption mode>/, a prediction into the run's. Each case
    costs about four forward passes, so none is explained unless asked for.

    Args:
        pictures: cases to explain, evenly spaced over the set; 0 for none.
        word: word or phrase whose maps are drawn; by default all words of the caption together.
            A case without it has no picture.
    """

    def __init__(self, pictures: int = 0, word: str | None = None) -> None:
        check_at_least("explain.pictures", pictures, 0)
        if word is not None and not (word.strip() and pictures):
            raise UserError(
                f"explain.word={word!r} with explain.pictures={pictures} draws nothing",
                "give a word and the number of pictures, for example --explain.pictures 8",
            )
        self.pictures = pictures
        self.word = word
        self.folder = Path()
        self._claimed = OutputFolder(self.folder)
        self._drawn: set[int] = set()
        self._outcomes: dict[int, bool] = {}  # by index: whether the caption holds the word

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse before the training what its test would refuse."""
        self._check_that_words_are_read(pl_module)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the cases; ResultsWriter has claimed the test's folder in on_test_start."""
        self._choose(pl_module, trainer.test_dataloaders)
        if not self.pictures:
            return
        report = report_of(trainer)
        if report is None:
            self._claimed = new_test_dir(trainer)
        self.folder = (self._claimed.path if report is None else report.folder) / "explain"
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)

    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the cases, and claim a folder of the run."""
        self._choose(pl_module, trainer.predict_dataloaders)
        if self.pictures:
            self._claimed = new_output_dir(trainer, "explain")
            self.folder = self._claimed.path

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # {"pred": B masks}
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the chosen cases of a batch."""
        for row, index in enumerate(batch["index"].tolist()):
            if index in self._drawn:
                picture, pred = original_picture(trainer, batch, row), outputs["pred"][row]
                self._outcomes[index] = self._explain(pl_module, picture, pred, batch, row)

    on_predict_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how many cases were drawn, and how many captions lack the word."""
        if not self.pictures:
            return
        outcomes = list(gather_by_index(self._outcomes).values())
        skipped = f"; captions without {self.word!r}, skipped: {outcomes.count(False)}"
        rank_zero_info(
            f"explanations written to {self.folder}: {outcomes.count(True)}"
            + (skipped if False in outcomes else "")
        )

    on_predict_epoch_end = on_test_epoch_end

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the mark that a folder of its own is not complete."""
        self._claimed.finish()

    on_predict_end = on_test_end

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave a folder of its own marked as incomplete, for the next one to begin anew."""
        self._claimed.release()

    def _choose(self, pl_module: L.LightningModule, loader: Any) -> None:
        self._check_that_words_are_read(pl_module)
        self._drawn = evenly_spaced(self.pictures, rows_in(loader))
        self._outcomes = {}

    def _check_that_words_are_read(self, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationModule)
        if self.pictures and pl_module.ensemble:
            raise UserError(
                f"explain.pictures={self.pictures} with an ensemble of {len(pl_module.ensemble)} "
                "networks, which has no maps of its own",
                "explain one of them: give its checkpoint alone",
            )
        if self.word is not None:
            pl_module.token_mask([self.word], self.word)

    def _explain(
        self, pl_module: Any, picture: Bytes, pred: Tensor, batch: Batch, row: int
    ) -> bool:
        """Draw one row, unless its caption lacks the word."""
        text, truth = batch["text"][row], batch.get("truth")
        try:
            pl_module.token_mask([text], self.word)
        except UserError:
            return False
        maps = pl_module.explain(batch["image"][row : row + 1], [text], self.word)
        frame = frame_in(batch, row)
        if frame is not None:  # each map on the scale of what is shown of it
            shown = {name: without_border(values, frame)[0] for name, values in maps.items()}
            maps = {n: normalize_map(m[None], (m.shape[0], m.shape[1])) for n, m in shown.items()}
        page = explanation(
            picture,
            None if truth is None else mask_bytes(truth[row]),
            mask_bytes(pred),
            {name: values[0].cpu().numpy() for name, values in maps.items()},
            caption=text,
            word=self.word,
            title=[batch["case"][row]],
        )
        write_picture(self.folder / f"{batch['case'][row]}.png", page)
        return True
