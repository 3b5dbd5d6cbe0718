"""RefHL-Seg: referring expressions for hepatic lesions in abdominal CT slices.

The dataset is announced (arXiv 2408.17347) but not released, so this reads a declared manifest:

    <root>/manifest.jsonl, manifest.csv or manifest.xlsx
    <root>/...  images and masks, named by the manifest relative to root

The columns are those of `datamodules.files.manifest`; image, mask, text, case_id and split are
needed in every row, and others than those named there are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from datamodules.base import TextSegDataModule
from datamodules.captions.modes import CaptionMode
from datamodules.files.manifest import read_manifest
from datamodules.records import Record
from textseg.errors import UserError


class RefHLSegDataModule(TextSegDataModule):
    """RefHL-Seg, or any referring dataset written down in the same manifest.

    Args:
        root: folder that the manifest's paths start from.
        captions: the manifest, where it is not manifest.jsonl, manifest.csv or manifest.xlsx in
            root.
        split: the manifest names every row's split.
        image_size: side of the network's square input, or [height, width]; multiples of 32.
        batch_size: rows per batch and process.
        num_workers: processes that load data; 0 loads in the main process.
        on_missing: what to do about rows whose image or mask does not exist.
        synthesize: write and use phantoms in the dataset's layout under data/phantoms instead of
            root; a number asks for that many training images.
        caption_mode: true captions, empty ones, or true ones shuffled among the rows of a split.
        normalize_captions: repair spelling and spacing of captions.
        augment: vary training images; words keep telling the truth.
        cache: folder for the decoded, resized pictures, built once and memory-mapped; null reads
            the files every time.
        seed: of shuffling, augmentation and caption_mode=shuffled.
    """

    phantom_images = 640

    def __init__(
        self,
        root: str | None = None,
        captions: str | None = None,
        *,
        split: Literal["manifest"] = "manifest",
        image_size: int | list[int] = 224,
        batch_size: int = 16,
        num_workers: int = 4,
        on_missing: Literal["error", "skip"] = "error",
        synthesize: bool | int = False,
        caption_mode: CaptionMode = "true",
        normalize_captions: bool = False,
        augment: bool = True,
        cache: str | None = "data/cache",
        seed: int = 0,
    ) -> None:
        super().__init__(
            root,
            captions,
            split=split,
            image_size=image_size,
            batch_size=batch_size,
            num_workers=num_workers,
            on_missing=on_missing,
            synthesize=synthesize,
            caption_mode=caption_mode,
            normalize_captions=normalize_captions,
            augment=augment,
            cache=cache,
            seed=seed,
        )

    def read_records(self, root: Path) -> dict[str, list[Record]]:
        if self.split != "manifest":
            raise UserError(f"split={self.split!r} is unknown", "choose manifest")
        if self.synthesize or self.captions_path is None:
            return read_manifest(root, None)
        return read_manifest(root, Path(self.captions_path).expanduser())

    def write_phantoms(self, folder: Path, rows: int) -> None:
        from datamodules.refhl_seg.phantoms import write_refhl

        write_refhl(
            folder, train=rows, val=max(1, round(rows * 5 / 32)), test=max(1, round(rows / 4))
        )
