"""What a test writes: metrics.json, cases.csv and overlays."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from PIL import Image

from textseg.batch import Batch
from textseg.callbacks.gathering import gathered, rows_in
from textseg.errors import UserError
from textseg.metrics import Protocol, Rows, dice, iou, summary
from textseg.models.base import SegmentationModule, caption_mode_of
from textseg.outputs import (
    OUTLINES,
    claim_test_folder,
    evenly_spaced,
    mask_bytes,
    picture_of,
    truth_of,
    write_mask,
)
from textseg.visualize import overlay


class TestReport(L.Callback):
    """Writes test/<caption mode>/: metrics.json, cases.csv, overlays/ and, if asked, masks/.

    A second test of the same checkpoint writes beside the first, never over it. A test on other
    data than the run's own writes test_on_<dataset folder>/<caption mode>/. Where the truth is no
    outline (the DataModule's `mask_source`, such as "boxes"), each of them says so.

    Args:
        overlays: pictures to draw, evenly spaced over the test set.
        save_masks: also write every predicted mask, as predict does.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    def __init__(self, overlays: int = 24, save_masks: bool = False) -> None:
        if overlays < 0:
            raise UserError(f"overlays={overlays} is negative", "give 0 for none")
        self.overlays = overlays
        self.save_masks = save_masks
        self.results: dict[str, dict[str, Any]] = {}
        self.folder = Path()
        self._drawn: set[int] = set()
        self._cases: dict[int, tuple[str, str, str]] = {}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.mode = caption_mode_of(trainer)
        self.truth = truth_of(trainer)
        self.folder = claim_test_folder(trainer)
        (self.folder / "overlays").mkdir(exist_ok=True)
        if self.save_masks:
            (self.folder / "masks").mkdir(exist_ok=True)
        self._drawn = evenly_spaced(self.overlays, rows_in(trainer.test_dataloaders))
        self._cases = {}

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # {"pred": B masks}
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for row, index in enumerate(batch["index"].tolist()):
            case, text = batch["case"][row], batch["text"][row]
            self._cases[index] = (case, batch["case_id"][row], text)
            if self.save_masks:
                write_mask(outputs["pred"][row], self.folder / "masks" / f"{case}.png")
            if index in self._drawn:
                picture = overlay(
                    picture_of(batch, row),
                    mask_bytes(batch["truth"][row]),
                    mask_bytes(outputs["pred"][row]),
                    caption=text,
                    title=[case, *([f"truth: {self.truth}"] * (self.truth != OUTLINES))],
                )
                Image.fromarray(picture).save(self.folder / "overlays" / f"{case}.png")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationModule)
        rows = pl_module.test_cases.compute()
        cases = gathered(self._cases)
        groups = [cases[int(index)][1] for index in rows.index]
        result: dict[str, Any] = {"caption_mode": self.mode, "protocol": pl_module.protocol}
        result["truth"] = self.truth
        result |= summary(rows, groups, protocol=pl_module.protocol)
        self.results[self.mode] = result
        if trainer.is_global_zero:
            (self.folder / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")
            _write_cases(self.folder / "cases.csv", rows, cases, pl_module, self.truth)


def _write_cases(
    path: Path,
    rows: Rows,
    cases: Mapping[int, tuple[str, str, str]],
    pl_module: SegmentationModule,
    truth: str,
) -> None:
    protocol: Protocol = pl_module.protocol
    header = ["case", "case_id", "text", "dice", "iou", "intersection", "predicted", "true"]
    scores = zip(
        dice(rows, protocol=protocol).tolist(),
        iou(rows, protocol=protocol).tolist(),
        rows.intersection.tolist(),
        rows.predicted.tolist(),
        rows.true.tolist(),
        rows.hd95.tolist(),
        rows.nsd.tolist(),
        strict=True,
    )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "hd95", "nsd", "truth"])
        for index, values in zip(rows.index.tolist(), scores, strict=True):
            writer.writerow([*cases[index], *("" if v != v else v for v in values), truth])
