"""Pictures, tables and predictions on disk and on W&B; never in a step method."""

from __future__ import annotations

import csv
import json
import netrc
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import lightning as L
import torch.distributed
import wandb
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor

from textseg.batch import Batch
from textseg.checkpoint import RUN_CONFIG
from textseg.errors import UserError
from textseg.metrics import Protocol, Rows, dice, iou, summary
from textseg.models.base import SegmentationModule, caption_mode_of
from textseg.outputs import (
    OUTLINES,
    claim_folder,
    claim_test_folder,
    evenly_spaced,
    mask_bytes,
    picture_of,
    truth_of,
    write_mask,
)
from textseg.preprocess import Bytes, resize_image
from textseg.visualize import explanation, overlay

T = TypeVar("T")


def _callbacks(trainer: Any) -> list[L.Callback]:
    return trainer.callbacks


def _rows_in(loader: Any) -> int:
    return len(loader.dataset)


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
        self._drawn = evenly_spaced(self.overlays, _rows_in(trainer.test_dataloaders))
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
        cases = _gathered(self._cases)
        groups = [cases[int(index)][1] for index in rows.index]
        result: dict[str, Any] = {"caption_mode": self.mode, "protocol": pl_module.protocol}
        result["truth"] = self.truth
        result |= summary(rows, groups, protocol=pl_module.protocol)
        self.results[self.mode] = result
        if trainer.is_global_zero:
            (self.folder / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")
            _write_cases(self.folder / "cases.csv", rows, cases, pl_module, self.truth)


def _gathered(cases: dict[int, T]) -> dict[int, T]:
    """What all processes know, by index."""
    if not torch.distributed.is_initialized():
        return cases
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, cases)
    return {index: case for part in parts for index, case in part.items()}


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


class PredictionWriter(L.Callback):
    """Writes predict/<image stem>__<row>.png: masks of 0 and 255 at each image's original size."""

    def __init__(self) -> None:
        self.folder = Path()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.folder = claim_folder(trainer, "predict")

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # {"pred": B masks}
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for case, mask in zip(batch["case"], outputs["pred"], strict=True):
            write_mask(mask, self.folder / f"{case}.png")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rank_zero_info(f"masks written to {self.folder}")


