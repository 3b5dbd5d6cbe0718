"""The files of an export, and the check of what they compute."""

from __future__ import annotations

import logging
import platform
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from textseg import __version__
from textseg.encoders import NoText
from textseg.errors import UserError, refusing
from textseg.export.parts import LEAST, MULTIPLE, Traced, text_encoder_of
from textseg.metrics.text import to_json
from textseg.models.base import SegmentationModule
from textseg.output import INCOMPLETE
from textseg.segment.exported import (
    MANIFEST,
    NETWORK,
    SUFFIXES,
    TEXT_ENCODER,
    TEXT_OUTPUT,
    TOKENIZER,
    ExportedNetwork,
    digest,
    read_manifest,
    require,
)
from textseg.segment.stored import Shown

TOLERANCE = 1e-3  # of logits, absolute; a probability moves by a quarter of it at most
RUN = "run.py"
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "tokenizers", "transformers", "timm")


def write_export(
    folder: Path,
    network: SegmentationModule,
    traced: Traced,
    shown: Shown,
    weights: str,
    form: str,
) -> None:
    """Write all files of an export.

    Args:
        folder: empty, but for the marker of one that is not complete.
        network: what was traced.
        traced: its graphs.
        shown: how images are prepared.
        weights: digest of the checkpoint's weights.
        form: onnx or torch_export.
    """
    encoder = text_encoder_of(network)
    _write_graph(traced.network, folder / f"{NETWORK}{SUFFIXES[form]}", "logits")
    text = None
    if not isinstance(encoder, NoText):
        assert traced.text is not None
        _write_graph(traced.text, folder / f"{TEXT_ENCODER}{SUFFIXES[form]}", TEXT_OUTPUT)
        tokenizer = encoder.get_extra_state()["tokenizer"]
        (folder / TOKENIZER).write_text(tokenizer, encoding="utf-8")
        text = {
            "encoder": Path(encoder.name).name,  # a folder's path is the machine's
            "dim": encoder.dim,
            "max_tokens": encoder.max_tokens,
            "pad_id": encoder.model.config.pad_token_id or 0,
        }
    if form == "onnx":
        shutil.copyfile(Path(__file__).with_name(RUN), folder / RUN)
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": digest(file)}
        for file in sorted(folder.iterdir())
        if file.name != INCOMPLETE
    }
    manifest = {
        "format": form,
        "network": network.network_name,
        "weights": weights,
        "image": {
            "size": list(shown.size),
            "dynamic": list(traced.dynamic),
            "multiple_of": MULTIPLE,
            "least": LEAST,
            "resize": shown.resize,
            "values": "RGB / 255, float32, [B, 3, H, W]; mean and std are in the network",
        },
        "text": text,
        "logits": "[B, 1, H, W]; resized bilinearly to the image, above 0 is foreground",
        "precision": {"export": "32-true", "training": shown.precision},
        "files": files,
        "versions": _versions(),
    }
    (folder / MANIFEST).write_text(to_json(manifest), encoding="utf-8")


def check_logits(folder: Path, network: SegmentationModule) -> None:
    """Compare an export with its network, and write the largest difference into the manifest.

    Compared are batches of 1 and 2 images, captions of 1 and of 30 words and, where images may have
    any size, two sizes.

    Raises:
        UserError: logits differ by more than `TOLERANCE`.
    """
    manifest = read_manifest(folder)
    exported = ExportedNetwork(folder, manifest)
    height, width = manifest["image"]["size"]
    sizes = [(height, width)]
    if all(manifest["image"]["dynamic"]):
        sizes.append((height + MULTIPLE, width))
    words = _some_words(network)
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for count, size in ((1, sizes[0]), (2, sizes[-1])):
        image = torch.rand(count, 3, *size, generator=generator)
        texts = [words[0], " ".join(words)][-count:]
        with torch.no_grad():
            pairs = exported(image, texts).logits, network(image, texts).logits
        difference = float((pairs[0] - pairs[1]).abs().max())
        worst = max(worst, difference) if difference == difference else float("inf")
    if not worst <= TOLERANCE:
        raise UserError(
            f"the export of {network.network_name} differs from its checkpoint by {worst:.2g} in "
            f"its logits, more than {TOLERANCE:g}",
            "its forward must be forward_features(image, encode_text(text)), and both the same in "
            "every call; docs/export.md says more",
        )
    manifest["check"] = {"largest_difference": worst, "tolerance": TOLERANCE}
    (folder / MANIFEST).write_text(to_json(manifest), encoding="utf-8")


def _some_words(network: SegmentationModule) -> list[str]:
    """Thirty words of the tokenizer's vocabulary; of fewer, some twice."""
    encoder = text_encoder_of(network)
    if isinstance(encoder, NoText):
        return [""] * 30
    known = sorted(word for word in encoder.vocabulary() if word.isalpha()) or ["lesion"]
    return [known[i * len(known) // 30] for i in range(30)]


def _write_graph(program: ExportedProgram, file: Path, output: str) -> None:
    if file.suffix == SUFFIXES["torch_export"]:
        torch.export.save(program, file)
        return
    require("onnx", "onnxscript")
    cause = f"{file.name} cannot be written: an operation of the network has no ONNX form"
    with refusing(Exception, cause, "export it with --format torch_export"), _quiet():
        converted: Any = torch.onnx.export(
            program, dynamo=True, external_data=False, verbose=False, output_names=[output]
        )
        for node in converted.model.graph.all_nodes():
            node.metadata_props.clear()  # where in the code it was made: paths of this machine
            node.doc_string = None
        converted.save(file)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the converter says of its own rules."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _versions() -> dict[str, str]:
    found = {"textseg": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
