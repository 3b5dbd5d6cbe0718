"""The folder of `textseg export`: its manifest, and the network in it, run by onnxruntime or torch.

| file | what it is |
|---|---|
| manifest.json | what was exported, how images and texts are prepared, digests, versions |
| network.onnx or .pt2 | image [B, 3, H, W] in [0, 1], tokens [B, L, D], mask [B, L] -> logits |
| text_encoder.onnx or .pt2 | input_ids, attention_mask [B, L] -> last_hidden_state [B, L, D] |
| tokenizer.json | of the package tokenizers; pads and cuts to L |
| run.py | of onnx: segments an image without torch and textseg |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textseg.batch import SegmentationOutput, TextFeatures
from textseg.checkpoint import EXPORT_MANIFEST as MANIFEST
from textseg.encoders import NoText, ReadyTextEncoder
from textseg.errors import UserError, refusing
from textseg.models.base import SegmentationModule

NETWORK, TEXT_ENCODER, TOKENIZER = "network", "text_encoder", "tokenizer.json"
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}
NETWORK_INPUTS = ("image", "tokens", "mask")
TEXT_INPUTS, TEXT_OUTPUT = ("input_ids", "attention_mask"), "last_hidden_state"
_REMEDY = "export the checkpoint again: textseg export --ckpt_path CHECKPOINT"

Part = Callable[..., Tensor]
"""Runs a file of an export: its inputs, by name, to its output."""


def is_export(path: str | Path) -> bool:
    """Whether a path is a folder of `textseg export`."""
    return (Path(path) / MANIFEST).is_file()


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export, whose files are checked against their digests.

    Raises:
        UserError: it cannot be read, or a file is missing or is not the one that was exported.
    """
    file = folder / MANIFEST
    with refusing((OSError, ValueError), f"{file} cannot be read as JSON", _REMEDY):
        manifest = json.loads(file.read_text(encoding="utf-8"))
    wanted = ("format", "network", "image", "text", "weights", "files")
    if not isinstance(manifest, dict) or any(name not in manifest for name in wanted):
        raise UserError(f"{file} lacks one of {', '.join(wanted)}", _REMEDY)
    for name, facts in manifest["files"].items():
        with refusing(OSError, f"{folder / name} cannot be read", _REMEDY):
            found = digest(folder / name)
        if found != facts["sha256"]:
            raise UserError(
                f"{folder / name} is not the file that was exported: its SHA-256 is {found}, and "
                f"{MANIFEST} says {facts['sha256']}",
                _REMEDY,
            )
    return manifest


class ExportedNetwork(SegmentationModule):
    """A network in the folder of an export: tested nowhere and trained nowhere, it gives logits.

    It runs on the CPU, in fp32, wherever its images are.

    Args:
        folder: of the export.
        manifest: what `read_manifest` gives.

    Raises:
        UserError: a file cannot be loaded, or onnxruntime is not installed.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        SegmentationModule.__init__(self)
        self._name: str = manifest["network"]
        self._size: list[int] = manifest["image"]["size"]
        self._dynamic: list[bool] = manifest["image"]["dynamic"]
        self._least: int = manifest["image"]["least"]
        suffix = SUFFIXES[manifest["format"]]
        self._network = load_part(folder / f"{NETWORK}{suffix}")
        text = manifest["text"]
        self.text_encoder: NoText | ReadyTextEncoder = NoText()
        if text is not None:
            encoder = load_part(folder / f"{TEXT_ENCODER}{suffix}")
            self.text_encoder = ReadyTextEncoder(
                lambda ids, mask: encoder(**dict(zip(TEXT_INPUTS, (ids, mask), strict=True))),
                (folder / TOKENIZER).read_text(encoding="utf-8"),
                name=text["encoder"],
                dim=text["dim"],
                max_tokens=text["max_tokens"],
                pad_id=text["pad_id"],
            )

    @property
    def network_name(self) -> str:
        """The class that was exported."""
        return self._name

    def encode_text(self, text: Sequence[str]) -> TextFeatures:
        """Encode B captions: tokens [B, L, D], mask [B, L] and pooled [B, D], on the CPU."""
        return self.text_encoder(text)

    def forward_features(self, image: Tensor, text: TextFeatures) -> SegmentationOutput:
        """Images [B, 3, H, W] and word features to logits.

        Raises:
            UserError: the export takes no images of this size.
        """
        size = list(image.shape[-2:])
        sides = zip(size, self._size, self._dynamic, strict=True)
        if any(
            side != fixed and not (dynamic and side >= self._least)
            for side, fixed, dynamic in sides
        ):
            others = f" and sizes from {self._least} on" * all(self._dynamic)
            raise UserError(
                f"image_size={size} cannot be taken: {self._name} was exported for {self._size}"
                f"{others}",
                "leave image_size out, or export the checkpoint with this image_size",
            )
        values = (image.float().cpu(), text.tokens.cpu(), text.mask.cpu())
        count = 1 if isinstance(self.text_encoder, NoText) else len(NETWORK_INPUTS)
        inputs = dict(zip(NETWORK_INPUTS[:count], values[:count], strict=True))
        return SegmentationOutput(self._network(**inputs).to(image.device), {})

    def prepare_captions(self, captions: Sequence[str], *, training: bool) -> None:
        """Warn of cut and unknown words."""
        self.text_encoder.prepare_captions(captions, training=training)

    def token_mask(self, text: Sequence[str], word: str | None) -> Tensor:
        """Tokens of `word` in the captions, or of all content words if it is None: [B, L] bool."""
        return self.text_encoder.word_mask(text, word)

    def explain(
        self, image: Tensor, text: Sequence[str], word: str | None = None
    ) -> dict[str, Tensor]:
        """An export has no gradients and no maps.

        Raises:
            UserError: always.
        """
        raise UserError("an export explains no masks", "explain those of its checkpoint")

    def parameter_groups(
        self,
        *,
        lr: float,
        weight_decay: float,
        pretrained_lr_scale: float,
        text_lr_scale: float | None = None,
    ) -> list[dict[str, Any]]:
        """Nothing is trained.

        Raises:
            UserError: always.
        """
        raise UserError("an export is not trained", "train from its checkpoint")


def load_part(file: Path) -> Part:
    """Load a file of an export.

    Raises:
        UserError: it cannot be loaded, or onnxruntime is not installed.
    """
    load = _onnx_part if file.suffix == SUFFIXES["onnx"] else _torch_part
    with refusing(Exception, f"{file} cannot be loaded", _REMEDY):  # by as many kinds as there are
        return load(file)


def require(*packages: str) -> list[Any]:
    """The modules of optional packages that an export needs.

    Raises:
        UserError: one is not installed.
    """
    try:
        return [import_module(name) for name in packages]
    except ImportError as error:
        missing = error.name or packages[0]
        raise UserError(
            f"the package {missing} is not installed", 'pip install "textseg[export]"'
        ) from error


def _onnx_part(file: Path) -> Part:
    (onnxruntime,) = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # its warnings are of the graph, which no user wrote
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    used = {one.name for one in session.get_inputs()}

    def run(**inputs: Tensor) -> Tensor:
        values = {
            name: np.ascontiguousarray(value.detach().numpy())
            for name, value in inputs.items()
            if name in used
        }
        (result,) = session.run(None, values)
        return torch.from_numpy(result)

    return run


def _torch_part(file: Path) -> Part:
    module = torch.export.load(file).module()

    def run(**inputs: Tensor) -> Tensor:
        result: Tensor = module(*inputs.values())  # a graph knows its inputs by their order
        return result

    return run