class ExplanationWriter(L.Callback):
    """Writes explain/<case>.png: what the network looked at; docs/explanations.md says what it is.

    A test writes into its own folder test/<caption mode>/, a prediction into the run's. Each case
    costs about four forward passes, so none is explained unless asked for.

    Args:
        pictures: cases to explain, evenly spaced over the set; 0 for none.
        word: word or phrase whose maps are drawn; by default all words of the caption together.
            A case without it has no picture.
    """

    def __init__(self, pictures: int = 0, word: str | None = None) -> None:
        if pictures < 0:
            raise UserError(f"explain.pictures={pictures} is negative", "give 0 for none")
        if word is not None and not (word.strip() and pictures):
            raise UserError(
                f"explain.word={word!r} with explain.pictures={pictures} draws nothing",
                "give a word and the number of pictures, for example --explain.pictures 8",
            )
        self.pictures = pictures
        self.word = word
        self.folder = Path()
        self._drawn: set[int] = set()
        self._outcomes: dict[int, bool] = {}  # by index: whether the caption holds the word

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check_that_words_are_read(pl_module)  # before a training whose test would refuse

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After every on_test_start, in which TestReport claims the folder."""
        self._choose(pl_module, trainer.test_dataloaders)
        if not self.pictures:
            return
        folders = [c.folder for c in _callbacks(trainer) if isinstance(c, TestReport)]
        own = folders[0] if folders else claim_test_folder(trainer)
        self.folder = own / "explain"
        self.folder.mkdir(exist_ok=True)

    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._choose(pl_module, trainer.predict_dataloaders)
        if self.pictures:
            self.folder = claim_folder(trainer, "explain")

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
            if index in self._drawn:
                self._outcomes[index] = self._explain(pl_module, outputs["pred"][row], batch, row)

    on_predict_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.pictures:
            return
        outcomes = list(_gathered(self._outcomes).values())
        skipped = f"; captions without {self.word!r}, skipped: {outcomes.count(False)}"
        rank_zero_info(
            f"explanations written to {self.folder}: {outcomes.count(True)}"
            + (skipped if False in outcomes else "")
        )

    on_predict_epoch_end = on_test_epoch_end

    def _choose(self, pl_module: L.LightningModule, loader: Any) -> None:
        self._check_that_words_are_read(pl_module)
        self._drawn = evenly_spaced(self.pictures, _rows_in(loader))
        self._outcomes = {}

    def _check_that_words_are_read(self, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationModule)
        if self.word is not None:
            pl_module.select_words([self.word], self.word)

    def _explain(self, pl_module: Any, pred: Tensor, batch: Batch, row: int) -> bool:
        """Draw one row, unless its caption lacks the word."""
        text, truth = batch["text"][row], batch.get("truth")
        try:
            pl_module.select_words([text], self.word)
        except UserError:
            return False
        maps = pl_module.explain(batch["image"][row : row + 1], [text], self.word)
        page = explanation(
            picture_of(batch, row),
            None if truth is None else mask_bytes(truth[row]),
            mask_bytes(pred),
            {name: values[0].cpu().numpy() for name, values in maps.items()},
            caption=text,
            word=self.word,
            title=[batch["case"][row]],
        )
        Image.fromarray(page).save(self.folder / f"{batch['case'][row]}.png")
        return True


class RunConfig(SaveConfigCallback):
    """Puts the resolved config of a fit into the run's folder and into its W&B run.

    Lightning's own way writes ./config.yaml for every W&B run, so that runs overwrite each other.
    """

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, folder / RUN_CONFIG, skip_none=False)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(self.config.as_dict())


class WandbSamples(L.Callback):
    """A W&B table of the same validation samples after each epoch.

    Args:
        samples: rows, evenly spaced over the validation set.
        every_n_epochs: epochs between two tables.
        upload: also send image, caption and masks. Off by default: they are patient data, and
            without it the table holds row numbers and scores only.
    """

    def __init__(self, samples: int = 8, every_n_epochs: int = 5, upload: bool = False) -> None:
        if samples < 0 or every_n_epochs < 1:
            raise UserError(
                f"samples={samples}, every_n_epochs={every_n_epochs}: one is too small",
                "give samples of 0 or more and every_n_epochs of 1 or more",
            )
        self.samples = samples
        self.every_n_epochs = every_n_epochs
        self.upload = upload
        self._chosen: set[int] = set()
        self._rows: dict[int, tuple[list[Any], tuple[Bytes, Bytes, Bytes] | None]] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.upload and self._loggers(trainer):
            rank_zero_info("W&B sample table: scores only (upload: false keeps pictures here)")

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self._chosen, self._rows = set(), {}
        if due and self._loggers(trainer) and not trainer.sanity_checking:
            self._chosen = evenly_spaced(self.samples, _rows_in(trainer.val_dataloaders))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # {"pred": [B, H, W]}
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for row, index in enumerate(batch["index"].tolist()):
            if index in self._chosen:
                self._rows[index] = self._row(index, row, outputs["pred"][row], batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._chosen:
            return
        rows = _gathered(self._rows)
        columns: list[Any] = ["index", "dice", "predicted", "true"]
        columns += ["caption", "picture"] if self.upload else []
        if trainer.is_global_zero:
            data: list[Any] = [_table_row(*rows[index]) for index in sorted(rows)]
            for logger in self._loggers(trainer):
                table = wandb.Table(columns=columns, data=data)
                logger.experiment.log({"val/samples": table, "epoch": trainer.current_epoch})

    def _row(
        self, index: int, row: int, pred: Tensor, batch: Batch
    ) -> tuple[list[Any], tuple[Bytes, Bytes, Bytes] | None]:
        """Cells, and image, truth and prediction if they may be sent."""
        truth = batch["mask"][row, 0] > 0.5
        overlap, total = int((pred & truth).sum()), int(pred.sum() + truth.sum())
        cells: list[Any] = [index, 2 * overlap / total if total else 1.0]
        cells += [int(pred.sum()), int(truth.sum())]
        if not self.upload:
            return cells, None
        image = resize_image(picture_of(batch, row), (pred.shape[0], pred.shape[1]))
        return [*cells, batch["text"][row]], (image, mask_bytes(truth), mask_bytes(pred))

    @staticmethod
    def _loggers(trainer: L.Trainer) -> list[WandbLogger]:
        return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def _table_row(cells: list[Any], pictures: tuple[Bytes, Bytes, Bytes] | None) -> list[Any]:
    if pictures is None:
        return cells
    image, truth, pred = pictures
    masks = {
        name: {"mask_data": mask, "class_labels": {1: "lesion"}}
        for name, mask in (("truth", truth), ("prediction", pred))
    }
    return [*cells, wandb.Image(image, masks=masks)]


def wandb_obstacle() -> str:
    """Why W&B cannot be reached from here ("" if it can), found without asking or waiting."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        return f"WANDB_MODE={mode}"
    default = wandb.Settings().base_url
    url = os.environ.get("WANDB_BASE_URL") or default
    server = urlsplit(url)
    hosts = [server.netloc, server.hostname or "", *([CLOUD] if url == default else [])]
    if not any(os.environ.get(name) for name in CREDENTIALS) and not _in_netrc(hosts):
        return "no API key (wandb login sets one)"
    # Behind a proxy only the proxy is asked directly; its scheme may be left out.
    proxy = "" if proxy_bypass(server.hostname or "") else getproxies().get(server.scheme, "")
    target = proxy or url
    reached = urlsplit(target if "://" in target else f"http://{target}")
    port = reached.port or (443 if reached.scheme == "https" else 80)
    try:
        socket.create_connection((reached.hostname or "", port), timeout=3).close()
    except OSError as error:
        return f"{reached.hostname} cannot be reached ({error})"
    return ""


CLOUD = "api.wandb.ai"  # where keys of W&B's own cloud are kept, whatever its host is called now
CREDENTIALS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


def _in_netrc(hosts: Sequence[str]) -> bool:
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(logins.authenticators(host) for host in hosts)
