"""The function of `textseg segment`; it imports torch only when it is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal


def segment(
    image: str,
    text: str | None = None,
    *,
    ckpt_path: str | list[str],
    output: str = "segmented",
    root: str | None = None,
    probabilities: bool = False,
    image_size: int | list[int] | None = None,
    batch_size: int = 8,
    device: str = "auto",
    tta: Literal["none", "flip"] = "none",
    mirror_text: Callable[[str], str | None] | None = None,
) -> Path:
    """Segment images by what a text names: one image, a folder of images, or a table.

    Writes masks/ (PNG of 0 and 255, at each image's own size), overlays/ and, if asked,
    probabilities/. Files are named <image stem>__<row>.png; rows count from 0, in a folder by name.
    averaging.json says what logits were averaged over.

    Args:
        image: an image; a folder, of which all images are taken; or a table (.csv with , or ;,
            .xlsx, .jsonl) with the columns image and text.
        text: what to segment: one caption or expression for all images, where no table gives each
            its own. An image-only network needs none.
        ckpt_path: a checkpoint that `textseg fit` wrote, such as
            runs/<config>/<time>/checkpoints/best.ckpt; or several, [A,B], of networks that were
            trained on the same data: an ensemble, whose logits are averaged.
        output: folder for the results; where it exists, <output>_2 and so on is taken.
        root: folder that a table's paths start from; by default the table's own.
        probabilities: also write the probability of each pixel as a 16-bit PNG: value / 65535.
        image_size: side of the network's square input, or [height, width]; by default that of the
            config.yaml in the checkpoint's run.
        batch_size: images in one forward pass.
        device: auto, cpu, cuda, cuda:1, mps and so on.
        tta: flip also runs the mirrored image, with left and right exchanged in its text, and
            averages the logits of the two, in twice the time.
        mirror_text: rewrites a text for the mirrored image, or gives None where it cannot; needed
            for tta by a network that reads words.

    Returns:
        the folder that was written.

    Raises:
        UserError: an image, a table, a text or the checkpoint cannot be used. Everything is checked
            before the first mask is written.
    """
    from textseg.segment.files import segment_files

    return segment_files(
        image,
        text,
        ckpt_path=ckpt_path,
        output=output,
        root=root,
        probabilities=probabilities,
        image_size=image_size,
        batch_size=batch_size,
        device=device,
        tta=tta,
        mirror_text=mirror_text,
    )
