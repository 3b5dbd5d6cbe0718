"""The command ``textseg``: joins the networks and commands of textseg with the datasets."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # nothing reaches the network unasked

from textseg.cli.commands import COMMANDS as SUITE_COMMANDS
from textseg.cli.commands import Command, Datasets, Made
from textseg.cli.main import run


def datasets() -> Datasets:
    """What the commands need of datamodules; its import makes short class names known in YAML."""
    from datamodules import TextSegDataModule
    from datamodules.captions.modes import swap_sides
    from datamodules.captions.perturbations import caption_variants
    from datamodules.commands import divide_dataset
    from datamodules.refhl_seg.phantoms import draw_phantom

    program = (sys.executable, str(Path(__file__).resolve()))
    captions = (caption_variants, swap_sides)
    return Datasets(TextSegDataModule, *captions, divide_dataset, program, _volumes, draw_phantom)


def _volumes(path: Path, **settings: Any) -> Any:
    from datamodules.volumes.opened import Volumes

    return Volumes(path, **settings)


def _written_set(package: str, folder: Path) -> str:
    """What is printed of a set that was written: its summary, and where it is."""
    summary = import_module(f"datamodules.{package}.summary")
    return f"{summary.format_summary(summary.read_summary(folder))}\nwritten to {folder}"


def _of_tokenizer(maker: str) -> Made:
    return Made(
        "tokenizer",
        default="scratch",
        help="whose tokens max_tokens counts, and whose unknown words: a local folder or hub name "
        "of a text encoder; scratch counts words and marks, the fewest that any encoder needs, and "
        "what its vocabulary of vocab_size leaves out.",
        maker=f"textseg.encoders:{maker}",
    )


COMMANDS = (
    *SUITE_COMMANDS,
    Command(
        "data audit",
        "Audit a dataset: look for everything that is wrong with it on disk, in one pass.",
        function="datamodules.commands:audit_dataset",
        positionals=("root",),
        made={
            "count_tokens": _of_tokenizer("token_counter"),
            "unknown_shares": _of_tokenizer("share_counter"),
        },
    ),
    Command(
        "data prepare",
        "Check a dataset and fill its cache before the first training.",
        function="datamodules.commands:prepare_dataset",
        takes=frozenset({"datamodule"}),
    ),
    Command(
        "data build-refhl",
        "Build a referring set from liver CT volumes with lesion masks.",
        function="datamodules.refhl_seg.builder:build_refhl",
        positionals=("source", "output"),
        show=partial(_written_set, "refhl_seg"),
    ),
    Command(
        "data slice",
        "Cut NIfTI or DICOM volumes with labels into pictures, masks and captions.",
        function="datamodules.volumes.slicing:slice_volumes",
        positionals=("source", "output"),
        show=partial(_written_set, "volumes"),
    ),
)


def main(args: Sequence[str] | None = None) -> None:
    """Text-guided medical image segmentation. Add --debug to any command to see tracebacks."""
    status = run(sys.argv[1:] if args is None else args, COMMANDS, datasets, str(main.__doc__))
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
