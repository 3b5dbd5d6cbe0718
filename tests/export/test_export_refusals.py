"""`textseg export` of networks of a user's own, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import textseg
from tests.tiny_run import call
from textseg.batch import SegmentationOutput, TextFeatures
from textseg.checkpoint import ABOUT
from textseg.encoders import NoText, TextEncoderBase
from textseg.errors import UserError
from textseg.export import export
from textseg.models.base import SegmentationModule
from textseg.output import INCOMPLETE

PICTURE = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)


class OwnWords(TextEncoderBase):
    """Its tokenizer is code."""

    dim = 1

    def forward(self, text: Sequence[str]) -> TextFeatures:
        tokens = torch.tensor([[[float(len(words))]] for words in text])
        return TextFeatures(tokens, torch.ones_like(tokens[..., 0]) > 0, tokens[:, 0])


class OwnNetwork(SegmentationModule):
    """One convolution, and by `kind` something that an export cannot have."""

    def __init__(self, *, kind: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        self.text_encoder = OwnWords() if kind == "words" else NoText()
        self.head = nn.Conv2d(3, 1, 3, padding=1)
        self.place = nn.Parameter(torch.rand(64, 96)) if kind == "fixed" else 0

    def encode_text(self, text: Sequence[str]) -> TextFeatures:
        return self.text_encoder(text)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        if self.kind == "branch" and image.mean() > 0.5:
            image = 1 - image
        return SegmentationOutput(self.head(image) + self.place, {})

    def forward(self, image: Tensor, text: Sequence[str]) -> SegmentationOutput:
        output = super().forward(image, text)
        return SegmentationOutput(output.logits + (self.kind == "more"), {})

    def prepare_captions(self, captions: Sequence[str], *, training: bool) -> None:
        pass


def checkpoint(folder: Path, kind: str = "") -> Path:
    torch.manual_seed(0)
    network = OwnNetwork(kind=kind)
    stored = {
        "state_dict": network.state_dict(),
        "hyper_parameters": {**network.hparams, "_class_path": f"{__name__}.OwnNetwork"},
        ABOUT: {"image_size": [64, 96]},
    }
    torch.save(stored, folder / "own.ckpt")
    return folder / "own.ckpt"


def test_an_own_network_is_exported_and_nothing_is_written_over(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    arguments = ("export", "--ckpt_path", path, "--format", "torch_export")
    for name in ("exported", "exported_2"):
        outcome = call(*arguments, cwd=tmp_path)
        assert outcome.status == 0, outcome.err
        assert f"written to {tmp_path / name}" in outcome.out
        assert {file.name for file in (tmp_path / name).iterdir()} == {
            "manifest.json",
            "network.pt2",
        }
        for file in (tmp_path / name).iterdir():
            assert str(Path(__file__).parent).encode() not in file.read_bytes()
    found, wanted = (textseg.load(tmp_path / p).segment(PICTURE) for p in ("exported", "own.ckpt"))
    np.testing.assert_allclose(found.probs, wanted.probs, rtol=0, atol=1e-5)
    textseg.load(tmp_path / "exported", image_size=128).segment(PICTURE)
    (tmp_path / "exported_2" / INCOMPLETE).write_text("")
    with pytest.raises(UserError, match="not complete"):
        textseg.load(tmp_path / "exported_2")
    with pytest.raises(UserError, match=r"\[32, 32\].* 64"):
        textseg.load(tmp_path / "exported", image_size=32).segment(PICTURE)


def test_a_network_of_one_size_is_exported_for_it_and_says_so(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "fixed")
    outcome = call("export", "--ckpt_path", path, "--format", "torch_export", cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    assert "64 x 96 alone" in outcome.out
    found, wanted = (textseg.load(tmp_path / p).segment(PICTURE) for p in ("exported", "own.ckpt"))
    np.testing.assert_allclose(found.probs, wanted.probs, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"\[96, 96\].*\[64, 96\]"):
        textseg.load(tmp_path / "exported", image_size=96).segment(PICTURE)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("branch", "OwnNetwork"), ("words", "OwnWords"), ("more", "differs")],
)
def test_what_cannot_be_exported_says_why_in_two_lines_and_leaves_nothing(
    kind: str, said: str, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path, kind)
    outcome = call("export", "--ckpt_path", path, "--format", "torch_export", cwd=tmp_path)
    assert outcome.status == 2
    cause, remedy = outcome.message()
    assert said in cause
    assert len(remedy) > len("remedy: ")
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_format_and_a_missing_checkpoint_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tflite"):
        export(ckpt_path="a.ckpt", format="tflite")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"a\.ckpt"):
        export(ckpt_path=str(tmp_path / "a.ckpt"), format="torch_export")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_one_line_that_says_what_to_install(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):  # as if the others were there
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    outcome = call("export", "--ckpt_path", checkpoint(tmp_path), cwd=tmp_path)
    assert outcome.status == 2
    cause, remedy = outcome.message()
    assert package in cause
    assert "textseg[export]" in remedy
