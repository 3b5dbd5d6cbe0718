"""The resolved config of a run, in its folder and on W&B."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

from textseg.callbacks.loggers import without_wandb_defaults
from textseg.encoders.weights import sha256_of
from textseg.output import whole_file, writing
from textseg.runs.folder import RUN_CONFIG, training_rows_line

WEIGHTS = "image_weights"  # the setting whose file is told by its digest
_WEIGHTS_LINE = re.compile(rf"^( *){WEIGHTS}: ", re.MULTILINE)
_DIGEST = re.compile(r"^ *# sha256 ([0-9a-f]{64})$", re.MULTILINE)


class RunConfig(SaveConfigCallback):
    """Puts the resolved config into a W&B run, and that of a fit into the run's folder.

    Beside the path of a file of image weights stands the SHA-256 of what was read from it, in a
    comment above: a path alone does not tell which file it was. Another comment tells the number of
    training rows.

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
            digest = self._digest(file, resumed=trainer.ckpt_path is not None)
            # A run that is resumed brings its own folder, and perhaps a new length.
            with whole_file(file) as part:
                self.parser.save(config, part, skip_none=False, overwrite=True)
                text = _with_comments(part.read_text(encoding="utf-8"), digest, trainer)
                part.write_text(text, encoding="utf-8")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(self.config.as_dict())

    def _digest(self, file: Path, *, resumed: bool) -> str | None:
        """SHA-256 of the image weights that the run began with; None where it read none.

        A run that goes on reads no file of weights, and keeps what its config says.
        """
        if resumed:
            written = file.read_text(encoding="utf-8") if file.is_file() else ""
            found = _DIGEST.search(written)
            return found[1] if found else None
        settings: Any = self.config.model.get("init_args") or {}
        weights = settings.get(WEIGHTS)
        return sha256_of(weights) if weights else None


def _with_comments(text: str, digest: str | None, trainer: L.Trainer) -> str:
    """A config with the number of training rows and the digest of the image weights, if known."""
    if digest:
        line = rf"\g<1># sha256 {digest}\n\g<0>"
        text = _WEIGHTS_LINE.sub(line, text, count=1)
    records = getattr(getattr(trainer, "datamodule", None), "records", None)
    return text if records is None else training_rows_line(len(records("train"))) + text
