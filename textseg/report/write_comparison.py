"""Writes a comparison into a folder: numbers, tables, plots and a page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from textseg.compare import compare
from textseg.compare.results import Comparison
from textseg.compare.tables import latex_table, markdown_table, plain_table
from textseg.metrics.text import to_json
from textseg.output import output_folder, write_bytes, write_text

COMPARISON = "comparison"  # what is written: folders of an ended one are taken up


def compare_runs(runs: list[str], *, output: str | None = None, **settings: Any) -> str:
    """Compare tested runs over the same cases; the function of `textseg compare`.

    Args:
        runs: folders of two runs or more, runs/<config>/<time>; or folders of single tests, such as
            RUN/test/empty, to compare caption modes or a run's own test set with another's; a
            cross-validation's folder stands for a table of all its folds per seed.
        output: folder to write tables, plots and numbers to; one that exists is not written over,
            <output>_2 is taken. null writes nothing.
        **settings: of `textseg.compare.compare`.

    Returns:
        The tables as text and, if anything was written, where.
    """
    comparison = compare(runs, **settings)
    text = plain_table(comparison)
    if output is None:
        return text
    return f"{text}\nwritten to {write_comparison(comparison, output)}"


def write_comparison(comparison: Comparison, folder: str | Path) -> Path:
    """Write comparison.json, .md and .tex, the plots, and all of it as one page, report.html.

    Returns:
        The folder that was written to: one that exists is not written over, <folder>_2 is taken,
        unless it was left incomplete by an ended comparison.

    Raises:
        UserError: the folder cannot be made, or a picture of a run is broken.
    """
    from textseg.report.comparison_page import comparison_page  # matplotlib takes a second
    from textseg.report.plots import write_plots

    page = comparison_page(comparison).encode("utf-8", errors="replace")
    numbers = {
        "baseline": comparison.baseline,
        "captions": comparison.captions,
        "cases": len(comparison.cases),
        "patients": comparison.patients,
        "warnings": comparison.warnings,
        "methods": [asdict(method) for method in comparison.methods],
        "differences": [asdict(difference) for difference in comparison.differences],
        "words": [asdict(one) for one in comparison.words],
        "terms": comparison.terms,
        "strata": [asdict(stratum) for stratum in comparison.strata],
    }
    with output_folder(Path(folder).expanduser(), COMPARISON) as claimed:
        write_text(claimed.path / "comparison.json", to_json(numbers))
        write_text(claimed.path / "comparison.md", markdown_table(comparison))
        write_text(claimed.path / "comparison.tex", latex_table(comparison))
        write_plots(comparison, claimed.path)
        write_bytes(claimed.path / "report.html", page)
    return claimed.path
