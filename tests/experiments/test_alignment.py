"""experiments/alignment.py: how often the own caption is nearer than the mirrored one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import QaTaCov19DataModule
from tests.experiments.scripts import load_script
from textseg.batch import SegmentationOutput


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("alignment")


class SeesSides(torch.nn.Module):
    """Level 1 embeds the half of the picture and the side of a caption alike, level 2 opposite."""

    def forward(self, image: Tensor, texts: Sequence[str]) -> SegmentationOutput:
        count, _, height, width = image.shape
        halves = torch.zeros(count, 2, height, width)
        # The left lung of QaTa's captions is on the picture's left.
        halves[:, 0, :, : width // 2] = 1
        halves[:, 1, :, width // 2 :] = 1
        sides = torch.tensor([[float("left lung" in t), float("right lung" in t)] for t in texts])
        aux = {"pixels_1": halves, "text_1": sides, "pixels_2": halves, "text_2": sides.flip(1)}
        return SegmentationOutput(image[:, :1], aux)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("qata")
    given: dict[str, Any] = {"image_size": 64, "num_workers": 0, "cache": None, "batch_size": 4}
    return QaTaCov19DataModule(root=str(root), synthesize=40, **given)


def test_an_embedding_of_sides_tells_every_one_sided_caption_from_its_mirror(
    script: ModuleType, data: Any
) -> None:
    found = script.margins(SeesSides(), data)
    right, wrong = (found[f"{level}, one-sided"] for level in (1, 2))
    assert len(right) == len(wrong) >= 2
    assert all(margin > 0 for margin in right)
    assert all(margin < 0 for margin in wrong)
    assert len(found["1"]) >= len(right)


def test_a_network_without_alignment_is_refused(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    class Loaded:
        model = SeesSides()

    monkeypatch.setattr(script.textseg, "load", lambda *_, **__: Loaded)
    monkeypatch.setattr(script, "margins", lambda *_: {})
    monkeypatch.setattr("sys.argv", ["alignment.py", "last.ckpt", "--root", str(tmp_path)])
    with pytest.raises(SystemExit):
        script.main()
    assert "without alignment" in capsys.readouterr().err
