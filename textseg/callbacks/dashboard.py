"""What W&B is sent, and whether it can be reached; the only module that imports wandb."""

from __future__ import annotations

import netrc
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import lightning as L
import wandb
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from textseg.batch import Batch
from textseg.callbacks.gathering import gathered, rows_in
from textseg.checkpoint import RUN_CONFIG
from textseg.errors import UserError
from textseg.outputs import evenly_spaced, mask_bytes, picture_of
from textseg.preprocess import Bytes, resize_image

CLOUD = "api.wandb.ai"  # where keys of W&B's own cloud are kept, whatever its host is called now
CREDENTIALS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


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
            self._chosen = evenly_spaced(self.samples, rows_in(trainer.val_dataloaders))

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
        rows = gathered(self._rows)
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


def _in_netrc(hosts: Sequence[str]) -> bool:
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(logins.authenticators(host) for host in hosts)
