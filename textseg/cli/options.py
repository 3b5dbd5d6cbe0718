"""Options of the commands on a Trainer that belong to none of Lightning's groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from lightning.pytorch.cli import LightningArgumentParser

from textseg.cli.messages import options
from textseg.errors import UserError
from textseg.runs.calibration import Temperature, Threshold
from textseg.training.finite import OnNan

_TESTS = ("fit", "test", "predict")
_SCORES = ("fit", "validate", "test", "predict", "probe")
# Option, or its group -> the commands in which it acts.
_ACTS_IN = {
    "--name": ("fit",),
    "--on_nan": ("fit",),
    "--test_after_fit": ("fit",),
    # A benchmark does nothing with it, and takes the arguments of the training that it measures.
    "--restart": ("fit", "benchmark"),
    "--results_writer": ("fit", "test"),
    "--explain": _TESTS,
    "--tile_size": _TESTS,
    "--tile_overlap": _TESTS,
    "--threshold": _SCORES,
    "--temperature": _SCORES,
    "--tta": (*_SCORES, "calibrate"),
}
_FIT_ITSELF = ("--name", "--on_nan", "--test_after_fit", "--restart")  # the others act in its tests


def check_options_act(command: str, arguments: Sequence[str]) -> None:
    """Check that what is typed does something in the command.

    An experiment may set it all the same: every command takes the same files.

    Raises:
        UserError: an option does nothing there.
    """
    for option, given in _own(arguments):
        acts_in = _ACTS_IN[option]
        if command not in acts_in:
            remedy = f"leave it out: it is of {', '.join(acts_in)}"
            raise UserError(f"{given} does nothing in textseg {command}", remedy)


def check_no_option_of_a_test(arguments: Sequence[str]) -> None:
    """Check that nothing is typed that acts in the tests after a fit alone, where none follows.

    Raises:
        UserError: something is.
    """
    for option, given in _own(arguments):
        if option not in _FIT_ITSELF:
            raise UserError(
                f"{given} does nothing in a fit that no test follows",
                "add --test_after_fit true, or leave it out",
            )


def _own(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options of the table, or their groups, each with what was typed of it."""
    for name, value in options(arguments):
        option = name.partition(".")[0]
        if option in _ACTS_IN:
            yield option, f"{name}={value}"


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
        type=float | None,
        default=None,
        help="share of a tile that the next one covers too, 0.25 unless given.",
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
