"""Where the tables go: OUT/summary.md and, if asked, a part of docs/results.md."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from campaign.failures import failures
from campaign.frontier import draw
from campaign.phantoms import draw_phantoms
from campaign.settings import EXPERIMENTS, Campaign, Row
from campaign.tables import tables
from textseg.report.plots import BOXES

PAGE = EXPERIMENTS.parent / "docs" / "results.md"
FRONTIER, PHANTOMS = "frontier.png", "phantoms.png"
PLOTS = ("dice_distribution.png", "difference_by_size.png")  # of `textseg compare`
WORDS = {
    FRONTIER: "Dice against GFLOPs and against CPU hours. A grey line joins those of ours that no "
    "cheaper one equals, where they are several.",
    PLOTS[0]: f"Dice of every test image; {BOXES}.",
    PLOTS[1]: "Difference of Dice from the first network, by size of the lesion.",
    PHANTOMS: "Phantoms of the suite in the form of these data, their true masks and their words; "
    "left is the left of the picture. Pictures of patients are not shown.",
}
HEAD = """# Results

Written by `experiments/campaign.py SETTINGS --write_docs`: text between two markers is replaced by
the next start, all else is left alone. An empty cell has not been run. Rows marked "theirs" are
published figures (`experiments/campaign/published.yaml`), not runs of this suite. How scores are
defined is in [scores.md](scores.md); [calibration.md](calibration.md) has the calibration errors.
"""


def write_summary(campaign: Campaign, rows: Sequence[Row]) -> str:
    """Write OUT/summary.md and the picture beside it; returns the text."""
    lines = page_lines(campaign, rows)
    for name in pictures(campaign, rows):
        lines += [f"![{WORDS[name]}]({picture(campaign, name).relative_to(campaign.out)})", ""]
        lines += [WORDS[name], ""]
    text = "\n".join(lines).rstrip() + "\n"
    (campaign.out / "summary.md").write_text(text, encoding="utf-8")
    return text


def write_docs(campaign: Campaign, rows: Sequence[Row], page: Path = PAGE) -> None:
    """Put the tables and pictures between the campaign's markers in docs/results.md."""
    lines = page_lines(campaign, rows)
    for name in pictures(campaign, rows):
        copy = page.parent / "results" / f"{campaign.name}_{name}"
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(picture(campaign, name), copy)
        lines += [f"![{WORDS[name]}]({copy.relative_to(page.parent).as_posix()})", ""]
    begin, end = (f"<!-- campaign {campaign.name}: {which} -->" for which in ("begin", "end"))
    part = "\n".join([begin, "", *lines, end]) + "\n"
    text = page.read_text(encoding="utf-8") if page.is_file() else HEAD
    before, found, rest = text.partition(begin)
    after = rest.partition(f"{end}\n")[2] if found else ""
    page.write_text((before if found else f"{text.rstrip()}\n\n") + part + after, encoding="utf-8")


def page_lines(campaign: Campaign, rows: Sequence[Row]) -> list[str]:
    """The heading and all tables."""
    return [f"## {campaign.title}", "", *tables(campaign, rows), *failures(campaign, rows)]


def pictures(campaign: Campaign, rows: Sequence[Row]) -> list[str]:
    """The pictures that there are: of numbers and phantoms, never of patients."""
    drawn = draw(campaign, rows, picture(campaign, FRONTIER))
    if not picture(campaign, PHANTOMS).is_file():
        draw_phantoms(campaign, picture(campaign, PHANTOMS))
    plots = [name for name in PLOTS if picture(campaign, name).is_file()]
    return [PHANTOMS, *[FRONTIER] * drawn, *plots]


def picture(campaign: Campaign, name: str) -> Path:
    """The file of a picture in OUT."""
    return campaign.out / "compare" / name if name in PLOTS else campaign.out / name
