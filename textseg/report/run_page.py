"""The page of one run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from textseg.metrics.ranking import choose
from textseg.report.blocks import Block, CaseCard, Caution, Cell, Facts, Group, Section, Table, Text
from textseg.report.calibration_section import calibration_blocks
from textseg.report.embedded_images import album
from textseg.report.page import write_page
from textseg.report.plots import (
    BOXES,
    dice_by_size,
    distribution,
    learning_curves,
    plot,
    stratum_distribution,
)
from textseg.report.score_tables import MEANING, probe_blocks, results_blocks, strata_blocks
from textseg.runs import CaseRow, Run, StoredTest

_Curves = Mapping[str, Sequence[tuple[int, float]]]  # name -> (epoch, value)
_LOSSES = ("train/loss", "val/loss")
_SCORES = ("val/dice", "val/miou")
_ABSOLUTE = re.compile(r"(?:[a-z][a-z0-9+.-]*://|~|/|\\\\|[A-Za-z]:[\\/]).*", re.DOTALL)


def run_page(run: Run, *, captions: str, data: str | None, cases: int) -> str:
    """Build the page of one run; arguments as of `textseg.report.report`.

    Raises:
        UserError: there is no such test, or a file of the run is broken.
    """
    tests, folder = run.tests(data), run.tests_dir(data)
    if captions not in tests:
        raise run.not_tested(captions, data)
    main = tests[captions]
    ordered = [main, *(test for name, test in tests.items() if name != captions)]
    settings, curves = run.settings(), run.curves()
    probe, calibration = probe_blocks(run.folder), calibration_blocks(run.folder)
    sections = [
        Section("run", "Run", _facts(settings, curves, f"{folder.name}/{main.name}", main)),
        Section("meaning", "What the numbers mean", [Text(text) for text in MEANING]),
        Section("results", "Results", results_blocks(list(tests.values()))),
        Section("strata", "By stratum", strata_blocks(main, ordered[1:])),
        Section("plots", "Plots", _plots(curves, main, ordered)),
        *([Section("probe", "Use of the text", probe)] if probe else []),
        *([Section("calibration", "Calibration", calibration)] if calibration else []),
        Section("cases", "Best, median and worst cases", case_blocks(main, ordered[1:], cases)),
        Section("settings", "Settings", [_settings_block(settings)]),
    ]
    where = "" if data is None else f", tested on {folder.name.removeprefix('test_on_')}"
    return write_page(run.short_name, f"Report of one run{where}", sections)


def _facts(
    settings: Mapping[str, Any], curves: _Curves, folder: str, main: StoredTest
) -> list[Block]:
    """What was trained and tested, in a list; `folder` is the test's below the run's."""
    trained = {epoch for key, points in curves.items() if key in _LOSSES for epoch, _ in points}
    known = dict(flat_settings(settings))
    network = known.get("model.class_path", "unknown").rpartition(".")[2]
    dataset = known.get("data.class_path", "unknown").rpartition(".")[2].removesuffix("DataModule")
    pairs = [
        ("network", network),
        ("dataset", dataset),
        ("split", known.get("data.init_args.split", "unknown")),
        ("seed", known.get("seed_everything", "unknown")),
        ("precision", known.get("trainer.precision", "unknown")),
        ("epochs asked for", known.get("trainer.max_epochs", "unknown")),
        ("epochs in metrics.csv", str(len(trained)) if trained else "unknown"),
        ("test", folder),
        ("at test time", main.averaging or "none"),
        ("results written", main.written),
    ]
    missing = [] if settings else [Caution("config.yaml is missing: what was trained is unknown")]
    return [Facts(pairs), *missing]


def _plots(curves: _Curves, main: StoredTest, ordered: Sequence[StoredTest]) -> list[Block]:
    plots: list[Block] = []
    losses = {key: curves[key] for key in _LOSSES if key in curves}
    scores = {key: curves[key] for key in _SCORES if key in curves}
    if losses or scores:
        best = "no val/dice"
        if "val/dice" in scores:
            epoch, value = max(scores["val/dice"], key=lambda point: point[1])
            best = f"best val/dice {value:.3f} in epoch {epoch}"
        alt = f"Curves of {', '.join([*losses, *scores])} over epochs; {best}"
        caption = "Learning curves: losses above, validation scores below."
        plots.append(plot(lambda: learning_curves(losses, scores), alt, caption))
    else:
        plots.append(Text("There are no learning curves: metrics.csv is missing or has none."))
    dice = [np.array([case.dice for case in test.cases]) for test in ordered]
    names = [test.name for test in ordered]
    medians = "; ".join(f"{n}: median {np.median(d):.3f}" for n, d in zip(names, dice, strict=True))
    caption = f"Dice of each case by caption mode: {BOXES}."
    alt = f"Distribution of per-case Dice by caption mode. {medians}"
    plots.append(plot(lambda: distribution(names, dice, "Dice of a case"), alt, caption))
    return [*plots, *_by_size(main, ordered), *_by_strata(main)]


def _by_strata(main: StoredTest) -> list[Block]:
    """Dice by the classes of each stratum of the user's own."""
    dice = np.array([case.dice for case in main.cases])
    plots: list[Block] = []
    for name in main.cases[0].strata:
        classes = [case.strata[name] for case in main.cases]
        caption = f"Dice of each case by {name}, captions {main.name}: {BOXES}."
        plots.append(plot(partial(stratum_distribution, classes, dice, name), caption, caption))
    return plots


