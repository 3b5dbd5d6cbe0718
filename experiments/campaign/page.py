"""Where the tables go: OUT/summary.md and, if asked, a part of docs/results.md."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from campaign.frontier import Point, draw
from campaign.headings import DIFFERENCES, Parts
from campaign.kept import Table, keep, kept_scores, kept_titles, read_parts, scored, separate
from campaign.phantoms import draw_phantoms
from campaign.processes import fail
from campaign.settings import EXPERIMENTS, Campaign, Row
from campaign.tables import NO_REAL_DATA, tables
from textseg.report.plots import BOXES

PAGE = EXPERIMENTS.parent / "docs" / "results.md"
FRONTIER, PHANTOMS = "frontier.png", "phantoms.png"
PLOTS = ("dice_distribution.png", "difference_by_size.png")  # of `textseg compare`
WORDS = {
    PHANTOMS: "Phantoms of the suite in the form of these data, their true masks and their words; "
    "left is the left of the picture. Pictures of patients are not shown.",
    FRONTIER: "Dice against GFLOPs and against CPU hours. A grey line joins those of ours that no "
    "cheaper one equals, where they are several.",
    PLOTS[0]: f"Dice of every test image; {BOXES}.",
    PLOTS[1]: "Difference of Dice from the first network, by size of the lesion.",
}
HEAD = """# Results

Written by `experiments/campaign.py SETTINGS --write_docs`: text between two markers is replaced by
the next start, all else is left alone. Rows that were run in another folder than the one at hand
stay as they are, and it is said of which; they are not compared with new ones image by image. An
empty cell has not been run. Rows marked "theirs" are
published figures (`experiments/campaign/published.yaml`), not runs of this suite. How scores are
defined is in [scores.md](scores.md); [calibration.md](calibration.md) has the calibration errors.
"""


def write_summary(campaign: Campaign, rows: Sequence[Row]) -> str:
    """Write OUT/summary.md and the picture beside it; returns the text."""
    lines = page_lines(campaign, tables(campaign, rows))
    for name in pictures(campaign, rows):
        lines += [f"![{WORDS[name]}]({picture(campaign, name).relative_to(campaign.out)})", ""]
        lines += [WORDS[name], ""]
    text = "\n".join(lines).rstrip() + "\n"
    (campaign.out / "summary.md").write_text(text, encoding="utf-8")
    return text


def write_docs(campaign: Campaign, rows: Sequence[Row], page: Path = PAGE) -> None:
    """Put the tables and pictures between the campaign's markers in docs/results.md.

    Rows that the page has and this folder has not tested stay as the page has them.
    """
    begin, end = (f"<!-- campaign {campaign.name}: {which} -->" for which in ("begin", "end"))
    text = page.read_text(encoding="utf-8") if page.is_file() else HEAD
    before, found, rest = text.partition(begin)
    own, _, after = rest.partition(f"{end}\n")
    old, new = read_parts(own), tables(campaign, rows)
    check_same(campaign, own, page)
    kept = kept_titles(campaign, rows, old)
    lines = page_lines(campaign, keep(campaign, rows, new, old, kept) if kept else new)
    copies = page.parent / "results"
    copies.mkdir(exist_ok=True)
    points = [Point(title, **found) for title, found in kept_scores(old, kept).items()]
    here = pictures(campaign, rows, points)
    if kept and compared(new) < compared(old):
        here = [name for name in here if name not in PLOTS]
    for name in here:
        shutil.copyfile(picture(campaign, name), copies / f"{campaign.name}_{name}")
    for name in WORDS:
        copy = copies / f"{campaign.name}_{name}"
        if name in here or (kept and copy.is_file()):
            lines += [f"![{WORDS[name]}]({copy.relative_to(page.parent).as_posix()})", ""]
    part = "\n".join([begin, "", *lines, end]) + "\n"
    page.write_text((before if found else f"{text.rstrip()}\n\n") + part + after, encoding="utf-8")


def page_lines(campaign: Campaign, parts: Parts) -> list[str]:
    """The heading and all tables, each below its own."""
    lines = [f"## {campaign.title}", ""]
    for heading, part in parts.items():
        lines += [*([f"### {heading}", ""] if heading else []), *part, ""] if part else []
    return lines


def compared(parts: Parts) -> int:
    """How many networks were compared, at most."""
    found = separate(parts.get(DIFFERENCES, []))
    return max((len(Table.read(lines).rows) for lines in found), default=0)


def check_same(campaign: Campaign, own: str, page: Path) -> None:
    """Refuse to set rows beside rows of other settings, or phantoms beside patients."""
    alike = f"## {campaign.title}\n" in own and (NO_REAL_DATA in own) == bool(campaign.synthesize)
    if scored(read_parts(own)) and not alike:
        cause = f"{page} has rows of other settings or data between the markers of {campaign.name}"
        fail(cause, "delete what is between them if it may go, or give the settings another name")


def pictures(campaign: Campaign, rows: Sequence[Row], kept: Sequence[Point] = ()) -> list[str]:
    """The pictures that there are: of numbers and phantoms, never of patients."""
    drawn = draw(campaign, rows, picture(campaign, FRONTIER), kept)
    if not picture(campaign, PHANTOMS).is_file():
        draw_phantoms(campaign, picture(campaign, PHANTOMS))
    plots = [name for name in PLOTS if picture(campaign, name).is_file()]
    return [PHANTOMS, *[FRONTIER] * drawn, *plots]


def picture(campaign: Campaign, name: str) -> Path:
    """The file of a picture in OUT."""
    return campaign.out / "compare" / name if name in PLOTS else campaign.out / name
