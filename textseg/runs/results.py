"""metrics.json and cases.csv of one test as plain values, checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args

from textseg.errors import UserError, refusing
from textseg.metrics.scores import Protocol
from textseg.metrics.text import averaging_text
from textseg.output import check_complete
from textseg.runs.cases import TEST_AGAIN, CaseRow, read_cases

# Of values in metrics.json and probe.json; all else is a number or null, or a mapping by its depth.
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("caption_mode", "protocol", "truth", "surface_unit", "network", "data"), str),
    **{"tta": str, "ensemble": list, "versions": str, "reads_text": bool},
    **dict.fromkeys(("warnings", "size_cuts"), list),
}
_DEPTH = {"strata": 3, "variants": 2, "absent_kinds": 2, "pairs": 1, "side_swap": 1, "absent": 1}


@dataclass(frozen=True)
class StoredTest:
    """One test as its folder holds it: metrics.json, and cases.csv in the order of the test set."""

    folder: Path
    metrics: dict[str, Any]
    cases: tuple[CaseRow, ...]

    @property
    def name(self) -> str:
        """The folder's, which is the caption mode, or `true_2` for a second test."""
        return self.folder.name

    @property
    def written(self) -> str:
        """When metrics.json was written, as text."""
        seconds = (self.folder / "metrics.json").stat().st_mtime
        return f"{datetime.fromtimestamp(seconds, tz=timezone.utc):%Y-%m-%d %H:%M} UTC"

    @property
    def caption_mode(self) -> str:
        """What captions the network was given: true, empty or shuffled."""
        return str(self.metrics["caption_mode"])

    @property
    def protocol(self) -> Protocol:
        """How the test was scored, see `textseg.metrics`."""
        return self.metrics["protocol"]

    @property
    def tolerance(self) -> float | None:
        """Of nsd, in the unit of distances; None where there are none."""
        return self.metrics.get("nsd_tolerance")

    @property
    def averaging(self) -> str:
        """What logits were averaged over, in words; "" for one network and one image."""
        return averaging_text(self.metrics)

    def pictures(self, kind: str) -> dict[str, Path]:
        """Files in overlays or explain, by case."""
        return {file.stem: file for file in pngs_in(self.folder / kind)}


def pngs_in(folder: Path) -> list[Path]:
    """List the PNG files of a folder of results, without what a Mac leaves beside them."""
    return sorted(file for file in folder.glob("*.png") if not file.name.startswith("."))


def read_test(folder: Path) -> StoredTest:
    """Read metrics.json and cases.csv of one test.

    Raises:
        UserError: either is missing, broken, or of another version, or the test was ended.
    """
    check_complete(folder)
    file = folder / "metrics.json"
    metrics = read_scores(
        file, ("dice", "miou", "cases", "empty_cases", "caption_mode", "protocol")
    )
    if metrics["protocol"] not in get_args(Protocol):
        raise UserError(f"{file}: protocol is {metrics['protocol']!r}", _remedy(file))
    cases = read_cases(folder / "cases.csv", metrics["protocol"])
    if metrics["cases"] != len(cases):
        raise UserError(
            f"{file} is of {metrics['cases']} cases, cases.csv beside it of {len(cases)}",
            "one of them was edited or is of another test: test the run again",
        )
    return StoredTest(folder, metrics, tuple(cases))


def read_scores(file: Path, needed: Sequence[str]) -> dict[str, Any]:
    """Read metrics.json or probe.json, with None for NaN, and check the kind of every value.

    Raises:
        UserError: it is missing or broken, a value is of another kind, or a needed one is missing.
    """
    broken = (OSError, ValueError, RecursionError)
    with refusing(broken, f"{file} cannot be read as JSON", _remedy(file)):
        values = json.loads(file.read_text(encoding="utf-8"), parse_constant=lambda name: None)
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no results by name", _remedy(file))
    for name, value in values.items():
        if value is not None:
            _check_kind(file, name, value, _DEPTH.get(name, 0))
    missing = [name for name in needed if values.get(name) is None]
    if missing:
        raise UserError(f"{file} has no {', '.join(missing)}", _remedy(file))
    return values


def _check_kind(file: Path, name: str, value: Any, depth: int) -> None:
    """Check the kind of a value: where `depth` is not 0, a mapping of mappings and so on."""
    kind = dict if depth else _KINDS.get(name, int | float | None)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{file}: {name} is {value!r}", _remedy(file))
    if name == "size_cuts" and [type(cut) for cut in value] not in ([], [float, float]):
        raise UserError(f"{file}: size_cuts is {value!r}, not two numbers", _remedy(file))
    if depth:
        for key, one in value.items():
            _check_kind(file, f"{name}.{key}", one, depth - 1)


def _remedy(file: Path) -> str:
    """New results are written beside old ones, so that broken ones must be removed."""
    if file.name == "probe.json":
        return "probe the run again with this version: textseg probe RUN"
    return f"{TEST_AGAIN}, with this version, and remove {file.parent}"
