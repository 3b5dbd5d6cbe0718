"""The run of a small network that was not trained: its checkpoint and its config."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch

from tests.run_folder import write_config
from textseg.models import ImageBaseline


def write_untrained(run: Path, data: Path) -> Path:
    """Write the checkpoint and the config of a run on a RefHL-Seg folder.

    Returns:
        the checkpoint.
    """
    torch.manual_seed(0)
    channels = {"decoder_channels": [16, 8, 8, 8, 8]}
    settings = {"image_encoder": "tu-test_convnext", "pretrained": False}
    model = ImageBaseline(**settings, decoder_options=channels)  # type: ignore[arg-type]
    hyper = {**model.hparams, "_class_path": "textseg.models.ImageBaseline"}
    file = run / "checkpoints" / "best.ckpt"
    file.parent.mkdir(parents=True)
    content = {"state_dict": model.state_dict(), "hyper_parameters": hyper}
    content |= {"pytorch-lightning_version": L.__version__, "epoch": 0, "global_step": 0}
    torch.save(content, file)
    sizes = {"image_size": 32, "batch_size": 2, "num_workers": 0, "cache": None}
    write_config(
        run,
        trainer={"accelerator": "cpu", "enable_progress_bar": False, "logger": False},
        model={
            "class_path": "textseg.models.ImageBaseline",
            "init_args": {**settings, "decoder_options": channels},
        },
        data={
            "class_path": "datamodules.RefHLSegDataModule",
            "init_args": {"root": str(data), "split": "manifest", **sizes},
        },
    )
    return file
