"""Options of the commands on a Trainer that belong to none of Lightning's groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lightning.pytorch.cli import LightningArgumentParser

from textseg.cli.arguments import option
from textseg.errors import UserError
from textseg.runs.calibration import Temperature, Threshold
from textseg.training.finite import OnNan

_FIT_ALONE = ("--name", "--on_nan")


def check_fit_alone(command: str, arguments: Sequence[str]) -> None:
    """Check that a command line asks no other command for what a fit alone does.

    An experiment may set it: every command takes the same files.

    Raises:
        UserError: it does.
    """
    given = [name for name in _FIT_ALONE if option(arguments, name) is not None]
    if given and command != "fit":
        raise UserError(
            f"{given[0]} does nothing in textseg {command}", "it is of fit: leave it out"
        )


def add_options(parser: LightningArgumentParser) -> None:
    """Add the options; every command takes the same experiment files."""
    parser.add_argument(
        "--tta",
        type=Literal["none", "flip"],
        default="none",
        help="validate, test, predict, probe and the tests after a fit: flip also runs the "
        "mirrored image, with left and right exchanged in its caption, and averages the two.",
    )
    parser.add_argument(
        "--threshold",
        type=Threshold,
        default=0.5,
        help="as --tta: probability above which a pixel is outlined; best takes the one that "
        "textseg calibrate found on the validation rows.",
    )
    parser.add_argument(
        "--temperature",
        type=Temperature,
        default=1.0,
        help="as --tta: what logits are divided by before they become probabilities; fitted "
        "takes what textseg calibrate found. At threshold 0.5 it moves no mask.",
    )
    parser.add_argument(
        "--tile_size",
        type=int | None,
        default=None,
        help="test, predict and the tests after a fit: pictures with more pixels on a side are "
        "seen through overlapping tiles of so many, at their own resolution; for networks "
        "trained on such pieces, and captions that name no place in the picture.",
    )
    parser.add_argument(
        "--tile_overlap",
        type=float,
        default=0.25,
        help="share of a tile that the next one covers too.",
    )
    parser.add_argument(
        "--name",
        type=str | None,
        default=None,
        help="fit only: what the run is called, as a folder below runs/ and in every table; by "
        "default its config, and another config's that brings a dataset of its own.",
    )
    parser.add_argument(
        "--on_nan",
        type=OnNan,
        default="stop",
        help="fit only: at a step whose loss or gradient is not finite, stop and say where, "
        "with exit status 3, or skip it, which is counted.",
    )
    parser.add_argument(
        "--test_after_fit",
        type=bool,
        default=False,
        help="fit only: then test the best checkpoint with true, empty and shuffled captions; "
        "once, where the network reads none.",
    )
