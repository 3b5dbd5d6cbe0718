"""The page of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textseg.errors import UserError
from textseg.metrics.ranking import Choice, choose
from textseg.report.page import write_page
from textseg.report.parts import (
    Block,
    CaseCard,
    Caution,
    Cell,
    Facts,
    Group,
    Picture,
    Section,
    Table,
    Text,
)
from textseg.report.pictures import Album, album, embed_png
from textseg.report.plots import dice_by_size, distribution, learning_curves, png_of
from textseg.report.probe import probe_blocks
from textseg.report.results import MEANING, results_blocks, strata_blocks
from textseg.runs.results import (
    CaseRow,
    TestOfRun,
    flat_settings,
    read_curves,
    read_settings,
    read_tests,
    short_name,
)

_LOSSES = ("train/loss", "val/loss")
_SCORES = ("val/dice", "val/miou")


def run_page(run: Path, *, captions: str, data: str | None, cases: int) -> str:
    """A page of the run in the folder `run`; arguments as of `textseg.report.report`.

    Raises:
        UserError: there is no such test, or a file of the run is broken.
    """
    home = run / home_name(data)
    tests = read_tests(home)
    if captions not in tests:
        found = ", ".join(tests) or "none"
        raise UserError(
            f"{run} has no test {captions!r} in {home.name} (tests found: {found})",
            "test its checkpoint first: textseg test --ckpt_path RUN/checkpoints/best.ckpt "
            f"--data.caption_mode {captions}; or give another captions or data",
        )
    main = tests[captions]
    ordered = [main, *(test for name, test in tests.items() if name != captions)]
    settings, curves = read_settings(run), read_curves(run)
    probe = probe_blocks(run)
    sections = [
        Section("run", "Run", _facts(settings, curves, home.name, main)),
        Section("meaning", "What the numbers mean", [Text(text) for text in MEANING]),
        Section("results", "Results", results_blocks(list(tests.values()))),
        Section("strata", "By lesion", strata_blocks(main, ordered[1:])),
        Section("plots", "Plots", _plots(curves, main, ordered)),
        *([Section("probe", "Use of the text", probe)] if probe else []),
        Section("cases", "Best, median and worst cases", case_blocks(main, ordered[1:], cases)),
        Section("settings", "Settings", [_settings_block(settings)]),
    ]
    where = "" if data is None else f", tested on {home.name.removeprefix('test_on_')}"
    return write_page(short_name(run), f"Report of one run{where}", sections)


def home_name(data: str | None) -> str:
    """The folder of tests on the run's own data, or on other data by their name."""
    if data is None:
        return "test"
    return data if data.startswith("test_on_") else f"test_on_{data}"


# --- what was run --------------------------------------------------------------------------------


def _facts(
    settings: Mapping[str, Any] | None,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    home: str,
    main: TestOfRun,
) -> list[Block]:
    trained = {epoch for key, points in curves.items() if key in _LOSSES for epoch, _ in points}
    known = {} if settings is None else dict(flat_settings(settings))
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
        ("test", f"{home}/{main.name}"),
        ("results written", main.written),
    ]
    found: list[Block] = [Facts(pairs)]
    if settings is None:
        found.append(Caution("config.yaml is missing: what was trained is unknown"))
    return found


def _settings_block(settings: Mapping[str, Any] | None) -> Block:
    if settings is None:
        return Text("config.yaml is missing.")
    flat = flat_settings(settings)
    rows = [[Cell(name), Cell(value)] for name, value in flat]
    caption = "config.yaml; of absolute paths only the last part is shown"
    title = f"All {len(rows)} settings of config.yaml"
    return Group(title, [Table(caption, ["setting", "value"], rows)], closed=True)


# --- plots ---------------------------------------------------------------------------------------


def _plots(
    curves: Mapping[str, Sequence[tuple[int, float]]], main: TestOfRun, ordered: Sequence[TestOfRun]
) -> list[Block]:
    found: list[Block] = []
    losses = {key: curves[key] for key in _LOSSES if key in curves}
    scores = {key: curves[key] for key in _SCORES if key in curves}
    if losses or scores:
        png = png_of(lambda: learning_curves(losses, scores))
        alt = f"Curves of {', '.join([*losses, *scores])} over epochs; {_best_epoch(scores)}"
        found.append(plot(png, alt, "Learning curves: losses above, validation scores below."))
    else:
        found.append(Text("There are no learning curves: metrics.csv is missing or has none."))
    dice = [np.array([case.dice for case in test.cases]) for test in ordered]
    names = [test.name for test in ordered]
    png = png_of(lambda: distribution(names, dice, "Dice of a case"))
    medians = "; ".join(f"{n}: median {np.median(d):.3f}" for n, d in zip(names, dice, strict=True))
    caption = "Dice of each case by caption mode: points are cases, the box holds the middle half."
    found.append(plot(png, f"Distribution of per-case Dice by caption mode. {medians}", caption))
    return [*found, *_by_size(main, ordered)]


