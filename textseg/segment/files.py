"""Masks, overlays and probabilities of images, as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from textseg.errors import UserError, first_line
from textseg.preprocess import probe_size
from textseg.runs.folder import unique_dir
from textseg.runs.outputs import write_averaging
from textseg.segment.network import Segmentation, load
from textseg.segment.pictures import FULL_SCALE
from textseg.segment.rows import Row, read_rows
from textseg.visualize.overlay import overlay


def segment_files(
    image: str,
    text: str | None,
    *,
    ckpt_path: str | list[str],
    output: str,
    root: str | None,
    probabilities: bool,
    image_size: int | list[int] | None,
    batch_size: int,
    device: str,
    tta: Literal["none", "flip"],
    mirror_text: Callable[[str], str | None] | None,
) -> Path:
    """Segment and write; arguments, result and errors as of `textseg.segment.segment`."""
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} is below 1", "give 1 or more")
    rows = list(read_rows(Path(image), text, root))
    for path in tqdm(dict.fromkeys(row.image for row in rows), "check", delay=2, unit="image"):
        probe_size(path)
    net = load(ckpt_path, image_size=image_size, device=device, tta=tta, mirror_text=mirror_text)
    if net.takes_text:
        _check_texts(rows)
    try:
        folder = unique_dir(Path(output).expanduser().resolve())
        for name in ("masks", "overlays", *["probabilities"] * probabilities):
            (folder / name).mkdir()
        write_averaging(folder, net.model, [row.text or "" for row in rows])
        results = net.segment_all(
            [row.image for row in rows], [row.text for row in rows], batch_size=batch_size
        )
        bar = tqdm(results, "segment", len(rows), delay=2, unit="image")
        for row, result in zip(rows, bar, strict=True):
            _write(folder, row, result, probabilities=probabilities)
    except OSError as error:
        raise UserError(
            f"output={output!r} cannot be written to ({first_line(error)})",
            "free space there, or give another folder",
        ) from error
    return folder


def _check_texts(rows: Sequence[Row]) -> None:
    for row in rows:
        if not (row.text or "").strip():
            raise UserError(
                f"{row.where}: there is no text, but the network segments what is named",
                'say what to look for: textseg segment IMAGE "text", or a table with a text in '
                "each row",
            )


def _write(folder: Path, row: Row, result: Segmentation, *, probabilities: bool) -> None:
    name, caption = f"{row.case}.png", row.text or "(no text)"
    Image.fromarray(result.mask.astype(np.uint8) * 255).save(folder / "masks" / name)
    page = overlay(result.image, None, result.mask, caption=caption, title=[row.case])
    Image.fromarray(page).save(folder / "overlays" / name)
    if probabilities:
        levels = (result.probs.astype(np.float64) * FULL_SCALE).round().astype(np.uint16)
        Image.fromarray(levels).save(folder / "probabilities" / name)
