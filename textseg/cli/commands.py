"""The suite's commands that need neither trainer nor dataset, from their command lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from textseg.cli.parser import function_parser
from textseg.compare import compare, plain_table
from textseg.report import report
from textseg.report.dashboard import dashboard
from textseg.report.write_comparison import write_comparison
from textseg.segment import segment


def segment_command(arguments: Sequence[str]) -> None:
    """`textseg segment IMAGE [TEXT] --ckpt_path ...`."""
    parser = function_parser("segment", segment)
    parser.add_argument("image", type=str, help="an image, a folder, or a table of image and text.")
    parser.add_argument(
        "text", type=str, nargs="?", default=None, help="what to segment; a table gives its own."
    )
    parser.add_function_arguments(segment, skip={"image", "text"})
    # --ckpt for short, as people type it.
    given = ["--ckpt_path" if argument == "--ckpt" else argument for argument in arguments]
    print(f"written to {segment(**parser.parse_args(given).as_dict())}")


def compare_command(arguments: Sequence[str]) -> None:
    """`textseg compare RUN RUN ...`."""
    parser = function_parser("compare", compare)
    parser.add_argument(
        "runs", type=str, nargs="+", help="folders of runs, or of single tests (RUN/test/empty)."
    )
    parser.add_function_arguments(compare, skip={"runs"})
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="folder to write tables, plots and numbers to; one that exists is not written over, "
        "<output>_2 is taken. null writes nothing.",
    )
    settings = parser.parse_args(list(arguments)).as_dict()
    output = settings.pop("output")
    result = compare(**settings)
    print(plain_table(result))
    if output is not None:
        print(f"written to {write_comparison(result, output)}")


def report_command(arguments: Sequence[str]) -> None:
    """`textseg report RUN [RUN ...]`."""
    parser = function_parser("report", report)
    parser.add_argument(
        "runs", type=str, nargs="+", help="folder of a run; several runs are compared."
    )
    parser.add_function_arguments(report, skip={"runs"})
    print(f"written to {report(**parser.parse_args(list(arguments)).as_dict())}")


def dashboard_command(arguments: Sequence[str]) -> None:
    """`textseg dashboard ENTITY [PROJECT] ...`."""
    parser = function_parser("dashboard", dashboard)
    parser.add_argument("entity", type=str, help="user or team that the project belongs to.")
    parser.add_function_arguments(dashboard, skip={"entity"})
    print(dashboard(**parser.parse_args(list(arguments)).as_dict()))


# A command -> the function that runs it, and the one whose docstring describes it.
COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], Callable[..., Any]]] = {
    "segment": (segment_command, segment),
    "compare": (compare_command, compare),
    "report": (report_command, report),
    "dashboard": (dashboard_command, dashboard),
}