def _by_size(main: StoredTest, ordered: Sequence[StoredTest]) -> list[Block]:
    """Dice against lesion size, of the tests that have the main one's very cases."""
    share = np.array([case.true / case.pixels for case in main.cases])
    if not (share > 0).any():
        return [Text("No case has a lesion, so there is no Dice against lesion size.")]
    dice = {}
    for test in ordered:
        own = {case.case: case.dice for case in test.cases}
        if own.keys() == {case.case for case in main.cases}:
            dice[test.name] = np.array([own[case.case] for case in main.cases])
    caption = (
        f"Dice against lesion size. Points: cases with captions {main.name}; lines: means of five "
        "groups of equally many cases."
    )
    return [plot(lambda: dice_by_size(share, dice), caption, caption)]


def case_blocks(main: StoredTest, others: Sequence[StoredTest], count: int) -> list[Block]:
    """Build the cards of the chosen cases, in three groups below a sentence about the choice."""
    overlays, explained = main.pictures("overlays"), main.pictures("explain")
    pictured = {i for i, case in enumerate(main.cases) if case.case in overlays}
    if not (pictured and count):
        setting = "results_writer.overlays" if count else "cases"
        return [Text(f"No case is shown: {setting} is 0, or the pictures were removed.")]
    choice = choose(
        [case.dice for case in main.cases],
        [case.true > 0 for case in main.cases],
        pictured,
        count,
    )
    names = [main.cases[position].case for position in choice.shown()]
    files = [kind[name] for kind in (overlays, explained) for name in names if name in kind]
    pictures = album(files)
    text = (
        f"Ranked by Dice with captions {main.name} over all {len(main.cases)} cases, of which "
        f"{len(pictured)} have a picture; the cases shown are chosen among these, the "
        "best among those with a lesion."
    )
    if explained:
        text += (
            f" {len(explained)} cases are explained; those among the cases shown have both "
            "pictures."
        )
    dice = {test.name: {case.case: case.dice for case in test.cases} for test in others}

    def card(position: int) -> CaseCard:
        case = main.cases[position]
        facts = _case_facts(case, f"{choice.rank[position]} of {len(choice.rank)}", dice)
        numbers = f"Dice {case.dice:.3f}. Caption: {case.caption or 'none'}"
        alt = f"{case.case}: image, truth, prediction and agreement. {numbers}"
        shown = [pictures.show(overlays[case.case], alt, "")]
        if case.case in explained:
            what = "what the network looked at"
            alt = f"{case.case}: {what}. {numbers}"
            shown.append(pictures.show(explained[case.case], alt, f"Explanation: {what}"))
        return CaseCard(case.case, case.caption, facts, shown)

    groups = choice.groups().items()
    cards = [Group(title, [card(i) for i in positions]) for title, positions in groups]
    return [Text(text + pictures.note), *cards]


def _case_facts(
    case: CaseRow, rank: str, others: Mapping[str, Mapping[str, float]]
) -> list[tuple[str, str]]:
    hd95 = "undefined" if case.hd95 is None else f"{case.hd95:.1f} {case.surface_unit}".strip()
    return [
        ("rank", rank),
        ("Dice", f"{case.dice:.3f}"),
        ("IoU", f"{case.iou:.3f}"),
        ("hd95", hd95),
        *([] if case.nsd is None else [("nsd", f"{case.nsd:.3f}")]),
        ("true pixels", str(case.true)),
        ("predicted pixels", str(case.predicted)),
        ("lesion size", case.lesion_size),
        ("lesions", str(case.lesion_number)),
        ("side", case.lesion_side),
        *case.strata.items(),
        *(
            (f"Dice, captions {name}", f"{dice[case.case]:.3f}")
            for name, dice in others.items()
            if case.case in dice
        ),
    ]


def _settings_block(settings: Mapping[str, Any]) -> Block:
    """Build a table of all settings, opened at a click; a sentence where there are none."""
    if not settings:
        return Text("config.yaml is missing.")
    rows = [[Cell(name), Cell(value)] for name, value in flat_settings(settings)]
    caption = "config.yaml; of absolute paths only the last part is shown"
    title = f"All {len(rows)} settings of config.yaml"
    return Group(title, [Table(caption, ["setting", "value"], rows)], closed=True)


def flat_settings(settings: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """List settings by dotted name; of absolute paths only the last part."""
    flat: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat += flat_settings(value, f"{above}{key}.")
        else:
            shown = without_paths(value)
            is_text = isinstance(shown, str)
            text = shown if is_text else json.dumps(shown, ensure_ascii=False, default=str)
            flat.append((f"{above}{key}", text))
    return flat


def without_paths(value: Any) -> Any:
    """`/home/somebody/data/qata` -> `.../qata`, in lists and mappings too."""
    if isinstance(value, dict):
        return {key: without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_paths(one) for one in value]
    if not isinstance(value, str) or not _ABSOLUTE.fullmatch(value):
        return value
    last = re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return f".../{last}"
