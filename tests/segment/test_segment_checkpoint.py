"""What `textseg.load` makes of a checkpoint, alone or of something else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import textseg
import textseg.models
from tests.models.tiny import NETWORKS, tiny
from tests.segment.refusals import message
from tests.tiny_run import ROOT
from textseg.errors import UserError
from textseg.models import ImageBaseline

TEXT = "the large lesion on the left"


def changed(checkpoint: str, folder: Path, **changes: Any) -> Path:
    """The checkpoint with other hyper-parameters; None takes one away."""
    stored = torch.load(checkpoint, weights_only=True)
    hyper = {**stored["hyper_parameters"], **changes}
    stored["hyper_parameters"] = {k: v for k, v in hyper.items() if v is not None}
    torch.save(stored, folder / "changed.ckpt")
    return folder / "changed.ckpt"


def test_without_a_config_the_size_must_be_given(image_only: str, tmp_path: Path) -> None:
    alone = shutil.copy(image_only, tmp_path)
    with pytest.raises(UserError) as error:
        textseg.load(alone)
    cause, remedy = message(error)
    assert str(tmp_path / "config.yaml") in cause
    assert "image_size" in remedy
    assert textseg.load(alone, image_size=64).image_size == (64, 64)


@pytest.mark.parametrize(
    "content",
    [
        "data: [",
        "- a list",
        "data: {init_args: 5}",
        "data: {init_args: {image_size: large}}",
        "data: {init_args: {image_size: 32, resize: crop}}",
    ],
)
def test_a_config_that_is_none_is_named(image_only: str, tmp_path: Path, content: str) -> None:
    alone = shutil.copy(image_only, tmp_path)
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError) as error:
        textseg.load(alone)
    assert str(tmp_path / "config.yaml") in message(error)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_path": None}, "changed.ckpt"),
        ({"_class_path": "os.path"}, "os.path"),
        ({"_class_path": "elsewhere.ImageBaseline"}, "elsewhere.ImageBaseline"),
        ({"_class_path": "textseg.models.SegmentationModule"}, "SegmentationModule"),
        ({"charm": 3}, "ImageBaseline.*charm"),
        ({"decoder_options": {"decoder_channels": [16, 8, 8, 8, 4]}}, "ImageBaseline"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    image_only: str, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    other = changed(image_only, tmp_path, **changes)
    with pytest.raises(UserError, match=words) as error:
        textseg.load(other, image_size=32)
    assert message(error)


def test_a_network_of_ones_own_is_found_once_it_is_imported(
    image_only: str, tmp_path: Path
) -> None:
    class OwnNetwork(ImageBaseline):
        pass

    path = changed(image_only, tmp_path, _class_path=f"{__name__}.OwnNetwork")
    assert type(textseg.load(path, image_size=32).model) is OwnNetwork


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_rebuilt_as_it_was(name: str, tmp_path: Path) -> None:
    model = tiny(name, ["small lesion on the left", TEXT]).eval()
    hyper = {**model.hparams, "_class_path": f"textseg.models.{name}"}
    stored = {"state_dict": model.state_dict(), "hyper_parameters": hyper}
    torch.save(stored, tmp_path / "best.ckpt")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        image = torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1)[None].contiguous()
        wanted = model(image, [TEXT]).logits[0, 0].sigmoid().numpy()
    result = textseg.load(tmp_path / "best.ckpt", image_size=64).segment(pixels, TEXT)
    np.testing.assert_allclose(result.probs, wanted, atol=1e-6)
    assert wanted.std() > 1e-4


def test_textseg_load_imports_torch_only_when_called() -> None:
    code = "import sys; from textseg import load; print('torch' in sys.modules, load.__name__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["False", "load"]
