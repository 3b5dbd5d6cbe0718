"""Tables of what metrics.json and probe.json hold, rounded for reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textseg.metrics.calibration import ERRORS
from textseg.metrics.scores import MAIN, SCORES
from textseg.metrics.text import coverage_text, quartiles_text, with_interval
from textseg.output import is_incomplete
from textseg.report.blocks import Block, Caution, Cell, Group, Table, Text
from textseg.runs.results import StoredTest, read_scores

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
    "known). hd95: 95th percentile of the distance between the two boundaries, less is better; it "
    "leaves out the cases in which prediction or truth is empty, where hd95_penalized takes the "
    "image's diagonal (0 where both are). nsd: share of the boundaries that agree within the "
    "tolerance, 0 where one mask is empty and 1 where both are. No mean is taken over pixels and "
    "millimetres.",
    "dice_patient pools the pixels of a patient's images and averages over patients. Lesions are "
    "connected parts of an image's mask; a true one is found if an outlined one overlaps it (or "
    "has an IoU above 0.5), each taken once; a lesion that is seen in several slices counts in "
    "each. False alarms are of images without a lesion.",
    "Caption modes: true is each case's own caption, empty none at all, shuffled another case's. "
    "Where the three score alike, the network does not read its caption.",
)


def score_cell(values: Mapping[str, Any], name: str, form: str = ".3f") -> Cell:
    """Make a cell of a score with its interval, if any; a dash where it is undefined."""
    value = values.get(name)
    if value is None:
        return Cell("-")
    low, high = (values.get(f"{name}_ci_{end}") for end in ("low", "high"))
    return Cell(with_interval(value, low, high, form), value)


def number_cell(value: float | None, form: str = "g", unit: str = "") -> Cell:
    """Make a cell of a number; a dash where there is none."""
    return Cell("-") if value is None else Cell(f"{value:{form}} {unit}".strip(), value)


def results_blocks(tests: Sequence[StoredTest]) -> list[Block]:
    """Build the warnings of all tests, and a table with a column for each."""
    metrics = [test.metrics for test in tests]
    by_text: dict[str, list[str]] = {}
    for test in tests:
        for text in test.metrics.get("warnings") or []:
            by_text.setdefault(str(text), []).append(test.name)
    warnings = [Caution(f"{text} ({', '.join(names)})") for text, names in by_text.items()]

    def scores(title: str, name: str) -> list[Cell]:
        return [Cell(title), *(score_cell(one, name, SCORES[name].form) for one in metrics)]

    def counts(title: str, name: str) -> list[Cell]:
        return [Cell(title), *(number_cell(one.get(name)) for one in metrics)]

    def texts(title: str, name: str) -> list[Cell]:
        return [Cell(title), *(Cell(str(one.get(name, "-"))) for one in metrics)]

    known = [name for name in SCORES if any(name in one for one in metrics)]
    rows = [scores(f"{SCORES[name].title} ({name})", name) for name in known]
    for name, (_, title) in ERRORS.items():
        if any(name in one for one in metrics):
            cells = (number_cell(one.get(name), ".4f") for one in metrics)
            rows.append([Cell(f"{title} ({name})"), *cells])
    if "hd95" in known:
        rows += [
            [Cell("hd95, median (quartiles)"), *(Cell(quartiles_text(one)) for one in metrics)],
            texts("unit of distances", "surface_unit"),
            counts("tolerance of nsd", "nsd_tolerance"),
            counts("cases without hd95", "surface_undefined"),
        ]
    rows += [
        counts("cases", "cases"),
        counts("cases without a lesion", "cases_without_lesion"),
        counts("patients (units of the bootstrap)", "bootstrap_units"),
        counts("cases with empty truth and prediction", "empty_cases"),
        texts("scored by protocol", "protocol"),
        texts("truth", "truth"),
        [Cell("at test time"), *(Cell(test.averaging or "none") for test in tests)],
    ]
    if any(one.get("ensemble") for one in metrics):
        members = (", ".join(one.get("ensemble") or ["-"]) for one in metrics)
        rows.append([Cell("networks of the ensemble"), *map(Cell, members)])
    if any("unmirrored" in one for one in metrics):
        rows.append(counts("captions that could not be mirrored", "unmirrored"))
    rows.append([Cell("results written"), *(Cell(test.written) for test in tests)])
    return [*warnings, Table("Scores by caption mode", ["score", *(t.name for t in tests)], rows)]


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
    tables = []
    for name, classes in (test.metrics.get("strata") or {}).items():
        rows = []
        for label, values in classes.items():
            counts = (number_cell(values.get(key)) for key in ("cases", "patients"))
            rows.append([Cell(label), *counts, *(score_cell(values, key) for key in MAIN)])
        title = f"By {_STRATA.get(name, name)}; captions: {test.name}"
        cuts = test.metrics.get("size_cuts")
        if name == "size" and cuts:
            ends = "cut at {:.2%} and {:.2%} of the image".format(*cuts)
            title += f". Thirds of this test set's lesions, {ends}"
        tables.append(Table(title, ["class", "cases", "patients", *MAIN], rows))
    return tables


_PROBE_SCORES = ("dice", "dice_true", "difference", "mask_change")
_ABSENT_SCORES = ("outlined", "area", "area_true")
_PAIRS = (
    "Two expressions of one image. followed: share of pairs where each mask is nearer to its own "
    "truth; own, other: mean Dice with either"
)
_SIDE_SWAP = "Sides swapped. Of the masks that lay in one half, the share that went to the other"
# A part of probe.json, what its table is of, what it counts, its scores.
_MORE: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("pairs", _PAIRS, "pairs", ("followed", "own", "other")),
    ("side_swap", _SIDE_SWAP, "cases", ("share",)),
)


def first_probe(run: Path) -> dict[str, Any]:
    """Read probe.json of a run's first probe; empty where it was not probed to the end.

    Raises:
        UserError: the file is broken or of another version.
    """
    file = run / "probe" / "probe.json"
    if is_incomplete(file.parent) or not file.is_file():
        return {}
    return read_scores(file, ["variants"])


def probe_blocks(run: Path) -> list[Block]:
    """Build the table of changes and what follows from it; empty where the run was not probed.

    Raises:
        UserError: probe.json is broken or of another version.
    """
    if is_incomplete(run / "probe"):
        return [Caution(f"{run / 'probe'} is not complete: its probe was ended, or is running.")]
    stored = first_probe(run)
    if not stored:
        return []
    from textseg.probe.tables import ABSENT_NOTES, NOTES  # torch takes seconds

    blocks: list[Block] = [Caution(str(text)) for text in stored.get("warnings") or []]
    again = run.glob("probe_[0-9]*/probe.json")
    later = [path for path in again if not is_incomplete(path.parent)]
    if later:
        blocks.append(Text(f"Probed again {len(later)} times since: the first probe is shown."))
    head = ["captions", "cases", *_PROBE_SCORES, "masks changed"]
    total = stored.get("cases") or 0
    rows = [_row(name, values, total) for name, values in stored["variants"].items()]
    blocks += [*map(Text, NOTES), Table("Changed captions", head, rows)]
    for name, title, count, scores in _MORE:
        values = stored.get(name)
        if values is not None:
            cells = [score_cell(values, score) for score in scores]
            row = [number_cell(values.get(count)), *cells]
            blocks.append(Table(title, [count, *scores], [row]))
    if stored.get("absent"):
        kinds = {**(stored.get("absent_kinds") or {}), "all": stored["absent"]}
        rows = [_absent_row(name, values) for name, values in kinds.items()]
        head = ["asked for", "requests", *_ABSENT_SCORES]
        blocks += [*map(Text, ABSENT_NOTES), Table("What the images do not show", head, rows)]
    return blocks


def _absent_row(name: str, values: Mapping[str, Any]) -> list[Cell]:
    forms = dict(zip(_ABSENT_SCORES, (".3f", ".1%", ".1%"), strict=True))
    cells = [score_cell(values, score, form) for score, form in forms.items()]
    return [Cell(name), number_cell(values.get("requests")), *cells]


def _row(name: str, values: Mapping[str, Any], total: int) -> list[Cell]:
    forms = {"difference": "+.3f"}
    scores = [score_cell(values, score, forms.get(score, ".3f")) for score in _PROBE_SCORES]
    changed = score_cell(values, "share_changed", ".0%")
    cases = values.get("cases") or 0
    coverage = Cell(coverage_text(cases, total, values.get("same") or 0), cases)
    return [Cell(name), coverage, *scores, changed]
