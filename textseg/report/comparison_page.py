"""The page of several runs compared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from textseg.compare.results import Comparison, Method
from textseg.compare.tables import NOTES, sections
from textseg.compare.tables import Section as TextTable
from textseg.metrics.ranking import choose
from textseg.report.blocks import (
    Block,
    CaseCard,
    Caution,
    Cell,
    Facts,
    Group,
    Layout,
    Picture,
    Section,
    Table,
    Text,
)
from textseg.report.embedded_images import Album, Panel, Picked, album, panel_names
from textseg.report.page import write_page
from textseg.report.plots import (
    BOXES,
    dice_by_class,
    dice_distribution,
    difference_by_size,
    failures,
    plot,
)
from textseg.report.score_tables import MEANING
from textseg.runs import Run
from textseg.runs.results import pngs_in

COMMON = ("image", "truth")  # panels of an overlay that are alike in every run
OF_A_RUN = ("prediction", "agreement")


def comparison_page(comparison: Comparison, *, cases: int = 4) -> str:
    """Build a page of methods compared, with pictures of `cases` cases of each kind.

    Raises:
        UserError: a picture is broken.
    """
    *tables, failed = sections(comparison)
    meaning = [Text(text) for text in (MEANING[0], *NOTES[1:])]  # NOTES[0] is its short form
    caption = "The cases with the least Dice averaged over methods, the worst on top."
    alt = f"{caption} The table below holds the numbers."
    worst = plot(lambda: failures(comparison), alt, caption)
    parts = [
        Section("compared", "What is compared", _facts(comparison)),
        Section("meaning", "What the numbers mean", meaning),
        Section("scores", "Scores and differences", [_table(one) for one in tables]),
        Section("plots", "Plots", _plots(comparison)),
        Section("cases", "Best, median and worst cases", _case_blocks(comparison, cases)),
        Section("failures", "Failures ranked", [worst, _table(failed)]),
    ]
    title = " and ".join(method.name for method in comparison.methods)
    if len(comparison.methods) > 2:
        title = f"{len(comparison.methods)} methods compared"
    return write_page(title, "Report of a comparison over the same cases", parts)


def _facts(comparison: Comparison) -> list[Block]:
    runs = [(method, *test) for method in comparison.methods for test in _tests(method)]
    warnings: Sequence[str] = comparison.warnings
    for _, run, _ in runs:  # their paths on this machine are not shown
        warnings = [text.replace(str(run.folder), run.short_name) for text in warnings]
    pairs = [
        ("cases", str(len(comparison.cases))),
        ("patients", str(comparison.patients)),
        ("captions", ", ".join(comparison.captions)),
        ("baseline", comparison.baseline),
    ]
    rows = [
        [Cell(method.name), Cell(f"{run.short_name}, {folder.relative_to(run.folder).as_posix()}")]
        for method, run, folder in runs
    ]
    return [
        *map(Caution, warnings),
        Facts(pairs),
        Table("Runs", ["method", "run and test"], rows),
    ]


def _tests(method: Method) -> list[tuple[Run, Path]]:
    """Each run of a method with the folder of its test."""
    return [(Run(Path(folder).parents[1]), Path(folder)) for folder in method.runs]


def _table(table: TextTable) -> Table:
    rows = [[Cell(cell) for cell in row] for row in table.rows]
    return Table(table.title, table.head, rows)


def _plots(comparison: Comparison) -> list[Block]:
    caption = f"Dice of each case: {BOXES}."
    means = "; ".join(
        f"{method.name}: mean {method.scores['dice'].value:.3f}" for method in comparison.methods
    )
    alt = f"Distribution of per-case Dice. {means}"
    plots: list[Block] = [plot(lambda: dice_distribution(comparison), alt, caption)]
    if len(comparison.methods) > 1:
        caption = (
            f"Difference of Dice from {comparison.baseline} against lesion size; the line is the "
            "mean of five groups of equally many cases."
        )
        plots.append(plot(lambda: difference_by_size(comparison), caption, caption))
    for name in comparison.own_strata:
        caption = f"Dice of each case by {name}: {BOXES}."
        plots.append(plot(partial(dice_by_class, comparison, name), caption, caption))
    return plots


def _case_blocks(comparison: Comparison, count: int) -> list[Block]:
    runs = [
        _Drawn(method, number, run, {f.stem: f for f in pngs_in(folder / "overlays")})
        for method in comparison.methods
        for number, (run, folder) in enumerate(_tests(method), start=1)
    ]
    names = [case.case for case in comparison.cases]
    pictured = {i for i, n in enumerate(names) if all(n in one.overlays for one in runs)}
    if not (pictured and count):
        return [Text("No case is shown: cases is 0, or none has a picture in every run.")]
    lesions = [case.true > 0 for case in comparison.cases]
    choice = choose(comparison.case_dice.mean(axis=0).tolist(), lesions, pictured, count)
    # Where captions differ, each overlay is shown whole, with its own below it.
    alike = len(comparison.captions) == 1
    parts = {
        i: _parts([one.overlays[names[i]] for one in runs], alike=alike) for i in choice.shown()
    }
    pictures = album(one for common, own in parts.values() for one in chain(common, *own))
    text = (
        f"Ranked by Dice averaged over methods over all {len(names)} cases, of which "
        f"{len(pictured)} have a picture in every run; the cases shown are chosen among these, the "
        "best among those with a lesion. In the agreement found is blue, a false alarm orange, "
        "missed magenta."
    )
    if not alike:
        text += " Captions are those of the baseline's first run; each picture shows its own."

    def card(position: int) -> CaseCard:
        case, rank = comparison.cases[position], f"{choice.rank[position]} of {len(choice.rank)}"
        facts = [("rank", rank), *_dice_of(comparison, position), ("true pixels", str(case.true))]
        shown = _shown(comparison, position, runs, parts[position], pictures)
        layout: Layout = "panels" if parts[position][0] else "beside"
        return CaseCard(case.case, case.caption, facts, shown, layout)

    groups = choice.groups().items()
    cards = [Group(title, [card(i) for i in positions]) for title, positions in groups]
    return [Text(text + pictures.note), *cards]


class _Drawn(NamedTuple):
    """A run of a method, its number among the method's, and its overlays by case."""

    method: Method
    number: int
    run: Run
    overlays: dict[str, Path]


