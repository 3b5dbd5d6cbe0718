"""Tables of samples and cases on W&B, and their pictures on TensorBoard."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from textseg.batch import Batch
from textseg.callbacks.score_log import report_of
from textseg.errors import UserError, check_at_least
from textseg.metrics.case_table import without_border
from textseg.metrics.scores import dice_from_counts
from textseg.models.scoring import test_prefix
from textseg.preprocess import Bytes, read_image, resize_image
from textseg.runs.cases import read_cases
from textseg.runs.outputs import (
    evenly_spaced,
    frame_in,
    gather_by_index,
    mask_bytes,
    original_picture,
    rows_in,
)
from textseg.visualize.overlay import overlay

Pictures = tuple[Bytes, Bytes, Bytes]  # image [H, W, 3], truth [H, W], prediction [H, W]

# Columns of cases.csv that tell who a case is; the others may be sent.
CASE_PRIVATE = ("case", "case_id", "patient", "caption")
CASE_PUBLIC = (
    *("dice", "iou", "intersection", "predicted", "true", "pixels", "hd95", "nsd"),
    *("diagonal", "lesions_predicted", "lesions_matched", "lesions_matched_half"),
    *("lesion_number", "surface_unit", "lesion_size", "lesion_side", "truth"),
)


class SampleTables(L.Callback):
    """Samples of the validation after each epoch, and all cases of a test.

    W&B gets them as tables (val/samples, test/case_table); TensorBoard, whose files stay in the
    run's folder, as pictures.

    Args:
        samples: rows of the validation's table, and rows of either table with pictures; evenly
            spaced over the set.
        every_n_epochs: epochs between two tables of the validation.
        upload: also send W&B image, caption, masks, and names of case and patient. Off by default:
            they are patient data, and without it the tables hold row numbers and scores only.
    """

    def __init__(self, samples: int = 8, every_n_epochs: int = 5, upload: bool = False) -> None:
        check_at_least("samples", samples, 0)
        check_at_least("every_n_epochs", every_n_epochs, 1)
        self.samples = samples
        self.every_n_epochs = every_n_epochs
        self.upload = upload
        self._chosen: set[int] = set()
        self._rows: dict[int, tuple[list[Any], str, Pictures | None]] = {}
        self._cases: dict[int, tuple[str, Pictures | None]] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that pictures stay here, where W&B is used without `upload`."""
        if not self.upload and _wandb(trainer):
            rank_zero_info("W&B sample table: scores only (upload: false keeps pictures here)")

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the rows of the table, if this epoch has one."""
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self._chosen, self._rows = set(), {}
        shown = _wandb(trainer) or _tensorboards(trainer)
        if due and shown and not trainer.sanity_checking:
            self._chosen = evenly_spaced(self.samples, rows_in(trainer.val_dataloaders))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # {"pred": B masks}
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the chosen rows of a batch."""
        for row, index in enumerate(batch["index"].tolist()):
            if index in self._chosen:
                pred, mask = outputs["pred"][row], batch["mask"][row] > 0.5
                (truth,) = without_border(mask, frame_in(batch, row))
                pictures = self._pictures(trainer, batch, row, truth, pred)
                overlap, predicted, true = (int(m.sum()) for m in (pred & truth, pred, truth))
                dice = float(dice_from_counts(overlap, predicted, true))
                cells = [index, dice, predicted, true]
                self._rows[index] = (cells, batch["text"][row] if pictures else "", pictures)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the table of the validation."""
        if not self._chosen:
            return
        rows = gather_by_index(self._rows)
        if not trainer.is_global_zero:
            return
        columns: list[Any] = ["index", "dice", "predicted", "true"]
        columns += ["caption", "picture"] if self.upload else []
        data: list[Any] = []
        for index in sorted(rows):
            cells, text, pictures = rows[index]
            sent = [text, _masked(pictures)] if self.upload and pictures else []
            if _wandb(trainer):
                data.append([*cells, *sent])
            for board in _tensorboards(trainer):
                _draw(board, f"val/samples/{index}", pictures, text, trainer.global_step)
        for logger in _wandb(trainer):
            import wandb

            table = wandb.Table(columns=columns, data=data)
            logger.experiment.log({"val/samples": table, "epoch": trainer.current_epoch})

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the cases with pictures.

        Raises:
            UserError: no ResultsWriter writes the cases.
        """
        shown = _wandb(trainer) or _tensorboards(trainer)
        if shown and report_of(trainer) is None:
            raise UserError(
                "SampleTables shows the cases of a test, but nothing writes its cases.csv",
                "add textseg.callbacks.results_writer.ResultsWriter() to the trainer's callbacks",
            )
        total = rows_in(trainer.test_dataloaders)
        self._chosen = evenly_spaced(self.samples, total) if shown else set()
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
        """Keep every case's name, and the pictures of the chosen ones."""
        for row, index in enumerate(batch["index"].tolist()):
            pictures = None
            if index in self._chosen:
                truth, pred = batch["truth"][row], outputs["pred"][row]
                pictures = self._pictures(trainer, batch, row, truth, pred)
            self._cases[index] = (batch["case"][row], pictures)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log all cases, once ResultsWriter has written cases.csv."""
        report = report_of(trainer)
        if report is None or not (_wandb(trainer) or _tensorboards(trainer)):
            return
        cases = gather_by_index(self._cases)
        self._cases = {}
        if not trainer.is_global_zero:
            return
        key = f"{test_prefix(report.mode)}/case_table"  # .../cases is their number
        protocol = report.results[report.mode]["protocol"]
        index_of = {case: index for index, (case, _) in cases.items()}
        table = []
        for line in read_cases(report.folder / "cases.csv", protocol):
            index = index_of[line.case]
            table.append(asdict(line) | {"index": index, "picture": cases[index][1]})
        explained = self._explanations(report.folder, table)
        for logger in _wandb(trainer):
            logger.experiment.log({key: self._case_table(table, explained)})
        for board in _tensorboards(trainer):
            for row in table:
                index, step = row["index"], trainer.global_step
                _draw(board, f"{key}/{index}", row["picture"], row["caption"], step)
                if index in explained:
                    page = read_image(explained[index])
                    board.experiment.add_image(
                        f"{key}/{index}/explanation", page, step, dataformats="HWC"
                    )

    def _case_table(self, table: list[dict[str, Any]], explained: dict[int, Path]) -> Any:
        """All cases; names, captions and pictures only with `upload`."""
        import wandb

        columns: list[Any] = ["index", *CASE_PUBLIC]
        columns += [*CASE_PRIVATE, "picture", "explanation"] if self.upload else []
        data: list[Any] = []
        for row in table:
            cells = dict(row)
            if self.upload:
                page = explained.get(row["index"])
                cells["picture"] = _masked(row["picture"]) if row["picture"] else None
                cells["explanation"] = wandb.Image(read_image(page)) if page else None
            data.append([cells[column] for column in columns])
        return wandb.Table(columns=columns, data=data)

    def _explanations(self, folder: Path, table: list[dict[str, Any]]) -> dict[int, Path]:
        """explain/<case>.png by index, at most `samples` of them."""
        pages = {row["index"]: folder / "explain" / f"{row['case']}.png" for row in table}
        drawn = [index for index, page in sorted(pages.items()) if page.is_file()]
        return {drawn[i]: pages[drawn[i]] for i in sorted(evenly_spaced(self.samples, len(drawn)))}

    def _pictures(
        self, trainer: L.Trainer, batch: Batch, row: int, truth: Tensor, pred: Tensor
    ) -> Pictures | None:
        """Image, truth and prediction, if anybody may see them."""
        if not (self.upload or _tensorboards(trainer)):
            return None
        image = resize_image(original_picture(trainer, batch, row), (pred.shape[0], pred.shape[1]))
        return image, mask_bytes(truth > 0), mask_bytes(pred)


def _masked(pictures: Pictures) -> Any:
    """W&B's picture with truth and prediction as masks, which its pages switch on and off."""
    import wandb  # takes seconds, and most runs have no W&B logger

    image, truth, pred = pictures
    masks = {
        name: {"mask_data": mask, "class_labels": {1: "lesion"}}
        for name, mask in (("truth", truth), ("prediction", pred))
    }
    return wandb.Image(image, masks=masks)


def _draw(
    board: TensorBoardLogger, tag: str, pictures: Pictures | None, caption: str, step: int
) -> None:
    if pictures is not None:
        picture = overlay(*pictures, caption=caption, title=[tag])
        board.experiment.add_image(tag, picture, step, dataformats="HWC")


def _wandb(trainer: L.Trainer) -> list[WandbLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def _tensorboards(trainer: L.Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
