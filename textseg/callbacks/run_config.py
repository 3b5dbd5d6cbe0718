"""The resolved config of a run, in its folder and on W&B."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

from textseg.callbacks.loggers import without_wandb_defaults
from textseg.runs.folder import RUN_CONFIG


class RunConfig(SaveConfigCallback):
    """Puts the resolved config into a W&B run, and that of a fit into the run's folder.

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
            folder.mkdir(parents=True, exist_ok=True)
            config = without_wandb_defaults(self.config, folder.parent.name)
            # A run that is resumed brings its own folder, and perhaps a new length.
            self.parser.save(config, folder / RUN_CONFIG, skip_none=False, overwrite=True)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(self.config.as_dict())
