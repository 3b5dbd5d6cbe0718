"""The function of `textseg segment`: results as files; it imports torch only when called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from textseg.errors import check_at_least, refusing
from textseg.preprocess import probe_size
from textseg.runs.calibration import Temperature, Threshold
from textseg.runs.folder import unique_dir


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
    threshold: Threshold = 0.5,
    temperature: Temperature = 1.0,
    mirror_text: Callable[[str], str | None] | None = None,
) -> Path:
    """Segment images by what a text names: one image, a folder of images, or a table.

    Writes masks/ (PNG of 0 and 255, at each image's own size), overlays/ and, if asked,
    probabilities/. Files are named <image stem>__<row>.png; rows count from 0, in a folder by name.
    averaging.json says what logits were averaged over, and the threshold.

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
        threshold: probability above which a pixel is outlined; best takes the one that textseg
            calibrate found on the validation rows of the run.
        temperature: what logits are divided by before they become probabilities; fitted takes what
            textseg calibrate found. At threshold 0.5 it moves no mask.
        mirror_text: rewrites a text for the mirrored image, or gives None where it cannot; needed
            for tta by a network that reads words.

    Returns:
        the folder that was written.

    Raises:
        UserError: an image, a table, a text or the checkpoint cannot be used. Everything is checked
            before the first mask is written.
    """
    from textseg.runs.outputs import write_averaging
    from textseg.segment.network import load
    from textseg.segment.rows import check_texts, read_rows
    from textseg.segment.written import write_masks

    check_at_least("batch_size", batch_size, 1)
    rows = list(read_rows(Path(image), text, root))
    for path in tqdm(dict.fromkeys(row.image for row in rows), "check", delay=2, unit="image"):
        probe_size(path)
    net = load(
        ckpt_path,
        image_size=image_size,
        device=device,
        tta=tta,
        mirror_text=mirror_text,
        threshold=threshold,
        temperature=temperature,
    )
    if net.takes_text:
        check_texts(rows)
    cause = f"output={output!r} cannot be written to"
    with refusing(OSError, cause, "free space there, or give another folder"):
        folder = unique_dir(Path(output).expanduser().resolve())
        for name in ("masks", "overlays", *["probabilities"] * probabilities):
            (folder / name).mkdir()
        write_averaging(folder, net.model, [row.text or "" for row in rows])
        results = net.segment_all(
            [row.image for row in rows], [row.text for row in rows], batch_size=batch_size
        )
        bar = tqdm(results, "segment", len(rows), delay=2, unit="image")
        for row, result in zip(rows, bar, strict=True):
            write_masks(folder, row, result, probabilities=probabilities)
    return folder
