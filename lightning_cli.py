"""The command ``textseg``: joins the networks and commands of textseg with the datasets."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # nothing reaches the network unasked

from textseg.cli.commands import COMMANDS as SUITE_COMMANDS
from textseg.cli.commands import Command, Datasets, Made
from textseg.cli.main import run


def datasets() -> Datasets:
    """What the commands need of datamodules; its import makes short class names known in YAML."""
    from datamodules import TextSegDataModule
    from datamodules.captions.modes import swap_sides
    from datamodules.captions.perturbations import caption_variants

    return Datasets(TextSegDataModule, caption_variants, swap_sides)


def _referring_set(folder: Path) -> str:
    from datamodules.refhl_seg.summary import format_summary, read_summary

    return f"{format_summary(read_summary(folder))}\nwritten to {folder}"


_TOKENIZER = (
    "whose tokens max_tokens counts, and whose unknown words: a local folder or hub name of a text "
    "encoder; scratch counts words and marks, the fewest that any encoder needs, and what its "
    "vocabulary of vocab_size leaves out."
)
COMMANDS = (
    *SUITE_COMMANDS,
    Command(
        "data audit",
        "Audit a dataset: look for everything that is wrong with it on disk, in one pass.",
        function="datamodules.commands:audit_dataset",
        positionals=("root",),
        made={
            "count_tokens": Made(
                "tokenizer",
                default="scratch",
                help=_TOKENIZER,
                maker="textseg.encoders:token_counter",
            ),
            "unknown_shares": Made(
                "tokenizer",
                default="scratch",
                help=_TOKENIZER,
                maker="textseg.encoders:share_counter",
            ),
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
        show=_referring_set,
    ),
)


def main(args: Sequence[str] | None = None) -> None:
    """Text-guided medical image segmentation. Add --debug to any command to see tracebacks."""
    status = run(sys.argv[1:] if args is None else args, COMMANDS, datasets, str(main.__doc__))
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
