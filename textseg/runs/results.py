"""metrics.json and cases.csv of one test as plain values, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args

from textseg.errors import UserError, first_line
from textseg.metrics.scores import SCORES, Protocol
from textseg.runs.cases import TEST_AGAIN, CaseRow, read_cases


@dataclass(frozen=True)
class StoredTest:
    """One test as its folder holds it.

    Args:
        name: of the folder, which is the caption mode, or `true_2` for a second test.
        folder: that holds metrics.json and cases.csv.
        metrics: metrics.json.
        cases: the rows of cases.csv, in the order of the test set.
        written: when metrics.json was written, as text.
    """

    name: str
    folder: Path
    metrics: dict[str, Any]
    cases: tuple[CaseRow, ...]
    written: str

    @property
    def caption_mode(self) -> str:
        """What captions the network was given: true, empty or shuffled."""
        return str(self.metrics["caption_mode"])

    @property
    def protocol(self) -> Protocol:
        """How the test was scored, see `textseg.metrics`."""
        return self.metrics["protocol"]

    def pictures(self, kind: str) -> dict[str, Path]:
        """Files in overlays or explain, by case."""
        return {file.stem: file for file in sorted((self.folder / kind).glob("*.png"))}


def read_test(folder: Path) -> StoredTest:
    """Read metrics.json and cases.csv of one test.

    Raises:
        UserError: either is missing, broken, or of another version.
    """
    file = folder / "metrics.json"
    metrics = read_json(file)
    if not isinstance(metrics, dict):
        raise UserError(f"{file} holds no results by name", remedy_for(file))
    for name in (*SCORES, "cases", "empty_cases"):
        if number_of(metrics, name, file) is None:
            raise UserError(f"{file} has no {name}", remedy_for(file))
    for name, known in (("protocol", get_args(Protocol)), ("caption_mode", None)):
        value = metrics.get(name)
        if not isinstance(value, str) or (known and value not in known):
            raise UserError(f"{file}: {name} is {value!r}", remedy_for(file))
    cases = read_cases(folder / "cases.csv", metrics["protocol"])
    if metrics["cases"] != len(cases):
        raise UserError(
            f"{file} is of {metrics['cases']} cases, cases.csv beside it of {len(cases)}",
            "one of them was edited or is of another test: test the run again",
        )
    when = datetime.fromtimestamp(file.stat().st_mtime, tz=timezone.utc)
    return StoredTest(folder.name, folder, metrics, tuple(cases), f"{when:%Y-%m-%d %H:%M} UTC")


def remedy_for(file: Path) -> str:
    """Remedy for a broken file of a test or probe; new results are written beside old ones."""
    if file.name == "probe.json":
        return "probe the run again with this version: textseg probe RUN"
    return f"{TEST_AGAIN}, with this version, and remove {file.parent}"


def read_json(file: Path) -> Any:
    """Read a JSON file of a test.

    Raises:
        UserError: it is missing or broken.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read as JSON ({first_line(error)})", remedy_for(file)
        ) from error


def number_of(values: Mapping[str, Any], name: str, file: Path) -> float | None:
    """A number by its name; None where it is absent, null or NaN.

    Raises:
        UserError: it is something else; `file` is named.
    """
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{file}: {name} is {value!r}, no number", remedy_for(file))
    return value if math.isfinite(value) else None


def mapping_of(values: Any, name: str, file: Path) -> Mapping[str, Any]:
    """Values by name in a JSON file.

    Raises:
        UserError: they are something else; `file` and `name` are named.
    """
    if not isinstance(values, dict):
        raise UserError(f"{file}: {name} holds no values by name", remedy_for(file))
    return values
