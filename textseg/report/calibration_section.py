"""The part of a run's page about its calibration."""

from __future__ import annotations

from pathlib import Path

from textseg.metrics.calibration import ERRORS
from textseg.report.blocks import Block, Caution, Cell, Table, Text
from textseg.report.plots import plot, reliability_diagram
from textseg.runs.calibration import CALIBRATION, read_calibration


def calibration_blocks(run: Path) -> list[Block]:
    """Build the plot and the numbers of RUN/calibration; empty where the run was not calibrated.

    Raises:
        UserError: calibration.json is broken or of another version.
    """
    folder = run / CALIBRATION
    if not folder.is_dir():
        return []
    stored = read_calibration(folder)
    titles = {name: title for name, (_, title) in ERRORS.items()}
    titles["nll"] = "Negative log-likelihood, all pixels"
    rows = []
    for name, title in titles.items():
        values = (stored[kind][name] for kind in ("measured", "scaled"))
        cells = (Cell("-") if v is None else Cell(f"{v:.4f}", v) for v in values)
        rows.append([Cell(f"{title} ({name})"), *cells])
    head = ["of probabilities", "as they are", f"temperature {stored['temperature']:.3f}"]
    text = (
        f"{stored['cases']} validation images. Best threshold {stored['threshold']:.2f}: Dice "
        f"{stored['dice_best']:.4f}; at 0.5 it is {stored['dice']:.4f}. Neither is applied unless "
        "a test says so."
    )
    caption = (
        "Share of foreground against probability: on the diagonal probabilities can be trusted, "
        "below it they are too high. Below: pixels by probability. Right: Dice by threshold."
    )
    return [
        *(Caution(str(warning)) for warning in stored.get("warnings") or []),
        Text(text),
        plot(lambda: reliability_diagram(stored), f"{caption} {text}", caption),
        Table("On validation rows, at the network's resolution", head, rows),
    ]
