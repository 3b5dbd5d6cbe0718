"""Text-guided medical image segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Literal

    from textseg.segment.network import Segmenter

__version__ = "0.1.0"


def load(
    ckpt_path: str | Path | Sequence[str | Path],
    *,
    model: str | None = None,
    image_size: int | Sequence[int] | None = None,
    device: str = "auto",
    tta: Literal["none", "flip"] = "none",
    tile_size: int | None = None,
    tile_overlap: float | None = None,
    mirror_text: Callable[[str], str | None] | None = None,
    threshold: float | Literal["best"] = 0.5,
    temperature: float | Literal["fitted"] = 1.0,
) -> Segmenter:
    """The network of a checkpoint: ``load("best.ckpt").segment(image, text)`` gives mask and probs.

    Arguments and errors are those of `textseg.segment.network.load`. Nothing heavy is imported
    before this is called.
    """
    from textseg.segment.network import load as load_network

    return load_network(
        ckpt_path,
        model=model,
        image_size=image_size,
        device=device,
        tta=tta,
        tile_size=tile_size,
        tile_overlap=tile_overlap,
        mirror_text=mirror_text,
        threshold=threshold,
        temperature=temperature,
    )
