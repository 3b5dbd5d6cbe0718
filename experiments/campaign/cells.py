"""The results of a row, and numbers as cells of a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from campaign.settings import TESTS, Campaign, Row
from textseg.metrics.scores import SCORES


def main_test(campaign: Campaign, row: Row) -> dict[str, Any] | None:
    """metrics.json of the test that a row is judged by: true captions, if it was trained so."""
    return test_of(campaign, row, campaign.tests_of(row)[0])


def test_of(campaign: Campaign, row: Row, name: str) -> dict[str, Any] | None:
    """metrics.json of a finished test."""
    if f"test {name}" not in campaign.note(row)["done"]:
        return None
    return campaign.results(row, f"test/{TESTS[name]}/metrics.json")


def score(metrics: Mapping[str, Any] | None, name: str) -> str:
    """A score with its 95% interval, if it has one; "-" where there is no such score."""
    if metrics is None:
        return ""
    form = ".2f" if SCORES[name].form == ".1f" else ".4f"
    ends = [metrics.get(f"{name}_ci_{end}") for end in ("low", "high")]
    return estimate(metrics.get(name), *ends, form=form)


def of_interval(values: Mapping[str, Any] | None, name: str, sign: str = "") -> str:
    """A value of a probe with its interval."""
    if not values:
        return ""
    return estimate(values[name], values[f"{name}_ci_low"], values[f"{name}_ci_high"], sign=sign)


def estimate(value: Any, low: Any, high: Any, *, form: str = ".4f", sign: str = "") -> str:
    """A number with its 95% interval, if it has one."""
    interval = "" if low is None or high is None else f" [{low:{sign}{form}}, {high:{sign}{form}}]"
    return "-" if value is None else f"{value:{sign}{form}}{interval}"


def number(value: Any) -> str:
    """A number; empty for none."""
    return "" if value is None else f"{value:.4f}"


def table(head: Iterable[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    names = list(head)
    rule = f"|{'---|' * len(names)}"
    return [f"| {' | '.join(names)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]
