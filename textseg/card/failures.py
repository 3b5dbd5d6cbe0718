"""Where a tested network fails, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textseg.metrics.text import with_interval
from textseg.report.blocks import Block, Cell, Table, Text
from textseg.runs import StoredTest

BAD = 0.5  # a Dice below which a mask is of little use


def failure_blocks(test: StoredTest) -> list[Block]:
    """The worst class of each stratum, and how many masks of lesions are bad or miss all."""
    with_lesion = [case for case in test.cases if case.true > 0]
    bad = sum(case.dice < BAD for case in with_lesion)
    missed = sum(case.intersection == 0 for case in with_lesion)
    without = [case for case in test.cases if case.true == 0]
    alarms = sum(case.predicted > 0 for case in without)
    text = (
        f"Of {len(with_lesion)} test images with a lesion, {bad} have a Dice below {BAD} and in "
        f"{missed} the mask misses the lesion altogether. "
    )
    text += (
        f"Of {len(without)} without one, {alarms} are outlined all the same."
        if without
        else "How often an image without a lesion is outlined was not measured: there was none."
    )
    rows = [
        [Cell(name), Cell(label), Cell(str(values["cases"])), Cell(_with_interval(values, "dice"))]
        for name, classes in (test.metrics.get("strata") or {}).items()
        for label, values in [_worst(classes)]
        if label and len(classes) > 1  # of one class alone there is no worst
    ]
    if not rows:
        return [Text(text), Text("Strata were not measured.")]
    head = ["stratum", "worst class", "cases", "dice"]
    return [Text(text), Table("The class with the lowest Dice of each stratum", head, rows)]


def words_failures(probe: Mapping[str, Any]) -> list[Block]:
    """What misspelled words cost, and how often what an image does not show is outlined.

    Args:
        probe: the content of probe.json.
    """
    texts: list[Block] = []
    typos = (probe.get("variants") or {}).get("typos") or {}
    if typos.get("difference") is not None:
        lost = _with_interval(typos, "difference", "+.3f")
        texts.append(Text(f"Misspelled words change dice by {lost}."))
    absent = probe.get("absent") or {}
    if absent.get("outlined") is not None:
        share = _with_interval(absent, "outlined")
        texts.append(
            Text(
                f"Asked for what an image does not show, it outlines something in a share of "
                f"{share} of {absent['requests']} requests: a mask is no sign that the words are "
                "right."
            )
        )
    return texts


def _worst(classes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The class of the lowest Dice; an empty name where none has one."""
    known = {
        name: values
        for name, values in classes.items()
        if values.get("dice") is not None and name != "none"  # images without a lesion
    }
    name = min(known, key=lambda one: known[one]["dice"], default="")
    return name, known.get(name, {})


def _with_interval(values: Mapping[str, Any], score: str, form: str = ".3f") -> str:
    low, high = (values.get(f"{score}_ci_{bound}") for bound in ("low", "high"))
    return with_interval(values[score], low, high, form)