def _best_epoch(scores: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    if "val/dice" not in scores:
        return "no val/dice"
    epoch, value = max(scores["val/dice"], key=lambda point: point[1])
    return f"best val/dice {value:.3f} in epoch {epoch}"


def _by_size(main: TestOfRun, ordered: Sequence[TestOfRun]) -> list[Block]:
    """Dice against lesion size, of the tests that have the main one's very cases."""
    if any(not case.pixels for case in main.cases):
        return [Text("Dice against lesion size needs the images' sizes: test the run again.")]
    share = np.array([case.true / case.pixels for case in main.cases if case.pixels])
    order = [case.name for case in main.cases]
    dice = {}
    for test in ordered:
        own = {case.name: case.dice for case in test.cases}
        if set(own) == set(order):
            dice[test.name] = np.array([own[name] for name in order])
    if not (share > 0).any():
        return [Text("No case has a lesion, so there is no Dice against lesion size.")]
    caption = (
        f"Dice against lesion size. Points: cases with captions {main.name}; lines: means of five "
        "groups of equally many cases."
    )
    return [plot(png_of(lambda: dice_by_size(share, dice)), caption, caption)]


def plot(png: bytes, alt: str, caption: str) -> Picture:
    made = embed_png(png)
    return Picture(made.uri, made.width, made.height, alt, caption, plot=True)


# --- cases ---------------------------------------------------------------------------------------


def case_blocks(main: TestOfRun, others: Sequence[TestOfRun], count: int) -> list[Block]:
    """Cards of the cases chosen, in three groups, with a line that says of how many."""
    overlays, explained = main.pictures("overlays"), main.pictures("explain")
    pictured = {i for i, case in enumerate(main.cases) if case.name in overlays}
    if not (pictured and count):
        asked = "test_report.overlays" if count else "cases"
        return [Text(f"No case is shown: {asked} is 0, or the pictures were removed.")]
    choice = choose([case.dice for case in main.cases], pictured, count)
    names = [main.cases[position].name for position in choice.shown()]
    files = [found[name] for found in (overlays, explained) for name in names if name in found]
    pictures = album(files)
    found: list[Block] = [Text(_of_how_many(main, len(pictured), len(explained), pictures))]
    dice = [(test.name, {case.name: case.dice for case in test.cases}) for test in others]
    for title, positions in choice.groups():
        cards = [
            _card(main.cases[i], i, choice, dice, _pictures(main.cases[i], main, pictures))
            for i in positions
        ]
        found += [Group(title, cards)] if cards else []
    return found


def _of_how_many(main: TestOfRun, pictured: int, explained: int, pictures: Album) -> str:
    text = (
        f"Ranked by Dice with captions {main.name} over all {len(main.cases)} cases, of which "
        f"{pictured} have a picture; the cases shown are chosen among these."
    )
    if explained:
        text += f" {explained} cases are explained; those among the cases shown have both pictures."
    return text + reduced_note(pictures)


def reduced_note(pictures: Album) -> str:
    if not pictures.reduced:
        return ""
    return " The pictures are JPEGs of at most 1280 pixels; the originals lie in the run's folder."


def _pictures(case: CaseRow, main: TestOfRun, pictures: Album) -> list[Picture]:
    found = []
    for kind, what in (("overlays", "image, truth, prediction and agreement"), ("explain", "")):
        made = pictures.pictures.get(main.folder / kind / f"{case.name}.png")
        if made is not None:
            shows = what or "what the network looked at"
            alt = f"{case.name}: {shows}. Dice {case.dice:.3f}. Caption: {case.caption or 'none'}"
            caption = "" if what else "Explanation: what the network looked at"
            found.append(Picture(made.uri, made.width, made.height, alt, caption))
    return found


def _card(
    case: CaseRow,
    position: int,
    choice: Choice,
    others: Sequence[tuple[str, Mapping[str, float]]],
    pictures: Sequence[Picture],
) -> CaseCard:
    hd95 = "undefined" if case.hd95 is None else f"{case.hd95:.1f} {case.unit}".strip()
    facts = [
        ("rank", f"{choice.rank[position]} of {len(choice.rank)}"),
        ("Dice", f"{case.dice:.3f}"),
        ("IoU", f"{case.iou:.3f}"),
        ("hd95", hd95),
        *([] if case.nsd is None else [("nsd", f"{case.nsd:.3f}")]),
        ("true pixels", str(case.true)),
        ("predicted pixels", str(case.predicted)),
        *case.lesion,
    ]
    for name, dice in others:
        if case.name in dice:
            facts.append((f"Dice, captions {name}", f"{dice[case.name]:.3f}"))
    return CaseCard(case.name, case.caption, facts, pictures)
