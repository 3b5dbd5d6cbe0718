"""Tables of a run's scores: what metrics.json holds, rounded for reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textseg.errors import UserError
from textseg.metrics.scores import SCORE_TITLES, SCORES
from textseg.metrics.text import with_interval
from textseg.report.blocks import Block, Caution, Cell, Group, Table, Text
from textseg.runs.results import StoredTest, mapping_of, number_of, remedy_for

_STRATA = {
    "size": "lesion size",
    "number": "number of lesions (connected parts of the truth)",
    "side": "side of the picture",
}

MEANING = (
    "dice and miou are means over images: each image's own Dice or IoU of the foreground, "
    "averaged. dice_global and iou_global pool the pixels of the whole test set and take one Dice "
    "and one IoU, so large lesions weigh more. On the same masks the two kinds can differ by "
    "several points: compare a number with published ones of its own kind only.",
    "In brackets: 95% interval from a bootstrap over patients (over images where no patient is "
    "known). P@X: share of cases whose IoU exceeds X. hd95: 95th percentile of the distance "
    "between the two boundaries, less is better. nsd: share of the boundaries that agree within "
    "the tolerance. Both leave out the cases in which prediction or truth is empty.",
    "Caption modes: true is each case's own caption, empty none at all, shuffled another case's. "
    "Where the three score alike, the network does not read its caption.",
)


def score_cell(values: Mapping[str, Any], name: str, file: Path, form: str = ".3f") -> Cell:
    """Make a cell of a score with its interval, if any; a dash where it is undefined."""
    value = number_of(values, name, file)
    if value is None:
        return Cell("-")
    low, high = (number_of(values, f"{name}_ci_{end}", file) for end in ("low", "high"))
    return Cell(with_interval(value, low, high, form), value)


def count_cell(values: Mapping[str, Any], name: str, file: Path) -> Cell:
    """Make a cell of a count; a dash where there is none."""
    count = number_of(values, name, file)
    return Cell("-") if count is None else Cell(f"{count:g}", count)


def results_blocks(tests: Sequence[StoredTest]) -> list[Block]:
    """Build the warnings of all tests, and a table with a column for each."""
    warnings: list[Block] = [
        Caution(f"{text} ({', '.join(names)})") for text, names in _warnings(tests).items()
    ]
    rows = [[Cell(f"{SCORE_TITLES[name]} ({name})"), *_cells(tests, name)] for name in SCORES]
    thresholds = [name for name in tests[0].metrics if name.startswith("precision_at_")]
    for name in thresholds:
        rows.append([Cell(f"P@{name.removeprefix('precision_at_')}"), *_cells(tests, name)])
    if any("hd95" in test.metrics for test in tests):
        rows.append([Cell("hd95"), *(_distance(test) for test in tests)])
        rows.append([Cell("nsd"), *_cells(tests, "nsd")])
        rows.append([Cell("cases without hd95 and nsd"), *_counts(tests, "surface_undefined")])
    rows.append([Cell("cases"), *_counts(tests, "cases")])
    rows.append([Cell("patients (units of the bootstrap)"), *_counts(tests, "bootstrap_units")])
    rows.append([Cell("cases with empty truth and prediction"), *_counts(tests, "empty_cases")])
    rows.append([Cell("scored by protocol"), *_words(tests, "protocol")])
    rows.append([Cell("truth"), *_words(tests, "truth")])
    rows.append([Cell("results written"), *(Cell(test.written) for test in tests)])
    return [*warnings, Table("Scores by caption mode", ["score", *(t.name for t in tests)], rows)]


def _warnings(tests: Sequence[StoredTest]) -> dict[str, list[str]]:
    """Each warning with the tests that give it."""
    tests_by_text: dict[str, list[str]] = {}
    for test in tests:
        listed = test.metrics.get("warnings") or []
        if not isinstance(listed, list):
            file = test.folder / "metrics.json"
            raise UserError(f"{file}: warnings is no list", remedy_for(file))
        for text in listed:
            tests_by_text.setdefault(str(text), []).append(test.name)
    return tests_by_text


def _cells(tests: Sequence[StoredTest], name: str) -> list[Cell]:
    return [score_cell(test.metrics, name, test.folder / "metrics.json") for test in tests]


def _distance(test: StoredTest) -> Cell:
    value = number_of(test.metrics, "hd95", test.folder / "metrics.json")
    unit = str(test.metrics.get("surface_unit", ""))
    return Cell("-") if value is None else Cell(f"{value:.1f} {unit}".strip(), value)


def _counts(tests: Sequence[StoredTest], name: str) -> list[Cell]:
    return [count_cell(test.metrics, name, test.folder / "metrics.json") for test in tests]


def _words(tests: Sequence[StoredTest], name: str) -> list[Cell]:
    return [Cell(str(test.metrics.get(name, "-"))) for test in tests]


# --- strata --------------------------------------------------------------------------------------


def strata_blocks(main: StoredTest, others: Sequence[StoredTest]) -> list[Block]:
    """Build the tables of the main test, and those of the others behind a click."""
    blocks: list[Block] = [*_strata_of(main)]
    if not blocks:
        return [Text("The test was made by a version that wrote no strata: test the run again.")]
    for test in others:
        tables = _strata_of(test)
        if tables:
            blocks.append(Group(f"Captions: {test.name}", tables, closed=True))
    return blocks


def _strata_of(test: StoredTest) -> list[Table]:
    file = test.folder / "metrics.json"
    tables = []
    for name, classes in mapping_of(test.metrics.get("strata") or {}, "strata", file).items():
        rows = [
            _stratum(label, mapping_of(values, f"strata.{name}.{label}", file), file)
            for label, values in mapping_of(classes, f"strata.{name}", file).items()
        ]
        cuts = _cuts(test.metrics.get("size_cuts"), file) if name == "size" else ""
        title = f"By {_STRATA.get(name, name)}; captions: {test.name}{cuts}"
        tables.append(Table(title, ["class", "cases", "patients", *SCORES], rows))
    return tables


def _stratum(label: str, values: Mapping[str, Any], file: Path) -> list[Cell]:
    counts = (count_cell(values, name, file) for name in ("cases", "patients"))
    return [Cell(label), *counts, *(score_cell(values, name, file) for name in SCORES)]


def _cuts(cuts: Any, file: Path) -> str:
    """Where small ends and large begins."""
    if not cuts:
        return ""
    if not isinstance(cuts, list) or len(cuts) != 2:
        raise UserError(f"{file}: size_cuts is {cuts!r}, not two numbers", remedy_for(file))
    small, large = (number_of({"size_cuts": cut}, "size_cuts", file) for cut in cuts)
    if small is None or large is None:
        return ""
    return f". Thirds of this test set's lesions, cut at {small:.2%} and {large:.2%} of the image"
