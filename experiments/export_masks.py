#!/usr/bin/env python3
"""Whether an export gives its checkpoint's masks, and how long both take, on RefHL phantoms.

    OMP_NUM_THREADS=1 python experiments/export_masks.py --ckpt_path RUN/checkpoints/best.ckpt

Needs the extra [export]. The checkpoint is exported as ONNX into a folder that is removed again.
The test rows of the phantoms (of 320 training images, as experiments/quickstart.yaml has, 226 rows)
are segmented by both, each at the picture's own size. Pixels that one outlines and the other does
not are counted, and those among them whose logit is further from 0 than the export's tolerance, of
which there should be none: exit status 1 where there are. Times are CPU time, so that other work on
the machine does not count, of one image at a time from its file to its mask, the two in turn; the
first images, which warm both up, are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import textseg
from datamodules import RefHLSegDataModule
from datamodules.records import Record
from textseg.export import export
from textseg.export.write import TOLERANCE
from textseg.metrics.case_table import resize_logits, without_border
from textseg.preprocess import frame_of, read_image
from textseg.segment.network import Segmenter
from textseg.segment.pictures import to_tensor

WARM_UP = 5  # images

Logits = NDArray[np.float32]


@dataclass
class Differences:
    """How the masks of two networks differ, over the images that were counted.

    Attributes:
        images, pixels: how many.
        largest: difference of two logits.
        unlike: pixels that are foreground in one mask alone.
        beyond: those among them whose first logit is further from 0 than the tolerance.
        images_unlike: images that have such pixels.
    """

    tolerance: float = TOLERANCE
    images: int = 0
    pixels: int = 0
    largest: float = 0.0
    unlike: int = 0
    beyond: int = 0
    images_unlike: int = 0

    def count(self, wanted: Logits, found: Logits) -> None:
        """Count one image's logits [H, W] of the checkpoint and of the export."""
        unlike = (wanted > 0) != (found > 0)
        self.images += 1
        self.pixels += wanted.size
        self.largest = max(self.largest, float(np.abs(wanted - found).max()))
        self.unlike += int(unlike.sum())
        self.beyond += int((unlike & (np.abs(wanted) > self.tolerance)).sum())
        self.images_unlike += bool(unlike.any())


@dataclass
class Times:
    """CPU seconds of each image."""

    seconds: list[float] = field(default_factory=list)

    def take(self, net: Segmenter, row: Record) -> None:
        """Segment an image, from its file to its mask, and note how long it took."""
        begun = time.process_time()
        net.segment(row.image, row.text)
        self.seconds.append(time.process_time() - begun)

    def __str__(self) -> str:
        low, middle, high = 1000 * np.quantile(self.seconds[WARM_UP:], [0.1, 0.5, 0.9])
        return f"{middle:.1f} ms an image (median; 10% and 90%: {low:.1f}, {high:.1f})"


@torch.inference_mode()
def logits(net: Segmenter, row: Record) -> Logits:
    """Logits [H0, W0] at the picture's own size, as `Segmenter.segment` cuts them."""
    picture = read_image(row.image)
    own = (picture.shape[0], picture.shape[1])
    image = to_tensor(picture, net.image_size, net.resize)[None]
    frame = torch.tensor([frame_of(own, net.image_size, net.resize)])
    (plane,) = without_border(net.model(image, [row.text]).logits, frame)
    return np.asarray(resize_logits(plane, own)[0].float())


def compare(checkpoint: Segmenter, exported: Segmenter, rows: Sequence[Record]) -> Differences:
    """Count how an export's masks of some rows differ from its checkpoint's."""
    found = Differences()
    for row in rows:
        found.count(logits(checkpoint, row), logits(exported, row))
    return found


def main() -> int:
    """Export, compare, time and tell; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt_path", type=Path, required=True, help="of a network in fp32")
    parser.add_argument("--synthesize", type=int, default=320, help="training images of phantoms")
    parser.add_argument("--format", choices=("onnx", "torch_export"), default="onnx")
    given = parser.parse_args()
    rows = RefHLSegDataModule(synthesize=given.synthesize, cache=None).records("test")
    with tempfile.TemporaryDirectory() as home:
        output = str(Path(home) / "exported")
        folder = export(ckpt_path=str(given.ckpt_path), format=given.format, output=output)
        nets = [textseg.load(path, device="cpu") for path in (given.ckpt_path, folder)]
        found = compare(*nets, rows)
        times = (Times(), Times())
        for row in rows:
            for net, own in zip(nets, times, strict=True):
                own.take(net, row)
    print(f"{nets[0].model.network_name}, {given.format}, {torch.get_num_threads()} thread(s)")
    print(f"{found.images} test rows, {found.pixels} pixels at the pictures' own size")
    print(f"largest difference of two logits: {found.largest:.2g} (tolerance {found.tolerance:g})")
    print(f"pixels in one mask alone: {found.unlike}, in {found.images_unlike} images")
    print(f"of these with a logit beyond the tolerance: {found.beyond}")
    for name, own in zip(("checkpoint", "export"), times, strict=True):
        print(f"{name}: {own}")
    return 1 if found.beyond else 0


if __name__ == "__main__":
    sys.exit(main())
