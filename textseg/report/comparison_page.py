"""The page of several runs compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
    Section,
    Table,
    Text,
)
from textseg.report.embedded_images import album
from textseg.report.page import write_page
from textseg.report.plots import dice_distribution, difference_by_size, failures, plot
from textseg.report.score_tables import MEANING
from textseg.runs import Run
from textseg.runs.results import pngs_in


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
    caption = "Dice of each case: points are cases, the box holds the middle half."
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
    return plots


def _case_blocks(comparison: Comparison, count: int) -> list[Block]:
    runs = [
        (method, number, run, {file.stem: file for file in pngs_in(folder / "overlays")})
        for method in comparison.methods
        for number, (run, folder) in enumerate(_tests(method), start=1)
    ]
    names = [case.case for case in comparison.cases]
    pictured = {i for i, n in enumerate(names) if all(n in overlays for *_, overlays in runs)}
    if not (pictured and count):
        return [Text("No case is shown: cases is 0, or none has a picture in every run.")]
    choice = choose(comparison.case_dice.mean(axis=0).tolist(), pictured, count)
    pictures = album(overlays[names[i]] for i in choice.shown() for *_, overlays in runs)
    text = (
        f"Ranked by Dice averaged over methods over all {len(names)} cases, of which "
        f"{len(pictured)} have a picture in every run; the cases shown are chosen among these."
    )
    if len(comparison.captions) > 1:
        text += " Captions are those of the baseline's first run; each picture shows its own."

    def card(position: int) -> CaseCard:
        case = comparison.cases[position]
        facts = [("rank", f"{choice.rank[position]} of {len(choice.rank)}")]
        dice = {}
        for method, row in zip(comparison.methods, comparison.case_dice, strict=True):
            mean = " (mean over seeds)" if len(method.runs) > 1 else ""
            dice[method.name] = f"{row[position]:.3f}"
            facts.append((f"Dice, {method.name}{mean}", dice[method.name]))
        facts.append(("true pixels", str(case.true)))
        shown = []
        for method, number, run, overlays in runs:
            caption = f"{method.name}: Dice {dice[method.name]}"
            if len(method.runs) > 1:  # case_dice is over seeds, and the pictures are of each
                caption = f"{method.name}, seed {number} ({run.short_name})"
            alt = f"{case.case} by {caption}: image, truth, prediction and agreement"
            shown.append(pictures.show(overlays[case.case], alt, caption))
        return CaseCard(case.case, case.caption, facts, shown, beside=True)

    groups = choice.groups().items()
    cards = [Group(title, [card(i) for i in positions]) for title, positions in groups]
    return [Text(text + pictures.note), *cards]
