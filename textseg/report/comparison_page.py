"""The page of several runs compared."""

from __future__ import annotations

from pathlib import Path

from textseg.compare.results import Comparison, Method
from textseg.compare.tables import Section as TextTable
from textseg.compare.tables import sections
from textseg.metrics.ranking import choose
from textseg.report.blocks import (
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
from textseg.report.embedded_images import album, plot
from textseg.report.page import write_page
from textseg.report.plots import dice_distribution, difference_by_size, failures, png_of
from textseg.report.score_tables import MEANING
from textseg.runs import Run

_MEANING = (
    *MEANING[:1],
    "± is the standard deviation over seeds. In brackets: 95% interval from a bootstrap over "
    "patients (over images where none is known) and seeds. p is of a paired permutation test over "
    "patients of these very runs, two-sided; p (Holm) is corrected for the number of methods "
    "compared with the baseline, each score by itself.",
    "Lesion size: thirds of this test set's lesions by their share of the image; number: connected "
    "parts of the truth; side: of the picture. These have no p-values: of so many tests some would "
    "find a difference by chance.",
)


def comparison_page(comparison: Comparison, *, cases: int = 4) -> str:
    """Build a page of methods compared, with the pictures that their runs' tests drew.

    Args:
        comparison: what `textseg.compare.compare` found.
        cases: how many of the best, median and worst cases to show each.

    Raises:
        UserError: a picture is broken.
    """
    *tables, failed = sections(comparison)
    parts = [
        Section("compared", "What is compared", _facts(comparison)),
        Section("meaning", "What the numbers mean", [Text(text) for text in _MEANING]),
        Section("scores", "Scores and differences", [_table(one) for one in tables]),
        Section("plots", "Plots", _plots(comparison)),
        Section("cases", "Best, median and worst cases", _case_blocks(comparison, cases)),
        Section("failures", "Failures ranked", [_failures(comparison), _table(failed)]),
    ]
    title = " and ".join(method.name for method in comparison.methods)
    if len(comparison.methods) > 2:
        title = f"{len(comparison.methods)} methods compared"
    return write_page(title, "Report of a comparison over the same cases", parts)


def _facts(comparison: Comparison) -> list[Block]:
    cautions = [Caution(_with_short_names(text, comparison)) for text in comparison.warnings]
    pairs = [
        ("cases", str(len(comparison.cases))),
        ("patients", str(comparison.patients)),
        ("captions", ", ".join(comparison.captions)),
        ("baseline", comparison.baseline),
    ]
    rows = [
        [Cell(method.name), Cell(f"{run.short_name}, {folder.relative_to(run.folder).as_posix()}")]
        for method in comparison.methods
        for run, folder in _tests(method)
    ]
    return [*cautions, Facts(pairs), Table("Runs", ["method", "run and test"], rows)]


def _tests(method: Method) -> list[tuple[Run, Path]]:
    """Each run of a method with the folder of its test."""
    return [(Run(Path(folder).parents[1]), Path(folder)) for folder in method.runs]


def _with_short_names(text: str, comparison: Comparison) -> str:
    """A warning with runs by their short names: their paths on this machine are not shown."""
    for method in comparison.methods:
        for run, _ in _tests(method):
            text = text.replace(str(run.folder), run.short_name)
    return text


def _table(table: TextTable) -> Table:
    rows = [[Cell(cell) for cell in row] for row in table.rows]
    return Table(table.title, table.head, rows)


# --- plots ---------------------------------------------------------------------------------------


def _plots(comparison: Comparison) -> list[Block]:
    caption = "Dice of each case: points are cases, the box holds the middle half."
    means = "; ".join(
        f"{method.name}: mean {method.scores['dice'].value:.3f}" for method in comparison.methods
    )
    png = png_of(lambda: dice_distribution(comparison))
    plots: list[Block] = [plot(png, f"Distribution of per-case Dice. {means}", caption)]
    if len(comparison.methods) > 1:
        caption = (
            f"Difference of Dice from {comparison.baseline} against lesion size; the line is the "
            "mean of five groups of equally many cases."
        )
        plots.append(plot(png_of(lambda: difference_by_size(comparison)), caption, caption))
    return plots


def _failures(comparison: Comparison) -> Picture:
    caption = "The cases with the least Dice averaged over methods, the worst on top."
    alt = f"{caption} The table below holds the numbers."
    return plot(png_of(lambda: failures(comparison)), alt, caption)


# --- cases ---------------------------------------------------------------------------------------


def _case_blocks(comparison: Comparison, count: int) -> list[Block]:
    runs = [
        (method, number, run, {file.stem: file for file in (folder / "overlays").glob("*.png")})
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
