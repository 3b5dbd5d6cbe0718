"""The resolved config of a run, in its folder and on W&B."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

from textseg.callbacks.loggers import without_wandb_defaults
from textseg.encoders.weights import sha256_of
from textseg.models.baseline import ImageBaseline
from textseg.output import whole_file, writing
from textseg.runs import Run
from textseg.runs.folder import RUN_CONFIG
from textseg.runs.record import TrainingRecord


class RunConfig(SaveConfigCallback):
    """Puts the resolved config into a W&B run, and that of a fit into the run's folder.

    Comments hold what the settings do not tell, see `textseg.runs.record`. Beside the path of a
    file of image weights stands the SHA-256 of what was read from it: a path alone does not tell
    which file it was.

    Lightning's own way writes ./config.yaml for every W&B run, so that runs overwrite each other.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Save the config of everything but a fit."""
        if stage != "fit":
            super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the config of a fit, after the checkpoint: a refused resumption leaves the file."""
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the run's config.yaml, and send the settings to W&B."""
        if stage == "fit":
            folder = Path(trainer.default_root_dir)
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            config = without_wandb_defaults(self.config, folder.parent.name)
            file = folder / RUN_CONFIG
            record = self._record(trainer, pl_module)
            # A run that is resumed brings its own folder, and perhaps a new length.
            with whole_file(file) as part:
                self.parser.save(config, part, skip_none=False, overwrite=True)
                text = part.read_text(encoding="utf-8")
                part.write_text(record.written_into(text), encoding="utf-8")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(self.config.as_dict())

    def _record(self, trainer: L.Trainer, network: L.LightningModule) -> TrainingRecord:
        """What the settings do not tell of this training.

        A run that goes on reads no file of weights, and keeps the digest that its folder has.
        """
        settings: Any = self.config.model.get("init_args") or {}
        weights = settings.get("image_weights")
        if trainer.ckpt_path is not None:
            digest = Run(Path(trainer.default_root_dir)).training_record().weights
        else:
            digest = sha256_of(weights) if weights else None
        data: Any = getattr(trainer, "datamodule", None)
        rows = data.records("train") if hasattr(data, "records") else None
        batch = getattr(data, "batch_size", None)
        batches = trainer.world_size * trainer.accumulate_grad_batches
        return TrainingRecord(
            rows=None if rows is None else len(rows),
            captions=None if rows is None else captions_digest(rows),
            images_a_step=batch * batches if isinstance(batch, int) else None,
            pretrained=started_pretrained(network),
            weights=digest,
        )


def started_pretrained(network: L.LightningModule) -> bool | None:
    """Whether a network's image encoder starts from pretrained weights; None where unknown."""
    if isinstance(network, ImageBaseline):
        return network.pretrained
    encoder: Any = getattr(network, "image_encoder", None)
    pretrained = getattr(encoder, "pretrained_parameters", None)
    return None if pretrained is None else bool(list(pretrained()))


def captions_digest(rows: Iterable[Any]) -> str:
    """SHA-256 of the cases and captions of rows, whatever their order and their folder."""
    lines = sorted(f"{row.case}\t{row.text}" for row in rows)
    return hashlib.sha256("\n".join(lines).encode(errors="backslashreplace")).hexdigest()
