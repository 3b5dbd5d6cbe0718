"""Plots of a comparison and of one run, as PNG for screens and PDF for papers.

Drawn on `Figure` itself: no window, no state of matplotlib's that other code could see.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter
from PIL import Image

from textseg.compare.results import Comparison
from textseg.compare.tables import worst_cases
from textseg.metrics.bootstrap import Floats
from textseg.metrics.text import one_line
from textseg.output import write_bytes
from textseg.report.blocks import Picture
from textseg.report.embedded_images import data_uri

# Okabe and Ito's colors, which stay apart for readers who do not tell red from green, and two more.
COLORS = (
    *("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#882255", "#999933"),
)
MARKERS = "osD^vPX*"
# Whatever a user's own matplotlibrc says: names are text, never TeX.
_STYLE = {"text.usetex": False, "font.family": "sans-serif", "font.size": 9, "pdf.fonttype": 42}
_LONGEST_NAME = 48
# Letters that fit: beside an axis, above one, in a line of a legend.
_NAME_LINE, _TITLE_LINE, _LEGEND_LINE = 28, 72, 96
_SIZE_BINS = 5
_MARKED = 40  # points of a curve, above which they are a line only
_DPI = 160
BOXES = (
    "points are cases, the box holds the middle half, whiskers reach 1.5 of its length at most, "
    "line: median, diamond: mean"
)
_MEAN: dict[str, Any] = {
    "marker": "D",
    "markerfacecolor": "white",
    "markeredgecolor": "black",
    "markersize": 6,
}


def write_plots(comparison: Comparison, folder: Path) -> None:
    """Write dice_distribution, failures and, of two methods or more, difference_by_size.

    Of the user's own strata also dice_by_stratum_1 and so on. Each is a PNG and a PDF.
    """
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]  # its stubs list no plain dict
        figures: dict[str, Callable[[Comparison], Figure]] = {
            "dice_distribution": dice_distribution,
            "failures": failures,
        }
        if len(comparison.methods) > 1:
            figures["difference_by_size"] = difference_by_size
        for number, name in enumerate(comparison.own_strata, start=1):
            figures[f"dice_by_stratum_{number}"] = partial(dice_by_class, name=name)
        for name, draw in figures.items():
            _save(draw(comparison), folder, name)


def _save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as <name>.png and <name>.pdf."""
    kinds: dict[str, dict[str, Any]] = {"png": {"dpi": _DPI}, "pdf": {}}
    kinds["pdf"]["metadata"] = {"CreationDate": None}
    for kind, options in kinds.items():
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, **options)
        write_bytes(folder / f"{name}.{kind}", stream.getvalue())


def plot(draw: Callable[[], Figure], alt: str, caption: str) -> Picture:
    """Embed the figure that `draw` makes as a PNG, with what it shows in words."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        draw().savefig(buffer, format="png", dpi=_DPI)
    uri = data_uri(buffer.getvalue(), "image/png")
    with Image.open(buffer) as image:
        return Picture(uri, image.width, image.height, alt, caption, plot=True)


def dice_distribution(comparison: Comparison) -> Figure:
    """Draw each case's Dice as a point, with box, median and mean, a row for each method."""
    names = [method.name for method in comparison.methods]
    return distribution(names, comparison.case_dice, dice_of_a_case(comparison))


def dice_of_a_case(comparison: Comparison) -> str:
    """What `case_dice` is, for an axis."""
    several = any(len(method.runs) > 1 for method in comparison.methods)
    return "Dice of a case" + " (mean over seeds)" * several


def dice_by_class(comparison: Comparison, name: str) -> Figure:
    """Draw `dice_distribution` within each class of a stratum of the user's own."""
    classes = np.array([case.strata[name] for case in comparison.cases])
    rows = {
        f"{one}: {method.name}": comparison.case_dice[number, classes == one]
        for one in np.unique(classes)
        for number, method in enumerate(comparison.methods)
    }
    what = f"{dice_of_a_case(comparison)} by {label(name)}"
    return distribution(list(rows), list(rows.values()), what, len(comparison.methods))


