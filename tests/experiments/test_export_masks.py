"""experiments/export_masks.py: pixels are counted as by hand, and an export has none to count."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import textseg
from tests.export.checkpoints import write_checkpoint
from tests.models.stand_ins import write_bert
from tests.tiny_run import ROOT, load_script

pytestmark = pytest.mark.slow

pytest.importorskip("onnxscript", reason="needs the extra [export]")
script: Any = load_script(ROOT / "experiments/export_masks.py")


def test_pixels_of_one_mask_alone_are_counted_and_those_beyond_the_tolerance() -> None:
    wanted = np.array([[1.0, -0.0004, 0.0004], [-0.5, -0.5, 0.002]], dtype=np.float32)
    found = np.array([[0.9, 0.0002, 0.0004], [-0.5, 0.5, -0.001]], dtype=np.float32)
    counted = script.Differences(tolerance=1e-3)
    counted.count(wanted, found)
    counted.count(wanted, wanted)
    assert (counted.images, counted.pixels, counted.images_unlike) == (2, 12, 1)
    assert counted.unlike == 3
    assert counted.beyond == 2
    assert counted.largest == pytest.approx(1.0)


def test_an_export_is_compared_with_its_checkpoint_at_the_pictures_own_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bert(tmp_path / "encoder")
    checkpoint, _ = write_checkpoint(
        tmp_path, "WordsNetwork", text_encoder=str(tmp_path / "encoder")
    )
    monkeypatch.chdir(tmp_path)
    given = ["--ckpt_path", str(checkpoint), "--synthesize", "64"]
    monkeypatch.setattr(sys, "argv", ["export_masks.py", *given])
    assert script.main() == 0
    said = capsys.readouterr().out
    rows = script.RefHLSegDataModule(synthesize=64, cache=None).records("test")
    assert f"{len(rows)} test rows" in said
    assert "beyond the tolerance: 0" in said
    assert said.count(" ms an image") == 2
    net = textseg.load(checkpoint, device="cpu")
    row = rows[0]
    assert np.array_equal(script.logits(net, row) > 0, net.segment(row.image, row.text).mask)
