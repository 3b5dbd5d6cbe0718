"""Checkpoints of the releases of this major version are read by today's networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import textseg
from tests.golden.described import RELEASES, described, state_of, write_checkpoint
from tests.models.stand_ins import CAPTIONS
from tests.models.tiny import NETWORKS, tiny
from textseg.checkpoint import weights_digest
from textseg.errors import UserError

MAJOR = textseg.__version__.partition(".")[0]
FILES = sorted(RELEASES.glob(f"{MAJOR}.*.json"))
RELEASED = {
    f"{file.stem} {name}": content
    for file in FILES
    for name, content in json.loads(file.read_text()).items()
}


def test_this_version_is_described_with_all_of_its_networks() -> None:
    """Otherwise: python -m tests.golden.described."""
    assert {f"{textseg.__version__} {name}" for name in NETWORKS} <= {*RELEASED}


@pytest.mark.parametrize("name", RELEASED)
def test_a_checkpoint_of_a_release_is_read_whole(tmp_path: Path, name: str) -> None:
    content, file = RELEASED[name], tmp_path / "best.ckpt"
    write_checkpoint(file, content)
    net = textseg.load(file, device="cpu")
    wanted, own = state_of(content), net.model.state_dict()
    assert {*own} == {*wanted}
    for key, value in wanted.items():
        assert torch.equal(own[key], value) if isinstance(value, torch.Tensor) else key in own
    settings = dict(net.model.hparams)
    assert {k: settings[k] for k in content["settings"]} == content["settings"]
    assert weights_digest(own) == content["digest"], "calibrations and exports name weights by it"
    with torch.no_grad():
        logits = net.model(torch.rand(2, 3, 64, 64), CAPTIONS).logits
    assert logits.shape[:2] == (2, 1)


def test_a_renamed_weight_and_a_setting_that_is_gone_are_seen(tmp_path: Path) -> None:
    content: dict[str, Any] = described(tiny("ImageBaseline"))
    renamed = {f"{name}_": told for name, told in content["weights"].items()}
    for changed in ({"weights": renamed}, {"settings": content["settings"] | {"gone": 1}}):
        write_checkpoint(tmp_path / "best.ckpt", content | changed)
        with pytest.raises(UserError):
            textseg.load(tmp_path / "best.ckpt", device="cpu")