def distribution(
    names: Sequence[str], dice: Sequence[Floats] | Floats, xlabel: str, colors: int = len(COLORS)
) -> Figure:
    """Draw K rows of points, `dice[k]` in row k, each with its box, median and mean.

    Colors repeat after `colors` rows.
    """
    figure = Figure(figsize=(6.4, 1.2 + 0.8 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    rows = np.arange(len(names))
    scatter = np.random.default_rng(0)  # only to spread the points
    for row, values in enumerate(dice):
        height = row + scatter.uniform(-0.3, 0.3, len(values))
        axes.plot(values, height, ".", color=_color(row % colors), alpha=0.35, markersize=3)
    axes.boxplot(
        list(dice),
        positions=rows,
        orientation="horizontal",
        widths=0.7,
        showfliers=False,
        medianprops={"color": "black", "linewidth": 2.5},
        showmeans=True,
        meanprops=_MEAN,
    )
    axes.set_yticks(rows, [textwrap.fill(label(name), _NAME_LINE) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    # Below the whole figure: beside long names the axes are too narrow for it.
    figure.supxlabel(f"{xlabel}\nline: median, diamond: mean", fontsize="medium")
    return figure


def stratum_distribution(classes: Sequence[str], dice: Floats, name: str) -> Figure:
    """Draw each case's Dice [N] by its class, a row for each class of the stratum `name`."""
    own = np.array(classes)
    names = sorted(set(classes))
    values = [dice[own == one] for one in names]
    return distribution(names, values, f"Dice of a case by {label(name)}", 1)


def dice_by_size(share: Floats, dice: Mapping[str, Floats]) -> Figure:
    """Draw Dice [N] against the lesions' share of the image [N]: the first's points, means of all.

    Cases without a lesion are left out, and counted below.
    """
    shown = share > 0
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    lines = []
    for number, (name, values) in enumerate(dice.items()):
        color = _color(number)
        if number == 0:
            axes.plot(share[shown], values[shown], ".", color=color, alpha=0.35, markersize=4)
        centers, means = binned_means(share[shown], values[shown], _SIZE_BINS)
        marker = MARKERS[number % len(MARKERS)]
        (line,) = axes.plot(centers, means, "-", marker=marker, color=color, label=label(name))
        lines.append(line)
    if shown.any():
        _percent_axis(axes, share[shown])
    left_out = f"; {int((~shown).sum())} cases without a lesion left out" if not shown.all() else ""
    axes.set(xlabel=f"true lesion, share of the image{left_out}", ylabel="Dice", ylim=(-0.03, 1.03))
    axes.legend(handles=lines, title="means", loc="best")
    return figure


def _percent_axis(axes: Axes, share: Floats) -> None:
    """Shares on a logarithmic x axis, its ticks in percent and near enough to each other."""
    decades = float(np.log10(share.max() / share.min()))
    steps = range(1, 10) if decades < 0.8 else (1, 2, 5) if decades < 2.5 else (1,)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=[*map(float, steps)]))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_minor_formatter(NullFormatter())


def learning_curves(
    losses: Mapping[str, Sequence[tuple[int, float]]],
    scores: Mapping[str, Sequence[tuple[int, float]]],
) -> Figure:
    """Draw losses above and scores below by epoch: name -> points (epoch, value)."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, curves, what in zip(panels, (losses, scores), ("loss", "score"), strict=True):
        for number, (name, points) in enumerate(curves.items(), start=1):
            marker = MARKERS[number % len(MARKERS)] if len(points) <= _MARKED else ""
            axes.plot(*zip(*points, strict=True), marker=marker, color=_color(number), label=name)
        axes.set_ylabel(what)
        axes.grid(linewidth=0.4)
        if curves:
            axes.legend()
    panels[1].set_xlabel("epoch")
    panels[1].xaxis.get_major_locator().set_params(integer=True)
    return figure


def difference_by_size(comparison: Comparison) -> Figure:
    """Draw the difference of Dice from the baseline by lesion size, a panel for each other method.

    The line is the mean in five groups of equally many cases. Cases without a lesion have no size
    and are left out; the axis says how many.
    """
    share = np.array([case.true / case.pixels for case in comparison.cases])
    shown = share > 0
    others = comparison.methods[1:]
    figure = Figure(figsize=(6.4, 0.8 + 2.2 * len(others)), layout="constrained")
    panels = figure.subplots(len(others), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for number, (axes, method) in enumerate(zip(panels, others, strict=True), start=1):
        gap = comparison.case_dice[number] - comparison.case_dice[0]
        axes.axhline(0, color="gray", linewidth=0.8)
        axes.plot(share[shown], gap[shown], ".", color=_color(number), alpha=0.4, markersize=4)
        centers, means = binned_means(share[shown], gap[shown], _SIZE_BINS)
        axes.plot(centers, means, "-o", color="black", markersize=4, linewidth=1.2)
        names = f"{label(method.name)} - {label(comparison.baseline)}"
        axes.set_title(textwrap.fill(names, _TITLE_LINE), fontsize=9)
        axes.set_ylabel("difference of Dice")
    if shown.any():
        panels[-1].set_xscale("log")
    left_out = f"; {int((~shown).sum())} cases without a lesion left out" if not shown.all() else ""
    lines = f"black: means of {_SIZE_BINS} groups of equally many cases"
    figure.supxlabel(f"true lesion, share of the image{left_out}\n{lines}", fontsize="medium")
    return figure


def failures(comparison: Comparison) -> Figure:
    """Draw the cases with the least Dice averaged over methods, the worst on top."""
    worst = worst_cases(comparison)
    names = [label(method.name) for method in comparison.methods]
    columns = min(3, len(names), max(1, _LEGEND_LINE // (max(map(len, names)) + 6)))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(7.2, 1.2 + 0.2 * lines + 0.22 * len(worst)), layout="constrained")
    axes = figure.add_subplot()
    rows = np.arange(len(worst))
    marks = []
    for number, values in enumerate(comparison.case_dice[:, worst]):
        marker = MARKERS[number % len(MARKERS)]
        marks += axes.plot(values, rows, marker, color=_color(number), alpha=0.8, markersize=5)
    axes.set_yticks(rows, [label(comparison.cases[one].case) for one in worst], fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="y", linewidth=0.4)
    axes.set(xlabel=dice_of_a_case(comparison), xlim=(-0.02, 1.02))
    figure.legend(marks, names, loc="outside upper center", ncols=columns)
    return figure


def binned_means(x: Floats, y: Floats, bins: int) -> tuple[Floats, Floats]:
    """Take median x and mean y in groups of equally many points by x: [n], [n] -> [k], [k]."""
    groups = [part for part in np.array_split(np.argsort(x, kind="stable"), bins) if len(part)]
    centers = np.array([np.median(x[part]) for part in groups])
    return centers, np.array([y[part].mean() for part in groups])


def label(name: str) -> str:
    """Escape a name for matplotlib: a $ begins no formula, a leading _ hides no legend entry."""
    text = one_line(name)
    if len(text) > _LONGEST_NAME:
        half = (_LONGEST_NAME - 3) // 2
        text = f"{text[:half]}...{text[-half:]}"
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


# --- calibration -------------------------------------------------------------------------------


def write_reliability(calibration: Mapping[str, Any], folder: Path) -> None:
    """Write reliability.png and reliability.pdf of what calibration.json holds."""
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        _save(reliability_diagram(calibration), folder, "reliability")


def reliability_diagram(calibration: Mapping[str, Any]) -> Figure:
    """Draw the share of foreground against probability by region, and Dice against the threshold.

    Below each region stand the pixels of its bins. On the diagonal probabilities can be trusted;
    below it they are too high.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(3, 1))
    kinds = {"": "as it is", "_scaled": f"temperature {calibration['temperature']:.2f}"}
    errors = {"": calibration["measured"], "_scaled": calibration["scaled"]}
    regions = {"all": ("all pixels", "ece"), "margin": ("in and around lesions", "ece_margin")}
    for column, (region, (title, error)) in enumerate(regions.items()):
        axes = figure.add_subplot(grid[0, column])
        below = figure.add_subplot(grid[1, column], sharex=axes)
        axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
        for number, (kind, name) in enumerate(kinds.items(), start=1):
            curve = calibration["curves"][f"{region}{kind}"]
            pixels = np.array(curve["pixels"], dtype=np.float64)
            known = pixels > 0
            points = [np.array(curve[key], dtype=np.float64) for key in ("probability", "share")]
            value = errors[kind][error]
            text = name if value is None else f"{name}: error {value:.4f}"
            line, color = f"-{MARKERS[number]}", _color(number)
            axes.plot(*(p[known] for p in points), line, color=color, markersize=4, label=text)
            edges = np.linspace(0, 1, len(pixels) + 1)
            below.stairs(pixels, edges, color=color)
        axes.set(title=title, xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.legend(loc="upper left", fontsize=7)
        below.set(xlabel="probability", yscale="log")
        if column == 0:
            axes.set_ylabel("share of foreground")
            below.set_ylabel("pixels")
    _dice_by_threshold(figure.add_subplot(grid[:, 2]), calibration)
    return figure


def _dice_by_threshold(axes: Axes, calibration: Mapping[str, Any]) -> None:
    dice, best = calibration["dice_by_threshold"], calibration["threshold"]
    axes.plot(np.arange(1, len(dice) + 1) / (len(dice) + 1), dice, color=_color(1))
    axes.axvline(best, color=_color(2), linewidth=1, label=f"best: {best:.2f}")
    axes.axvline(0.5, color="gray", linewidth=0.8, linestyle="--", label="0.5")
    axes.set(title="validation images", xlabel="threshold", ylabel="Dice", xlim=(0, 1))
    axes.legend(loc="lower center", fontsize=7)
