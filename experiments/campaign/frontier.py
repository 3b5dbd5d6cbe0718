"""The picture of what accuracy costs: dice against GFLOPs and CPU hours, ours and theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.cells import main_test
from campaign.processes import read
from campaign.settings import Campaign, Row
from campaign.tables import published, size_of

AXES = {"gflops": "GFLOPs of one image", "cpu_hours": "CPU hours of a training"}
DPI = 150
MORE_MARKERS = "<>hp8d"  # theirs are all of one color


@dataclass(frozen=True)
class Point:
    """A network of the picture; without its interval it is not ours."""

    name: str
    dice: float
    gflops: float | None = None
    cpu_hours: float | None = None
    interval: tuple[float, float] | None = None
    theirs: bool = False


def points(campaign: Campaign, rows: Sequence[Row]) -> list[Point]:
    """Our tested rows and those published figures whose cost is known."""
    found = []
    for row in rows:
        metrics = main_test(campaign, row)
        if metrics is None or metrics["dice"] is None:
            continue
        size, seconds = size_of(campaign, row), campaign.cost(row)
        ends = metrics.get("dice_ci_low"), metrics.get("dice_ci_high")
        found.append(
            Point(
                campaign.title_of(row),
                metrics["dice"],
                gflops=size["gflops"] if size else None,
                cpu_hours=seconds / 3600 if seconds else None,
                interval=None if None in ends else ends,
            )
        )
    for one in published(campaign):
        if one.get("dice") and one.get("gflops"):
            name = f"{one['name']}, {one['by']} (theirs)"
            found.append(Point(name, one["dice"], gflops=one["gflops"], theirs=True))
    return found


def best_so_far(given: Sequence[Point], cost: str) -> list[Point]:
    """Those of which none that costs less or as much has a higher dice, by rising cost."""
    known = [point for point in given if getattr(point, cost)]
    known.sort(key=lambda point: (getattr(point, cost), -point.dice))
    found: list[Point] = []
    for point in known:
        if not found or point.dice > found[-1].dice:
            found.append(point)
    return found


def best_published(campaign: Campaign) -> list[dict[str, Any]]:
    """Of those with public code the best by its authors, and the best by somebody else's test."""
    known = [one for one in published(campaign) if one.get("dice") and one["code"]]
    found = []
    for by in ("paper", "re-scored"):
        found += sorted((one for one in known if one["by"] == by), key=lambda one: one["dice"])[-1:]
    return found


def numbered(campaign: Campaign, ours: Sequence[Point]) -> dict[str, int]:
    """The number of a color and marker for each network: the comparison's own, then others'."""
    compared = read(campaign.out / "compare" / "comparison.json") or {"methods": []}
    names = [method["name"] for method in compared["methods"]]
    names += [point.name for point in ours]
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def draw(campaign: Campaign, rows: Sequence[Row], file: Path, kept: Sequence[Point] = ()) -> bool:
    """Write the picture as PNG; False where there is nothing of ours to draw.

    Args:
        campaign, rows: what is drawn.
        file: of the picture.
        kept: further points of ours, which this folder has not tested.
    """
    order = {campaign.title_of(row): number for number, row in enumerate(rows)}
    given = sorted(
        [*points(campaign, rows), *kept], key=lambda one: order.get(one.name, len(order))
    )
    if all(point.theirs for point in given):
        return False
    import matplotlib
    from matplotlib.figure import Figure

    ours = numbered(campaign, [point for point in given if not point.theirs])
    with matplotlib.rc_context({"text.usetex": False, "font.size": 9}):
        figure = Figure(figsize=(10.5, 4.4), layout="constrained")
        for axes, cost in zip(figure.subplots(1, 2, sharey=True), AXES, strict=True):
            panel(axes, given, cost, ours)
            for one, style in zip(best_published(campaign), ("--", ":"), strict=False):
                label = f"{one['name']}, {one['by']}, best with public code (theirs)"
                axes.axhline(one["dice"], color="#777777", linestyle=style, lw=0.8, label=label)
        figure.axes[0].set_ylabel("dice, mean over test images")
        handles, names = figure.axes[0].get_legend_handles_labels()
        known = dict(zip(names, handles, strict=True))
        more = zip(*figure.axes[1].get_legend_handles_labels(), strict=True)
        known |= {name: handle for handle, name in more if name not in known}
        figure.legend(known.values(), known.keys(), loc="outside right upper", fontsize=8)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=DPI)
    return True


def panel(axes: Any, given: Sequence[Point], cost: str, numbers: Mapping[str, int]) -> None:
    """Points with their intervals, and the line of the best of ours so far."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    from textseg.report.plots import COLORS, MARKERS

    ours = [point for point in given if not point.theirs]
    theirs = [point.name for point in given if point.theirs]
    markers = MARKERS + MORE_MARKERS
    for point in given:
        at = getattr(point, cost)
        if not at:
            continue
        number = theirs.index(point.name) if point.theirs else numbers[point.name]
        look: dict[str, Any] = {"marker": markers[number % len(markers)], "linestyle": "none"}
        look["color"] = "#777777" if point.theirs else COLORS[number % len(COLORS)]
        look["markerfacecolor"] = "none" if point.theirs else look["color"]
        look["alpha"] = 0.8  # of networks that cost alike both are seen
        bars = None
        if point.interval is not None:
            low, high = point.interval
            bars = [[max(0.0, point.dice - low)], [max(0.0, high - point.dice)]]
        axes.errorbar([at], [point.dice], yerr=bars, label=point.name, elinewidth=0.8, **look)
    line = best_so_far(ours, cost)
    if len(line) > 1:
        costs = [getattr(point, cost) for point in line]
        axes.step(costs, [point.dice for point in line], where="post", color="#bbbbbb", zorder=0)
    known = [at for point in given if (at := getattr(point, cost))]
    if cost == "gflops" and known and max(known) > 10 * min(known):  # as theirs are from ours
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, 1.08 * max(known, default=1.0))
    sizes = " (theirs at 224x224)" if cost == "gflops" and theirs else ""
    axes.set_xlabel(AXES[cost] + sizes)
    axes.grid(alpha=0.25)