def _parts(files: Sequence[Path], *, alike: bool) -> tuple[list[Picked], list[list[Picked]]]:
    """What is shown of a case's overlays, one of each run: common to all runs, and of each.

    Image and truth are the same in all, so they are shown once; overlays that are not `alike`, or
    do not tell where their panels are, such as edited ones, are shown whole.
    """
    if not (alike and all({*COMMON, *OF_A_RUN} <= panel_names(file) for file in files)):
        return [], [[file] for file in files]
    common: list[Picked] = [Panel(files[0], name) for name in COMMON]
    return common, [[Panel(file, name) for name in OF_A_RUN] for file in files]


def _shown(
    comparison: Comparison,
    position: int,
    runs: Sequence[_Drawn],
    parts: tuple[list[Picked], list[list[Picked]]],
    pictures: Album,
) -> list[Picture]:
    """The pictures of a case, with what each shows in words."""
    case, (common, of_runs) = comparison.cases[position].case, parts
    dice = dict(_dice_of(comparison, position))
    shown = [pictures.show(one, f"{case}: {_title(one)}", _title(one)) for one in common]
    for drawn, own in zip(runs, of_runs, strict=True):
        name = drawn.method.name
        caption = f"{name}: Dice {dice.get(f'Dice, {name}')}"
        if len(drawn.method.runs) > 1:  # case_dice is over seeds, and the pictures are of each
            caption = f"{name}, seed {drawn.number} ({drawn.run.short_name})"
        for one in own:
            text = f"{caption}, {_title(one)}" if isinstance(one, Panel) else caption
            shown.append(pictures.show(one, f"{case} by {caption}: {_title(one)}", text))
    return shown


def _dice_of(comparison: Comparison, position: int) -> list[tuple[str, str]]:
    """Each method's Dice of a case, as facts."""
    return [
        (
            f"Dice, {method.name}{' (mean over seeds)' * (len(method.runs) > 1)}",
            f"{row[position]:.3f}",
        )
        for method, row in zip(comparison.methods, comparison.case_dice, strict=True)
    ]


def _title(one: Picked) -> str:
    return one.name if isinstance(one, Panel) else "image, truth, prediction and agreement"
