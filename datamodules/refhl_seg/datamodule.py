"""RefHL-Seg: referring expressions for hepatic lesions in abdominal CT slices.

The dataset is announced (arXiv 2408.17347) but not released, so this reads a declared manifest:

    <root>/manifest.jsonl, manifest.csv or manifest.xlsx
    <root>/...  images and masks, named by the manifest relative to root

The columns are those of `datamodules.files.manifest`; image, mask, text, case_id and split are
needed in every row, and others than those named there are refused.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.base import TextSegDataModule
from datamodules.files.manifest import read_manifest
from datamodules.records import Splits
from textseg.errors import Report, raise_error


class RefHLSegDataModule(TextSegDataModule):
    """RefHL-Seg, or any referring dataset written down in the same manifest.

    Args:
        root: folder that the manifest's paths start from.
        captions: the manifest, where it is not manifest.jsonl, manifest.csv or manifest.xlsx in
            root.
        split: the manifest names every row's split.
    """

    name = "refhl"
    splits = ("manifest",)
    phantom_images = 640

    def read_records(self, root: Path, report: Report = raise_error) -> Splits:
        """Read the manifest, every row of which names a split."""
        return read_manifest(root, self.captions_file(), report=report)

    def write_phantoms(self, folder: Path, rows: int) -> None:
        """Write abdominal phantoms with their manifest."""
        from datamodules.refhl_seg.phantoms import write_refhl_for

        write_refhl_for(folder, rows)
