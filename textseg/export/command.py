"""The function of `textseg export`; it imports torch only when called."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

from textseg.errors import UserError, check_choice, refusing

Format = Literal["onnx", "torch_export"]


def export(
    *,
    ckpt_path: str,
    format: Format = "onnx",
    output: str = "exported",
    image_size: int | list[int] | None = None,
) -> Path:
    """Write a checkpoint as a folder that runs without the suite; docs/export.md shows its use.

    It holds the network and its text encoder (two files), tokenizer.json, manifest.json (how images
    and texts are prepared, versions, digests) and, of onnx, run.py, which segments an image with
    numpy, Pillow, tokenizers and onnxruntime alone. It computes in fp32. Batches may have any size.
    So may images, in multiples of 32 from 64 on, unless the network has windows as Swin's. Before
    the folder is given its logits are compared with the checkpoint's.

    Args:
        ckpt_path: a checkpoint that `textseg fit` wrote, such as
            runs/<config>/<time>/checkpoints/best.ckpt.
        format: onnx, for onnxruntime and others; or torch_export, .pt2 files for torch.export.load.
        output: the folder; where it exists, <output>_2 and so on is taken.
        image_size: side of the network's square input, or [height, width]; by default that of the
            training. The only size where the network's is fixed.

    Returns:
        the folder that was written.

    Raises:
        UserError: the checkpoint cannot be used, the network cannot be traced or computes something
            else once it was, or a package is missing.
    """
    from textseg.segment.exported import require

    check_choice("format", format, Format)
    if format == "onnx":
        require("onnx", "onnxscript", "onnxruntime")

    from textseg.export.parts import trace
    from textseg.export.write import check_logits, write_export
    from textseg.output import output_folder
    from textseg.segment.network import network_from
    from textseg.segment.stored import EXPORT, digest_of, read_stored, shown_images

    stored = read_stored(ckpt_path)
    if EXPORT in stored:
        raise UserError(f"ckpt_path={ckpt_path!r} is an export", "give the checkpoint it is of")
    shown = shown_images(stored, ckpt_path, image_size)
    network = network_from(stored, ckpt_path).float().eval()
    traced = trace(network, shown.size)
    cause = f"output={output!r} cannot be written to"
    with (
        refusing(OSError, cause, "free space there, or give another folder"),
        output_folder(Path(output).expanduser().resolve(), "export") as claimed,
    ):
        folder = claimed.path
        try:
            write_export(folder, network, traced, shown, digest_of(stored), format)
            check_logits(folder, network)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # nothing that is half an export stays
            raise
    return folder


def what_was_exported(folder: Path) -> str:
    """The lines that say what is in an export."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    image, check = manifest["image"], manifest["check"]
    height, width = image["size"]
    size = f"images of {height} x {width}"
    if all(image["dynamic"]):
        size += f" or other multiples of {image['multiple_of']} from {image['least']} on"
    else:
        size += " alone"
    return (
        f"{manifest['network']}, {size}, batches of any size; logits differ from the checkpoint's "
        f"by {check['largest_difference']:.1g} at most\nwritten to {folder}"
    )
