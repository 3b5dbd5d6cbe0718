"""Fixtures of the tests of `textseg segment`."""

from __future__ import annotations

import pytest
import torch
import yaml

from textseg.models import ImageBaseline


@pytest.fixture(scope="module")
def image_only(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checkpoint of a network that reads no words, as a fit leaves it, with its config."""
    folder = tmp_path_factory.mktemp("image_only")
    torch.manual_seed(0)
    channels = {"decoder_channels": [16, 8, 8, 8, 8]}
    model = ImageBaseline(
        image_encoder="tu-test_convnext", pretrained=False, decoder_options=channels
    )
    hyper = {**model.hparams, "_class_path": "textseg.models.ImageBaseline"}
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": hyper}, folder / "best.ckpt")
    settings = {"data": {"init_args": {"image_size": 32}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return str(folder / "best.ckpt")
