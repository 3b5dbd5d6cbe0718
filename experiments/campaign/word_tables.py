"""What the words are worth to the networks of a campaign: by captions of a test, and by probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from campaign.cells import of_interval, score, table, test_of
from campaign.settings import Campaign, Row

DIFFERENCE = "dice: that with the changed words less that with the true ones, of the same images."


class Share(NamedTuple):
    """A share in probe.json: its part, its name there, the number it is of, and what it is."""

    part: str
    name: str
    of: str
    legend: str


SHARES = {
    "side swapped: mask follows": Share(
        "side_swap",
        "share",
        "cases",
        "of the masks that lie to nine tenths in one half of the image, which are not the same "
        "for every network, the share that lies mostly in the other with the sides swapped",
    ),
    "pairs of one image: both followed": Share(
        "pairs", "followed", "pairs", "of pairs of texts, those with which each mask is its own"
    ),
    "asked for what is absent: outlined": Share(
        "absent", "outlined", "requests", "of all requests, those for which anything is outlined"
    ),
}


def word_table(campaign: Campaign, rows: Sequence[Row]) -> list[str]:
    """Dice with every kind of captions, of networks that read words."""
    head = ["network", *(f"dice, {name}" for name in campaign.tests)]
    out = []
    for row in rows:
        if len(campaign.tests_of(row)) > 1:
            found = [test_of(campaign, row, name) for name in campaign.tests]
            out.append([campaign.title_of(row), *(score(one, "dice") for one in found)])
    return table(head, out) if out else []


def probe_table(campaign: Campaign, rows: Sequence[Row]) -> list[str]:
    """What each change of the words costs, and how often masks follow them, by network."""
    found = {}
    for row in rows:
        result = campaign.results(row, "probe/probe.json")
        if result is not None and "probe" in campaign.note(row)["done"]:
            found[campaign.title_of(row)] = result
    if not found:
        return []
    out = []
    for name in (one for one in next(iter(found.values()))["variants"] if one != "true"):
        variants = [one["variants"].get(name) or {"cases": 0} for one in found.values()]
        cases = max(one["cases"] for one in variants)
        cells = [of_interval(one, "difference", "+") if one["cases"] else "" for one in variants]
        out += [[f"dice, {name} ({cases} images)", *cells]] if cases else []
    legend = [DIFFERENCE]
    for title, share in SHARES.items():
        parts = [one.get(share.part) for one in found.values()]
        if any(parts):
            out.append([title, *(share_of(part, share) for part in parts)])
            legend.append(f"{title}: {share.legend}.")
    return [*table(["change of the words", *found], out), "", " ".join(legend)]


def share_of(found: Mapping[str, Any] | None, share: Share) -> str:
    """A share with its interval, and of how many; empty where there was none to look at."""
    return f"{of_interval(found, share.name)} of {found[share.of]}" if found else ""
